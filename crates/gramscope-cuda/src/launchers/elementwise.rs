//! kernels/elementwise/elementwise.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};
use half::bf16;

use super::{Activation, Launcher, checked_length, enqueue};
use crate::error::Error;
use crate::family::{Family, Kernel, Typed, kernels};
use crate::launch::Arguments;
use crate::plan::training as plan;
use crate::shapes::ElementwiseShape;

kernels! {
    /// The kernel of one type of activations.
    TypedElementwiseKernels of an element {
        relu: "gs_elementwise_relu",
    }
}

/// The kernels of this family.
pub(crate) struct ElementwiseKernels {
    of_type: Typed<TypedElementwiseKernels>,
    narrow: Kernel,
}

impl ElementwiseKernels {
    pub(super) fn load(family: &Family) -> Result<Self, Error> {
        let of_type = Typed::load(family, TypedElementwiseKernels::load)?;
        Ok(Self { of_type, narrow: family.kernel("gs_elementwise_narrow")? })
    }
}

impl Launcher<'_> {
    /// Cuts `length` values of `x` off below 0; NaN stays NaN.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Launch`].
    pub fn relu<T: Activation>(&self, x: &mut CudaViewMut<'_, T>, length: usize) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().elementwise.of_type).relu;
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
        let kernel = &self.device.kernels().elementwise.narrow;
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
