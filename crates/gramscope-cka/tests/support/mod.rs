//! What this crate's tests share: made activations, their comparison, and the truth in float64.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use gramscope_cka::{Activation, Comparison, Estimator, Kernel, Options, Values};
use gramscope_reference::{Matrix, cka};

/// Standard normal numbers, a pure function of `seed`: SplitMix64 (Steele, Lea and Flood 2014) and Box-Muller.
pub fn normals(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0xA076_1D64_78BD_642F);
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut normal = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..len).map(|_| normal()).collect()
}

/// A layer over one batch, float32, row-major.
#[derive(Clone)]
pub struct Layer {
    pub features: usize,
    pub values: Vec<f32>,
}

impl Layer {
    /// The layer of `value(example, feature)`.
    pub fn from_fn(examples: usize, features: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let values = (0..examples * features).map(|at| value(at / features, at % features) as f32).collect();
        Self { features, values }
    }

    /// Standard normal features.
    pub fn normal(seed: u64, examples: usize, features: usize) -> Self {
        let values = normals(seed, examples * features);
        Self::from_fn(examples, features, |i, f| values[i * features + f])
    }

    pub fn examples(&self) -> usize {
        self.values.len() / self.features
    }

    pub fn matrix(&self) -> Matrix {
        Matrix::new(self.examples(), self.features, self.values.iter().map(|&value| f64::from(value)).collect())
    }
}

/// Minibatch CKA of all pairs of layers, `batches[b][layer]`, by the crate.
pub fn compare(batches: &[Vec<Layer>], options: Options) -> Vec<f64> {
    let mut comparison = Comparison::new(&[batches[0].len()], &[(0, 0)], options).unwrap();
    for layers in batches {
        let examples = layers[0].examples();
        comparison.begin_batch(examples).unwrap();
        for (index, layer) in layers.iter().enumerate() {
            let activation = Activation::new(Values::F32(&layer.values), examples).unwrap();
            comparison.observe(0, index, activation).unwrap();
        }
        comparison.end_batch().unwrap();
    }
    comparison.finish().unwrap().remove(0).cka
}

/// The matrix with every row divided by its norm; a row of zeros stays.
fn of_length_one(x: Matrix) -> Matrix {
    let norms: Vec<f64> = (0..x.rows).map(|i| x.row(i).iter().map(|value| value * value).sum::<f64>().sqrt()).collect();
    x.map(|i, _, value| if norms[i] == 0.0 { 0.0 } else { value / norms[i] })
}

/// The same by the definitions, in float64.
pub fn truth(batches: &[Vec<Layer>], options: Options) -> Vec<f64> {
    let kernel = match options.kernel {
        Kernel::Linear => cka::Kernel::Linear,
        Kernel::Rbf { bandwidth } => cka::Kernel::Rbf(bandwidth),
    };
    let estimator = match options.estimator {
        Estimator::Unbiased => cka::Estimator::Unbiased,
        Estimator::Biased => cka::Estimator::Biased,
    };
    let matrix =
        |layer: &Layer| if options.normalise_examples { of_length_one(layer.matrix()) } else { layer.matrix() };
    let layer = |layer: usize| batches.iter().map(|layers| matrix(&layers[layer])).collect();
    let layers: Vec<Vec<Matrix>> = (0..batches[0].len()).map(layer).collect();
    cka::matrix(&layers, &layers, kernel, estimator).data
}
