//! Memory that one training step leaves to the next, and one layer of an evaluation to those after it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

/// Activations and gradients, kept by shape. An allocator that gives freed memory back to the system
/// has it zeroed page by page when the next step asks for it again, a fifth of a step's time on a CPU.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    spare: Mutex<HashMap<Vec<usize>, Vec<Tensor>>>,
}

impl Workspace {
    /// A contiguous tensor with any values, where one of this shape is kept.
    pub(super) fn take(&self, shape: &[usize]) -> Option<Tensor> {
        self.spare().get_mut(shape)?.pop()
    }

    /// Keeps a tensor for [`Self::take`]. Nothing else may use its memory any more.
    pub(super) fn give(&self, tensor: Tensor) {
        self.spare().entry(tensor.dims().to_vec()).or_default().push(tensor);
    }

    /// Frees what is of this shape.
    pub(super) fn free(&self, shape: &[usize]) {
        self.spare().remove(shape);
    }

    /// Frees what is not for batches of `images`.
    pub(crate) fn keep_batches_of(&self, images: usize) {
        self.spare().retain(|shape, _| shape.first() == Some(&images));
    }

    /// Frees everything.
    pub(crate) fn clear(&self) {
        self.spare().clear();
    }

    /// Whether there is a tensor of this shape for [`Self::take`].
    #[cfg(test)]
    pub(crate) fn keeps(&self, shape: &[usize]) -> bool {
        self.spare().get(shape).is_some_and(|tensors| !tensors.is_empty())
    }

    /// Numbers that are kept.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> usize {
        self.spare().values().flatten().map(Tensor::elem_count).sum()
    }

    fn spare(&self) -> MutexGuard<'_, HashMap<Vec<usize>, Vec<Tensor>>> {
        // A thread that panicked between two of these calls left the map whole.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
