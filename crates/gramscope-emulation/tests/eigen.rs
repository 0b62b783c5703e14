//! Leading eigenpairs of centred Gram matrices, and deflation.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::training::FIRST_COMPONENT;
use gramscope_cuda::plan::{self, EIGEN_VECTORS, Settled};
use gramscope_cuda::shapes::{EigenShape, EigenSummary};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::{Matrix, components, gram};
use support::chain::{Gram, Run, rows};
use support::inputs::{self, normal, rectified};

/// The residual over l_1 at which iterations stop.
const TOLERANCE: f64 = 1e-12;

struct Batch {
    k: Buffer<f64>,
    sums: Buffer<f64>,
    shape: EigenShape,
}

impl Batch {
    /// The linear Gram matrices of some layers, and their row sums, diagonal included.
    fn new(layers: &[Matrix], iterations: i32) -> Self {
        let n = layers[0].rows;
        let (mut all_k, mut all_sums) = (Vec::new(), Vec::new());
        for x in layers {
            let k = gram::linear(x);
            let sums = rows(&Gram::new(&k), Run { biased: true, ..Run::default() });
            all_k.extend(k.data);
            all_sums.extend_from_slice(sums.values());
        }
        let shape =
            EigenShape { examples: n as i32, layers: layers.len() as i32, iterations, tolerance: TOLERANCE, pairs: 2 };
        Self { k: Buffer::new(&all_k), sums: Buffer::new(&all_sums), shape }
    }

    fn layers(&self) -> usize {
        self.shape.layers as usize
    }

    fn examples(&self) -> usize {
        self.shape.examples as usize
    }

    fn subspace(&self, seed: u64) -> (Buffer<f64>, Buffer<EigenSummary>) {
        let count = self.layers() * EIGEN_VECTORS * self.examples();
        let (mut vectors, mut scratch) = (Buffer::poisoned(count), Buffer::<f64>::poisoned(count));
        let mut summaries = Buffer::poisoned(self.layers());
        let launch = Launch::new("gs_eigen_subspace").geometry(plan::eigen_subspace(self.layers())).seed(seed);
        let launch = launch.output(&mut vectors).output(&mut summaries).output(&mut scratch);
        launch.input(&self.k).input(&self.sums).value(self.shape).run().unwrap();
        (vectors, summaries)
    }

    fn deflated(&self, vectors: &Buffer<f64>, summaries: &Buffer<EigenSummary>) -> Vec<Matrix> {
        let n = self.examples();
        let mut deflated = Buffer::poisoned(self.layers() * n * n);
        let launch = Launch::new("gs_eigen_deflate").geometry(plan::eigen_deflate(n, self.layers()));
        let launch = launch.output(&mut deflated).input(vectors).input(summaries).input(&self.k).input(&self.sums);
        launch.value(self.shape).run().unwrap();
        deflated.values().chunks(n * n).map(|k| Matrix::new(n, n, k.to_vec())).collect()
    }
}

/// The first vector of a layer.
fn first(vectors: &Buffer<f64>, layer: usize, n: usize) -> &[f64] {
    &vectors.values()[layer * EIGEN_VECTORS * n..][..n]
}

fn check(layers: &[Matrix]) {
    let batch = Batch::new(layers, 5000);
    let (n, (vectors, summaries)) = (batch.examples(), batch.subspace(1));
    let deflated = batch.deflated(&vectors, &summaries);
    for (layer, x) in layers.iter().enumerate() {
        let k = components::centred_gram(x);
        let (truth, found) = (components::first(&k), summaries.values()[layer]);
        let what = format!("layer {layer}, n = {n}: {found:?}");
        let close = |a: f64, b: f64, tolerance: f64| (a - b).abs() <= tolerance * truth.eigenvalue;
        assert!(found.residual <= TOLERANCE * found.first, "{what}");
        // A Rayleigh quotient errs as the square of the residual; what remains is rounding of n entries of the largest size.
        assert!(close(found.first, truth.eigenvalue, 1e-12), "{what} {}", truth.eigenvalue);
        assert!(close(found.second, truth.second_eigenvalue, 1e-12), "{what} {}", truth.second_eigenvalue);
        assert!((found.first / found.trace - truth.fraction).abs() <= 1e-12, "{what}");
        // The angle is the residual over the gap.
        let gap = 1.0 - truth.second_eigenvalue / truth.eigenvalue;
        let cosine: f64 = first(&vectors, layer, n).iter().zip(&truth.vector).map(|(a, b)| a * b).sum();
        assert!((1.0 - cosine * cosine).abs() <= 1e-11 / gap, "{what}: {cosine}");
        let rest = components::without_first(&k);
        let difference = deflated[layer].map(|i, j, value| value - rest.get(i, j));
        let error = difference.inner(&difference).sqrt();
        assert!(error <= 1e-10 / gap * truth.eigenvalue, "{what}: {error:e}");
    }
}

#[test]
fn a_batch_of_layers() {
    for n in [2, 3, 4, 5, 20, 33] {
        check(&[rectified(n, 40, 1), normal(n, 30, 2), inputs::offset(n, 20, 3)]);
    }
}

