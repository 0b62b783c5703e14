//! The linear layer: y = x W^T + b, a convolution over one row of pixels, the examples.

use candle_core::{Result, Tensor};

use super::convolution::{self, Geometry};
use super::values;

const POINTWISE: Geometry = Geometry { stride: 1, padding: 0 };

/// `x` `[n, features]` times the transpose of `weight` `[classes, features]` plus `bias` `[classes]`: `[n, classes]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    convolution::forward(&as_pixels("linear: x", x)?, &as_kernel(weight)?, bias, POINTWISE)?.squeeze(0)?.squeeze(0)
}

/// The gradients of a linear layer.
pub struct Gradients {
    /// dL/dx `[n, features]`.
    pub dx: Tensor,
    /// dL/dW `[classes, features]`.
    pub dweight: Tensor,
    /// dL/db `[classes]`.
    pub dbias: Tensor,
}

/// The gradients from `x` `[n, features]`, `weight` `[classes, features]` and `dy` = dL/dy `[n, classes]`. The memory
/// of `x` becomes that of `dx`, so nothing else may use it any more.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn backward(x: Tensor, weight: &Tensor, dy: &Tensor) -> Result<Gradients> {
    let (x, dy) = (as_pixels("linear: x", &x.contiguous()?)?, as_pixels("linear: dy", dy)?);
    let (dweight, dbias) = convolution::parameter_gradients(&x, &dy, POINTWISE, (1, 1))?;
    convolution::input_gradient_into(&x, &dy, &as_kernel(weight)?, POINTWISE)?;
    Ok(Gradients { dx: x.squeeze(0)?.squeeze(0)?, dweight: dweight.reshape(weight.shape())?, dbias })
}

/// `[n, features]` as one image of one row of n pixels.
fn as_pixels(what: &'static str, x: &Tensor) -> Result<Tensor> {
    values::check(what, x, 2)?;
    x.unsqueeze(0)?.unsqueeze(0)
}

/// `[classes, features]` as the weights of 1 x 1 kernels.
fn as_kernel(weight: &Tensor) -> Result<Tensor> {
    values::check("linear: weight", weight, 2)?;
    weight.unsqueeze(1)?.unsqueeze(1)
}
