//! From partial sums to a panel row: sums of rows, kappa, centring, packing.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::{self, Bounds};
use gramscope_reference::{Matrix, gram, hsic};
use support::chain::{Gram, Packed, Run, pack, pack_naive, rows, rows_within, wanted};
use support::inputs::{self, normal, rectified};

/// Rounding to float32.
const ROUNDING: f64 = 6e-8;

fn centred(k: &Matrix, biased: bool) -> Matrix {
    if biased { hsic::double_centre(k) } else { hsic::u_centre(k) }
}

fn packed(k: &Matrix, in_double: bool, run: Run) -> Packed {
    packed_with_reach(&Gram::new(k), in_double, run)
}

fn packed_with_reach(gram: &Gram, in_double: bool, run: Run) -> Packed {
    pack(gram, &rows(gram, run), &wanted(in_double), run)
}

/// Whether products of this K would be redone.
fn redone(gram: &Gram, bounds: Bounds, run: Run) -> bool {
    rows_within(gram, bounds, run).1.values()[0] != 0
}

/// |K| / |U| by their definition: the diagonal counts where the estimator uses it.
fn kappa(k: &Matrix, biased: bool) -> f64 {
    let without = |m: &Matrix| m.map(|i, j, value| if i == j && !biased { 0.0 } else { value });
    let (k, u) = (without(k), without(&centred(k, biased)));
    (k.inner(&k) / u.inner(&u)).sqrt()
}

#[test]
fn rows_are_centred_and_packed() {
    for biased in [false, true] {
        for n in [4, 5, 8, 9, 31, 32, 33, 64, 65, 130] {
            let (k, run) = (gram::linear(&rectified(n, 50, 1)), Run { biased, ..Run::default() });
            let (found, truth) = (packed(&k, false, run), centred(&k, biased));
            let largest = truth.data.iter().fold(0.0f64, |most, value| most.max(value.abs()));
            let difference = found.unpack(n, biased).map(|i, j, value| value - truth.get(i, j));
            assert!(difference.data.iter().all(|error| error.abs() <= ROUNDING * largest), "n = {n}, biased {biased}");
            let norm = truth.inner(&truth) / 2.0 / 2f64.powi(2 * found.summary.exponent);
            assert!((found.summary.norm - norm).abs() <= 1e-13 * norm);
            let kappa = kappa(&k, biased);
            assert!((found.summary.kappa - kappa).abs() <= 1e-12 * kappa, "{} {kappa}", found.summary.kappa);
            assert_eq!(found.summary.state, 0);
        }
    }
}

#[test]
fn the_naive_twin_agrees() {
    for biased in [false, true] {
        for n in [4, 7, 33, 64] {
            let (k, run) = (gram::linear(&normal(n, 20, 2)), Run { biased, ..Run::default() });
            let (fast, naive) = (packed(&k, true, run), pack_naive(&Gram::new(&k), &wanted(true), run));
            assert_eq!(fast.summary.exponent, naive.summary.exponent);
            assert!((fast.summary.norm - naive.summary.norm).abs() <= 1e-14 * naive.summary.norm);
            // Entries are below 2 and their float64 values differ by rounding alone.
            assert!(fast.row.iter().zip(&naive.row).all(|(a, b)| (a - b).abs() <= f32::EPSILON), "n = {n}");
        }
    }
}

#[test]
fn a_packed_row_has_the_squared_length_of_hsic() {
    for (biased, truth) in [(false, hsic::unbiased as fn(&Matrix, &Matrix) -> f64), (true, hsic::biased)] {
        let (n, run) = (37, Run { biased, ..Run::default() });
        let k = gram::linear(&normal(n, 10, 3));
        let summary = packed(&k, false, run).summary;
        let found = summary.norm * 2f64.powi(2 * summary.exponent) * support::chain::factor(n, biased);
        let truth = truth(&k, &k);
        assert!((found - truth).abs() <= 1e-13 * truth, "{found} {truth}");
    }
}

