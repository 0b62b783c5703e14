//! The RBF kernel: distances, the median of all of them, exponentials.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan;
use gramscope_cuda::shapes::{RbfShape, Selection};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::cka::{Estimator, Kernel, minibatch};
use gramscope_reference::{Matrix, gram};
use support::chain::{self, Input, Packed, Run, columns, gram_double, pack};
use support::inputs::{Random, duplicated, normal, pair};
use support::{SMALL, rounded, stored};

/// What the kernels make of the linear k.
struct Rbf {
    k: Buffer<f64>,
    distances: Buffer<f64>,
    selection: Selection,
    undefined: bool,
}

fn rbf(k: &Buffer<f64>, n: usize, bandwidth: f64, seed: u64) -> Rbf {
    let shape = |pass| RbfShape { bandwidth, examples: n as i32, pass };
    let (mut distances, mut selection) = (Buffer::poisoned(n * n), Buffer::<Selection>::poisoned(1));
    let (mut histogram, mut arrivals) = (Buffer::<u32>::poisoned(plan::RADIX_BINS), Buffer::new(&[0u32]));
    let launch = Launch::new("gs_rbf_distances").geometry(plan::entries(n)).seed(seed);
    launch.output(&mut distances).output(&mut selection).output(&mut histogram).input(k).value(shape(0)).run().unwrap();
    for pass in 0..plan::RADIX_PASSES {
        let launch = Launch::new("gs_rbf_select").geometry(plan::rbf_select(n, SMALL)).seed(seed);
        let launch = launch.output(&mut selection).output(&mut histogram).output(&mut arrivals);
        launch.input(&distances).value(shape(pass as i32)).run().unwrap();
    }
    let launch = Launch::new("gs_rbf_above").geometry(plan::rbf_select(n, SMALL)).seed(seed);
    launch.output(&mut selection).input(&distances).value(shape(0)).run().unwrap();
    let (mut k, mut undefined) = (Buffer::poisoned(n * n), Buffer::<i32>::poisoned(1));
    let launch = Launch::new("gs_rbf_apply").geometry(plan::entries(n)).seed(seed);
    launch.output(&mut k).output(&mut undefined).input(&distances).input(&selection).value(shape(0)).run().unwrap();
    Rbf { k, distances, selection: selection.values()[0], undefined: undefined.values()[0] != 0 }
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
            let k = gram::linear(&normal(n, 1 + n / 2, seed));
            let rbf = rbf(&Buffer::new(&k.data), n, 1.0, seed);
            assert_eq!(found(rbf.selection), middle(rbf.distances.values()), "n = {n}");
        }
    }
}

#[test]
fn the_median_of_few_different_values_is_exact() {
    // Diagonal matrices of small whole numbers: distances repeat, and the middle two often differ by much.
    let mut random = Random::new(4);
    for n in [4, 6, 7, 12] {
        for _ in 0..6 {
            let values: Vec<f64> = (0..n).map(|_| (random.uniform() * 3.0).floor() * 2f64.powi(20)).collect();
            let k = Matrix::from_fn(n, n, |i, j| if i == j { values[i] } else { 0.0 });
            let rbf = rbf(&Buffer::new(&k.data), n, 1.0, 1);
            assert_eq!(found(rbf.selection), middle(rbf.distances.values()), "{values:?}");
        }
    }
}

#[test]
fn the_naive_twin_agrees() {
    for n in [4, 7, 32] {
        let rbf = rbf(&Buffer::new(&gram::linear(&duplicated(n, 9, 5)).data), n, 1.0, 1);
        let mut selection = Buffer::<Selection>::poisoned(1);
        let launch = Launch::new("gs_rbf_naive").geometry(plan::entries(n));
        let shape = RbfShape { examples: n as i32, ..RbfShape::default() };
        launch.output(&mut selection).input(&rbf.distances).value(shape).run().unwrap();
        assert_eq!(found(selection.values()[0]), found(rbf.selection));
    }
}

#[test]
fn the_kernel_matches_float64() {
    for (n, bandwidth) in [(4, 0.5), (33, 0.2), (64, 1.0)] {
        let x = normal(n, 20, 6);
        let (found, truth) = (rbf(&Buffer::new(&gram::linear(&x).data), n, bandwidth, 1), gram::rbf(&x, bandwidth));
        // Distances as differences of sums of 20 squares, divided by their median and 2 t^2.
        let tolerance = 1e-14 / (bandwidth * bandwidth);
        assert!(found.k.values().iter().zip(&truth.data).all(|(k, truth)| (k - truth).abs() <= tolerance), "n = {n}");
    }
}

#[test]
fn coinciding_examples_leave_it_undefined() {
    let x = normal(12, 5, 7).map(|i, _, value| if i < 10 { 1.0 } else { value });
    let found = rbf(&Buffer::new(&gram::linear(&x).data), 12, 1.0, 1);
    assert!(found.undefined);
    assert!(found.k.values().iter().all(|&value| value == 0.0));
}

#[test]
fn scales_do_not_matter() {
    let k = gram::linear(&normal(20, 30, 8));
    let kernel = |exponent: i32| {
        let scaled = k.map(|_, _, value| value * 2f64.powi(exponent));
        rbf(&Buffer::new(&scaled.data), 20, 0.5, 1).k.values().to_vec()
    };
    assert!([-200, 200].iter().all(|&exponent| kernel(exponent) == kernel(0)));
}

/// The chain as a launcher runs it: float64 products, kernel, centring.
fn packed(x: &Matrix, bandwidth: f64, run: Run) -> Packed {
    let (n, input) = (x.rows, Input::<f32>::new(x, run));
    let (mut k, flag, mut sums) = (Buffer::poisoned(n * n), Buffer::new(&[1]), Buffer::poisoned(3 * n));
    gram_double(&mut k, &input, &columns(&input, run), &flag, run);
    let k = rbf(&k, n, bandwidth, run.seed).k;
    chain::rows(&mut sums, &k, n, run);
    pack(&k, &sums, &flag, n, run)
}

#[test]
fn cka_with_the_rbf_kernel_matches_float64() {
    for (biased, estimator) in [(false, Estimator::Unbiased), (true, Estimator::Biased)] {
        for (n, p) in [(4, 10), (33, 40), (50, 130)] {
            let (x, y) = pair(n, p, p / 2, 9);
            let (x, y) = (rounded::<f32>(&x), rounded::<f32>(&y));
            assert_eq!(stored::<f32>(&x).len(), n * p);
            let run = Run { biased, ..Run::default() };
            let (a, b) = (packed(&x, 0.5, run), packed(&y, 0.5, run));
            let product: f64 = a.row.iter().zip(&b.row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let cka = product / (a.summary.norm * b.summary.norm).sqrt();
            let truth = minibatch(&[x], &[y], Kernel::Rbf(0.5), estimator);
            assert!((cka - truth).abs() <= 1e-6, "{n} x {p}: {cka} {truth}");
        }
    }
}
