//! A network as a list of steps over numbered values: what a device runs, launch after launch, without deciding anything.
//!
//! [`Program`] is made from a network's [`Topology`], in one of three forms: evaluation, with what follows a batch norm fused
//! into it, whole or without some blocks (`ablation`); observation, where every layer of [`Topology::layers`] exists for a while
//! and is handed out, several together (`waiting`); and training, whose backward steps are derived from the forward ones, last first. A value is `[images, side, side, channels]`. Values that are
//! never there at the same time share a slot of memory.

mod ablation;
mod waiting;

use std::collections::{BTreeSet, HashMap};

#[cfg(feature = "cuda")]
use gramscope_cuda::plan::Convolution;

use crate::FirstComponentPenalty;
use crate::topology::{BlockPlan, ConvolutionPlan, IMAGE_CHANNELS, ShortcutPlan, StemPlan, Topology};
use waiting::{Place, Waiting};

/// The place of a value among a program's.
pub(crate) type ValueId = usize;

/// The value that the images are.
pub(crate) const IMAGES: ValueId = 0;

/// What a value is for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// Height and width.
    pub(crate) side: usize,
    pub(crate) channels: usize,
}

impl Value {
    pub(crate) fn pixels(self) -> usize {
        self.side * self.side
    }

    /// Numbers an image.
    pub(crate) fn length(self) -> usize {
        self.pixels() * self.channels
    }
}

/// What is computed next. Convolutions and batch norms are numbered in the order of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// y = convolution(x).
    Convolution { convolution: usize, x: ValueId, y: ValueId },
    /// y = batch norm(x), then + addend, then ReLU, as far as there are such. In training the batch's statistics are taken
    /// first, and kept.
    Normalise { norm: usize, x: ValueId, addend: Option<ValueId>, relu: bool, y: ValueId, seen: Seen },
    /// Negative values of x become 0.
    Relu { x: ValueId },
    /// y = ReLU(a share of a + the rest of b + addend). In training the shares of the block of number `block`, from 0, are drawn
    /// for each image; in evaluation they are one half.
    Mix { block: usize, branches: [ValueId; 2], addend: ValueId, y: ValueId, seen: Seen },
    /// y = max pooling(x).
    MaxPool { x: ValueId, y: ValueId },
    /// The pooled features are the means of x over its pixels.
    AveragePool { x: ValueId },
    /// The logits, from the pooled features.
    Logits,
    /// The Gram matrix over the batch of x, the output of the block of this number, in a network whose training is penalised.
    Gram { block: usize, x: ValueId },
    /// The first principal components of all blocks' outputs, from their Gram matrices.
    FirstComponents,
    /// The loss, and its gradient by the logits.
    Loss,
    /// The gradients of the logits' weights and biases, and of the pooled features.
    LogitsBackward,
    /// dx, from the gradient of the pooled features.
    AveragePoolBackward { dx: ValueId },
    /// dx, from that of the max pooling's result y.
    MaxPoolBackward { x: ValueId, y: ValueId, dy: ValueId, dx: ValueId },
    /// dx, the gradient of a block's output x, has that of the penalty on x's first component added to it.
    GramBackward { block: usize, x: ValueId, dx: ValueId },
    /// The gradients of gamma and beta, of x, and of the addend where there was one.
    NormaliseBackward { norm: usize, x: ValueId, dy: ValueId, dx: ValueId, added: Option<Added>, relu: bool },
    /// From the gradient of the result y of a mixture, dmixed, those of its parts; dmixed becomes the first branch's.
    MixBackward { block: usize, y: ValueId, dmixed: ValueId, dother: ValueId, daddend: ValueId },
    /// The gradients of weights and biases.
    WeightGradient { convolution: usize, x: ValueId, dy: ValueId },
    /// dx, or what is added to it.
    InputGradient { convolution: usize, dy: ValueId, dx: ValueId, adds: bool },
    /// The layer of this number, or without blocks the choice of this number, is what `of` says, now. Those of a group follow each
    /// other, and are handed out together.
    Tap { layer: usize, of: Tapped, group: usize },
}

