//! A program on a device, with the memory that it runs in.

use std::collections::BTreeMap;
use std::sync::Arc;

use gramscope_cuda::plan::Arithmetic;
use gramscope_cuda::{ComponentsExtent, Device, MOST_WORKSPACE, Product, Regions, Values};
use half::bf16;

use super::layout::{Layout, Weights};
use super::memory::{Lengths, Memory, Places};
use super::pass::{Pass, State, Targets};
use super::stored::Stored;
use super::{Images, Observe, Observed};
use crate::program::{IMAGES, Program, Slots, Statistics, Step, Tapped};
use crate::{Error, Result};

/// A program on a device, whatever its activations are stored as.
pub(super) enum AnyExecutor {
    Single(Executor<f32>),
    Half(Executor<bf16>),
}

impl AnyExecutor {
    pub(super) fn new(device: &Arc<Device>, arithmetic: Arithmetic, program: Program) -> Self {
        match arithmetic {
            Arithmetic::Float32 | Arithmetic::Tf32 => Self::Single(Executor::new(device, arithmetic, program)),
            Arithmetic::Bf16 => Self::Half(Executor::new(device, arithmetic, program)),
        }
    }

    /// Bytes of device memory that batches of `images` take, beside the parameters.
    pub(super) fn bytes(&self, images: usize) -> u64 {
        match self {
            Self::Single(executor) => executor.bytes(images),
            Self::Half(executor) => executor.bytes(images),
        }
    }

    /// Numbers that an image has.
    pub(super) fn image_length(&self) -> usize {
        match self {
            Self::Single(executor) => executor.image_length(),
            Self::Half(executor) => executor.image_length(),
        }
    }

    /// Images a batch that there is memory for; none before the first.
    pub(super) fn reserved(&self) -> Option<usize> {
        match self {
            Self::Single(executor) => executor.memory.as_ref().map(|memory| memory.images),
            Self::Half(executor) => executor.memory.as_ref().map(|memory| memory.images),
        }
    }

    /// Shows that memory to `memory`.
    pub(super) fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        match self {
            Self::Single(executor) => executor.memory.iter_mut().for_each(|own| own.show(memory)),
            Self::Half(executor) => executor.memory.iter_mut().for_each(|own| own.show(memory)),
        }
    }

    /// Runs the program over `images`, and hands what it taps to `observe`, taps that follow each other together. Returns the
    /// number of images.
    pub(super) fn run<E: From<Error>>(
        &mut self,
        images: &mut Images<'_>,
        state: &mut State,
        statistics: Statistics,
        targets: Option<&mut Targets>,
        observe: &mut Observe<'_, E>,
    ) -> Result<usize, E> {
        match self {
            Self::Single(executor) => executor.run(images, state, statistics, targets, observe),
            Self::Half(executor) => executor.run(images, state, statistics, targets, observe),
        }
    }

    /// Takes the memory that `other` has, if it is of use here; it is freed otherwise.
    pub(super) fn take_memory_of(&mut self, other: &mut Self) {
        match (self, other) {
            (Self::Single(executor), Self::Single(other)) => executor.take_memory_of(other),
            (Self::Half(executor), Self::Half(other)) => executor.take_memory_of(other),
            (_, Self::Single(other)) => other.memory = None,
            (_, Self::Half(other)) => other.memory = None,
        }
    }

    /// The logits of the `images` that were run last. Waits for them.
    pub(super) fn logits(&self, images: usize) -> Result<Vec<f32>> {
        match self {
            Self::Single(executor) => executor.logits(images),
            Self::Half(executor) => executor.logits(images),
        }
    }
}

/// A program, ready to run over batches of any size.
pub(super) struct Executor<T> {
    device: Arc<Device>,
    arithmetic: Arithmetic,
    program: Program,
    slots: Slots,
    memory: Option<Memory<T>>,
    /// Bytes that cuDNN's plans for batches of so many images work in, once these are made.
    workspaces: BTreeMap<usize, usize>,
}

impl<T: Stored> Executor<T> {
    fn new(device: &Arc<Device>, arithmetic: Arithmetic, program: Program) -> Self {
        let slots = program.slots();
        Self { device: device.clone(), arithmetic, program, slots, memory: None, workspaces: BTreeMap::new() }
    }

    fn image_length(&self) -> usize {
        self.program.values[IMAGES].length()
    }

    fn bytes(&self, images: usize) -> u64 {
        let head = 2 * (self.program.features + self.program.classes) * size_of::<f32>();
        let each = head + 2 * size_of::<u32>();
        // Before plans are made, nobody knows what they want.
        let workspace = if self.device.has_cudnn() { MOST_WORKSPACE } else { 0 };
        (self.slots.length(images) * size_of::<T>() + each * images) as u64 + self.lengths(images, workspace).bytes()
    }

    fn run<E: From<Error>>(
        &mut self,
        images: &mut Images<'_>,
        state: &mut State,
        statistics: Statistics,
        targets: Option<&mut Targets>,
        observe: &mut Observe<'_, E>,
    ) -> Result<usize, E> {
        let count = images.count(self.image_length(), targets.is_some())?;
        self.reserve(count, &state.layout)?;
        let memory = self.memory.as_mut().ok_or(Error::NotReserved)?;
        let places = Places { program: &self.program, slots: &self.slots, images: count };
        images.place(&self.device, memory, places)?;
        let launcher = self.device.launcher();
        state.narrow(launcher)?;
        let mut pass = Pass { launcher, arithmetic: self.arithmetic, places, memory, state, statistics, targets };
        for steps in self.program.steps.chunk_by(Step::goes_with) {
            match *steps {
                [Step::Tap { .. }, ..] => observe(&observed(steps, pass.memory, places))?,
                _ => steps.iter().try_for_each(|&step| pass.step(step))?,
            }
        }
        Ok(count)
    }

