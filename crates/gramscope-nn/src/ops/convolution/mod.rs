//! Convolution with bias, and its gradients.
//!
//! y[n, i, j, o] = b[o] + sum over (u, v, c) of x[n, i s + u - p, j s + v - p, c] w[o, u, v, c], where x is zero outside
//! the image: s is the stride and p the padding. (What the field calls convolution is a cross-correlation.)

mod cpu;
mod product;
mod shape;
mod weights;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, InplaceOp3, Layout, Result, Shape, Tensor};

use super::values;
use shape::Convolution;
pub use shape::Geometry;

/// The convolution of `x` [n, h, w, in] with `weight` [out, kh, kw, in] plus `bias` [out]: [n, oh, ow, out], with
/// oh = (h + 2 padding - kh) / stride + 1, rounded down.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<Tensor> {
    values::check("convolution: x", x, 4)?;
    values::check("convolution: weight", weight, 4)?;
    let convolution = Convolution::new(x.dims4()?, weight.dims4()?, geometry)?;
    values::check_shape("convolution: bias", bias, &[convolution.c_out])?;
    x.contiguous()?.apply_op3_no_bwd(&weight.contiguous()?, &bias.contiguous()?, &Forward(convolution))
}

/// dL/dx [n, h, w, in] from `dy` = dL/dy [n, oh, ow, out]. It takes over the memory of `x`, so nothing else may use that any
/// more.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn input_gradient(dy: &Tensor, weight: &Tensor, geometry: Geometry, x: Tensor) -> Result<Tensor> {
    let dx = x.contiguous()?;
    InputGradient::new(&dx, dy, weight, geometry, false)?.apply(&dx, dy, weight)?;
    Ok(dx)
}

/// Adds dL/dx, as [`input_gradient`] returns it, to `dx` [n, h, w, in], in place.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `dx` that is not contiguous is one.
pub fn add_input_gradient(dx: &Tensor, dy: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<()> {
    InputGradient::new(dx, dy, weight, geometry, true)?.apply(dx, dy, weight)
}

/// dL/dw [out, kh, kw, in] and dL/db [out] from `x` [n, h, w, in] and `dy` = dL/dy [n, oh, ow, out], for a kernel of
/// `kernel` = (kh, kw).
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn parameter_gradients(
    x: &Tensor,
    dy: &Tensor,
    geometry: Geometry,
    kernel: (usize, usize),
) -> Result<(Tensor, Tensor)> {
    values::check("convolution: x", x, 4)?;
    values::check("convolution: dy", dy, 4)?;
    let (_, h, w, c_in) = x.dims4()?;
    let (n, _, _, c_out) = dy.dims4()?;
    let convolution = Convolution::new((n, h, w, c_in), (c_out, kernel.0, kernel.1, c_in), geometry)?;
    values::check_shape("convolution: x", x, &convolution.x_dims())?;
    values::check_shape("convolution: dy", dy, &convolution.y_dims())?;
    let gradients = x.contiguous()?.apply_op2_no_bwd(&dy.contiguous()?, &ParameterGradients(convolution))?;
    let weights = convolution.weight_count();
    let dw = gradients.narrow(0, 0, weights)?.reshape(&convolution.weight_dims())?;
    Ok((dw, gradients.narrow(0, weights, c_out)?))
}

struct Forward(Convolution);

impl CustomOp3 for Forward {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values::of("convolution: x", x, x_layout)?;
        let weight = values::of("convolution: weight", weight, weight_layout)?;
        let bias = values::of("convolution: bias", bias, bias_layout)?;
        let y = cpu::forward(&self.0, x, weight, bias);
        Ok((CpuStorage::F32(y), Shape::from_dims(&self.0.y_dims())))
    }
}

/// Into dx, or added to it.
struct InputGradient {
    convolution: Convolution,
    add: bool,
}

impl InputGradient {
    fn new(dx: &Tensor, dy: &Tensor, weight: &Tensor, geometry: Geometry, add: bool) -> Result<Self> {
        values::check("convolution: dx", dx, 4)?;
        values::check("convolution: weight", weight, 4)?;
        let convolution = Convolution::new(dx.dims4()?, weight.dims4()?, geometry)?;
        values::check_shape("convolution: dy", dy, &convolution.y_dims())?;
        Ok(Self { convolution, add })
    }

    fn apply(&self, dx: &Tensor, dy: &Tensor, weight: &Tensor) -> Result<()> {
        dx.inplace_op3(&dy.contiguous()?, &weight.contiguous()?, self)
    }
}

impl InplaceOp3 for InputGradient {
    fn name(&self) -> &'static str {
        "convolution input gradient"
    }

    fn cpu_fwd(
        &self,
        dx: &mut CpuStorage,
        dx_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<()> {
        let dx = values::of_mut("convolution: dx", dx, dx_layout)?;
        let dy = values::of("convolution: dy", dy, dy_layout)?;
        let weight = values::of("convolution: weight", weight, weight_layout)?;
        cpu::input_gradient(&self.convolution, dx, dy, weight, self.add);
        Ok(())
    }
}

/// Its result is dL/dw followed by dL/db, as one vector.
struct ParameterGradients(Convolution);

impl CustomOp2 for ParameterGradients {
    fn name(&self) -> &'static str {
        "convolution parameter gradients"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values::of("convolution: x", x, x_layout)?;
        let dy = values::of("convolution: dy", dy, dy_layout)?;
        let gradients = cpu::parameter_gradients(&self.0, x, dy);
        let length = gradients.len();
        Ok((CpuStorage::F32(gradients), Shape::from_dims(&[length])))
    }
}