/// What is on the way to a step's result and is kept beside it, to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What the batch norm or the mixture gives alone.
    pub(crate) alone: Option<ValueId>,
    /// The sum of that and the addend.
    pub(crate) sum: Option<ValueId>,
}

impl Seen {
    fn values(self) -> [Option<ValueId>; 2] {
        [self.alone, self.sum]
    }
}

/// What the backward pass of a batch norm with an addition has to do beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    /// What the ReLU gave: with an addend, x does not tell where it let through.
    pub(crate) y: ValueId,
    /// The gradient of the addend.
    pub(crate) daddend: ValueId,
}

/// What a layer's output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tapped {
    Value(ValueId),
    Pooled,
    Logits,
}

/// A convolution of the network, and what it is given.
#[derive(Clone, Debug)]
pub(crate) struct NamedConvolution {
    /// The first part of its parameters' names.
    pub(crate) name: String,
    pub(crate) plan: ConvolutionPlan,
    /// Height and width of its input.
    pub(crate) side: usize,
}

/// A batch norm of the network.
#[derive(Clone, Debug)]
pub(crate) struct NamedNorm {
    /// The first part of its parameters' names.
    pub(crate) name: String,
    pub(crate) channels: usize,
}

/// A network in one of its forms.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) values: Vec<Value>,
    pub(crate) convolutions: Vec<NamedConvolution>,
    pub(crate) norms: Vec<NamedNorm>,
    /// What is added to the loss that is trained by.
    pub(crate) penalty: Option<FirstComponentPenalty>,
    /// Pooled features.
    pub(crate) features: usize,
    pub(crate) classes: usize,
}

impl Program {
    /// What gives the logits, and nothing beside.
    pub(crate) fn evaluation(topology: &Topology, image_side: usize) -> Self {
        Builder::new(topology, image_side, false).network(topology).program
    }

    /// The same with a tap of every layer, in the order of [`Topology::layers`]. Layers that are handed out together are tapped one right
    /// behind the other, and lie there until then.
    pub(crate) fn observation(topology: &Topology, image_side: usize) -> Self {
        Builder::new(topology, image_side, true).network(topology).program
    }

    /// What gives the loss and every parameter's gradient.
    pub(crate) fn training(topology: &Topology, image_side: usize) -> Self {
        Self::evaluation(topology, image_side).with_backward()
    }

    /// The same of the sum of the loss and of a penalty on the first components of the blocks' outputs.
    pub(crate) fn penalised(topology: &Topology, image_side: usize, penalty: FirstComponentPenalty) -> Self {
        let mut builder = Builder::new(topology, image_side, false);
        builder.program.penalty = Some(penalty);
        builder.network(topology).program.with_backward()
    }

    fn with_backward(mut self) -> Self {
        let forward = self.steps.clone();
        self.steps.push(Step::Loss);
        let mut gradients = Gradients { program: &mut self, of: HashMap::new() };
        forward.iter().rev().for_each(|step| gradients.add_backward(step));
        self
    }

