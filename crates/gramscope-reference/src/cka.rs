//! Minibatch CKA.

use crate::{Matrix, gram, hsic};

/// The estimator of HSIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// [`hsic::unbiased`].
    Unbiased,
    /// [`hsic::biased`].
    Biased,
}

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// [`gram::linear`].
    Linear,
    /// [`gram::rbf`] with this t.
    Rbf(f64),
}

/// CKA of two layers whose features on batch b are `x[b]` and `y[b]` (Nguyen et al. 2021, section 3): the sum over batches
/// of HSIC(x, y) over the root of those of HSIC(x, x) and HSIC(y, y). NaN where one of these is zero.
pub fn minibatch(x: &[Matrix], y: &[Matrix], kernel: Kernel, estimator: Estimator) -> f64 {
    let hsic = match estimator {
        Estimator::Unbiased => hsic::unbiased,
        Estimator::Biased => hsic::biased,
    };
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (k, l) = (gram_of(x, kernel), gram_of(y, kernel));
        xy += hsic(&k, &l);
        xx += hsic(&k, &k);
        yy += hsic(&l, &l);
    }
    xy / (xx.sqrt() * yy.sqrt())
}

/// [`minibatch`] of all pairs of layers, `x[layer][batch]` and `y[layer][batch]`: [layers of x, layers of y]. Every Gram matrix
/// is computed and centred once.
pub fn matrix(x: &[Vec<Matrix>], y: &[Vec<Matrix>], kernel: Kernel, estimator: Estimator) -> Matrix {
    let (centred_x, centred_y) = (centred(x, kernel, estimator), centred(y, kernel, estimator));
    let sum = |u: &[Matrix], v: &[Matrix]| -> f64 {
        u.iter().zip(v).map(|(u, v)| u.inner(v) / divisor(u.rows, estimator)).sum()
    };
    let own = |layers: &[Vec<Matrix>]| layers.iter().map(|u| sum(u, u).sqrt()).collect::<Vec<_>>();
    let (own_x, own_y) = (own(&centred_x), own(&centred_y));
    Matrix::from_fn(x.len(), y.len(), |i, j| sum(&centred_x[i], &centred_y[j]) / (own_x[i] * own_y[j]))
}

fn centred(layers: &[Vec<Matrix>], kernel: Kernel, estimator: Estimator) -> Vec<Vec<Matrix>> {
    let centre = |x: &Matrix| {
        let k = gram_of(x, kernel);
        match estimator {
            Estimator::Unbiased => hsic::u_centre(&k),
            Estimator::Biased => hsic::double_centre(&k),
        }
    };
    layers.iter().map(|batches| batches.iter().map(centre).collect()).collect()
}

/// HSIC is <centred K, centred L> over this.
fn divisor(examples: usize, estimator: Estimator) -> f64 {
    let n = examples as f64;
    match estimator {
        Estimator::Unbiased => n * (n - 3.0),
        Estimator::Biased => (n - 1.0) * (n - 1.0),
    }
}

fn gram_of(x: &Matrix, kernel: Kernel) -> Matrix {
    match kernel {
        Kernel::Linear => gram::linear(x),
        Kernel::Rbf(t) => gram::rbf(x, t),
    }
}
