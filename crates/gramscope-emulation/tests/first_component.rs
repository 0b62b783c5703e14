//! The gradient of the penalty on first components, from activations on, against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::training::{self as plan, ANY_DEVICE, FIRST_COMPONENT};
use gramscope_cuda::plan::{EIGEN_VECTORS, eigen_subspace};
use gramscope_cuda::shapes::{EigenShape, EigenSummary, FirstComponentShape};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::{Matrix, components};
use half::bf16;
use support::chain::{self, Input, Run};
use support::inputs::{self, normal, rectified};
use support::{Element, rounded, stored};

const WEIGHT: f64 = 3.0;

/// The first component of a layer, as it is found on a device.
struct Found {
    vector: Buffer<f64>,
    summary: Buffer<EigenSummary>,
}

fn found<T: Element>(x: &Matrix, seed: u64) -> Found {
    let (n, run) = (x.rows, Run { device: ANY_DEVICE, biased: true, seed, ..Run::default() });
    let input = Input::<T>::new(x, run);
    let gram = chain::gram_double(&input, &chain::columns(&input, run).shifts, run);
    let sums = chain::rows(&gram, run);
    let count = EIGEN_VECTORS * n;
    let (mut vectors, mut scratch) = (Buffer::<f64>::poisoned(count), Buffer::<f64>::poisoned(count));
    let mut summary = Buffer::<EigenSummary>::poisoned(1);
    let shape = EigenShape {
        tolerance: FIRST_COMPONENT.residual,
        examples: n as i32,
        layers: 1,
        iterations: FIRST_COMPONENT.steps as i32,
        pairs: FIRST_COMPONENT.pairs as i32,
    };
    let launch = Launch::new("gs_eigen_subspace").geometry(eigen_subspace(1)).seed(seed);
    let launch = launch.output(&mut vectors).output(&mut summary).output(&mut scratch);
    launch.input(&gram.k).input(&sums).value(shape).run().unwrap();
    Found { vector: Buffer::new(&vectors.values()[..n]), summary }
}

/// `before`, to which the gradient has been added by the kernel of this name.
fn add<T: Element>(kernel: &str, before: &[T], x: &Matrix, found: &Found, threshold: f64, seed: u64) -> Vec<T> {
    let mut dx = Buffer::new(before);
    let geometry = if kernel == "naive" { plan::values(before.len()) } else { plan::first_component(x.cols) };
    let shape =
        FirstComponentShape { weight: WEIGHT, threshold, features: x.cols as i64, examples: x.rows as i32, padding: 0 };
    let name = format!("gs_first_component_{kernel}_{}", T::SUFFIX);
    let x = Buffer::new(&stored::<T>(x));
    let launch = Launch::new(&name).geometry(geometry).seed(seed).output(&mut dx).input(&x);
    launch.input(&found.vector).input(&found.summary).value(shape).run().unwrap();
    dx.values().to_vec()
}

fn added<T: Element>(kernel: &str, before: &[T], x: &Matrix, threshold: f64, seed: u64) -> Vec<T> {
    add(kernel, before, x, &found::<T>(x, seed), threshold, seed)
}

/// A layer with one direction above the others.
fn dominated(n: usize, p: usize, seed: u64) -> Matrix {
    let (noise, row, column) = (normal(n, p, seed), normal(n, 1, seed + 1), normal(1, p, seed + 2));
    Matrix::from_fn(n, p, |i, j| noise.get(i, j) + 2.0 * row.get(i, 0) * column.get(0, j) + 5.0)
}

/// What a rounding of a stored value is of it.
fn rounding<T: Element>() -> f64 {
    if T::SUFFIX == "bf16" { 2f64.powi(-8) } else { 2f64.powi(-24) }
}

/// The vector's residual r is at most 2^-24 l_1, so that it is off by an angle of r / (l_1 - l_2), an entry of v v^T Xc by twice
/// that of |Xc| = sqrt(l_1), f by its square. Products and sums are float64. The gradient is rounded to float32, the sum
/// with what is there once more, and once to what is stored.
fn check<T: Element>(what: &str, x: &Matrix, threshold: f64) {
    let x = rounded::<T>(x);
    let before = stored::<T>(&normal(x.rows, x.cols, 9));
    let truth = components::first(&components::centred_gram(&x));
    let gradient = components::penalty_gradient(&x, WEIGHT, threshold);
    let trace = truth.eigenvalue / truth.fraction;
    let angle = FIRST_COMPONENT.residual * truth.eigenvalue / (truth.eigenvalue - truth.second_eigenvalue);
    let entries = 2.0 * WEIGHT / trace * truth.eigenvalue.sqrt() * 3.0 * angle;
    for kernel in ["gradient", "naive"] {
        let found = added::<T>(kernel, &before, &x, threshold, 1);
        for ((found, before), gradient) in found.iter().zip(&before).zip(&gradient.data) {
            let (found, expected) = (found.widen(), before.widen() + gradient);
            let float32 = 2f64.powi(-24) * (gradient.abs() + expected.abs());
            let tolerance = entries + float32 + rounding::<T>() * expected.abs();
            let n = x.rows;
            assert!((found - expected).abs() <= tolerance, "{what}, {n} x {}, {kernel}: {found}, {expected}", x.cols);
        }
    }
}

