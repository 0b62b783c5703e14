//! Batch norm over the images and pixels of a channel (Ioffe and Szegedy 2015), fused with what follows it.
//!
//! With m values a channel, forward:
//!
//! ```text
//! mean = sum x / m,  variance = sum (x - mean)^2 / m,  xhat = (x - mean) / sqrt(variance + eps)
//! y = gamma xhat + beta, then an addition where there is one, then ReLU
//! ```
//!
//! Backward, with g the gradient behind the ReLU (0 where the ReLU's result is 0), in two passes over the activations,
//! as dx depends on two sums over the channel:
//!
//! ```text
//! dbeta = sum g,  dgamma = sum g xhat
//! dx = gamma / sqrt(variance + eps) (g - dbeta / m - xhat dgamma / m)
//! ```
//!
//! Sums are taken in float64. Between the passes only the mean and the variance are kept.

mod cpu;
mod operations;

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor};

use super::values;
use crate::Error;
use operations::{
    InputGradient, MaskAndSum, Normalise, NormaliseInPlace, ReluInputGradient, ReluSums, Statistics, Sums, Track,
};

/// Added to the variance before the root (Keras's default).
pub const EPSILON: f64 = 1e-3;
/// Share of the running statistics that one training step keeps (Keras's default).
pub const MOMENTUM: f64 = 0.99;

/// Mean and biased variance of each channel of `x` `[n, h, w, c]`: `[2, c]`, the means first.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn statistics(x: &Tensor) -> Result<Tensor> {
    values::check("batch norm: x", x, 4)?;
    x.contiguous()?.apply_op1_no_bwd(&Statistics)
}

/// Batch norm of `x` `[n, h, w, c]` with the given `statistics` `[2, c]` (of the batch to train, running to evaluate),
/// `gamma` and `beta` `[c]`; then `addend` (of the shape of `x`) is added, then, if `relu`, negative values become 0.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn normalise(
    x: &Tensor,
    statistics: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    addend: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let y = Tensor::zeros(x.shape(), DType::F32, x.device())?;
    normalise_into(&y, x, statistics, gamma, beta, addend, relu)?;
    Ok(y)
}

/// As [`normalise`], into the memory of `y`, of the shape of `x`.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's; a `y` that is not contiguous is one.
pub fn normalise_into(
    y: &Tensor,
    x: &Tensor,
    statistics: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    addend: Option<&Tensor>,
    relu: bool,
) -> Result<()> {
    check(x, statistics, &[gamma, beta])?;
    values::check_shape("batch norm: y", y, x.dims())?;
    let addend = addend.map(Tensor::contiguous).transpose()?;
    if let Some(addend) = &addend {
        values::check_shape("batch norm: addend", addend, x.dims())?;
    }
    let op = Normalise { gamma, beta, addend: addend.as_ref(), relu };
    y.inplace_op3(&x.contiguous()?, &statistics.contiguous()?, &op)
}

/// As [`normalise`] without an addend. The result takes over the memory of `x`, so nothing else may use it any more.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn normalise_in_place(x: Tensor, statistics: &Tensor, gamma: &Tensor, beta: &Tensor, relu: bool) -> Result<Tensor> {
    check(&x, statistics, &[gamma, beta])?;
    let x = x.contiguous()?;
    x.inplace_op2(&statistics.contiguous()?, &NormaliseInPlace { gamma, beta, relu })?;
    Ok(x)
}

/// Moves the running mean and variance `[c]` towards a batch's `statistics` `[2, c]` of `count` values a channel:
/// running = 0.99 running + 0.01 batch, in place, with the unbiased variance, count / (count - 1) times the biased.
///
/// # Errors
/// [`Error::SingleValue`] for a `count` below 2, [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn track(running_mean: &Tensor, running_variance: &Tensor, statistics: &Tensor, count: usize) -> Result<()> {
    if count < 2 {
        return Err(Error::SingleValue { layer: "batch norm".to_owned() }.into());
    }
    let channels = running_mean.elem_count();
    values::check_shape("batch norm: statistics", statistics, &[2, channels])?;
    values::check_shape("batch norm: running mean", running_mean, &[channels])?;
    values::check_shape("batch norm: running variance", running_variance, &[channels])?;
    let statistics = statistics.contiguous()?;
    let unbiased = count as f64 / (count - 1) as f64;
    running_mean.inplace_op2(&statistics.get(0)?, &Track { factor: 1.0 })?;
    running_variance.inplace_op2(&statistics.get(1)?, &Track { factor: unbiased })
}

