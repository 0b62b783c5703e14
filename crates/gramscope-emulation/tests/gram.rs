//! Gram matrices by every variant, against float64 and against the naive twin.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::{self, Device};
use gramscope_reference::{Matrix, gram, hsic};
use half::{bf16, f16};
use support::chain::{Columns, Input, Products, Run, columns, distances, gram_double, gram_mma, gram_naive};
use support::inputs::{self, normal, rectified};
use support::{Element, ROOMY, SMALL, TIGHT, largest_error, rounded};

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
    let found = gram_mma(&Input::<T>::new(x, run), run);
    assert_eq!(found.bad, None);
    found.gram.matrix()
}

fn by_doubles<T: Element>(x: &Matrix, run: Run) -> (Matrix, Columns, Input<T>) {
    let input = Input::<T>::new(x, run);
    let columns = columns(&input, run);
    let gram = gram_double(&input, &columns.shifts, run);
    (gram.matrix(), columns, input)
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
fn the_smallest_batches() {
    for (n, p) in sizes(&[4, 5], &[1, 3, 7, 63, 64, 65, 511, 512, 513, 1000]) {
        check::<f32>(&rectified(n, p, 1), Run::default());
    }
}

#[test]
fn batches_around_32() {
    for (n, p) in sizes(&[31, 32, 33], &[1, 3, 7, 63, 64, 65, 511, 512, 513, 1000]) {
        check::<f32>(&rectified(n, p, 1), Run::default());
    }
}

#[test]
fn batches_around_64() {
    for (n, p) in sizes(&[63, 64, 65], &[1, 7, 63, 65, 512, 1000]) {
        check::<f32>(&rectified(n, p, 2), Run::default());
    }
}

#[test]
fn batches_around_128() {
    for (n, p) in sizes(&[127, 128, 129], &[3, 64, 65, 513]) {
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
fn batches_beyond_one_block() {
    for (n, p) in [(257, 65), (257, 513), (385, 33)] {
        check::<f32>(&rectified(n, p, 4), Run::default());
    }
}

#[test]
fn many_features() {
    let x = rounded::<f32>(&rectified(256, 4099, 31));
    let error = error(&by_tensor_cores::<f32>(&x, Run::default()), &x);
    assert!(error <= EXACT, "{error:e}");
}

#[test]
fn a_thousand_examples() {
    let x = rounded::<f32>(&rectified(1000, 40, 5));
    let error = error(&by_tensor_cores::<f32>(&x, Run::default()), &x);
    assert!(error <= EXACT, "{error:e}");
}

#[test]
fn tiles_where_one_block_would_do() {
    for (n, p) in [(4, 7), (33, 65), (128, 513), (129, 64)] {
        check::<f32>(&rectified(n, p, 5), Run { tiled: true, ..Run::default() });
    }
}

#[test]
fn many_chains_in_one_block() {
    // One multiprocessor: 3,300 features are seven chains, and partial sums are flushed on top of each other.
    let device = Device { multiprocessors: 1, ..SMALL };
    for tiled in [false, true] {
        check::<f32>(&rectified(20, 3300, 6), Run { device, tiled, ..Run::default() });
    }
}

#[test]
fn half_precision_activations() {
    for (n, p) in [(4, 3), (33, 65), (64, 513), (129, 100), (256, 136)] {
        check::<bf16>(&rectified(n, p, 7), Run::default());
        check::<f16>(&rectified(n, p, 8), Run::default());
    }
}

#[test]
fn half_precision_activations_in_tiles() {
    for (n, p) in [(33, 65), (257, 72)] {
        check::<bf16>(&rectified(n, p, 9), Run { tiled: true, ..Run::default() });
        check::<f16>(&rectified(n, p, 9), Run { tiled: true, ..Run::default() });
    }
}

#[test]
fn activations_at_any_address() {
    for shift in [1, 2, 3, 5] {
        for p in [64, 67] {
            let run = Run { shift, ..Run::default() };
            check::<f32>(&rectified(40, p, 10), run);
            check::<bf16>(&rectified(40, p, 11), run);
            check::<f16>(&rectified(40, p, 12), Run { tiled: true, ..run });
        }
    }
}

#[test]
fn longer_and_shorter_rings_give_the_same_bits() {
    const P: usize = 500;
    let fused = |n| move |device| plan::gram_fused(n, P, device).unwrap().buffers;
    let tiled = |n| move |device| plan::gram_tiled(n, P, device).unwrap().buffers;
    assert_eq!([TIGHT, SMALL].map(fused(176)), [4, 6]);
    assert_eq!([SMALL, ROOMY].map(fused(256)), [4, 6]);
    assert_eq!([TIGHT, SMALL, ROOMY].map(tiled(96)), [3, 4, 6]);
    for (n, tiled, devices) in
        [(176, false, vec![TIGHT, SMALL]), (256, false, vec![SMALL, ROOMY]), (96, true, vec![TIGHT, SMALL, ROOMY])]
    {
        let x = rectified(n, P, 13);
        let bits = |device: &Device| by_tensor_cores::<f32>(&x, Run { device: *device, tiled, ..Run::default() });
        let found: Vec<Matrix> = devices.iter().map(bits).collect();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "n = {n}, tiled {tiled}");
    }
}

/// A split whose last slab comes right behind a flush is flushed in two turns running: the exponents of the first are taken before
/// they have been kept.
#[test]
fn two_flushes_in_a_row() {
    let device = Device { multiprocessors: 1, ..SMALL };
    for (n, tiled) in [(64, false), (20, true)] {
        for slabs in [64, 65, 66, 129] {
            let grown = |_, f: usize, value: f64| value * 2f64.powi((f / 48) as i32 - 40);
            let x = rounded::<f32>(&normal(n, 32 * slabs, 31).map(grown));
            let run = |seed| Run { device, tiled, seed, ..Run::default() };
            check::<f32>(&x, run(1));
            let found = by_tensor_cores::<f32>(&x, run(1));
            assert!((2..6).all(|seed| by_tensor_cores::<f32>(&x, run(seed)) == found), "{slabs} slabs, tiled {tiled}");
        }
    }
}

#[test]
fn more_examples_than_a_small_block_holds() {
    // 176 rows still fit into four buffers of 99 KiB.
    for (n, p) in [(176, 100), (177, 100), (256, 65)] {
        let run = Run { device: TIGHT, ..Run::default() };
        assert_eq!(plan::gram_fused(n, p, TIGHT).is_some(), n <= 176);
        check::<f32>(&rectified(n, p, 5), run);
    }
}

#[test]
fn the_order_of_threads_does_not_show() {
    for (n, p) in [(5, 300), (64, 513), (200, 130)] {
        let x = inputs::growing(n, p, 14);
        for products in [Products::Exact, Products::Fast] {
            for tiled in [false, true] {
                let run = Run { products, tiled, ..Run::default() };
                let first = by_tensor_cores::<f32>(&x, Run { seed: 1, ..run });
                assert!([2, 3, 4].iter().all(|&seed| by_tensor_cores::<f32>(&x, Run { seed, ..run }) == first));
            }
        }
    }
}

#[test]
fn fused_and_tiled_agree() {
    // Their shifts differ in the last bits, their splits altogether.
    let x = rounded::<f32>(&rectified(100, 600, 15));
    let [fused, tiled] = [false, true].map(|tiled| by_tensor_cores::<f32>(&x, Run { tiled, ..Run::default() }));
    let error = largest_error(&hsic::u_centre(&fused), &hsic::u_centre(&tiled), &gram::linear(&x));
    assert!(error <= 2.0 * EXACT, "{error:e}");
}

#[test]
fn double_agrees_with_its_naive_twin() {
    for (n, p) in sizes(&[4, 31, 33, 70], &[1, 31, 32, 33, 500]) {
        let x = rounded::<f32>(&normal(n, p, 16));
        let (double, columns, input) = by_doubles::<f32>(&x, Run::default());
        let naive = gram_naive(&input, &columns);
        let error = largest_error(&double, &naive, &naive);
        assert!(error <= 1e-14, "{n} x {p}: {error:e}");
    }
}

#[test]
fn fast_variants_agree_with_the_naive_twin() {
    let x = rounded::<f32>(&normal(80, 300, 17));
    let (_, columns, input) = by_doubles::<f32>(&x, Run::default());
    let naive = gram_naive(&input, &columns);
    for tiled in [false, true] {
        let found = by_tensor_cores::<f32>(&x, Run { tiled, ..Run::default() });
        let error = largest_error(&hsic::u_centre(&found), &hsic::u_centre(&naive), &naive);
        assert!(error <= EXACT, "tiled {tiled}: {error:e}");
    }
}

#[test]
fn shifts_are_trimmed_means() {
    // Two examples have no trimmed mean: any shift between them will do.
    for (n, p) in sizes(&[3, 4, 5, 33], &[1, 127, 128, 129]) {
        let x = rounded::<f32>(&inputs::offset_outlier(n, p, 1e6, 18));
        let columns = columns(&Input::<f32>::new(&x, Run::default()), Run::default());
        let shifted = gram::shift(&x);
        for j in 0..p {
            let (shift, truth) = (f64::from(columns.shifts.values()[j]), x.get(0, j) - shifted.get(0, j));
            let others =
                x.column(j).fold(0.0f64, |most, value| if value.abs() < 1e4 { most.max(value.abs()) } else { most });
            // n roundings of sums that the extremes never enter; where n < 4, an extreme may be all there is.
            let tolerance = if n < 4 { 1e-6 * truth.abs() } else { n as f64 * 6e-8 * others };
            assert!((shift - truth).abs() <= tolerance, "{n} x {p}: {shift} {truth}");
            let largest = x.column(j).fold(0.0f64, |most, value| most.max(value.abs()));
            assert_eq!(f64::from(columns.largest.values()[j]), largest);
        }
    }
}

#[test]
fn constant_columns_vanish() {
    // 1/3 has no exact float32, nor have the sums of many of them; the shift must be the value itself.
    let x = Matrix::from_fn(255, 70, |_, j| (j + 1) as f64 / 3.0);
    for tiled in [false, true] {
        let k = by_tensor_cores::<f32>(&x, Run { tiled, ..Run::default() });
        assert!(k.data.iter().all(|&value| value == 0.0));
    }
}

/// Errors of all products over inputs that are hard on float32.
fn check_hostile(x: &Matrix) {
    for tiled in [false, true] {
        check::<f32>(x, Run { tiled, ..Run::default() });
    }
}

#[test]
fn features_far_from_zero() {
    check_hostile(&inputs::offset(64, 300, 19));
}

#[test]
fn outlying_examples() {
    for factor in [1e2, 1e4, 1e6, 1e8] {
        check_hostile(&inputs::outlier(48, 200, factor, 20));
    }
}

#[test]
fn scales_at_the_ends_of_float32() {
    for factor in [1e-37, 1e-30, 1e-15, 1e25, 1e37] {
        check_hostile(&inputs::scaled(&normal(40, 150, 21), factor));
    }
}

#[test]
fn the_largest_and_smallest_numbers() {
    let sign = |i: usize, j: usize| if (i * 7 + j * 3) % 5 < 2 { -1.0 } else { 1.0 };
    // Differences of these overflow float32, and so do sums.
    check_hostile(&Matrix::from_fn(33, 70, |i, j| sign(i, j) * f64::from(f32::MAX) * (1.0 - 0.01 * (i % 9) as f64)));
    // These are below the normal numbers.
    check_hostile(&Matrix::from_fn(33, 70, |i, j| sign(i, j) * 1e-40 * (1 + (i * j) % 13) as f64));
}

#[test]
fn scales_that_grow_on_the_way() {
    check_hostile(&inputs::growing(40, 400, 22));
    // From the smallest numbers to the largest, slab by slab: what came before a growth is all but nothing beside it.
    check_hostile(&normal(40, 200, 23).map(|_, j, value| value * 10f64.powi(12 * (j / 32) as i32 - 37)));
    check_hostile(&normal(40, 200, 24).map(|_, j, value| value * 10f64.powi(35 - 12 * (j / 32) as i32)));
}

#[test]
fn duplicated_examples_and_constant_columns() {
    check_hostile(&inputs::duplicated(33, 100, 25));
    check_hostile(&inputs::constant_columns(64, 100, 26));
}

#[test]
fn the_first_bad_example_is_found() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (n, p, row, column) in [(4, 1, 3, 0), (33, 70, 0, 69), (64, 513, 50, 512), (256, 40, 255, 3)] {
            // A later one beside it must not distract.
            let x =
                normal(n, p, 27).map(|i, j, value| if i >= row && (j + i - row) % p == column { bad } else { value });
            for tiled in [false, true] {
                let run = Run { tiled, ..Run::default() };
                assert_eq!(gram_mma(&Input::<f32>::new(&x, run), run).bad, Some(row), "{n} x {p} {bad} tiled {tiled}");
            }
            assert_eq!(gram_mma(&Input::<bf16>::new(&x, Run::default()), Run::default()).bad, Some(row));
        }
    }
}