#[test]
fn gradients_match_float64() {
    for (n, p) in [(2, 1), (2, 37), (3, 5), (5, 1), (5, 64), (8, 31), (13, 33), (33, 257)] {
        for threshold in [0.0, 0.2] {
            check::<f32>("dominated", &dominated(n, p, 1), threshold);
            check::<bf16>("dominated", &dominated(n, p, 1), threshold);
        }
    }
    check::<f32>("dominated", &dominated(127, 3, 1), 0.2);
    check::<f32>("dominated", &dominated(128, 65, 1), 0.2);
    check::<bf16>("dominated", &dominated(129, 32, 1), 0.2);
    check::<f32>("rectified", &rectified(31, 40, 2), 0.05);
    check::<f32>("far from zero", &inputs::offset(16, 3, 3), 0.0);
    check::<f32>("an outlier", &inputs::outlier(20, 30, 1e4, 4), 0.2);
    check::<f32>("a constant column", &inputs::constant_columns(16, 7, 5), 0.1);
    check::<f32>("small", &inputs::scaled(&dominated(9, 10, 6), 1e-15), 0.2);
    check::<f32>("large", &inputs::scaled(&dominated(9, 10, 6), 1e15), 0.2);
}

#[test]
fn duplicated_rows_match_float64() {
    let half = dominated(20, 17, 7);
    check::<f32>("duplicated", &Matrix::from_fn(40, 17, |i, j| half.get(i / 2, j)), 0.2);
    check::<bf16>("duplicated", &Matrix::from_fn(40, 17, |i, j| half.get(i / 2, j)), 0.2);
    // One direction is all there is.
    check::<f32>("two points", &Matrix::from_fn(7, 5, |i, j| if i < 3 { j as f64 } else { 1.0 }), 0.2);
}

/// What costs nothing: little in the first component, no variance, one example, values that are not finite.
#[test]
fn what_explains_little_or_nothing_changes_no_bit() {
    fn check<T: Element>() {
        let infinite = normal(6, 5, 1).map(|i, j, value| if (i, j) == (3, 2) { f64::INFINITY } else { value });
        let nan = normal(6, 5, 1).map(|i, j, value| if (i, j) == (0, 4) { f64::NAN } else { value });
        let constant = Matrix::from_fn(6, 5, |_, j| 1e4 / 3.0 - j as f64);
        for (x, threshold) in [(normal(6, 5, 2), 0.99), (constant, 0.0), (infinite, 0.0), (nan, 0.0)] {
            let before = stored::<T>(&normal(6, 5, 3));
            for kernel in ["gradient", "naive"] {
                assert_eq!(added::<T>(kernel, &before, &x, threshold, 1), before, "{kernel}, {x:?}");
            }
        }
        let (single, nothing) = (normal(1, 5, 4), EigenSummary::default());
        let found = Found { vector: Buffer::new(&[1.0]), summary: Buffer::new(&[nothing]) };
        let before = stored::<T>(&normal(1, 5, 5));
        for kernel in ["gradient", "naive"] {
            assert_eq!(add::<T>(kernel, &before, &single, &found, 0.0, 1), before, "{kernel}");
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// Of equal first eigenvalues any vector gives a subgradient: that of v^T K' v / tr K' for the v that was found.
#[test]
fn equal_eigenvalues_give_a_subgradient() {
    // Four points at the corners of a square: two directions explain a half each.
    let x = Matrix::new(4, 2, vec![1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0]);
    let found = found::<f32>(&x, 1);
    let v = found.vector.values();
    let gradient = add::<f32>("gradient", &[0.0; 8], &x, &found, 0.25, 1);
    let along: Vec<f64> = (0..2).map(|j| x.column(j).zip(v).map(|(x, v)| x * v).sum()).collect();
    for (index, found) in gradient.into_iter().enumerate() {
        let (i, j) = (index / 2, index % 2);
        let expected = 2.0 * WEIGHT / 8.0 * (v[i] * along[j] - 0.5 * x.get(i, j));
        assert!((f64::from(found) - expected).abs() <= 2f64.powi(-24) * expected.abs() + 1e-15, "{found} {expected}");
    }
    assert!((v.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() <= 1e-14 && v.iter().sum::<f64>().abs() <= 1e-14);
}

#[test]
fn the_order_of_threads_does_not_show() {
    fn check<T: Element>() {
        let (x, before) = (dominated(33, 70, 8), stored::<T>(&normal(33, 70, 9)));
        assert_eq!(added::<T>("gradient", &before, &x, 0.1, 1), added::<T>("gradient", &before, &x, 0.1, 2));
    }
    check::<f32>();
    check::<bf16>();
}
