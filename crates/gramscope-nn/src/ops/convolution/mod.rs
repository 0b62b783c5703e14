//! Convolution with bias, and its gradients.
//!
//! ```text
//! y[n, i, j, o] = b[o] + sum over u, v, c of x[n, i s + u - p, j s + v - p, c] w[o, u, v, c]
//! ```
//!
//! with stride s and padding p, x being zero outside the image. (What the field calls a convolution is a
//! cross-correlation.)

mod cpu;
mod product;
mod shape;
mod weights;

use candle_core::{CpuStorage, CustomOp2, DType, InplaceOp3, Layout, Result, Shape, Tensor};

use super::values;
use shape::Convolution;
pub use shape::Geometry;

/// The convolution of `x` `[n, h, w, in]` with `weight` `[out, kh, kw, in]` plus `bias` `[out]`: `[n, oh, ow, out]`,
/// with oh = (h + 2 padding - kh) / stride + 1, rounded down.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let y = Tensor::zeros(&result_dims(x, weight, geometry)?, DType::F32, x.device())?;
    forward_into(&y, x, weight, bias, geometry)?;
    Ok(y)
}

/// As [`forward`], into the memory of `y` `[n, oh, ow, out]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `y` that is not contiguous is one.
pub fn forward_into(y: &Tensor, x: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<()> {
    forward_with(y, x, weight, bias, geometry, false)
}

/// As [`forward_into`], of the ReLU of `x`, which is applied as `x` is read: `x` stays as it is.
///
/// # Errors
/// As [`forward_into`].
pub fn forward_relu_into(y: &Tensor, x: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<()> {
    forward_with(y, x, weight, bias, geometry, true)
}

fn forward_with(y: &Tensor, x: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry, relu: bool) -> Result<()> {
    let convolution = of(x, weight, geometry)?;
    values::check_shape("convolution: y", y, &convolution.y_dims())?;
    values::check_shape("convolution: bias", bias, &[convolution.c_out])?;
    y.inplace_op3(&x.contiguous()?, &weight.contiguous()?, &Forward { convolution, bias, relu })
}

/// The shape of the result of [`forward`].
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn result_dims(x: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<[usize; 4]> {
    Ok(of(x, weight, geometry)?.y_dims())
}

/// dL/dx from `dy` = dL/dy `[n, oh, ow, out]`, into the memory of `dx` `[n, h, w, in]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `dx` that is not contiguous is one.
pub fn input_gradient_into(dx: &Tensor, dy: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<()> {
    input_gradient(dx, dy, weight, geometry, false)
}

/// Adds dL/dx, as [`input_gradient_into`] makes it, to `dx` `[n, h, w, in]`.
///
/// # Errors
/// As [`input_gradient_into`].
pub fn add_input_gradient(dx: &Tensor, dy: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<()> {
    input_gradient(dx, dy, weight, geometry, true)
}

fn input_gradient(dx: &Tensor, dy: &Tensor, weight: &Tensor, geometry: Geometry, add: bool) -> Result<()> {
    let convolution = of(dx, weight, geometry)?;
    values::check_shape("convolution: dy", dy, &convolution.y_dims())?;
    dx.inplace_op3(&dy.contiguous()?, &weight.contiguous()?, &InputGradient { convolution, add })
}

/// dL/dw `[out, kh, kw, in]` and dL/db `[out]` from `x` `[n, h, w, in]` and `dy` = dL/dy `[n, oh, ow, out]`, for a
/// kernel of `kernel` = (kh, kw).
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

/// The convolution of an `x` with a `weight`.
fn of(x: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<Convolution> {
    values::check("convolution: x", x, 4)?;
    values::check("convolution: weight", weight, 4)?;
    Convolution::new(x.dims4()?, weight.dims4()?, geometry)
}

/// Of x or, with `relu`, of its ReLU.
struct Forward<'a> {
    convolution: Convolution,
    bias: &'a Tensor,
    relu: bool,
}

impl InplaceOp3 for Forward<'_> {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<()> {
        let y = values::of_mut("convolution: y", y, y_layout)?;
        let x = values::of("convolution: x", x, x_layout)?;
        let weight = values::of("convolution: weight", weight, weight_layout)?;
        cpu::forward(&self.convolution, y, x, weight, &values::small("convolution: bias", self.bias)?, self.relu);
        Ok(())
    }
}

/// Into dx, or added to it.
struct InputGradient {
    convolution: Convolution,
    add: bool,
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