    /// Blocks whose branches' shares are drawn for each batch: in training, those that have two.
    #[cfg(feature = "cuda")]
    pub(crate) fn drawn_blocks(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::MixBackward { .. })).count()
    }

    /// The shape of convolution number `convolution` of so many images.
    #[cfg(feature = "cuda")]
    pub(crate) fn convolution(&self, convolution: usize, images: usize) -> Convolution {
        let NamedConvolution { plan, side, .. } = &self.convolutions[convolution];
        let ConvolutionPlan { kernel, from, to, stride } = *plan;
        Convolution { images, height: *side, width: *side, from, to, kernel, stride, padding: kernel / 2 }
    }

    /// The linear layer, as a convolution of images of one pixel.
    #[cfg(feature = "cuda")]
    pub(crate) fn linear(&self, images: usize) -> Convolution {
        let (from, to) = (self.features, self.classes);
        Convolution { images, height: 1, width: 1, from, to, kernel: 1, stride: 1, padding: 0 }
    }

    /// Where values lie, so that those that are needed at the same time lie apart.
    pub(crate) fn slots(&self) -> Slots {
        let mut last = vec![0; self.values.len()];
        for (place, step) in self.steps.iter().enumerate() {
            step.values().for_each(|value| last[value] = place);
        }
        // Whoever runs the program may look at the images at any time.
        last[IMAGES] = self.steps.len();
        let mut slots = Slots { of: vec![usize::MAX; self.values.len()], lengths: Vec::new() };
        let mut free = Vec::new();
        slots.give(IMAGES, self.values[IMAGES].length(), &mut free);
        for (place, step) in self.steps.iter().enumerate() {
            for value in step.values().filter(|&value| slots.of[value] == usize::MAX).collect::<Vec<_>>() {
                slots.give(value, self.values[value].length(), &mut free);
            }
            let done: BTreeSet<ValueId> = step.values().filter(|&value| last[value] == place).collect();
            free.extend(done.into_iter().map(|value| slots.of[value]));
        }
        slots
    }
}

impl Step {
    /// Whether it and the next one are taps that are handed out together, or neither is a tap.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn goes_with(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Tap { group, .. }, Self::Tap { group: other, .. }) => group == other,
            (Self::Tap { .. }, _) | (_, Self::Tap { .. }) => false,
            _ => true,
        }
    }

    /// Every value it reads or writes.
    pub(crate) fn values(&self) -> impl Iterator<Item = ValueId> {
        let some = |values: [ValueId; 2]| values.map(Some).into_iter().chain([None; 3]).collect::<Vec<_>>();
        let values = match *self {
            Self::Convolution { x, y, .. } | Self::MaxPool { x, y } => some([x, y]),
            Self::Normalise { x, addend, y, seen, .. } => [&[Some(x), addend, Some(y)][..], &seen.values()].concat(),
            Self::Mix { branches: [a, b], addend, y, seen, .. } => {
                [&[a, b, addend, y].map(Some)[..], &seen.values()].concat()
            }
            Self::MixBackward { y, dmixed, dother, daddend, .. } => [y, dmixed, dother, daddend].map(Some).to_vec(),
            Self::Relu { x }
            | Self::AveragePool { x }
            | Self::Gram { x, .. }
            | Self::Tap { of: Tapped::Value(x), .. } => vec![Some(x)],
            Self::GramBackward { x, dx, .. } => some([x, dx]),
            Self::AveragePoolBackward { dx } => vec![Some(dx)],
            Self::MaxPoolBackward { x, y, dy, dx } => vec![Some(x), Some(y), Some(dy), Some(dx)],
            Self::NormaliseBackward { x, dy, dx, added, .. } => {
                let (y, daddend) = (added.map(|added| added.y), added.map(|added| added.daddend));
                vec![Some(x), y, Some(dy), Some(dx), daddend]
            }
            Self::WeightGradient { x, dy, .. } => some([x, dy]),
            Self::InputGradient { dy, dx, .. } => some([dy, dx]),
            Self::FirstComponents | Self::Logits | Self::Loss | Self::LogitsBackward | Self::Tap { .. } => vec![],
        };
        values.into_iter().flatten()
    }
}

/// Slots begin at multiples of so many numbers: 256 bytes of the smallest.
const SLOT_STEP: usize = 128;

/// Memory that values share.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// Of each value, its slot.
    pub(crate) of: Vec<usize>,
    /// Of each slot, its numbers an image.
    pub(crate) lengths: Vec<usize>,
}

impl Slots {
    /// Gives `value` the free slot that fits best: the smallest that is large enough, else the largest, which grows, else a
    /// new one.
    fn give(&mut self, value: ValueId, length: usize, free: &mut Vec<usize>) {
        let fit = |&place: &usize| {
            let has = self.lengths[free[place]];
            if has >= length { (0, has - length) } else { (1, length - has) }
        };
        let slot = match (0..free.len()).min_by_key(fit) {
            Some(place) => free.swap_remove(place),
            None => {
                self.lengths.push(0);
                self.lengths.len() - 1
            }
        };
        self.lengths[slot] = self.lengths[slot].max(length);
        self.of[value] = slot;
    }

