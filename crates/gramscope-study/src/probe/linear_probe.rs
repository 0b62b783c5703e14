//! A linear probe: softmax regression on a layer's activations, trained by SGD with momentum in Keras's form, weights and
//! bias from zero. Pure numbers: it knows nothing of networks.
//!
//! ```text
//! logits = X W + b          D = (softmax(logits) - onehot(labels)) / n
//! V = momentum V - rate X^T D          W = W + V
//! ```
//!
//! An example's gradients by its logits sum to 0, so that from zero the weights of all classes do too, and the biases, after any
//! number of steps: those of the last class are minus the sum of the others', and are neither stored nor multiplied with.
//!
//! Both products are float32 (`products`). The first is split over groups of examples, the second over groups of features,
//! and in the latter the momentum and the update of the weights are done while the group is in the cache. No sum of floats
//! goes over groups, so that no bit of the result depends on them, or on the number of threads.
//!
//! The gradient of an example's loss by a logit lies between -1 and 1, so a step moves no weight by more than rate times the
//! largest feature over 1 - momentum: features of a large norm make the weights jump about, as a perceptron's do, but the
//! weights grow no faster than linearly, which float32 has room for.

mod products;

use std::borrow::Cow;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use gramscope_nn::ops::lanes::{LANES, Lanes};
use gramscope_nn::ops::loss::{self, ImageLoss};
use pulp::Arch;
use rayon::prelude::*;

use products::Examples;

/// Examples whose logits are computed together. Every group reads all weights, so that groups are as large as leave each thread one; more
/// than these would take the sums of a hundred classes out of a core's second cache.
const EXAMPLES: RangeInclusive<usize> = 16..=64;
/// Blocks of features whose weights are used together for logits: what they are of an example, a page of memory, lies in one piece.
const LOGIT_BLOCKS: usize = 64;
/// Blocks of features whose weights are moved together: for ten classes their gradients fit a core's first cache.
const UPDATE_BLOCKS: usize = 32;

/// What a probe reads: activations [n, features], row-major, or their ReLU, which is applied as they are read.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The activations.
    pub values: &'a [f32],
    /// Whether it is their ReLU that is probed.
    pub relu: bool,
}

impl<'a, V: AsRef<[f32]> + ?Sized> From<&'a V> for Inputs<'a> {
    fn from(values: &'a V) -> Self {
        Self { values: values.as_ref(), relu: false }
    }
}

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
    /// [blocks of features, classes - 1], with zeros for features that only fill the last block.
    weight: Vec<Lanes>,
    /// \[classes - 1\].
    bias: Vec<f32>,
    weight_velocity: Vec<Lanes>,
    bias_velocity: Vec<f32>,
}

impl LinearProbe {
    /// All zeros.
    pub fn new(features: usize, classes: usize) -> Self {
        let free = classes - 1;
        let weights = features.div_ceil(LANES) * free;
        Self {
            features,
            classes,
            weight: vec![[0.0; LANES]; weights],
            bias: vec![0.0; free],
            weight_velocity: vec![[0.0; LANES]; weights],
            bias_velocity: vec![0.0; free],
        }
    }

    /// The bytes that one takes.
    pub fn bytes(features: usize, classes: usize) -> u64 {
        let blocks = features.div_ceil(LANES) as u64 + 1;
        (2 * blocks * (classes - 1) as u64).saturating_mul(size_of::<Lanes>() as u64)
    }

    /// W [features, classes], row-major.
    pub fn weight(&self) -> Vec<f32> {
        let free = self.free();
        let of_feature = |feature: usize| {
            let block = &self.weight[feature / LANES * free..][..free];
            with_last(block.iter().map(move |lanes| lanes[feature % LANES]))
        };
        (0..self.features).flat_map(of_feature).collect()
    }

    /// b \[classes\].
    pub fn bias(&self) -> Vec<f32> {
        with_last(self.bias.iter().copied()).collect()
    }

    /// Weights and biases that are stored.
    pub fn parameters(&self) -> usize {
        self.weight.len() * LANES + self.free()
    }

