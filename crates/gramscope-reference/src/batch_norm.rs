//! Batch normalisation over the examples and pixels of each channel (Ioffe and Szegedy 2015, algorithm 1).

use crate::Tensor4;

/// The result of the training pass.
#[derive(Clone, Debug)]
pub struct Forward {
    /// gamma (x - mean) / sqrt(variance + eps) + beta.
    pub y: Tensor4,
    /// The batch's mean of each channel.
    pub mean: Vec<f64>,
    /// The batch's variance of each channel, divided by the number of values (biased).
    pub variance: Vec<f64>,
}

/// Gradients of [`forward`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// dL/dx, through mean and variance too.
    pub dx: Tensor4,
    /// dL/dgamma.
    pub dgamma: Vec<f64>,
    /// dL/dbeta.
    pub dbeta: Vec<f64>,
}

/// With the batch's own statistics.
pub fn forward(x: &Tensor4, gamma: &[f64], beta: &[f64], eps: f64) -> Forward {
    let mean = channel_means(x, |_, value| value);
    let variance = channel_means(x, |c, value| (value - mean[c]).powi(2));
    let y = inference(x, gamma, beta, &mean, &variance, eps);
    Forward { y, mean, variance }
}

/// With given statistics.
pub fn inference(x: &Tensor4, gamma: &[f64], beta: &[f64], mean: &[f64], variance: &[f64], eps: f64) -> Tensor4 {
    map(x, |c, value| gamma[c] * (value - mean[c]) / (variance[c] + eps).sqrt() + beta[c])
}

/// The gradients from dL/dy: with x^ the normalised x and N values a channel, dx = gamma / sqrt(variance + eps) (dy -
/// mean(dy) - x^ mean(dy x^)).
pub fn backward(x: &Tensor4, gamma: &[f64], dy: &Tensor4, eps: f64) -> Gradients {
    let ones = vec![1.0; gamma.len()];
    let zeros = vec![0.0; gamma.len()];
    let Forward { y: normalised, variance, .. } = forward(x, &ones, &zeros, eps);
    let products = dy.zip(&normalised, |dy, x| dy * x);
    let mean_dy = channel_means(dy, |_, value| value);
    let mean_products = channel_means(&products, |_, value| value);
    let count = (x.data.len() / gamma.len()) as f64;
    let projected = map(&normalised, |c, x| mean_dy[c] + x * mean_products[c]);
    let dx = dy.zip(&projected, |dy, projected| dy - projected);
    Gradients {
        dx: map(&dx, |c, value| gamma[c] / (variance[c] + eps).sqrt() * value),
        dgamma: mean_products.iter().map(|mean| mean * count).collect(),
        dbeta: mean_dy.iter().map(|mean| mean * count).collect(),
    }
}

/// Moves running statistics towards a batch of `count` values a channel: running = momentum running + (1 - momentum) batch,
/// the variance divided by count - 1 (unbiased).
pub fn track(running_mean: &mut [f64], running_variance: &mut [f64], batch: &Forward, count: usize, momentum: f64) {
    let correction = count as f64 / (count as f64 - 1.0);
    for (running, mean) in running_mean.iter_mut().zip(&batch.mean) {
        *running = momentum * *running + (1.0 - momentum) * mean;
    }
    for (running, variance) in running_variance.iter_mut().zip(&batch.variance) {
        *running = momentum * *running + (1.0 - momentum) * variance * correction;
    }
}

fn channel_means(x: &Tensor4, value: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let channels = x.shape[3];
    let count = (x.data.len() / channels) as f64;
    (0..channels).map(|c| x.data.iter().skip(c).step_by(channels).map(|x| value(c, *x)).sum::<f64>() / count).collect()
}

fn map(x: &Tensor4, value: impl Fn(usize, f64) -> f64) -> Tensor4 {
    let channels = x.shape[3];
    Tensor4 { shape: x.shape, data: x.data.iter().enumerate().map(|(index, x)| value(index % channels, *x)).collect() }
}
