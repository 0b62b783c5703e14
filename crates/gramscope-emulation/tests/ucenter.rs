//! From partial sums to a panel row: sums of rows, kappa, centring, packing.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_emulation::Buffer;
use gramscope_reference::{Matrix, gram, hsic};
use support::chain::{Packed, Run, pack, pack_naive, rows, rows_and_kappa};
use support::inputs::{self, normal, rectified};

/// Rounding to float32.
const ROUNDING: f64 = 6e-8;

fn centred(k: &Matrix, biased: bool) -> Matrix {
    if biased { hsic::double_centre(k) } else { hsic::u_centre(k) }
}

fn packed(k: &Matrix, in_double: bool, run: Run) -> Packed {
    let (n, buffer) = (k.rows, Buffer::new(&k.data));
    let mut sums = Buffer::poisoned(3 * n);
    rows(&mut sums, &buffer, n, run);
    pack(&buffer, &sums, &Buffer::new(&[i32::from(in_double)]), n, run)
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
            let (fast, naive) = (packed(&k, true, run), pack_naive(&Buffer::new(&k.data), &Buffer::new(&[1]), n, run));
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
            let mut sums = Buffer::poisoned(3 * 33);
            for (largest, redo) in [(kappa * 1.01, 0), (kappa * 0.99, 1)] {
                let found = rows_and_kappa(&mut sums, &Buffer::new(&k.data), largest, 33, run);
                assert_eq!(found.values(), [redo], "offset {offset}, biased {biased}");
            }
        }
    }
}

#[test]
fn nothing_is_redone_for_a_matrix_of_zeros_but_for_one_with_nan() {
    let mut sums = Buffer::poisoned(3 * 20);
    let mut redo = |value: f64| {
        let k = Buffer::new(&[value; 400]);
        rows_and_kappa(&mut sums, &k, 32.0, 20, Run::default()).values()[0]
    };
    assert_eq!([redo(0.0), redo(f64::NAN)], [0, 1]);
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
