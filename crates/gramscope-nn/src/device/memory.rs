//! The memory that a program runs in.

use std::ops::Range;

use gramscope_cuda::{
    BatchPlace, ComponentsExtent, Device, FirstComponents, Regions, Scratch, Slice, View, ViewMut, disjoint_mut,
};

use super::stored::Stored;
use crate::program::{Program, Slots, ValueId};
use crate::{Error, Result};

/// Memory for batches of up to so many images.
pub(super) struct Memory<T> {
    pub(super) images: usize,
    /// All slots of a program.
    pub(super) values: Slice<T>,
    /// The images' places in their data set.
    pub(super) order: Slice<u32>,
    /// Where a batch begins in them, and the epoch.
    pub(super) order_start: Slice<BatchPlace>,
    pub(super) labels: Slice<u32>,
    /// Means and variances over the batch, of every batch norm.
    pub(super) statistics: Slice<f32>,
    /// What moves instead of the running statistics where these are to stay.
    pub(super) unmoved: Slice<f32>,
    pub(super) head: Head,
    /// Of every block whose branches' shares are drawn, those of each image, forward and backward.
    pub(super) shares: Slice<f32>,
    pub(super) scratch: Room,
    /// Partial sums of batch norms.
    pub(super) sums: Slice<f64>,
    /// Those of the blocks' outputs, where training is penalised.
    pub(super) first_components: Option<FirstComponents>,
}

/// What convolutions work in.
pub(super) struct Room {
    /// Partial sums of gradients.
    pub(super) partials: Slice<f32>,
    /// Where cuDNN works.
    workspace: Slice<u8>,
}

impl Room {
    pub(super) fn view_mut(&mut self) -> Scratch<'_> {
        Scratch { partials: self.partials.as_view_mut(), workspace: self.workspace.as_view_mut() }
    }
}

/// What lies behind the last activation, always in float32.
pub(super) struct Head {
    pub(super) pooled: Slice<f32>,
    pub(super) logits: Slice<f32>,
    pub(super) dpooled: Slice<f32>,
    pub(super) dlogits: Slice<f32>,
}

/// How long what does not depend on the activations alone is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    pub(super) statistics: usize,
    pub(super) shares: usize,
    pub(super) partials: usize,
    /// Bytes that cuDNN works in.
    pub(super) workspace: usize,
    pub(super) sums: usize,
    pub(super) first_components: Option<ComponentsExtent>,
}

impl Lengths {
    /// Bytes of device memory.
    pub(super) fn bytes(self) -> u64 {
        let values = (self.statistics + self.shares + self.partials) * size_of::<f32>() + self.sums * size_of::<f64>();
        (values + self.workspace) as u64 + self.first_components.map_or(0, ComponentsExtent::bytes)
    }
}

impl<T: Stored> Memory<T> {
    pub(super) fn new(
        device: &Device,
        program: &Program,
        slots: &Slots,
        lengths: Lengths,
        images: usize,
    ) -> Result<Self> {
        let what = format!("the activations of a batch of {images} images");
        // A length of 0 would be no allocation at all, and a null pointer.
        let floats = |length: usize| device.zeros::<f32>(&what, length.max(1));
        let numbers = || device.zeros::<u32>(&what, images);
        let widest = program.norms.iter().map(|norm| norm.channels).max().unwrap_or(0);
        Ok(Self {
            images,
            values: device.zeros(&what, slots.length(images))?,
            order: numbers()?,
            order_start: device.zeros(&what, 1)?,
            labels: numbers()?,
            statistics: floats(lengths.statistics)?,
            unmoved: floats(2 * widest)?,
            head: Head {
                pooled: floats(program.features * images)?,
                logits: floats(program.classes * images)?,
                dpooled: floats(program.features * images)?,
                dlogits: floats(program.classes * images)?,
            },
            shares: floats(lengths.shares)?,
            scratch: Room {
                partials: floats(lengths.partials)?,
                workspace: device.zeros(&what, lengths.workspace.max(1))?,
            },
            sums: device.zeros(&what, lengths.sums.max(1))?,
            first_components: lengths
                .first_components
                .map(|extent| FirstComponents::new(device, extent))
                .transpose()?,
        })
    }