/// The gradients of a batch norm.
pub struct Gradients {
    /// dL/dx `[n, h, w, c]`.
    pub dx: Tensor,
    /// dL/dgamma `[c]`.
    pub dgamma: Tensor,
    /// dL/dbeta `[c]`.
    pub dbeta: Tensor,
}

/// The gradients of batch norm alone from `x`, its batch's `statistics` and `dy`, the gradient of its result. The memory of
/// `x` becomes that of `dx`, so nothing else may use it any more.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn backward(x: Tensor, statistics: &Tensor, gamma: &Tensor, dy: &Tensor) -> Result<Gradients> {
    check(&x, statistics, &[gamma])?;
    values::check_shape("batch norm: dy", dy, x.dims())?;
    let (x, statistics, dy) = (x.contiguous()?, statistics.contiguous()?, dy.contiguous()?);
    let sums = x.apply_op3_no_bwd(&dy, &statistics, &Sums)?;
    x.inplace_op3(&dy, &statistics, &InputGradient { gamma, sums: &sums })?;
    Ok(Gradients { dx: x, dgamma: sums.get(1)?, dbeta: sums.get(0)? })
}

/// The gradients of batch norm and ReLU from `x`, its batch's `statistics` and `dy`, the gradient of the ReLU's result.
/// The memory of `dy` becomes that of `dx`, so nothing else may use it any more.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn backward_relu(x: &Tensor, statistics: &Tensor, gamma: &Tensor, beta: &Tensor, dy: Tensor) -> Result<Gradients> {
    check(x, statistics, &[gamma, beta])?;
    values::check_shape("batch norm: dy", &dy, x.dims())?;
    let (x, statistics, dy) = (x.contiguous()?, statistics.contiguous()?, dy.contiguous()?);
    let sums = x.apply_op3_no_bwd(&dy, &statistics, &ReluSums { gamma, beta })?;
    dy.inplace_op3(&x, &statistics, &ReluInputGradient { gamma, beta, sums: &sums })?;
    Ok(Gradients { dx: dy, dgamma: sums.get(1)?, dbeta: sums.get(0)? })
}

/// The gradients of batch norm, addition and ReLU from `x`, its batch's `statistics`, the ReLU's result `y` and its
/// gradient `dy`; the second tensor is the gradient of the addend. They take over the memory of `x` and of `dy`, so
/// nothing else may use these any more.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn backward_add_relu(
    x: Tensor,
    statistics: &Tensor,
    gamma: &Tensor,
    y: &Tensor,
    dy: Tensor,
) -> Result<(Gradients, Tensor)> {
    check(&x, statistics, &[gamma])?;
    values::check_shape("batch norm: y", y, x.dims())?;
    values::check_shape("batch norm: dy", &dy, x.dims())?;
    let (x, statistics, dy) = (x.contiguous()?, statistics.contiguous()?, dy.contiguous()?);
    let mask = MaskAndSum { x: &x, statistics: &statistics, sums: OnceLock::new() };
    dy.inplace_op2(&y.contiguous()?, &mask)?;
    let Some(sums) = mask.sums.into_inner() else { candle_core::bail!("batch norm: its backward pass gave no sums") };
    x.inplace_op3(&dy, &statistics, &InputGradient { gamma, sums: &sums })?;
    Ok((Gradients { dx: x, dgamma: sums.get(1)?, dbeta: sums.get(0)? }, dy))
}

/// Fails unless `x` is `[n, h, w, c]`, `statistics` `[2, c]` and the others `[c]`.
fn check(x: &Tensor, statistics: &Tensor, per_channel: &[&Tensor]) -> Result<()> {
    values::check("batch norm: x", x, 4)?;
    let (.., channels) = x.dims4()?;
    values::check_shape("batch norm: statistics", statistics, &[2, channels])?;
    per_channel.iter().try_for_each(|tensor| values::check_shape("batch norm: gamma or beta", tensor, &[channels]))
}