    /// Where the numbers of so many images lie that the slot of `value` holds, in one memory of all slots.
    #[cfg(feature = "cuda")]
    pub(crate) fn start(&self, value: ValueId, images: usize) -> usize {
        self.lengths[..self.of[value]].iter().map(|length| aligned(length * images)).sum()
    }

    /// Numbers of all slots, over so many images.
    pub(crate) fn length(&self, images: usize) -> usize {
        self.lengths.iter().map(|length| aligned(length * images)).sum()
    }
}

/// `length`, so that what follows begins at a multiple of what any kernel reads at once.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(SLOT_STEP)
}

/// Puts the forward steps together.
struct Builder {
    program: Program,
    /// Whether every layer is to be seen.
    observed: bool,
    /// Layers that are not handed out yet.
    waiting: Waiting,
}

impl Builder {
    fn new(topology: &Topology, image_side: usize, observed: bool) -> Self {
        let program = Program {
            steps: Vec::new(),
            values: vec![Value { side: image_side, channels: IMAGE_CHANNELS }],
            convolutions: Vec::new(),
            norms: Vec::new(),
            penalty: None,
            features: topology.features(),
            classes: topology.classes,
        };
        Self { program, observed, waiting: Waiting::default() }
    }

    fn network(mut self, topology: &Topology) -> Self {
        let mut x = self.stem(&topology.stem);
        for (number, block) in topology.blocks.iter().enumerate() {
            x = self.block(number, block, x);
            if self.program.penalty.is_some() {
                self.step(Step::Gram { block: number, x });
            }
        }
        if self.program.penalty.is_some() {
            self.step(Step::FirstComponents);
        }
        self.step(Step::AveragePool { x });
        self.tap(Tapped::Pooled);
        self.step(Step::Logits);
        self.tap(Tapped::Logits);
        let rest = self.waiting.hand_out_all();
        self.hand_out_taps(rest);
        self
    }

    /// The input of the first block.
    fn stem(&mut self, stem: &StemPlan) -> ValueId {
        let convolved = self.convolution("stem.conv".to_owned(), stem.convolution, IMAGES, stem.side);
        let norm = self.norm("stem.bn".to_owned(), convolved);
        let x = self.normalise(norm, convolved, true);
        let Some(side) = stem.pooled_side else { return x };
        let y = self.value(side, stem.convolution.to);
        self.step(Step::MaxPool { x, y });
        self.tap(Tapped::Value(y));
        y
    }

    /// The result of the block of number `number`, from 0.
    fn block(&mut self, number: usize, plan: &BlockPlan, input: ValueId) -> ValueId {
        match plan.branches {
            1 => self.single_branch(plan, input),
            _ => self.two_branches(number, plan, input),
        }
    }

    fn single_branch(&mut self, plan: &BlockPlan, input: ValueId) -> ValueId {
        let (x, norm) = self.convolve_branch(plan, 0, input);
        // Layers are counted in the order in which they are there one by one: the branches, the shortcut, the addition.
        let layer = self.waiting.count();
        let addend = self.shortcut(plan, input);
        self.normalise_and_add(layer, norm, x, addend, true)
    }

    fn two_branches(&mut self, block: usize, plan: &BlockPlan, input: ValueId) -> ValueId {
        let branches = [0, 1].map(|branch| {
            let (x, norm) = self.convolve_branch(plan, branch, input);
            self.normalise(norm, x, false)
        });
        let layer = self.waiting.count();
        let Some(addend) = self.shortcut(plan, input) else {
            unreachable!("no network of two branches is without shortcuts")
        };
        let (y, seen) = self.results_like(branches[0], true, true);
        self.step(Step::Mix { block, branches, addend, y, seen });
        self.tap_results(layer, seen, y);
        y
    }

