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

/// CKA of two layers whose features on batch b are `x[b]` and `y[b]` (Nguyen et al. 2021, equation 3): the sum over batches
/// of HSIC(x, y) over the root of those of HSIC(x, x) and HSIC(y, y). NaN where one of these is zero.
pub fn minibatch(x: &[Matrix], y: &[Matrix], kernel: Kernel, estimator: Estimator) -> f64 {
    let gram = |x: &Matrix| match kernel {
        Kernel::Linear => gram::linear(x),
        Kernel::Rbf(t) => gram::rbf(x, t),
    };
    let hsic = match estimator {
        Estimator::Unbiased => hsic::unbiased,
        Estimator::Biased => hsic::biased,
    };
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (k, l) = (gram(x), gram(y));
        xy += hsic(&k, &l);
        xx += hsic(&k, &k);
        yy += hsic(&l, &l);
    }
    xy / (xx.sqrt() * yy.sqrt())
}