#[test]
fn more_examples_than_threads_in_a_warp_row() {
    check(&[rectified(70, 30, 4)]);
}

#[test]
fn two_close_leading_eigenvalues() {
    // Two directions of nearly equal weight: power iteration would need thousands of steps.
    let n = 24;
    let weights = [10.0, 9.999, 1.0, 0.5];
    let q = normal(n, 4, 5);
    check(&[Matrix::from_fn(n, 4, |i, j| weights[j] * q.get(i, j))]);
}

/// One direction above all others, which are nearly equal: the second pair takes long, the first does not wait for it.
#[test]
fn only_pairs_that_are_wanted_have_to_settle() {
    let (n, noise, row) = (40, normal(40, 300, 13), normal(40, 1, 14));
    let x = Matrix::from_fn(n, 300, |i, j| noise.get(i, j) + 3.0 * row.get(i, 0));
    let found = |pairs: i32| {
        let mut batch = Batch::new(std::slice::from_ref(&x), 5000);
        batch.shape.pairs = pairs;
        let (vectors, summaries) = batch.subspace(1);
        (first(&vectors, 0, n).to_vec(), summaries.values()[0])
    };
    let ((vector, one), (expected, both)) = (found(1), found(2));
    assert!(one.iterations <= 16 && both.iterations >= 4 * one.iterations, "{one:?} {both:?}");
    assert!(one.residual <= TOLERANCE * one.first, "{one:?}");
    let cosine: f64 = vector.iter().zip(&expected).map(|(a, b)| a * b).sum();
    assert!((1.0 - cosine.abs()).abs() <= 1e-12 && (one.first / both.first - 1.0).abs() <= 1e-12, "{one:?} {both:?}");
}

/// As slow as a component can be that explains a fifth of the variance: eight others with half of its part each.
#[test]
fn the_component_of_a_penalty_settles_in_time() {
    let n = 24;
    // Cosines are orthogonal to each other and to the ones.
    let wave = |i: usize, k: usize| (std::f64::consts::PI * (i as f64 + 0.5) * (k + 1) as f64 / n as f64).cos();
    let x = Matrix::from_fn(n, 9, |i, k| wave(i, k) * if k == 0 { 2f64.sqrt() } else { 1.0 });
    let Settled { pairs, residual, steps } = FIRST_COMPONENT;
    let mut batch = Batch::new(std::slice::from_ref(&x), steps as i32);
    (batch.shape.pairs, batch.shape.tolerance) = (pairs as i32, residual);
    let (vectors, summaries) = batch.subspace(1);
    let found = summaries.values()[0];
    assert!((found.first / found.trace - 0.2).abs() <= 1e-12, "{found:?}");
    assert!(found.residual <= residual * found.first && found.iterations <= 32, "{found:?}");
    let scale = (n as f64 / 2.0).sqrt();
    let cosine: f64 = first(&vectors, 0, n).iter().enumerate().map(|(i, v)| v * wave(i, 0) / scale).sum();
    // The angle is at most the residual over the gap, a half.
    assert!(1.0 - cosine * cosine <= (2.0 * residual).powi(2), "{cosine}");
}

#[test]
fn fewer_directions_than_vectors() {
    check(&[normal(16, 1, 6), normal(16, 2, 7), normal(16, 7, 8)]);
}

#[test]
fn a_layer_without_variance_has_eigenvalues_zero() {
    let batch = Batch::new(&[Matrix::from_fn(10, 3, |_, j| j as f64)], 50);
    let (vectors, summaries) = batch.subspace(1);
    let found = summaries.values()[0];
    assert_eq!((found.first, found.second, found.trace, found.residual), (0.0, 0.0, 0.0, 0.0));
    assert!(vectors.values().iter().all(|value| value.is_finite()));
}

#[test]
fn an_iteration_that_is_cut_short_says_so() {
    let batch = Batch::new(&[normal(40, 300, 9)], 2);
    let found = batch.subspace(1).1.values()[0];
    assert_eq!(found.iterations, 2);
    assert!(found.residual > 1e-6 * found.first);
}

#[test]
fn the_order_of_threads_does_not_show() {
    let batch = Batch::new(&[normal(20, 30, 10)], 5000);
    let bits = |seed| batch.subspace(seed).0.values().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(1), bits(2));
}

#[test]
fn the_naive_twin_agrees() {
    let layers = [normal(6, 10, 11), rectified(6, 4, 12)];
    let batch = Batch::new(&layers, 5000);
    let (mut values, mut work) = (Buffer::<f64>::poisoned(2 * 6), Buffer::<f64>::poisoned(2 * 2 * 36));
    let launch = Launch::new("gs_eigen_naive").geometry(plan::eigen_naive(2)).output(&mut values).output(&mut work);
    launch.input(&batch.k).input(&batch.sums).value(batch.shape).run().unwrap();
    let summaries = batch.subspace(1).1;
    for (layer, found) in summaries.values().iter().enumerate() {
        let mut naive = values.values()[layer * 6..][..6].to_vec();
        naive.sort_by(|a, b| b.total_cmp(a));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-13 * naive[0];
        assert!(close(found.first, naive[0]) && close(found.second, naive[1]), "{found:?} {naive:?}");
    }
}