#[test]
fn distances_do_not_lose_ordinary_rows_beside_distant_ones() {
    let x = rounded::<f32>(&normal(37, 70, 29).map(|i, _, value| value * if i < 3 { 1e8 } else { 1.0 }));
    let found = distances(&Input::<f32>::new(&x, Run::default()), Run::default());
    for (entry, found) in found.values().iter().enumerate() {
        let (a, b) = (x.row(entry / 37), x.row(entry % 37));
        let truth: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        assert!((found - truth).abs() <= 1e-14 * truth, "{entry}: {found} {truth}");
    }
}

#[test]
fn the_reach_is_what_chains_could_have_come_to() {
    // In one block, and larger from a column on: growth rescales what has been left behind, of chains before it (1,000 features), and
    // of a flush before it and of chains since (5,000). What came before is still seen: a factor of 30 is one of 30^4.
    let device = Device { multiprocessors: 1, ..SMALL };
    for (n, p, from, factor) in [(33, 1000, 512, 300.0), (33, 5000, 3000, 3.0), (17, 5000, 2050, 30.0)] {
        let x = rounded::<f32>(&normal(n, p, 30).map(|_, j, value| value * if j < from { 1.0 } else { factor }));
        let shifted = gram::shift(&x);
        for tiled in [false, true] {
            let run = Run { device, tiled, ..Run::default() };
            let found = gram_mma(&Input::<f32>::new(&x, run), run).gram;
            for (i, found) in found.reach.values().iter().enumerate() {
                let square = |chain: &[f64]| chain.iter().map(|value| value * value).sum::<f64>();
                let truth = shifted.row(i).chunks(512).map(|chain| square(chain).powi(2)).sum::<f64>().sqrt();
                assert!((found - truth).abs() <= 1e-5 * truth, "{n} x {p}, tiled {tiled} {i}: {found} {truth}");
            }
            assert!(error(&found.matrix(), &x) <= EXACT, "{n} x {p}, tiled {tiled}");
        }
    }
}
