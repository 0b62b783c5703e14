//! kernels/convolution/convolution.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, enqueue};
use crate::error::Error;
use crate::functions::Kernel;
use crate::launch::{Arguments, wrong};
use crate::plan::convolution::{self as plan, Arithmetic, Convolution};
use crate::shapes::ConvolutionShape;

impl Launcher<'_> {
    /// y `[images, out_height, out_width, to]` from x `[images, height, width, from]`, weights `[to, kernel, kernel, from]`
    /// and biases `[to]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn convolution_forward<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        weight: &CudaView<'_, f32>,
        bias: &CudaView<'_, f32>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
    ) -> Result<(), Error> {
        self.convolution_forward_naive(y, x, weight, bias, convolution, arithmetic)
    }

    /// dL/dx from dL/dy and the weights, into `dx` or, where it `adds`, added to it (in float32, rounded once).
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn convolution_input_gradient<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        dy: &CudaView<'_, T>,
        weight: &CudaView<'_, f32>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
        adds: bool,
    ) -> Result<(), Error> {
        self.convolution_input_gradient_naive(dx, dy, weight, convolution, arithmetic, adds)
    }

    /// dL/dw `[to, kernel, kernel, from]` and dL/db `[to]` from x and dL/dy. `scratch` has
    /// [`Launcher::convolution_scratch`] values; what they hold does not matter.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn convolution_weight_gradient<T: Activation>(
        &self,
        dweight: &mut CudaViewMut<'_, f32>,
        dbias: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f32>,
        x: &CudaView<'_, T>,
        dy: &CudaView<'_, T>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
    ) -> Result<(), Error> {
        self.convolution_weight_gradient_naive(dweight, dbias, scratch, x, dy, convolution, arithmetic)
    }

    /// How many values of scratch [`Launcher::convolution_weight_gradient`] wants.
    pub fn convolution_scratch(&self, _convolution: &Convolution, _arithmetic: Arithmetic) -> usize {
        0
    }

    /// As [`Launcher::convolution_forward`], a thread a value of y, summed in float64 whatever the arithmetic.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn convolution_forward_naive<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        weight: &CudaView<'_, f32>,
        bias: &CudaView<'_, f32>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.functions().convolution).forward_naive;
        let shape = checked::<T>(kernel, convolution, arithmetic)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("y", y, convolution.y_length())?;
        check.reads("x", x, convolution.x_length())?;
        check.reads("weight", weight, convolution.weight_length())?;
        check.reads("bias", bias, convolution.to)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(y).arg(x).arg(weight).arg(bias).arg(&shape);
        // SAFETY: a thread a value of y writes it and reads pixels inside the images of x, a row of the weights and a bias. All
        // these lengths are the convolution's and have been checked.
        unsafe { enqueue(kernel, plan::forward_naive(convolution), arguments) }
    }

    /// As [`Launcher::convolution_input_gradient`], a thread a value of dx, summed in float64 whatever the arithmetic.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn convolution_input_gradient_naive<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        dy: &CudaView<'_, T>,
        weight: &CudaView<'_, f32>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
        adds: bool,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.functions().convolution).input_gradient_naive;
        let shape = ConvolutionShape { adds: adds.into(), ..checked::<T>(kernel, convolution, arithmetic)? };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dx", dx, convolution.x_length())?;
        check.reads("dy", dy, convolution.y_length())?;
        check.reads("weight", weight, convolution.weight_length())?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx).arg(dy).arg(weight).arg(&shape);
        // SAFETY: a thread a value of dx reads and writes it and reads pixels inside the images of dy and weights. All these
        // lengths are the convolution's and have been checked.
        unsafe { enqueue(kernel, plan::input_gradient_naive(convolution), arguments) }
    }

    /// As [`Launcher::convolution_weight_gradient`], a thread a weight or bias, summed in float64 whatever the arithmetic;
    /// `scratch` is not used.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are those of the faster ones")]
    pub fn convolution_weight_gradient_naive<T: Activation>(
        &self,
        dweight: &mut CudaViewMut<'_, f32>,
        dbias: &mut CudaViewMut<'_, f32>,
        _scratch: &mut CudaViewMut<'_, f32>,
        x: &CudaView<'_, T>,
        dy: &CudaView<'_, T>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.functions().convolution).weight_gradient_naive;
        let shape = checked::<T>(kernel, convolution, arithmetic)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dweight", dweight, convolution.weight_length())?;
        check.writes("dbias", dbias, convolution.to)?;
        check.reads("x", x, convolution.x_length())?;
        check.reads("dy", dy, convolution.y_length())?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dweight).arg(dbias).arg(x).arg(dy).arg(&shape);
        // SAFETY: a thread a weight or bias writes its gradient and reads pixels inside the images of x and dy. All these
        // lengths are the convolution's and have been checked.
        unsafe { enqueue(kernel, plan::weight_gradient_naive(convolution), arguments) }
    }
}

/// The convolution as kernels take it, for activations of a type that goes with `arithmetic`.
fn checked<T: Activation>(
    kernel: &Kernel,
    convolution: &Convolution,
    arithmetic: Arithmetic,
) -> Result<ConvolutionShape, Error> {
    if (arithmetic == Arithmetic::Bf16) != T::IS_BF16 {
        let expected = if T::IS_BF16 { "Bf16" } else { "Float32 or Tf32" };
        return Err(wrong(kernel.name, "arithmetic", format!("{arithmetic:?}"), expected));
    }
    let expected = "of at least one image, channel and pixel, a kernel within the padded image, and fewer than 2^31 pixels \
                    and weights";
    convolution.shape().ok_or_else(|| wrong(kernel.name, "the convolution", format!("{convolution:?}"), expected))
}