    /// The result of a branch's last convolution, and the number of the batch norm that follows it, which it has before what follows
    /// the block's branches is numbered: in every form of a network it is the same.
    fn convolve_branch(&mut self, plan: &BlockPlan, branch: usize, input: ValueId) -> (ValueId, usize) {
        let prefix = plan.branch_prefix(branch);
        let (mut x, mut norm) = (input, 0);
        let all = plan.convolutions.len();
        for (number, (convolution, &side)) in (1..).zip(plan.convolutions.iter().zip(&plan.sides)) {
            x = self.convolution(format!("{prefix}.conv{number}"), *convolution, x, side);
            norm = self.norm(format!("{prefix}.bn{number}"), x);
            if number < all {
                x = self.normalise(norm, x, true);
            }
        }
        (x, norm)
    }

    /// What is added to the branch's result.
    fn shortcut(&mut self, plan: &BlockPlan, input: ValueId) -> Option<ValueId> {
        match plan.shortcut {
            ShortcutPlan::None => None,
            ShortcutPlan::Identity => Some(input),
            ShortcutPlan::Projection { convolution, normalised } => {
                let name = format!("{}.shortcut", plan.prefix());
                let side = plan.sides.last().copied().unwrap_or(0);
                let projected = self.convolution(name.clone(), convolution, input, side);
                match normalised {
                    false => Some(projected),
                    true => {
                        let norm = self.norm(format!("{name}_bn"), projected);
                        Some(self.normalise(norm, projected, false))
                    }
                }
            }
        }
    }

    fn convolution(&mut self, name: String, plan: ConvolutionPlan, x: ValueId, side: usize) -> ValueId {
        let y = self.value(side, plan.to);
        let convolutions = &mut self.program.convolutions;
        let convolution = convolutions.iter().position(|known| known.name == name).unwrap_or_else(|| {
            convolutions.push(NamedConvolution { name, plan, side: self.program.values[x].side });
            convolutions.len() - 1
        });
        self.step(Step::Convolution { convolution, x, y });
        self.tap(Tapped::Value(y));
        y
    }

    /// The number of the batch norm of this name, which follows x.
    fn norm(&mut self, name: String, x: ValueId) -> usize {
        let channels = self.program.values[x].channels;
        let norms = &mut self.program.norms;
        norms.iter().position(|known| known.name == name).unwrap_or_else(|| {
            norms.push(NamedNorm { name, channels });
            norms.len() - 1
        })
    }

    /// A batch norm and, if `relu`, a ReLU.
    fn normalise(&mut self, norm: usize, x: ValueId, relu: bool) -> ValueId {
        let layer = self.waiting.count();
        self.normalise_and_add(layer, norm, x, None, relu)
    }

    /// The batch norm that is `layer`, and what follows it.
    fn normalise_and_add(
        &mut self,
        layer: Place,
        norm: usize,
        x: ValueId,
        addend: Option<ValueId>,
        relu: bool,
    ) -> ValueId {
        let (y, seen) = self.results_like(x, addend.is_some(), relu);
        self.step(Step::Normalise { norm, x, addend, relu, y, seen });
        self.tap_results(layer, seen, y);
        y
    }

    /// The result of a step, of the shape of `x`, and what is on the way to it, where that is seen.
    fn results_like(&mut self, x: ValueId, adds: bool, relu: bool) -> (ValueId, Seen) {
        let Value { side, channels } = self.program.values[x];
        let mut seen = |is_another: bool| (self.observed && is_another).then(|| self.value(side, channels));
        let seen = Seen { alone: seen(adds || relu), sum: seen(adds && relu) };
        (self.value(side, channels), seen)
    }

    fn value(&mut self, side: usize, channels: usize) -> ValueId {
        self.program.values.push(Value { side, channels });
        self.program.values.len() - 1
    }

    fn step(&mut self, step: Step) {
        self.program.steps.push(step);
    }

