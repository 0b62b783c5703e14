//! What is on the way to a result and is looked at.

use cudarc::driver::{CudaViewMut, LaunchArgs, PushKernelArg};

use super::NULL;

/// Where a launch that adds and rectifies writes what is on the way to its result as well, each as long as that. None: nobody
/// looks at it.
pub struct Seen<'a, T> {
    /// What the batch norm or the mixture gives alone.
    pub alone: Option<CudaViewMut<'a, T>>,
    /// The sum of that and the addend.
    pub sum: Option<CudaViewMut<'a, T>>,
}

impl<T> Default for Seen<'_, T> {
    fn default() -> Self {
        Self { alone: None, sum: None }
    }
}

impl<T> Seen<'_, T> {
    /// Both, or null pointers.
    pub(super) fn push<'a, 'b: 'a>(&'b mut self, arguments: &mut LaunchArgs<'a>) {
        for view in [&mut self.alone, &mut self.sum] {
            match view {
                Some(view) => arguments.arg(view),
                None => arguments.arg(&NULL),
            };
        }
    }
}
