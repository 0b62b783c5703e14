//! The fraction of a layer's variance that its first principal component explains, as a penalty.
//!
//! ```text
//! K' = Xc Xc^T, the centred Gram matrix of the batch's activations X [n, p], Xc = X - column means
//! f = l_1 / tr K', with K' v = l_1 v, |v| = 1
//! P = weight * max(0, f - threshold)
//! dP/dX = weight * 2 / tr K' * (v v^T Xc - f Xc), where f exceeds the threshold
//! ```
//!
//! The derivative: dl_1 = v^T dK' v = 2 tr(v v^T Xc dX^T), because v, orthogonal to the vector of ones, and Xc are centred
//! already, and d tr K' = 2 tr(Xc dX^T). Of equal first eigenvalues any vector gives a subgradient.
//!
//! This stands here and not in gramscope-cka, which a network does not know: it is an operation of the training step, with
//! a gradient, over n x n numbers for the n images of a batch, and what it needs of linear algebra is one decomposition.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::values;

/// Features whose products are summed in float32; sums of slabs are float64.
const SLAB: usize = 512;

/// Adds dP/dX for the activations `x` [n, ...] to `dx`, of the same shape, and returns P. Where the activations are
/// constant over the batch, P is 0.
///
/// Cost: n^2 p / 2 multiplications, the decomposition of an n x n matrix, and four readings of `x`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn add_penalty_gradient(dx: &Tensor, x: &Tensor, weight: f64, threshold: f64) -> Result<f64> {
    values::check(X, x, x.rank())?;
    values::check_shape("first component: gradient", dx, x.dims())?;
    let x = x.contiguous()?;
    let found = {
        let (storage, layout) = x.storage_and_layout();
        FirstComponent::of(values::of(X, values::host(X, &storage)?, layout)?, x.dims()[0])
    };
    match found {
        Some(component) if component.fraction > threshold => {
            let penalty = weight * (component.fraction - threshold);
            dx.inplace_op2(&x, &AddGradient { factor: 2.0 * weight / component.trace, component })?;
            Ok(penalty)
        }
        _ => Ok(0.0),
    }
}

/// What messages call the activations.
const X: &str = "first component: x";

/// What the gradient needs of the activations.
struct FirstComponent {
    /// f.
    fraction: f64,
    trace: f64,
    /// v.
    vector: Vec<f64>,
    /// Of every feature its mean over the batch.
    means: Vec<f64>,
    /// v^T Xc.
    along: Vec<f64>,
}

impl FirstComponent {
    /// Of `x` [n, p]; none where it is constant, or not finite (which the loss will say).
    fn of(x: &[f32], n: usize) -> Option<Self> {
        // From the first example on, so that of a constant feature the mean is its value and nothing is left of it.
        let first: Vec<f64> = x[..x.len() / n].iter().map(|&value| f64::from(value)).collect();
        let offsets = weighted_sums(x, &first, &vec![1.0 / n as f64; n]);
        let means: Vec<f64> = first.iter().zip(offsets).map(|(first, offset)| first + offset).collect();
        let gram = gram(x, n, &means);
        let trace: f64 = (0..n).map(|i| gram[(i, i)]).sum();
        if !(trace > 0.0 && trace.is_finite()) {
            return None;
        }
        let (largest, vector) = leading(gram.as_ref())?;
        let along = weighted_sums(x, &means, &vector);
        Some(Self { fraction: largest / trace, trace, vector, means, along })
    }
}

/// The sum of the rows of `x` as seen from `origin`, each times its weight.
fn weighted_sums(x: &[f32], origin: &[f64], weights: &[f64]) -> Vec<f64> {
    let width = origin.len();
    let mut sums = vec![0.0; width];
    sums.par_chunks_mut(SLAB).zip(origin.par_chunks(SLAB)).enumerate().for_each(|(slab, (sums, origin))| {
        for (row, weight) in x.chunks_exact(width).zip(weights) {
            for ((sum, value), origin) in sums.iter_mut().zip(&row[slab * SLAB..]).zip(origin) {
                *sum += weight * (f64::from(*value) - origin);
            }
        }
    });
    sums
}

/// The lower triangle of K'. The products of a slab are summed in float32, the slabs in float64 and in their order.
fn gram(x: &[f32], n: usize, means: &[f64]) -> Mat<f64> {
    let width = means.len();
    let products: Vec<Mat<f32>> = means
        .par_chunks(SLAB)
        .enumerate()
        .map(|(slab, means)| {
            let mut centred = Vec::with_capacity(n * means.len());
            for row in x.chunks_exact(width) {
                let values = row[slab * SLAB..].iter().zip(means);
                centred.extend(values.map(|(value, mean)| (f64::from(*value) - mean) as f32));
            }
            let centred = MatRef::from_row_major_slice(&centred, n, means.len());
            let mut product = Mat::zeros(n, n);
            triangular::matmul(
                product.as_mut(),
                BlockStructure::TriangularLower,
                Accum::Replace,
                centred,
                BlockStructure::Rectangular,
                centred.transpose(),
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
            product
        })
        .collect();
    Mat::from_fn(n, n, |i, j| products.iter().map(|product| f64::from(product[(i, j)])).sum())
}

/// The largest eigenvalue and its vector, of which only the lower triangle is read. By one thread, so that the bits do not
/// depend on their number.
fn leading(k: MatRef<'_, f64>) -> Option<(f64, Vec<f64>)> {
    let n = k.nrows();
    let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::zeros(n, n));
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(k, values.as_mut(), Some(vectors.as_mut()), Par::Seq, stack, Default::default()).ok()?;
    Some((values.column_vector()[n - 1], vectors.col(n - 1).iter().copied().collect()))
}

/// dx += factor (v v^T Xc - f Xc).
struct AddGradient {
    factor: f64,
    component: FirstComponent,
}

impl InplaceOp2 for AddGradient {
    fn name(&self) -> &'static str {
        "first component, gradient"
    }

    fn cpu_fwd(&self, dx: &mut CpuStorage, dx_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Result<()> {
        let dx = values::of_mut("first component: gradient", dx, dx_layout)?;
        let x = values::of(X, x, x_layout)?;
        let Self { factor, component: FirstComponent { fraction, vector, means, along, .. } } = self;
        let width = means.len();
        dx.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).zip(vector).for_each(|((dx, x), v)| {
            for (((dx, x), mean), along) in dx.iter_mut().zip(x).zip(means).zip(along) {
                *dx += (factor * (v * along - fraction * (f64::from(*x) - mean))) as f32;
            }
        });
        Ok(())
    }
}