    fn take_memory_of(&mut self, other: &mut Self) {
        let fits = |memory: &Memory<T>| memory.fits(&self.program, &self.slots, self.lengths(memory.images, 0));
        self.memory = other.memory.take().filter(fits);
    }

    fn logits(&self, images: usize) -> Result<Vec<f32>> {
        let Some(memory) = &self.memory else { return Ok(Vec::new()) };
        Ok(self.device.download(&memory.head.logits.slice(..images * self.program.classes))?)
    }

    /// Sees to it that there is memory for `images`.
    fn reserve(&mut self, images: usize, layout: &Layout) -> Result<()> {
        let workspace = self.workspace(images, layout)?;
        if let Some(memory) = self.memory.as_mut().filter(|memory| memory.images >= images) {
            return memory.grow_workspace(&self.device, workspace);
        }
        // Give back the old first, so that both need not fit at once.
        self.memory = None;
        let lengths = self.lengths(images, workspace);
        self.memory = Some(Memory::new(&self.device, &self.program, &self.slots, lengths, images)?);
        Ok(())
    }

    /// Bytes that cuDNN works in for batches of `images`: its plans are made here, before anything is captured.
    fn workspace(&mut self, images: usize, layout: &Layout) -> Result<usize> {
        if !self.device.has_cudnn() {
            return Ok(0);
        }
        if let Some(&known) = self.workspaces.get(&images) {
            return Ok(known);
        }
        let (launcher, mut most) = (self.device.launcher(), 0);
        for step in &self.program.steps {
            let (product, convolution) = match *step {
                Step::Convolution { convolution, .. } => (Product::Forward, convolution),
                Step::InputGradient { convolution, adds, .. } => (Product::InputGradient { adds }, convolution),
                Step::WeightGradient { convolution, .. } => (Product::WeightGradient, convolution),
                _ => continue,
            };
            let Weights { weight, bias } = &layout.convolutions[convolution];
            let factor = weight.start * size_of::<T>();
            let offsets: &[usize] = match product {
                Product::Forward => &[factor, bias.start * size_of::<f32>()],
                Product::InputGradient { .. } => &[factor],
                Product::WeightGradient => &[weight.start * size_of::<f32>()],
            };
            let shape = self.program.convolution(convolution, images);
            most = most.max(launcher.plan_convolution(product, &shape, self.arithmetic, offsets)?.unwrap_or(0));
        }
        self.workspaces.insert(images, most);
        Ok(most)
    }

    /// What the kernels want for batches of `images`, and cuDNN `workspace` bytes.
    fn lengths(&self, images: usize, workspace: usize) -> Lengths {
        let launcher = self.device.launcher();
        let places = Places { program: &self.program, slots: &self.slots, images };
        let shares = 2 * self.program.drawn_blocks() * images;
        let mut lengths = Lengths { statistics: 0, shares, partials: 0, workspace, sums: 0, first_components: None };
        for norm in &self.program.norms {
            lengths.statistics += 2 * norm.channels;
        }
        for step in &self.program.steps {
            match *step {
                Step::WeightGradient { convolution, .. } => {
                    let shape = self.program.convolution(convolution, images);
                    let needed = launcher.convolution_scratch(&shape).max(launcher.convolution_bias_scratch(&shape));
                    lengths.partials = lengths.partials.max(needed);
                }
                Step::LogitsBackward => {
                    let needed = launcher.convolution_scratch(&self.program.linear(images));
                    lengths.partials = lengths.partials.max(needed);
                }
                Step::Normalise { x, .. } | Step::NormaliseBackward { x, .. } => {
                    let (rows, channels) = places.rows(x);
                    lengths.sums = lengths.sums.max(launcher.batch_norm_scratch(rows, channels));
                }
                Step::Gram { block, x } => {
                    let (layers, features) = (block + 1, self.program.values[x].length());
                    let features = lengths.first_components.map_or(features, |before| features.max(before.features));
                    lengths.first_components = Some(ComponentsExtent { layers, examples: images, features });
                }
                _ => {}
            }
        }
        lengths
    }
}

/// What taps hand out that go together.
fn observed<'a, T: Stored>(taps: &[Step], memory: &'a Memory<T>, places: Places<'_>) -> Vec<Observed<'a>> {
    let observed = |step: &Step| match *step {
        Step::Tap { layer, of, .. } => Some(Observed { layer, values: tapped(memory, places, of) }),
        _ => None,
    };
    taps.iter().filter_map(observed).collect()
}

/// A layer's output, as it is now.
fn tapped<'a, T: Stored>(memory: &'a Memory<T>, places: Places<'_>, of: Tapped) -> Values<'a> {
    let Places { program, images, .. } = places;
    match of {
        Tapped::Value(value) => T::values(memory.values.slice(places.range(value))),
        Tapped::Pooled => Values::F32(memory.head.pooled.slice(..program.features * images)),
        Tapped::Logits => Values::F32(memory.head.logits.slice(..program.classes * images)),
    }
}
