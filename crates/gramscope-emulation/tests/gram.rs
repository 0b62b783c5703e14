//! Gram matrices by every variant, against float64 and against the naive twin.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_emulation::Buffer;
use gramscope_reference::{Matrix, gram, hsic};
use half::{bf16, f16};
use support::chain::{Columns, Input, Products, Run, columns, gram_double, gram_fast, gram_naive};
use support::inputs::{self, normal, rectified};
use support::{Element, ROOMY, SMALL, largest_error, rounded};

/// Products of 22-bit halves, each off by 2^-23 of a row's length at most in either factor, on average far less; float32 sums;
/// and the tensor cores' truncation, 2^-24 a step and biased: 192 steps a chain. What is common to all entries cancels in CKA
/// but shows here.
const EXACT: f64 = 2e-6;
/// 11 bits: 2^-12 in either factor.
const FAST: f64 = 5e-4;

/// The error of a centred K against float64 (centring makes the shift's last bits irrelevant), on the scale of its rows.
fn error(k: &Matrix, x: &Matrix) -> f64 {
    let truth = gram::linear(x);
    largest_error(&hsic::u_centre(k), &hsic::u_centre(&truth), &truth)
}

fn by_tensor_cores<T: Element>(x: &Matrix, run: Run) -> Matrix {
    let (k, bad) = gram_fast(&Input::<T>::new(x, run), run);
    assert_eq!(bad, None);
    Matrix::new(x.rows, x.rows, k.values().to_vec())
}

fn by_doubles<T: Element>(x: &Matrix, run: Run) -> (Matrix, Columns, Input<T>) {
    let input = Input::<T>::new(x, run);
    let columns = columns(&input, run);
    let mut k = Buffer::poisoned(x.rows * x.rows);
    gram_double(&mut k, &input, &columns, &Buffer::new(&[1]), run);
    (Matrix::new(x.rows, x.rows, k.values().to_vec()), columns, input)
}

/// Exact, fast and double of one input, all of them against float64.
fn check<T: Element>(x: &Matrix, run: Run) {
    let x = rounded::<T>(x);
    let what = format!("{} x {} {} {run:?}", x.rows, x.cols, T::SUFFIX);
    for (products, tolerance) in [(Products::Exact, EXACT), (Products::Fast, FAST)] {
        let error = error(&by_tensor_cores::<T>(&x, Run { products, ..run }), &x);
        assert!(error <= tolerance, "{what}: {products:?} {error:e}");
    }
    let error = error(&by_doubles::<T>(&x, run).0, &x);
    assert!(error <= 1e-13, "{what}: double {error:e}");
}

/// Every n with every p would take long; every n meets every p modulo the diagonals of this square.
fn sizes(ns: &[usize], ps: &[usize]) -> Vec<(usize, usize)> {
    ns.iter().enumerate().flat_map(|(i, &n)| ps.iter().skip(i % 2).step_by(2).map(move |&p| (n, p))).collect()
}

#[test]
fn small_batches() {
    for (n, p) in sizes(&[4, 5, 31, 32, 33], &[1, 3, 7, 63, 64, 65, 511, 512, 513, 1000]) {
        check::<f32>(&rectified(n, p, 1), Run::default());
    }
}

#[test]
fn middling_batches() {
    for (n, p) in sizes(&[63, 64, 65, 128], &[1, 7, 63, 65, 512, 1000]) {
        check::<f32>(&rectified(n, p, 2), Run::default());
    }
}

#[test]
fn full_batches() {
    for (n, p) in [(255, 65), (255, 513), (256, 7), (256, 512), (256, 1000)] {
        check::<f32>(&rectified(n, p, 3), Run::default());
    }
}

#[test]
fn large_batches() {
    for (n, p) in [(257, 65), (257, 513), (300, 100), (520, 33)] {
        check::<f32>(&rectified(n, p, 4), Run::default());
    }
}

#[test]
fn tiles_where_one_block_would_do() {
    for (n, p) in [(4, 7), (33, 65), (128, 513), (129, 64)] {
        check::<f32>(&rectified(n, p, 5), Run { tiled: true, ..Run::default() });
    }
}
