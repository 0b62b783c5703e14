//! The parameters and running statistics of a network, as the steps of its programs number them.

use candle_core::{Result, Tensor, Var};

use crate::ops::convolution::Geometry;
use crate::ops::{batch_norm, linear};

/// All parts of a network.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) convolutions: Vec<Convolution>,
    pub(crate) norms: Vec<BatchNorm>,
    pub(crate) logits: Linear,
}

/// A convolution with bias.
#[derive(Debug)]
pub(crate) struct Convolution {
    /// `[out, kernel, kernel, in]`.
    pub(crate) weight: Var,
    pub(crate) bias: Var,
    pub(crate) geometry: Geometry,
    /// Height and width of the kernel.
    pub(crate) kernel: usize,
}

/// A batch norm.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    pub(crate) gamma: Var,
    pub(crate) beta: Var,
    pub(crate) running_mean: Var,
    pub(crate) running_variance: Var,
}

/// The linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[classes, features]`.
    pub(crate) weight: Var,
    pub(crate) bias: Var,
}

impl Linear {
    /// The logits `[n, classes]` of the pooled features `[n, features]`.
    pub(super) fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        linear::forward(pooled, &self.weight, &self.bias)
    }
}

impl BatchNorm {
    /// The running statistics `[2, channels]`, the means first.
    pub(super) fn running(&self) -> Result<Tensor> {
        Tensor::stack(&[self.running_mean.as_detached_tensor(), self.running_variance.as_detached_tensor()], 0)
    }

    /// Moves the running statistics towards those of a batch of `count` values a channel.
    pub(super) fn track(&self, statistics: &Tensor, count: usize) -> Result<()> {
        batch_norm::track(&self.running_mean, &self.running_variance, statistics, count)
    }
}
