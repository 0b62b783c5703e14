//! Sums over batches, wherever they were made, and what they come to.

use crate::options::Estimator;
use crate::similarity::Similarity;
use crate::sums::{self, LayerSum};

/// The sums over the batches of a comparison so far: all that another needs to go on from there.
#[derive(Clone, Debug, PartialEq)]
pub struct Totals {
    /// How many batches were summed.
    pub batches: usize,
    /// Each layer's HSIC with itself, a model at a time.
    pub layers: Vec<Vec<LayerSum>>,
    /// For each pair of models `[layers of x, layers of y]`: HSIC in the layers' units; of a model with itself, the lower
    /// triangle only.
    pub pairs: Vec<Vec<f64>>,
}

impl Totals {
    /// Whether they are sums of models with `layers[m]` layers each, of those `pairs` of models.
    pub(crate) fn are_of(&self, layers: &[usize], pairs: &[(usize, usize)]) -> bool {
        let entries = pairs.iter().map(|&(x, y)| layers[x] * layers[y]);
        self.layers.iter().map(Vec::len).eq(layers.iter().copied()) && self.pairs.iter().map(Vec::len).eq(entries)
    }

    /// The similarity of models `x` and `y`, whose sums are those of pair `pair`.
    pub(crate) fn similarity(&self, pair: usize, (x, y): (usize, usize)) -> Similarity {
        let batches = self.batches;
        let (sums, layers) = (&self.pairs[pair], [&self.layers[x], &self.layers[y]]);
        let [layers_x, layers_y] = layers.map(Vec::len);
        let [sums_x, sums_y] = layers;
        let entry = |index: usize| {
            let (i, j) = (index / layers_y, index % layers_y);
            // Of a symmetric pair one triangle is computed; its diagonal is known in float64 already.
            let (i, j) = if x == y { (i.max(j), i.min(j)) } else { (i, j) };
            let own = x == y && i == j;
            let sum = if own { sums_x[i].own_in_units() } else { sums[i * layers_y + j] };
            sums::similarity(sum, &sums_x[i], &sums_y[j], batches)
        };
        let (cka, hsic_xy) = (0..layers_x * layers_y).map(entry).unzip();
        let own = |sums: &[LayerSum]| sums.iter().map(|sum| sum.own(batches)).collect();
        Similarity {
            layers_x,
            layers_y,
            batches,
            cka,
            hsic_xy,
            hsic_xx: own(sums_x),
            hsic_yy: own(sums_y),
            undefined_x: undefined(sums_x),
            undefined_y: undefined(sums_y),
        }
    }
}

/// The layers without a similarity.
fn undefined(sums: &[LayerSum]) -> Vec<usize> {
    (0..sums.len()).filter(|&layer| sums[layer].is_undefined()).collect()
}

/// The length of a panel row: the strict triangle, and the diagonal where the estimator uses it.
pub(crate) fn packed_length(examples: usize, estimator: Estimator) -> Option<usize> {
    let above = examples.checked_mul(examples.checked_sub(1)?)? / 2;
    match estimator {
        Estimator::Unbiased => Some(above),
        Estimator::Biased => above.checked_add(examples),
    }
}

/// What the inner product of two packed rows is to be multiplied by to give HSIC: 2 because a triangle stands for the
/// whole, over n(n-3) or (n-1)^2.
pub(crate) fn hsic_factor(examples: usize, estimator: Estimator) -> f64 {
    let n = examples as f64;
    match estimator {
        Estimator::Unbiased => 2.0 / (n * (n - 3.0)),
        Estimator::Biased => 2.0 / ((n - 1.0) * (n - 1.0)),
    }
}
