//! kernels/elementwise/elementwise.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};
use half::bf16;

use super::{Activation, Launcher, checked_length, enqueue};
use crate::error::Error;
use crate::launch::Arguments;
use crate::plan::training as plan;
use crate::shapes::ElementwiseShape;

impl Launcher<'_> {
    /// Cuts `length` values of `x` off below 0; NaN stays NaN.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Launch`].
    pub fn relu<T: Activation>(&self, x: &mut CudaViewMut<'_, T>, length: usize) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.functions().training.layers).relu;
        let shape = ElementwiseShape { length: checked_length(kernel, length)? };
        Arguments::new(kernel.name, self.stream).writes("x", x, length)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(x).arg(&shape);
        // SAFETY: a thread a run of values reads and writes x [length], as has been checked.
        unsafe { enqueue(kernel, plan::runs(length, size_of::<T>()), arguments) }
    }

    /// Copies `length` values of `x` to `narrow`, rounded to bfloat16.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn narrow(
        &self,
        narrow: &mut CudaViewMut<'_, bf16>,
        x: &CudaView<'_, f32>,
        length: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.functions().training.narrow;
        let shape = ElementwiseShape { length: checked_length(kernel, length)? };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("narrow", narrow, length)?;
        check.reads("x", x, length)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(narrow).arg(x).arg(&shape);
        // SAFETY: a thread a run of values reads x and writes narrow, both [length], as has been checked.
        unsafe { enqueue(kernel, plan::runs(length, size_of::<f32>()), arguments) }
    }
}
