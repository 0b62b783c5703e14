//! kernels/convolution/convolution.cu.

mod kernels;

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, enqueue};
use crate::error::Error;
use crate::family::Kernel;
use crate::launch::{Arguments, wrong};
use crate::plan::convolution::{self as plan, Arithmetic, Convolution, Variant};
use crate::shapes::ConvolutionShape;
pub(crate) use kernels::ConvolutionKernels;
use kernels::TileKernels;

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
        let kernel =
            self.convolution_kernel::<T>(arithmetic, |tiles| tiles.forward.of(Variant::forward(convolution)))?;
        let shape = checked(kernel, convolution)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("y", y, convolution.y_length())?;
        check.reads("x", x, convolution.x_length())?;
        check.reads("weight", weight, convolution.weight_length())?;
        check.reads("bias", bias, convolution.to)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(y).arg(x).arg(weight).arg(bias).arg(&shape);
        // SAFETY: a block writes the values of y that its tile covers and reads pixels inside the images of x, rows of the
        // weights and biases of outputs below `to`. All these lengths are the convolution's and have been checked; shared
        // memory is the plan's for this tile.
        unsafe { enqueue(kernel, plan::forward(convolution, arithmetic), arguments) }
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
        let kernel = self.convolution_kernel::<T>(arithmetic, |tiles| {
            tiles.input_gradient.of(Variant::input_gradient(convolution))
        })?;
        let shape = ConvolutionShape { adds: adds.into(), ..checked(kernel, convolution)? };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dx", dx, convolution.x_length())?;
        check.reads("dy", dy, convolution.y_length())?;
        check.reads("weight", weight, convolution.weight_length())?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx).arg(dy).arg(weight).arg(&shape);
        // SAFETY: a block reads and writes the values of dx that its tile covers and reads pixels inside the images of dy and
        // weights of inputs below `from`. All these lengths are the convolution's and have been checked; shared memory is
        // the plan's for this tile.
        unsafe { enqueue(kernel, plan::input_gradient(convolution, arithmetic), arguments) }
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
        let kernel = self.convolution_kernel::<T>(arithmetic, |tiles| {
            tiles.weight_gradient.of(Variant::weight_gradient(convolution))
        })?;
        let shape = checked(kernel, convolution)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dweight", dweight, convolution.weight_length())?;
        check.writes("dbias", dbias, convolution.to)?;
        check.writes("scratch", scratch, plan::scratch(convolution))?;
        check.reads("x", x, convolution.x_length())?;
        check.reads("dy", dy, convolution.y_length())?;
        let (geometry, groups) = (plan::weight_gradient(convolution, arithmetic), plan::groups(convolution));
        let mut arguments = self.stream.launch_builder(&kernel.function);
        if groups == 1 {
            arguments.arg(dweight).arg(dbias).arg(x).arg(dy).arg(&shape);
            // SAFETY: a block writes the gradients of the weights and biases that its tile covers and reads pixels inside the
            // images of x and dy. All these lengths are the convolution's and have been checked; shared memory is the
            // plan's for this tile.
            return unsafe { enqueue(kernel, geometry, arguments) };
        }
        let (mut weights, mut biases) = scratch.split_at_mut(groups * convolution.weight_length());
        arguments.arg(&mut weights).arg(&mut biases).arg(x).arg(dy).arg(&shape);
        // SAFETY: as above, but that each of `groups` groups has a set of gradients of its own in scratch, whose length is the
        // plan's and has been checked.
        unsafe { enqueue(kernel, geometry, arguments) }?;
        let kernel = &self.device.kernels().convolution.reduce;
        let (weights, biases) = (weights.as_view(), biases.as_view());
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dweight).arg(dbias).arg(&weights).arg(&biases).arg(&shape);
        // SAFETY: a thread a weight or bias reads its place in each group's set and writes its gradient. All these lengths have
        // been checked.
        unsafe { enqueue(kernel, plan::reduce(convolution), arguments) }
    }

    /// How many values of scratch [`Launcher::convolution_weight_gradient`] wants, whatever the arithmetic.
    pub fn convolution_scratch(&self, convolution: &Convolution) -> usize {
        convolution.shape().map_or(0, |_| plan::scratch(convolution))
    }

    /// dL/db `[to]` alone from dL/dy. `scratch` has [`Launcher::convolution_bias_scratch`] values; what they hold does not matter.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn convolution_bias_gradient<T: Activation>(
        &self,
        dbias: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f32>,
        dy: &CudaView<'_, T>,
        convolution: &Convolution,
    ) -> Result<(), Error> {
        let kernels = &self.device.kernels().convolution;
        let kernel = &T::kernels(&kernels.of_type).bias_gradient;
        let whole = checked(kernel, convolution)?;
        let groups = plan::bias_groups(convolution);
        let counted = i32::try_from(groups).map_err(|_| wrong(kernel.name, "groups", groups, "below 2^31"))?;
        // Without taps there are no weights, and the kernel that adds groups up has biases alone.
        let shape = ConvolutionShape { kernel: 0, groups: counted, ..whole };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dbias", dbias, convolution.to)?;
        check.writes("scratch", scratch, plan::bias_scratch(convolution))?;
        check.reads("dy", dy, convolution.y_length())?;
        let geometry = plan::bias_gradient(convolution);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        if groups == 1 {
            arguments.arg(dbias).arg(dy).arg(&shape);
            // SAFETY: a block writes the gradients of its channels and reads dy's values of these, all within the lengths that
            // have been checked; shared memory is the plan's.
            return unsafe { enqueue(kernel, geometry, arguments) };
        }
        arguments.arg(&mut *scratch).arg(dy).arg(&shape);
        // SAFETY: as above, but that each of `groups` groups has gradients of its own in scratch, whose length has been checked.
        unsafe { enqueue(kernel, geometry, arguments) }?;
        let (kernel, partials) = (&kernels.reduce, scratch.as_view());
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&partials).arg(dbias).arg(&partials).arg(&partials).arg(&shape);
        // SAFETY: there are no weights: a thread a bias reads its place in each group's set and writes its gradient, and the
        // weights' pointers are not used. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::reduce_biases(convolution), arguments) }
    }

    /// How many values of scratch [`Launcher::convolution_bias_gradient`] wants.
    pub fn convolution_bias_scratch(&self, convolution: &Convolution) -> usize {
        convolution.shape().map_or(0, |_| plan::bias_scratch(convolution))
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
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().convolution.of_type).forward_naive;
        let shape = checked(kernel, convolution)?;
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
        adds: bool,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().convolution.of_type).input_gradient_naive;
        let shape = ConvolutionShape { adds: adds.into(), ..checked(kernel, convolution)? };
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

    /// As [`Launcher::convolution_weight_gradient`], a thread a weight or bias, summed in float64 whatever the arithmetic.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn convolution_weight_gradient_naive<T: Activation>(
        &self,
        dweight: &mut CudaViewMut<'_, f32>,
        dbias: &mut CudaViewMut<'_, f32>,
        x: &CudaView<'_, T>,
        dy: &CudaView<'_, T>,
        convolution: &Convolution,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().convolution.of_type).weight_gradient_naive;
        let shape = checked(kernel, convolution)?;
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

    /// One of the kernels for activations of type T and this arithmetic.
    fn convolution_kernel<T: Activation>(
        &self,
        arithmetic: Arithmetic,
        choose: impl Fn(&TileKernels) -> Option<&Kernel>,
    ) -> Result<&Kernel, Error> {
        let kernels = &self.device.kernels().convolution;
        let tiles = T::kernels(&kernels.tiles).iter().find(|(own, _)| *own == arithmetic);
        tiles.and_then(|(_, tiles)| choose(tiles)).ok_or_else(|| {
            let expected = "Float32 or Tf32 for float32 activations, Bf16 for bfloat16 ones";
            let name = T::kernels(&kernels.of_type).forward_naive.name;
            wrong(name, "arithmetic", format!("{arithmetic:?}"), expected)
        })
    }
}

/// The convolution as kernels take it.
fn checked(kernel: &Kernel, convolution: &Convolution) -> Result<ConvolutionShape, Error> {
    let expected = "of at least one image, pixel and channel, with a kernel that fits into the padded image and fewer \
                    than 2^30 pixels and weights";
    convolution.shape().ok_or_else(|| wrong(kernel.name, "the convolution", format!("{convolution:?}"), expected))
}
