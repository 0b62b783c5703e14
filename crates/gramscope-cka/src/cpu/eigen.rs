//! The two largest eigenvalues of a symmetric matrix, and the eigenvector of the first.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, ColRef, Mat, MatRef, Par};

/// Smaller matrices are decomposed whole: that costs no more.
const WHOLE_BELOW: usize = 256;
/// Vectors that the matrix is applied to side by side. One alone would find of equal eigenvalues only one.
const BLOCK: usize = 4;
/// Blocks between two looks at how far the eigenvalues have come.
const STRIDE: usize = 3;
/// Blocks after which the matrix is decomposed whole instead.
const BLOCKS: usize = 48;
/// |K v - l v| that the first pair may have, as a share of l_1. The angle between the vector found and the eigenvector is at
/// most this over 1 - l_2 / l_1, and the eigenvalue is off by at most the product of the two.
const RESIDUAL: f64 = 1e-13;
/// The same for the second, whose vector nobody asks for.
const SECOND_RESIDUAL: f64 = 1e-10;
/// A direction of which no larger share than this is new is rounding.
const NOTHING_NEW: f64 = 1e-14;

/// What [`leading`] finds.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    pub(super) first: f64,
    pub(super) second: f64,
    /// Eigenvector of the first, of length one; its largest entry is positive.
    pub(super) vector: Vec<f64>,
}

/// The two largest eigenvalues of `k`, which is symmetric, positive semidefinite up to rounding, and neither zero nor far
/// from 1 in scale. None where the decomposition does not converge, which no such matrix is known to do.
pub(super) fn leading(k: MatRef<'_, f64>) -> Option<Leading> {
    let subspaces = if k.nrows() < WHOLE_BELOW { None } else { by_subspaces(k) };
    subspaces.or_else(|| by_whole_decomposition(k))
}

fn by_whole_decomposition(k: MatRef<'_, f64>) -> Option<Leading> {
    let (values, vectors) = decompose(k)?;
    let last = k.nrows() - 1;
    let second = if last > 0 { values[last - 1] } else { 0.0 };
    Some(Leading { first: values[last], second, vector: upright(vectors.col(last)) })
}

/// Eigenvalues, ascending, and as columns the eigenvectors; only the lower triangle is read.
fn decompose(k: MatRef<'_, f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = k.nrows();
    let mut vectors = Mat::zeros(n, n);
    let mut values = Diag::<f64>::zeros(n);
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(k, values.as_mut(), Some(vectors.as_mut()), Par::Seq, stack, Default::default()).ok()?;
    Some((values.column_vector().iter().copied().collect(), vectors))
}

/// By Rayleigh and Ritz in the spaces that X, KX, K^2 X, ... span (block Lanczos with all vectors kept orthogonal; Golub and
/// Van Loan, section 10.3.6), until the residuals are small. None where they will not be.
fn by_subspaces(k: MatRef<'_, f64>) -> Option<Leading> {
    let mut space = Space::new(k);
    for column in 0..BLOCK {
        space.extend(start(k.nrows(), column));
    }
    for block in 1..=BLOCKS {
        let exhausted = !space.apply();
        if exhausted || block % STRIDE == 0 {
            let found = space.leading();
            if exhausted || found.is_some() {
                return found;
            }
        }
    }
    None
}

/// An orthonormal basis, and what the matrix makes of it.
struct Space<'a> {
    k: MatRef<'a, f64>,
    basis: Mat<f64>,
    images: Mat<f64>,
    /// Vectors of the basis so far.
    size: usize,
    /// Those of them whose images are known.
    applied: usize,
}

impl<'a> Space<'a> {
    fn new(k: MatRef<'a, f64>) -> Self {
        let room = BLOCK * (BLOCKS + 1);
        let zeros = || Mat::zeros(k.nrows(), room);
        Self { k, basis: zeros(), images: zeros(), size: 0, applied: 0 }
    }

    /// Adds to the basis what is new in `vector`: orthogonalised until that takes little away (Kahan and Parlett).
    fn extend(&mut self, mut vector: Mat<f64>) {
        let basis = self.basis.subcols(0, self.size);
        loop {
            let before = vector.norm_l2();
            let along = product(basis.transpose(), vector.as_ref());
            matmul(vector.as_mut(), Accum::Add, basis, along.as_ref(), -1.0, Par::Seq);
            let after = vector.norm_l2();
            if !(after > NOTHING_NEW) {
                return;
            }
            if after > 0.7 * before {
                for (place, value) in self.basis.col_mut(self.size).iter_mut().zip(vector.col(0).iter()) {
                    *place = value / after;
                }
                self.size += 1;
                return;
            }
        }
    }

    /// Applies the matrix to the newest vectors and adds what is new in their images to the basis. False where nothing is:
    /// the matrix maps the space into itself.
    fn apply(&mut self) -> bool {
        let (first, count) = (self.applied, self.size - self.applied);
        let images = self.images.subcols_mut(first, count);
        matmul(images, Accum::Replace, self.k, self.basis.subcols(first, count), 1.0, Par::Seq);
        self.applied = self.size;
        for column in first..self.applied {
            self.extend(self.images.subcols(column, 1).to_owned());
        }
        self.size > self.applied
    }