    /// All that what follows depends on: weights and biases, as they are stored, and their velocities.
    pub fn learned(&self) -> [Vec<f32>; 2] {
        [(&self.weight, &self.bias), (&self.weight_velocity, &self.bias_velocity)]
            .map(|(weights, biases)| [weights.as_flattened(), biases].concat())
    }

    /// Goes on from what a probe of as many features and classes had [learned](Self::learned).
    ///
    /// # Panics
    /// For numbers that are not as many.
    pub fn go_on_from(&mut self, [parameters, velocities]: [&[f32]; 2]) {
        for (weights, biases, learned) in [
            (&mut self.weight, &mut self.bias, parameters),
            (&mut self.weight_velocity, &mut self.bias_velocity, velocities),
        ] {
            let (of_weights, of_biases) = learned.split_at(weights.len() * LANES);
            weights.as_flattened_mut().copy_from_slice(of_weights);
            biases.copy_from_slice(of_biases);
        }
    }

    /// Blocks of features.
    fn blocks(&self) -> usize {
        self.features.div_ceil(LANES)
    }

    /// Classes whose weights are stored.
    fn free(&self) -> usize {
        self.classes - 1
    }

    /// How the probe does on `x` [n, features] of `labels` \[n\] below the number of classes.
    ///
    /// # Errors
    /// [`candle_core::Error`] for labels that are no classes, or not one an example.
    pub fn evaluate<'a>(&self, x: impl Into<Inputs<'a>>, labels: &Tensor) -> candle_core::Result<Outcome> {
        let Inputs { values, relu } = x.into();
        let labels = self.labels(values, labels)?;
        let x = self.in_blocks(values);
        Ok(self.outcome(self.examples(&x, relu), &labels, &mut vec![0.0; labels.len() * self.free()]))
    }

    /// One step on `x` [n, features] and `labels` \[n\]; the outcome is that before it. Where the loss is not finite the
    /// probe stays as it was.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn step<'a>(&mut self, x: impl Into<Inputs<'a>>, labels: &Tensor, step: Step) -> candle_core::Result<Outcome> {
        let Inputs { values, relu } = x.into();
        let labels = self.labels(values, labels)?;
        let x = self.in_blocks(values);
        let x = self.examples(&x, relu);
        let mut gradient = vec![0.0; labels.len() * self.free()];
        let outcome = self.outcome(x, &labels, &mut gradient);
        if outcome.loss.is_finite() {
            self.update(x, &gradient, step);
        }
        Ok(outcome)
    }

    /// One label an example, all of them classes.
    fn labels(&self, x: &[f32], labels: &Tensor) -> candle_core::Result<Vec<u32>> {
        let labels = labels.to_vec1::<u32>()?;
        let examples = x.len() / self.features;
        if labels.len() != examples {
            candle_core::bail!("{} labels for {examples} examples", labels.len());
        }
        loss::check_labels(&labels, self.classes)?;
        Ok(labels)
    }

    /// `x` [n, features] as [n, blocks], with zeros where features only fill the last block.
    fn in_blocks<'a>(&self, x: &'a [f32]) -> Cow<'a, [Lanes]> {
        if self.features.is_multiple_of(LANES) {
            return Cow::Borrowed(x.as_chunks().0);
        }
        let blocks = self.blocks();
        let mut padded = vec![[0.0; LANES]; x.len() / self.features * blocks];
        for (padded, row) in padded.chunks_exact_mut(blocks).zip(x.chunks_exact(self.features)) {
            padded.as_flattened_mut()[..self.features].copy_from_slice(row);
        }
        Cow::Owned(padded)
    }

    fn examples<'a>(&self, values: &'a [Lanes], relu: bool) -> Examples<'a> {
        Examples { values, step: self.blocks(), relu }
    }

    /// How the probe does on `x` [n, blocks]; `gradient` [n, classes - 1] becomes that of the loss by all
    /// logits but the last.
    fn outcome(&self, x: Examples<'_>, labels: &[u32], gradient: &mut [f32]) -> Outcome {
        let free = self.free();
        let share = 1.0 / labels.len() as f64;
        let size = group_size(labels.len(), rayon::current_num_threads());
        let mut losses = vec![0.0; labels.len()];
        let groups = gradient.par_chunks_mut(size * free).zip(losses.par_chunks_mut(size)).zip(labels.par_chunks(size));
        let correct = groups.enumerate().map(|(group, ((gradient, losses), labels))| {
            let logits = self.logits(x.from(group * size, 0), labels.len());
            let examples =
                gradient.chunks_exact_mut(free).zip(losses).zip(logits.chunks_exact(self.classes)).zip(labels);
            let correct = examples.map(|(((gradient, loss), logits), &label)| {
                let image = ImageLoss::new(logits, label as usize);
                *loss = image.loss() * share;
                gradient.iter_mut().zip(image.gradient(share)).for_each(|(to, from)| *to = from);
                usize::from(image.is_correct())
            });
            correct.sum::<usize>()
        });
        Outcome { correct: correct.sum(), loss: losses.iter().sum() }
    }

    /// [n, classes], of the first n examples of `x` [.., blocks].
    fn logits(&self, x: Examples<'_>, n: usize) -> Vec<f32> {
        let free = self.free();
        let mut sums = vec![[0.0; LANES]; n * free];
        for (index, weights) in self.weight.chunks(LOGIT_BLOCKS * free).enumerate() {
            products::add_products(&mut sums, x.from(0, index * LOGIT_BLOCKS), weights, free);
        }
        let logits = |sums: &[Lanes]| {
            let logits = sums.iter().zip(&self.bias).map(|(sum, bias)| bias + products::sum_of(sum));
            with_last(logits.collect::<Vec<f32>>().into_iter())
        };
        sums.chunks_exact(free).flat_map(logits).collect()
    }

    /// Moves weights and bias by `gradient` [n, classes - 1], that of the loss by the logits; `x` is [n, blocks].
    fn update(&mut self, x: Examples<'_>, gradient: &[f32], step: Step) {
        let free = self.free();
        let (rate, momentum) = (step.learning_rate as f32, step.momentum as f32);
        let group = UPDATE_BLOCKS * free;
        let groups = self.weight.par_chunks_mut(group).zip(self.weight_velocity.par_chunks_mut(group)).enumerate();
        groups.for_each(|(index, (weight, velocity))| {
            let mut by_weight = vec![[0.0; LANES]; weight.len()];
            products::add_outer_products(&mut by_weight, x.from(0, index * UPDATE_BLOCKS), gradient, free);
            Arch::new().dispatch(|| {
                let moving = weight.as_flattened_mut().iter_mut().zip(velocity.as_flattened_mut());
                for ((w, v), g) in moving.zip(by_weight.as_flattened()) {
                    *v = normal(momentum * *v - rate * g);
                    *w += *v;
                }
            });
        });
        for (class, (b, v)) in self.bias.iter_mut().zip(&mut self.bias_velocity).enumerate() {
            let sum: f32 = gradient.iter().skip(class).step_by(free).sum();
            *v = normal(momentum * *v - rate * sum);
            *b += *v;
        }
    }
}

/// How many of so many examples make a group, so that all threads have as many groups.
fn group_size(examples: usize, threads: usize) -> usize {
    let (least, most) = (*EXAMPLES.start(), *EXAMPLES.end());
    let turns = examples.div_ceil(threads * most);
    examples.div_ceil(threads * turns.max(1)).max(least)
}

/// `value`, or 0 below float32's normal numbers. The velocity of a weight that has no gradient any more would shrink into
/// them and stay, and processors compute with them a hundred times slower.
fn normal(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}

/// The values of all classes from those of all but the last: they sum to 0.
fn with_last(values: impl Iterator<Item = f32> + Clone) -> impl Iterator<Item = f32> {
    let last = -values.clone().sum::<f32>();
    values.chain([last])
}

#[cfg(test)]
mod tests;
