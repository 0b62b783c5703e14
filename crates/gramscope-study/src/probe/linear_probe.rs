//! A linear probe: softmax regression on a layer's activations, trained by SGD with momentum in Keras's form, weights and
//! bias from zero. Pure numbers: it knows nothing of networks.
//!
//! ```text
//! logits = X W + b          D = (softmax(logits) - onehot(labels)) / n
//! V = momentum V - rate X^T D          W = W + V
//! ```
//!
//! Both products are faer's, in float32. The first is split over groups of examples, the second over groups of features,
//! and in the latter the momentum and the update of the weights are done while the group is in the cache. The groups do
//! not depend on the number of threads, so neither does a bit of the result.
//!
//! The gradient of an example's loss by a logit lies between -1 and 1, so a step moves no weight by more than rate times the
//! largest feature over 1 - momentum: features of a large norm make the weights jump about, as a perceptron's do, but the
//! weights grow no faster than linearly, which float32 has room for.

use candle_core::{Device, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use gramscope_nn::ops::loss;
use rayon::prelude::*;

/// Examples whose logits are computed together.
const EXAMPLES: usize = 16;
/// Features whose weights are updated together: a slab of a batch of 128 fits a core's own cache.
const FEATURES: usize = 512;

/// The settings of SGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the velocity that a step keeps.
    pub momentum: f64,
}

/// How a probe does on a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Examples whose largest logit (the first, of equals) is their label's.
    pub correct: usize,
}

/// A softmax regression with its velocities.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearProbe {
    features: usize,
    classes: usize,
    /// [features, classes].
    weight: Vec<f32>,
    /// \[classes\].
    bias: Vec<f32>,
    weight_velocity: Vec<f32>,
    bias_velocity: Vec<f32>,
}

impl LinearProbe {
    /// All zeros.
    pub fn new(features: usize, classes: usize) -> Self {
        Self {
            features,
            classes,
            weight: vec![0.0; features * classes],
            bias: vec![0.0; classes],
            weight_velocity: vec![0.0; features * classes],
            bias_velocity: vec![0.0; classes],
        }
    }

    /// W [features, classes], row-major.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// b \[classes\].
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// How the probe does on `x` [n, features], row-major, of `labels` \[n\] below the number of classes.
    ///
    /// # Errors
    /// [`candle_core::Error`] for labels that are no classes, or not one an example.
    pub fn evaluate(&self, x: &[f32], labels: &Tensor) -> candle_core::Result<Outcome> {
        outcome(&self.logits(x)?, labels)
    }

    /// One step on `x` [n, features] and `labels` \[n\]; the outcome is that before it. Where the loss is not finite the
    /// probe stays as it was.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn step(&mut self, x: &[f32], labels: &Tensor, step: Step) -> candle_core::Result<Outcome> {
        let logits = self.logits(x)?;
        let outcome = outcome(&logits, labels)?;
        if outcome.loss.is_finite() {
            let gradient = loss::backward(&logits, labels)?.flatten_all()?.to_vec1::<f32>()?;
            self.update(x, &gradient, step);
        }
        Ok(outcome)
    }

    /// [n, classes].
    fn logits(&self, x: &[f32]) -> candle_core::Result<Tensor> {
        let (features, classes) = (self.features, self.classes);
        let examples = x.len() / features;
        let mut logits = vec![0.0; examples * classes];
        let groups = logits.par_chunks_mut(EXAMPLES * classes).zip(x.par_chunks(EXAMPLES * features));
        groups.for_each(|(logits, x)| {
            logits.chunks_exact_mut(classes).for_each(|row| row.copy_from_slice(&self.bias));
            let rows = x.len() / features;
            let x = MatRef::from_row_major_slice(x, rows, features);
            let weight = MatRef::from_row_major_slice(&self.weight, features, classes);
            matmul(MatMut::from_row_major_slice_mut(logits, rows, classes), Accum::Add, x, weight, 1.0, Par::Seq);
        });
        Tensor::from_vec(logits, (examples, classes), &Device::Cpu)
    }

    /// Moves weights and bias by `gradient` [n, classes], that of the loss by the logits.
    fn update(&mut self, x: &[f32], gradient: &[f32], step: Step) {
        let (features, classes) = (self.features, self.classes);
        let examples = x.len() / features;
        let (rate, momentum) = (step.learning_rate as f32, step.momentum as f32);
        let x = MatRef::from_row_major_slice(x, examples, features);
        let by_logits = MatRef::from_row_major_slice(gradient, examples, classes);
        let group = FEATURES * classes;
        let groups = self.weight.par_chunks_mut(group).zip(self.weight_velocity.par_chunks_mut(group)).enumerate();
        groups.for_each(|(index, (weight, velocity))| {
            velocity.iter_mut().for_each(|v| *v *= momentum);
            let rows = weight.len() / classes;
            let x = x.subcols(index * FEATURES, rows);
            let result = MatMut::from_row_major_slice_mut(velocity, rows, classes);
            matmul(result, Accum::Add, x.transpose(), by_logits, -rate, Par::Seq);
            weight.iter_mut().zip(velocity).for_each(|(w, v)| *w += *v);
        });
        for (class, (b, v)) in self.bias.iter_mut().zip(&mut self.bias_velocity).enumerate() {
            let sum: f32 = gradient.iter().skip(class).step_by(classes).sum();
            *v = momentum * *v - rate * sum;
            *b += *v;
        }
    }
}

fn outcome(logits: &Tensor, labels: &Tensor) -> candle_core::Result<Outcome> {
    let (loss, correct) = loss::forward(logits, labels)?;
    Ok(Outcome { loss: loss.to_scalar::<f32>()?.into(), correct: correct.to_scalar::<f32>()? as usize })
}

#[cfg(test)]
mod tests;
