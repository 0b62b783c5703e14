//! The RBF kernel: distances, the median of all of them, exponentials.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan;
use gramscope_cuda::shapes::{RbfShape, Selection};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::cka::{Estimator, Kernel, minibatch};
use gramscope_reference::{Matrix, gram};
use support::chain::{self, Gram, Input, Packed, Run, distances, pack};
use support::inputs::{Random, duplicated, normal, pair};
use support::{SMALL, rounded};

/// What the kernels make of squared distances.
struct Rbf {
    k: Buffer<f64>,
    selection: Selection,
    undefined: bool,
}

fn rbf(distances: &Buffer<f64>, n: usize, bandwidth: f64, seed: u64) -> Rbf {
    let shape = |pass| RbfShape { bandwidth, examples: n as i32, pass };
    let (mut selection, mut histogram) = (Buffer::<Selection>::poisoned(1), Buffer::<u32>::poisoned(plan::RADIX_BINS));
    let mut arrivals = Buffer::new(&[0u32]);
    let launch = Launch::new("gs_rbf_start").geometry(plan::rbf_start()).seed(seed);
    launch.output(&mut selection).output(&mut histogram).value(shape(0)).run().unwrap();
    for pass in 0..plan::RADIX_PASSES {
        let launch = Launch::new("gs_rbf_select").geometry(plan::rbf_select(n, SMALL)).seed(seed);
        let launch = launch.output(&mut selection).output(&mut histogram).output(&mut arrivals);
        launch.input(distances).value(shape(pass as i32)).run().unwrap();
    }
    let launch = Launch::new("gs_rbf_above").geometry(plan::rbf_select(n, SMALL)).seed(seed);
    launch.output(&mut selection).input(distances).value(shape(0)).run().unwrap();
    let (mut k, mut undefined) = (Buffer::poisoned(n * n), Buffer::<i32>::poisoned(1));
    let launch = Launch::new("gs_rbf_apply").geometry(plan::entries(n)).seed(seed);
    launch.output(&mut k).output(&mut undefined).input(distances).input(&selection).value(shape(0)).run().unwrap();
    Rbf { k, selection: selection.values()[0], undefined: undefined.values()[0] != 0 }
}

/// Squared distances of the examples, computed here.
fn distances_of(x: &Matrix) -> Buffer<f64> {
    let square = |i: usize, j: usize| x.row(i).iter().zip(x.row(j)).map(|(a, b)| (a - b).powi(2)).sum();
    Buffer::new(&Matrix::from_fn(x.rows, x.rows, square).data)
}

/// The middle values by sorting.
fn middle(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]]
}

fn found(selection: Selection) -> [f64; 2] {
    [f64::from_bits(selection.lower), f64::from_bits(selection.upper)]
}

#[test]
fn the_median_is_exact() {
    for n in [2, 3, 4, 5, 16, 17, 33, 64] {
        for seed in 0..3 {
            let distances = distances_of(&normal(n, 1 + n / 2, seed));
            assert_eq!(found(rbf(&distances, n, 1.0, seed).selection), middle(distances.values()), "n = {n}");
        }
    }
}

#[test]
fn the_median_of_few_different_values_is_exact() {
    // One feature of small whole numbers: distances repeat, and the middle two often differ by much.
    let mut random = Random::new(4);
    for n in [4, 6, 7, 12] {
        for _ in 0..6 {
            let x = Matrix::from_fn(n, 1, |_, _| (random.uniform() * 4.0).floor() * 2f64.powi(20));
            let distances = distances_of(&x);
            assert_eq!(found(rbf(&distances, n, 1.0, 1).selection), middle(distances.values()), "{x:?}");
        }
    }
}

