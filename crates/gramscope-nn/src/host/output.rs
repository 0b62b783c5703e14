//! A layer's output.

use candle_core::{Result, Tensor};

use crate::ops::elementwise;

/// A layer's output, as a pass has it. That of a ReLU may be the ReLU's input, to which whoever reads it applies the ReLU, so that
/// it takes no pass over memory of its own.
#[derive(Debug)]
pub struct Output {
    values: Tensor,
    /// Whether there is a ReLU to be applied to the values.
    relu: bool,
}

impl Output {
    /// The values `[n, ...]`, contiguous, f32: a ReLU is applied here and now, in place.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn values(&mut self) -> Result<&Tensor> {
        if self.relu {
            self.values = elementwise::relu(self.values.clone())?;
            self.relu = false;
        }
        Ok(&self.values)
    }

    /// What is there `[n, ...]`, contiguous, f32, and whether the output is the ReLU of it.
    pub fn as_stored(&self) -> (&Tensor, bool) {
        (&self.values, self.relu)
    }

    /// The ReLU of `values`, which whoever reads it applies.
    pub(super) fn of_relu(values: Tensor) -> Self {
        Self { values, relu: true }
    }

    /// Becomes its own ReLU.
    pub(super) fn rectify(&mut self) {
        self.relu = true;
    }

    /// The memory in which it lies.
    pub(super) fn into_stored(self) -> Tensor {
        self.values
    }

    pub(super) fn into_values(mut self) -> Result<Tensor> {
        self.values()?;
        Ok(self.values)
    }
}

impl From<Tensor> for Output {
    fn from(values: Tensor) -> Self {
        Self { values, relu: false }
    }
}