    /// Shows all of it to `memory`.
    pub(super) fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        let Self {
            images: _,
            values,
            order,
            order_start,
            labels,
            statistics,
            unmoved,
            head,
            shares,
            scratch: Room { partials, workspace },
            sums,
            first_components,
        } = self;
        memory.writes(values);
        memory.writes(order);
        memory.reads(order_start);
        memory.writes(labels);
        let Head { pooled, logits, dpooled, dlogits } = head;
        for buffer in [statistics, unmoved, pooled, logits, dpooled, dlogits, shares, partials] {
            memory.writes(buffer);
        }
        memory.writes(workspace);
        memory.writes(sums);
        first_components.iter_mut().for_each(|components| components.show(memory));
    }

    /// Has at least so many bytes for cuDNN to work in.
    pub(super) fn grow_workspace(&mut self, device: &Device, bytes: usize) -> Result<()> {
        if bytes > self.scratch.workspace.len() {
            self.scratch.workspace = device.zeros("cuDNN's workspace", bytes)?;
        }
        Ok(())
    }

    /// Whether a program could run in it, over as many images as its own; penalised training has memory of its own.
    pub(super) fn fits(&self, program: &Program, slots: &Slots, lengths: Lengths) -> bool {
        let Head { pooled, logits, .. } = &self.head;
        let widest = program.norms.iter().map(|norm| norm.channels).max().unwrap_or(0);
        slots.length(self.images) <= self.values.len()
            && lengths.statistics <= self.statistics.len()
            && 2 * widest <= self.unmoved.len()
            && program.features * self.images <= pooled.len()
            && program.classes * self.images <= logits.len()
            && lengths.shares <= self.shares.len()
            && lengths.partials <= self.scratch.partials.len()
            && lengths.sums <= self.sums.len()
            && lengths.first_components.is_none()
    }
}

/// A value of a batch, where it lies.
pub(super) struct Held<'a, T> {
    values: ViewMut<'a, T>,
}

impl<T> Held<'_, T> {
    pub(super) fn view(&self) -> View<'_, T> {
        self.values.as_view()
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.values.slice_mut(..)
    }

    pub(super) fn length(&self) -> usize {
        self.values.len()
    }
}

/// Values, and others where there are any.
pub(super) type HeldWithOthers<'m, T, const N: usize, const M: usize> = ([Held<'m, T>; N], [Option<Held<'m, T>>; M]);

/// Finds values of a batch of `images`.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) program: &'a Program,
    pub(super) slots: &'a Slots,
    pub(super) images: usize,
}

impl Places<'_> {
    /// Numbers of a value.
    pub(super) fn length(&self, value: ValueId) -> usize {
        self.program.values[value].length() * self.images
    }

    /// Pixels of all images, and channels.
    pub(super) fn rows(&self, value: ValueId) -> (usize, usize) {
        let value = self.program.values[value];
        (value.pixels() * self.images, value.channels)
    }

    /// Where the shares of the block of number `block` lie: forward, and backward.
    pub(super) fn shares(&self, block: usize) -> [Range<usize>; 2] {
        [2 * block, 2 * block + 1].map(|row| row * self.images..(row + 1) * self.images)
    }

    /// Where a value lies in a memory of all slots.
    pub(super) fn range(&self, value: ValueId) -> Range<usize> {
        let start = self.slots.start(value, self.images);
        start..start + self.length(value)
    }

    /// The values, which are all different.
    pub(super) fn of<'m, T, const N: usize>(
        &self,
        memory: &'m mut Slice<T>,
        values: [ValueId; N],
    ) -> Result<[Held<'m, T>; N]> {
        self.of_those(memory, values, []).map(|(held, [])| held)
    }

    /// The same with others, where there are any.
    pub(super) fn of_those<'m, T, const N: usize, const M: usize>(
        &self,
        memory: &'m mut Slice<T>,
        values: [ValueId; N],
        others: [Option<ValueId>; M],
    ) -> Result<HeldWithOthers<'m, T, N, M>> {
        let all: Vec<ValueId> = values.into_iter().chain(others.into_iter().flatten()).collect();
        let ranges: Vec<Range<usize>> = all.iter().map(|&value| self.range(value)).collect();
        let shared = || Error::SharedSlot { values: all.clone() };
        let mut held = disjoint_mut(memory, &ranges).ok_or_else(shared)?.into_iter().map(|values| Held { values });
        let first = held.by_ref().take(N).collect::<Vec<_>>().try_into().map_err(|_| shared())?;
        Ok((first, others.map(|other| other.and_then(|_| held.next()))))
    }
}