    /// The two largest Ritz values, if their residuals are small enough.
    fn leading(&self) -> Option<Leading> {
        let (basis, images) = (self.basis.subcols(0, self.applied), self.images.subcols(0, self.applied));
        let (values, vectors) = decompose(product(basis.transpose(), images).as_ref())?;
        let last = self.applied - 1;
        let pair = |index: usize| {
            let coordinates = vectors.subcols(index, 1);
            let vector = product(basis, coordinates);
            let mut rest = product(images, coordinates);
            rest.col_mut(0).iter_mut().zip(vector.col(0).iter()).for_each(|(rest, v)| *rest -= values[index] * v);
            (vector, rest.norm_l2() / values[last])
        };
        let (vector, residual) = pair(last);
        let (second, second_residual) = if last > 0 { (values[last - 1], pair(last - 1).1) } else { (0.0, 0.0) };
        let converged = residual <= RESIDUAL && second_residual <= SECOND_RESIDUAL;
        converged.then(|| Leading { first: values[last], second, vector: upright(vector.col(0)) })
    }
}

fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(a.nrows(), b.ncols());
    matmul(product.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    product
}

/// The vector, or else its opposite: the one whose largest entry is positive.
fn upright(vector: ColRef<'_, f64>) -> Vec<f64> {
    let mut vector: Vec<f64> = vector.iter().copied().collect();
    set_upright(&mut vector);
    vector
}

/// Turns the vector so that its largest entry is positive.
pub(crate) fn set_upright(vector: &mut [f64]) {
    let larger = |largest: f64, &value: &f64| if value.abs() > largest.abs() { value } else { largest };
    if vector.iter().fold(0.0, larger) < 0.0 {
        vector.iter_mut().for_each(|value| *value = -*value);
    }
}

/// A vector to begin with, uniform in -1..1: SplitMix64 (Steele, Lea and Flood 2014) at fixed places.
fn start(n: usize, column: usize) -> Mat<f64> {
    Mat::from_fn(n, 1, |row, _| {
        let mut bits = ((column * n + row + 1) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// V diag(values) V^T with V the product of some reflections, so that its eigenvectors are known: columns of V.
    fn made(n: usize, values: &[f64]) -> (Mat<f64>, Mat<f64>) {
        let mut vectors = Mat::<f64>::identity(n, n);
        for reflection in 0..3 {
            let normal = start(n, 10 + reflection);
            let squared = normal.norm_l2().powi(2);
            let along = product(vectors.as_ref().transpose(), normal.as_ref());
            matmul(vectors.as_mut(), Accum::Add, normal.as_ref(), along.transpose(), -2.0 / squared, Par::Seq);
        }
        let scaled = Mat::from_fn(n, n, |i, j| vectors[(i, j)] * values.get(j).unwrap_or(&0.0));
        (product(scaled.as_ref(), vectors.transpose()), vectors)
    }

    /// Spectra from one that a step or two settle to one that takes all of them, to ones that never settle.
    fn spectra(n: usize) -> Vec<(&'static str, Vec<f64>)> {
        let of = |value: fn(f64) -> f64| (0..n).map(|index| value(index as f64)).collect();
        vec![
            ("one", vec![1.0]),
            ("two", vec![0.75, 0.25]),
            ("halves", of(|index| 0.5_f64.powf(index))),
            ("slow", of(|index| 0.1 / (1.0 + index))),
            ("close", [vec![0.3, 0.2999], vec![1e-3; n - 2]].concat()),
            ("twins", [vec![0.3, 0.3], vec![1e-3; n - 2]].concat()),
            ("flat", of(|index| 1e-2 - 1e-6 * index)),
            ("all equal", vec![1e-2; n]),
        ]
    }

    #[test]
    fn both_ways_find_what_is_known() {
        for n in [WHOLE_BELOW, 301] {
            for (name, values) in spectra(n) {
                let (k, vectors) = made(n, &values);
                let second = values.get(1).copied().unwrap_or(0.0);
                let gap = 1.0 - second / values[0];
                let found = [by_subspaces(k.as_ref()), by_whole_decomposition(k.as_ref()), leading(k.as_ref())];
                assert!(found[1].is_some() && found[2].is_some());
                assert!(found[0].is_some() || name == "flat", "n = {n}, {name}: given up");
                for found in found.into_iter().flatten() {
                    let error = (found.first - values[0]).abs().max((found.second - second).abs()) / values[0];
                    // Rounding of the matrix itself, n of its units.
                    assert!(error <= n as f64 * f64::EPSILON, "n = {n}, {name}: {error:e}");
                    let cosine: f64 = found.vector.iter().zip(vectors.col(0).iter()).map(|(a, b)| a * b).sum();
                    let angle = (1.0 - cosine.abs()).max(0.0).sqrt();
                    // Residual and rounding over the gap; of equal eigenvalues any vector is as good as another.
                    assert!(gap < 1e-9 || angle <= 2e-13 / gap + 1e-7, "n = {n}, {name}: {angle:e}");
                    assert!((found.vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() <= 1e-12);
                    let (least, most) = found.vector.iter().fold((0.0_f64, 0.0_f64), |(l, m), &v| (l.min(v), m.max(v)));
                    assert!(most >= -least, "n = {n}, {name}: upside down");
                }
            }
        }
    }

    #[test]
    fn matrices_of_one_and_two_rows_have_their_eigenvalues() {
        let one = leading(Mat::from_fn(1, 1, |_, _| 2.0).as_ref()).unwrap();
        assert_eq!((one.first, one.second, one.vector), (2.0, 0.0, vec![1.0]));
        let two = leading(Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { -1.0 }).as_ref()).unwrap();
        assert!((two.first - 2.0).abs() <= 1e-15 && two.second.abs() <= 1e-15);
    }
}
