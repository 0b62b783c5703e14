//! The convolutions of networks: cuDNN's where it has been asked for, else ours.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr};
use half::bf16;

use super::graph::Tensor;
use super::{ALIGNMENT, Cudnn, Plan, Problem, pack};
use crate::error::Error;
use crate::launch::{Arguments, wrong};
use crate::launchers::{Activation, Launcher};
use crate::plan::convolution::Product;
use crate::plan::{Arithmetic, Convolution};

/// What messages call cuDNN's convolutions.
const NAME: &str = "cuDNN's convolution";

/// Weights, as products take them.
pub struct Factors<'a> {
    /// `[to, kernel, kernel, from]`.
    pub weight: CudaView<'a, f32>,
    /// The same in bfloat16, where activations are and cuDNN multiplies them.
    pub narrow: Option<CudaView<'a, bf16>>,
}

/// What convolutions work in. What it holds does not matter.
pub struct Scratch<'a> {
    /// Partial sums: [`Launcher::convolution_scratch`] and [`Launcher::convolution_bias_scratch`] values.
    pub partials: CudaViewMut<'a, f32>,
    /// [`Launcher::plan_convolution`] bytes.
    pub workspace: CudaViewMut<'a, u8>,
}

/// The alignment, in bytes, that cuDNN is told of something that begins `offset` bytes into an allocation.
fn alignment_at(offset: u64) -> usize {
    1 << offset.trailing_zeros().min(ALIGNMENT.trailing_zeros())
}

