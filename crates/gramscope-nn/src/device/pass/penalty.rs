//! The steps of a penalty on the first components of the blocks' outputs.

use super::Pass;
use crate::device::stored::Stored;
use crate::program::ValueId;
use crate::{Error, FirstComponentPenalty, Result};

impl<T: Stored> Pass<'_, T> {
    pub(super) fn gram(&mut self, block: usize, x: ValueId) -> Result<()> {
        let shape = self.examples(x);
        let [x] = self.places.of(&mut self.memory.values, [x])?;
        let components = self.memory.first_components.as_mut().ok_or(Error::NoPenalty)?;
        Ok(components.observe(self.launcher, block, &T::values(x.view()), shape)?)
    }

    pub(super) fn first_components(&mut self) -> Result<()> {
        let components = self.memory.first_components.as_mut().ok_or(Error::NoPenalty)?;
        Ok(components.decompose(self.launcher, self.places.images)?)
    }

    pub(super) fn gram_backward(&mut self, block: usize, x: ValueId, dx: ValueId) -> Result<()> {
        let shape = self.examples(x);
        let FirstComponentPenalty { weight, threshold } = self.places.program.penalty.ok_or(Error::NoPenalty)?;
        let [x, mut dx] = self.places.of(&mut self.memory.values, [x, dx])?;
        let components = self.memory.first_components.as_ref().ok_or(Error::NoPenalty)?;
        let dx = &mut dx.view_mut();
        Ok(components.add_gradient(self.launcher, block, dx, &x.view(), weight, threshold, shape)?)
    }

    /// Images, and the numbers of each.
    fn examples(&self, value: ValueId) -> [usize; 2] {
        [self.places.images, self.places.program.values[value].length()]
    }
}
