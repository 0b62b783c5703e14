//! An activation as a matrix of one type, whose columns are taken a slab at a time, from memory or from elsewhere.

use std::io;
use std::ops::Range;

use super::columns::{Slab, Stored};
use super::gram::SLAB;
use crate::activation::{Activation, ReadFeatures};

/// Bytes that are read at a time of what is not in memory; one slab where that is more.
pub(super) const READ_BYTES: usize = 4 << 20;

/// An activation whose values are of type S.
pub(super) struct Matrix<'a, S> {
    /// Rows.
    pub(super) n: usize,
    /// Columns.
    pub(super) width: usize,
    place: Place<'a, S>,
}

/// Where the values are.
pub(super) enum Place<'a, S> {
    Memory(&'a [S]),
    Elsewhere(&'a dyn ReadFeatures),
}

impl<'a, S: Stored> Matrix<'a, S> {
    /// `activation`, whose values are at `place`.
    pub(super) fn of(activation: Activation<'_>, place: Place<'a, S>) -> Self {
        Self { n: activation.examples(), width: activation.features(), place }
    }

    /// How many slabs it has.
    pub(super) fn slabs(&self) -> usize {
        self.width.div_ceil(SLAB)
    }

    /// The columns of slab number `index`.
    fn slab(&self, index: usize) -> Range<usize> {
        index * SLAB..((index + 1) * SLAB).min(self.width)
    }

    /// Calls `take` with the slabs of these numbers, one after the other. What is not in memory is read into `buffer`, as many
    /// slabs at a time as [`READ_BYTES`] hold; it has words so that values of any type are aligned.
    pub(super) fn each_slab<E: From<io::Error>>(
        &self,
        slabs: Range<usize>,
        buffer: &mut Vec<u64>,
        mut take: impl FnMut(&Slab<'_, S>) -> Result<(), E>,
    ) -> Result<(), E> {
        let source = match self.place {
            Place::Memory(values) => {
                let mut slabs = slabs.map(|index| Slab { values, width: self.width, features: self.slab(index) });
                return slabs.try_for_each(|slab| take(&slab));
            }
            Place::Elsewhere(source) => source,
        };
        let at_a_time = (READ_BYTES / (self.n * SLAB * size_of::<S>())).max(1);
        for first in slabs.clone().step_by(at_a_time) {
            let last = slabs.end.min(first + at_a_time);
            let read = self.slab(first).start..self.slab(last - 1).end;
            let bytes = self.n * read.len() * size_of::<S>();
            buffer.resize(buffer.len().max(bytes.div_ceil(size_of::<u64>())), 0);
            source.read(read.clone(), &mut bytemuck::cast_slice_mut(buffer)[..bytes])?;
            let values: &[S] = bytemuck::cast_slice(&bytemuck::cast_slice::<_, u8>(buffer)[..bytes]);
            for index in first..last {
                let Range { start, end } = self.slab(index);
                take(&Slab { values, width: read.len(), features: start - read.start..end - read.start })?;
            }
        }
        Ok(())
    }
}