#[test]
fn the_naive_twin_agrees() {
    for n in [4, 7, 32] {
        let distances = distances_of(&duplicated(n, 9, 5));
        let mut selection = Buffer::<Selection>::poisoned(1);
        let launch = Launch::new("gs_rbf_naive").geometry(plan::entries(n));
        let shape = RbfShape { examples: n as i32, ..RbfShape::default() };
        launch.output(&mut selection).input(&distances).value(shape).run().unwrap();
        assert_eq!(found(selection.values()[0]), found(rbf(&distances, n, 1.0, 1).selection));
    }
}

#[test]
fn the_kernel_matches_float64() {
    for (n, bandwidth) in [(4, 0.5), (33, 0.2), (64, 1.0)] {
        let x = normal(n, 20, 6);
        let (found, truth) = (rbf(&distances_of(&x), n, bandwidth, 1), gram::rbf(&x, bandwidth));
        // Distances as differences of sums of 20 squares, divided by their median and 2 t^2.
        let tolerance = 1e-14 / (bandwidth * bandwidth);
        assert!(found.k.values().iter().zip(&truth.data).all(|(k, truth)| (k - truth).abs() <= tolerance), "n = {n}");
    }
}

#[test]
fn coinciding_examples_leave_it_undefined() {
    let x = normal(12, 5, 7).map(|i, _, value| if i < 10 { 1.0 } else { value });
    let found = rbf(&distances_of(&x), 12, 1.0, 1);
    assert!(found.undefined);
    assert!(found.k.values().iter().all(|&value| value == 0.0));
}

#[test]
fn scales_do_not_matter() {
    let kernel = |exponent: i32| {
        let x = normal(20, 30, 8).map(|_, _, value| value * 2f64.powi(exponent));
        rbf(&distances_of(&x), 20, 0.5, 1).k.values().to_vec()
    };
    assert!([-200, 200].iter().all(|&exponent| kernel(exponent) == kernel(0)));
}

/// The chain as a launcher runs it: float64 distances, kernel, centring.
fn packed(x: &Matrix, bandwidth: f64, run: Run) -> Packed {
    let distances = distances(&Input::<f32>::new(x, run), run);
    let k = rbf(&distances, x.rows, bandwidth, run.seed).k;
    let gram = Gram::new(&Matrix::new(x.rows, x.rows, k.values().to_vec()));
    pack(&gram, &chain::rows(&gram, run), &chain::wanted(true), run)
}

#[test]
fn cka_with_the_rbf_kernel_matches_float64() {
    for (biased, estimator) in [(false, Estimator::Unbiased), (true, Estimator::Biased)] {
        for (n, p) in [(4, 10), (33, 40), (50, 130)] {
            let (x, y) = pair(n, p, p / 2, 9);
            // Three distant examples, beside which the others must keep their distances.
            let x = x.map(|i, _, value| value * if n > 4 && i < 3 { 1e8 } else { 1.0 });
            let (x, y) = (rounded::<f32>(&x), rounded::<f32>(&y));
            let run = Run { biased, ..Run::default() };
            let (a, b) = (packed(&x, 0.5, run), packed(&y, 0.5, run));
            let product: f64 = a.row.iter().zip(&b.row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let cka = product / (a.summary.norm * b.summary.norm).sqrt();
            let truth = minibatch(&[x], &[y], Kernel::Rbf(0.5), estimator);
            assert!((cka - truth).abs() <= 1e-6, "{n} x {p}: {cka} {truth}");
        }
        // A wide kernel is the linear one, to d^2 / t^2.
        let (x, y) = pair(33, 40, 20, 9);
        let (x, y) = (rounded::<f32>(&x), rounded::<f32>(&y));
        let run = Run { biased, ..Run::default() };
        let (a, b) = (packed(&x, 1e7, run), packed(&y, 1e7, run));
        let product: f64 = a.row.iter().zip(&b.row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let cka = product / (a.summary.norm * b.summary.norm).sqrt();
        let truth = minibatch(&[x], &[y], Kernel::Linear, estimator);
        assert!((cka - truth).abs() <= 1e-6, "{cka} {truth}");
    }
}