    /// The next layer is `of`, which is there.
    fn tap(&mut self, of: Tapped) {
        let layer = self.waiting.count();
        self.note(layer, of);
        self.hand_out();
    }

    /// What is on the way to the result `y` of a step, and that, are `layer` and the next ones.
    fn tap_results(&mut self, layer: Place, seen: Seen, y: ValueId) {
        let first = seen.alone.unwrap_or(y);
        self.note(layer, Tapped::Value(first));
        for value in [seen.sum, Some(y)].into_iter().flatten().filter(|&value| value != first) {
            let layer = self.waiting.count();
            self.note(layer, Tapped::Value(value));
        }
        self.hand_out();
    }

    fn note(&mut self, layer: Place, of: Tapped) {
        let values = match of {
            Tapped::Value(value) => self.program.values[value].length(),
            Tapped::Pooled => self.program.features,
            Tapped::Logits => self.program.classes,
        };
        self.waiting.note(layer, of, values);
    }

    /// Hands out layers that wait, as often as there are enough.
    fn hand_out(&mut self) {
        loop {
            let taps = self.waiting.hand_out_enough();
            if taps.is_empty() {
                return;
            }
            self.hand_out_taps(taps);
        }
    }

    fn hand_out_taps(&mut self, taps: Vec<Step>) {
        if self.observed {
            self.program.steps.extend(taps);
        }
    }
}

/// Puts the backward steps together.
struct Gradients<'a> {
    program: &'a mut Program,
    /// The gradients there are, by what they are the gradients of.
    of: HashMap<ValueId, ValueId>,
}

impl Gradients<'_> {
    /// The steps that give the gradients of what `step` reads from those of what it gives.
    fn add_backward(&mut self, step: &Step) {
        match *step {
            Step::Logits => self.program.steps.push(Step::LogitsBackward),
            Step::AveragePool { x } => {
                let dx = self.fresh(x);
                self.program.steps.push(Step::AveragePoolBackward { dx });
            }
            Step::MaxPool { x, y } => {
                let (dy, dx) = (self.of[&y], self.fresh(x));
                self.program.steps.push(Step::MaxPoolBackward { x, y, dy, dx });
            }
            Step::Gram { block, x } => {
                let dx = self.of[&x];
                self.program.steps.push(Step::GramBackward { block, x, dx });
            }
            // What follows from the Gram matrices is in the backward step of each.
            Step::FirstComponents => {}
            Step::Normalise { norm, x, addend, relu, y, .. } => {
                let dy = self.of[&y];
                // The last to read it, and so the first to say what its gradient is.
                let added = addend.map(|addend| Added { y, daddend: self.fresh(addend) });
                let dx = self.fresh(x);
                self.program.steps.push(Step::NormaliseBackward { norm, x, dy, dx, added, relu });
            }
            Step::Convolution { convolution, x, y } => {
                let dy = self.of[&y];
                self.program.steps.push(Step::WeightGradient { convolution, x, dy });
                if x != IMAGES {
                    let adds = self.of.contains_key(&x);
                    let dx = if adds { self.of[&x] } else { self.fresh(x) };
                    self.program.steps.push(Step::InputGradient { convolution, dy, dx, adds });
                }
            }
            Step::Mix { block, branches: [a, b], addend, y, .. } => {
                let dmixed = self.of[&y];
                let (dother, daddend) = (self.fresh(b), self.fresh(addend));
                self.of.insert(a, dmixed);
                self.program.steps.push(Step::MixBackward { block, y, dmixed, dother, daddend });
            }
            _ => unreachable!("no other step is in the forward part of a training program"),
        }
    }

    /// The gradient of `value`, which nothing has been written to yet.
    fn fresh(&mut self, value: ValueId) -> ValueId {
        self.program.values.push(self.program.values[value]);
        let gradient = self.program.values.len() - 1;
        let before = self.of.insert(value, gradient);
        assert!(before.is_none(), "value {value} has a gradient already, which would be lost");
        gradient
    }
}

#[cfg(test)]
mod tests;