impl Launcher<'_> {
    /// Sees to it that there is a plan for a convolution whose parameters begin `offsets` bytes into their allocations, and returns
    /// the bytes of workspace that it wants; none where the kernel is ours. Measures engines where none has been chosen: not while
    /// work is captured.
    ///
    /// # Errors
    /// [`Error::Cudnn`], [`Error::Choices`], [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn plan_convolution(
        &self,
        product: Product,
        convolution: &Convolution,
        arithmetic: Arithmetic,
        offsets: &[usize],
    ) -> Result<Option<usize>, Error> {
        let Some(cudnn) = self.device().cudnn() else { return Ok(None) };
        let alignment = offsets.iter().map(|&offset| alignment_at(offset as u64)).min().unwrap_or(ALIGNMENT);
        let problem = Problem { product, convolution: *convolution, arithmetic, alignment };
        cudnn.with_plan(self.device(), &problem, |plan| Ok(plan.map(|plan| plan.workspace)))
    }

    /// As [`Launcher::convolution_forward`].
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`]; those of [`Launcher::plan_convolution`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's, and the workspace")]
    pub fn convolve<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        factors: &Factors<'_>,
        bias: &CudaView<'_, f32>,
        scratch: &mut Scratch<'_>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
    ) -> Result<(), Error> {
        let collect = |call: &mut Call<'_>| {
            call.writes(Tensor::Results, "y", y, convolution.y_length())?;
            call.reads(Tensor::Images, "x", x, convolution.x_length())?;
            call.factors(factors, convolution.weight_length(), arithmetic)?;
            call.reads(Tensor::Biases, "bias", bias, convolution.to)
        };
        if self.through_cudnn::<T>(Product::Forward, convolution, arithmetic, scratch, collect)? {
            return Ok(());
        }
        self.convolution_forward(y, x, &factors.weight, bias, convolution, arithmetic)
    }

    /// As [`Launcher::convolution_input_gradient`].
    ///
    /// # Errors
    /// As [`Launcher::convolve`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's, and the workspace")]
    pub fn convolve_input_gradient<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        dy: &CudaView<'_, T>,
        factors: &Factors<'_>,
        scratch: &mut Scratch<'_>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
        adds: bool,
    ) -> Result<(), Error> {
        let collect = |call: &mut Call<'_>| {
            call.writes(Tensor::Images, "dx", dx, convolution.x_length())?;
            call.reads(Tensor::Results, "dy", dy, convolution.y_length())?;
            call.factors(factors, convolution.weight_length(), arithmetic)
        };
        if self.through_cudnn::<T>(Product::InputGradient { adds }, convolution, arithmetic, scratch, collect)? {
            return Ok(());
        }
        self.convolution_input_gradient(dx, dy, &factors.weight, convolution, arithmetic, adds)
    }

    /// As [`Launcher::convolution_weight_gradient`]. The biases' gradients come from a kernel of ours in either case.
    ///
    /// # Errors
    /// As [`Launcher::convolve`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's, and the workspace")]
    pub fn convolve_weight_gradient<T: Activation>(
        &self,
        dweight: &mut CudaViewMut<'_, f32>,
        dbias: &mut CudaViewMut<'_, f32>,
        scratch: &mut Scratch<'_>,
        x: &CudaView<'_, T>,
        dy: &CudaView<'_, T>,
        convolution: &Convolution,
        arithmetic: Arithmetic,
    ) -> Result<(), Error> {
        let collect = |call: &mut Call<'_>| {
            call.writes(Tensor::Weights, "dweight", dweight, convolution.weight_length())?;
            call.reads(Tensor::Images, "x", x, convolution.x_length())?;
            call.reads(Tensor::Results, "dy", dy, convolution.y_length())
        };
        if self.through_cudnn::<T>(Product::WeightGradient, convolution, arithmetic, scratch, collect)? {
            return self.convolution_bias_gradient(dbias, &mut scratch.partials, dy, convolution);
        }
        self.convolution_weight_gradient(dweight, dbias, &mut scratch.partials, x, dy, convolution, arithmetic)
    }

    /// Enqueues cuDNN's plan over the tensors that `collect` names; false, and nothing is enqueued, where a kernel of ours is to
    /// compute it, or to say what is wrong.
    fn through_cudnn<T: Activation>(
        &self,
        product: Product,
        convolution: &Convolution,
        arithmetic: Arithmetic,
        scratch: &mut Scratch<'_>,
        collect: impl FnOnce(&mut Call<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let Some(cudnn) = self.device().cudnn() else { return Ok(false) };
        let stored = if arithmetic == Arithmetic::Bf16 { size_of::<bf16>() } else { size_of::<f32>() };
        if convolution.shape().is_none() || stored != size_of::<T>() {
            return Ok(false);
        }
        let mut call =
            Call { arguments: Arguments::new(NAME, self.stream()), stream: self.stream(), tensors: Vec::new() };
        collect(&mut call)?;
        let alignment = call.tensors.iter().map(|&(_, address)| alignment_at(address)).min().unwrap_or(ALIGNMENT);
        let problem = Problem { product, convolution: *convolution, arithmetic, alignment };
        cudnn.with_plan(self.device(), &problem, |plan| match plan {
            Some(plan) => call.enqueue(cudnn, plan, &mut scratch.workspace).map(|()| true),
            None => Ok(false),
        })
    }
}

/// The tensors of a plan about to be enqueued.
struct Call<'a> {
    arguments: Arguments<'a>,
    stream: &'a Arc<CudaStream>,
    tensors: Vec<(Tensor, u64)>,
}

impl Call<'_> {
    fn reads<T>(
        &mut self,
        tensor: Tensor,
        argument: &'static str,
        buffer: &impl DevicePtr<T>,
        length: usize,
    ) -> Result<(), Error> {
        self.arguments.reads(argument, buffer, length)?;
        self.tensors.push((tensor, buffer.device_ptr(self.stream).0));
        Ok(())
    }

    fn writes<T>(
        &mut self,
        tensor: Tensor,
        argument: &'static str,
        buffer: &mut impl DevicePtr<T>,
        length: usize,
    ) -> Result<(), Error> {
        self.arguments.writes(argument, buffer, length)?;
        self.tensors.push((tensor, buffer.device_ptr(self.stream).0));
        Ok(())
    }

    /// The weights, in the type of the activations.
    fn factors(&mut self, factors: &Factors<'_>, length: usize, arithmetic: Arithmetic) -> Result<(), Error> {
        match (&factors.narrow, arithmetic) {
            (Some(narrow), Arithmetic::Bf16) => self.reads(Tensor::Weights, "weight", narrow, length),
            (None, Arithmetic::Bf16) => Err(wrong(NAME, "weight", "in float32 alone", "in bfloat16 too")),
            _ => self.reads(Tensor::Weights, "weight", &factors.weight, length),
        }
    }

    fn enqueue(mut self, cudnn: &Cudnn, plan: &Plan, workspace: &mut CudaViewMut<'_, u8>) -> Result<(), Error> {
        self.arguments.writes("workspace", workspace, plan.workspace)?;
        let (workspace, _in_use) = workspace.device_ptr(self.stream);
        cudnn.execute(plan, &pack(cudnn.api, &self.tensors, workspace)?)
    }
}