#[test]
fn kappa_decides_what_is_redone() {
    for biased in [false, true] {
        let run = Run { biased, ..Run::default() };
        for offset in [0.0, 1.0, 30.0, 1e3, 1e5] {
            // A constant on all of K is what centring takes away.
            let k = gram::linear(&normal(33, 40, 4)).map(|_, _, value| value + 40.0 * offset);
            let kappa = kappa(&k, biased);
            for (largest, redo) in [(kappa * 1.01, false), (kappa * 0.99, true)] {
                let bounds = Bounds { kappa: largest, reach: f64::INFINITY };
                assert_eq!(redone(&Gram::new(&k), bounds, run), redo, "offset {offset}, biased {biased}");
            }
        }
    }
}

#[test]
fn reach_decides_what_is_redone() {
    let k = gram::linear(&normal(33, 40, 4));
    let mut gram = Gram::new(&k);
    let mut random = inputs::Random::new(5);
    gram.reach.values_mut().iter_mut().for_each(|reach| *reach = 1e3 * (1.0 + random.uniform()));
    let reach = gram.reach.values();
    let pairs: f64 = (0..33).flat_map(|i| (0..33).filter(move |&j| j != i).map(move |j| reach[i] * reach[j])).sum();
    let u = hsic::u_centre(&k);
    let ratio = (pairs / u.inner(&u)).sqrt();
    for (largest, redo) in [(ratio * 1.01, false), (ratio * 0.99, true)] {
        assert_eq!(redone(&gram, Bounds { kappa: 1e9, reach: largest }, Run::default()), redo);
    }
}

#[test]
fn nothing_is_redone_for_a_matrix_of_zeros_but_for_one_with_nan() {
    let redo = |value: f64| redone(&Gram::new(&Matrix::from_fn(20, 20, |_, _| value)), plan::EXACT, Run::default());
    assert!(!redo(0.0) && redo(f64::NAN));
}

#[test]
fn products_that_cancel_to_their_rounding_are_zero() {
    // In float64 alone: there nothing better is to be had.
    let mut gram = Gram::new(&gram::linear(&normal(21, 30, 6)));
    gram.reach.values_mut().fill(1e19);
    for (in_double, state) in [(true, 1), (false, 0)] {
        assert_eq!(packed_with_reach(&gram, in_double, Run::default()).summary.state, state);
    }
}

#[test]
fn a_matrix_that_centring_leaves_nothing_of_is_zero() {
    for biased in [false, true] {
        let run = Run { biased, ..Run::default() };
        // r_i + r_j, with rounding: what is left is 1e-16 of it.
        let k = Matrix::from_fn(21, 21, |i, j| 1.0 / (i as f64 + 3.0) + 1.0 / (j as f64 + 3.0));
        let found = packed(&k, true, run);
        assert_eq!((found.summary.state, found.summary.norm), (1, 0.0));
        assert!(found.row.iter().all(|&value| value == 0.0));
        // From float32 products it would be a sign that they must be redone, not that the matrix is zero.
        assert_eq!(packed(&k, false, run).summary.state, 0);
        let zero = packed(&k.map(|_, _, _| 0.0), false, run);
        assert_eq!((zero.summary.state, zero.summary.norm), (1, 0.0));
    }
}

#[test]
fn scales_do_not_matter() {
    let k = gram::linear(&normal(18, 30, 5));
    let plain = packed(&k, false, Run::default());
    for exponent in [-300, -200, 250] {
        let scaled = packed(&inputs::scaled(&k, 2f64.powi(exponent)), false, Run::default());
        assert_eq!(scaled.row, plain.row);
        assert_eq!(scaled.summary.exponent, plain.summary.exponent + exponent);
        assert_eq!(scaled.summary.norm, plain.summary.norm);
    }
}

#[test]
fn the_order_of_threads_does_not_show() {
    let k = gram::linear(&rectified(70, 40, 6));
    let bits = |seed| {
        let found = packed(&k, false, Run { seed, ..Run::default() });
        (found.row, found.summary.norm.to_bits(), found.summary.kappa.to_bits())
    };
    assert!((2..6).all(|seed| bits(seed) == bits(1)));
}
