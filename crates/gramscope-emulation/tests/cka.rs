//! The whole chain, gram, ucenter, hsic, CKA, against float64: 1e-6 in every entry for `exact`, 1e-3 for `fast`.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::{self, Device};
use gramscope_reference::Matrix;
use gramscope_reference::cka::{Estimator, Kernel, minibatch};
use half::{bf16, f16};
use support::chain::{Products, Run, cka};
use support::inputs::{self, normal, pair, rectified};
use support::{Element, SMALL, rounded};

const EXACT: f64 = 1e-6;
const FAST: f64 = 1e-3;

/// The error of the CKA of every layer of `x` with every one of `y`, `x[batch][layer]`, against float64; NaN where an entry is.
fn largest_error<T: Element>(x: &[Vec<Matrix>], y: Option<&[Vec<Matrix>]>, run: Run) -> f64 {
    let round = |batches: &[Vec<Matrix>]| -> Vec<Vec<Matrix>> {
        batches.iter().map(|layers| layers.iter().map(rounded::<T>).collect()).collect()
    };
    let (x, y) = (round(x), y.map(round));
    let found = cka::<T>(&x, y.as_deref(), run);
    let estimator = if run.biased { Estimator::Biased } else { Estimator::Unbiased };
    let layer =
        |batches: &[Vec<Matrix>], index: usize| batches.iter().map(|layers| layers[index].clone()).collect::<Vec<_>>();
    let y = y.as_deref().unwrap_or(&x);
    let mut largest = 0.0f64;
    for i in 0..found.rows {
        for j in 0..found.cols {
            let truth = minibatch(&layer(&x, i), &layer(y, j), Kernel::Linear, estimator);
            let error = (found.get(i, j) - truth).abs();
            largest = if error.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(error) };
        }
    }
    largest
}

/// `exact`, and `fast` from n = 32 on, of one model with itself in one batch.
fn check<T: Element>(layers: &[Matrix], run: Run) {
    let n = layers[0].rows;
    for (products, tolerance) in [(Products::Exact, EXACT), (Products::Fast, FAST)] {
        if products == Products::Fast && n < 32 {
            continue;
        }
        let error = largest_error::<T>(&[layers.to_vec()], None, Run { products, ..run });
        assert!(error <= tolerance, "n = {n}, {} {products:?} {run:?}: {error:e}", T::SUFFIX);
    }
}

fn layers(n: usize, p: usize) -> Vec<Matrix> {
    let (x, y) = pair(n, p, p / 2 + 1, 1);
    vec![x, y, rectified(n, p, 2), normal(n, 3, 3)]
}

#[test]
fn few_examples() {
    for (n, p) in [(4, 1), (4, 100), (5, 64), (31, 7), (31, 513)] {
        check::<f32>(&layers(n, p), Run::default());
    }
}

#[test]
fn middling_batches() {
    for (n, p) in [(32, 1), (32, 513), (33, 3), (63, 65), (64, 100), (65, 512)] {
        check::<f32>(&layers(n, p), Run::default());
    }
}

#[test]
fn large_batches() {
    for (n, p) in [(128, 200), (255, 65), (256, 300), (257, 64)] {
        check::<f32>(&layers(n, p), Run::default());
    }
}

#[test]
fn the_biased_estimator() {
    for (n, p) in [(4, 30), (33, 100), (64, 65)] {
        check::<f32>(&layers(n, p), Run { biased: true, ..Run::default() });
    }
}

#[test]
fn half_precision() {
    for (n, p) in [(5, 30), (40, 100), (64, 513)] {
        check::<bf16>(&layers(n, p), Run::default());
        check::<f16>(&layers(n, p), Run { shift: 3, ..Run::default() });
    }
}

#[test]
fn two_models_and_several_batches() {
    // The last batch is short.
    let sizes = [40, 40, 33];
    let batch = |n: usize, seed: u64| {
        let (x, y) = pair(n, 90, 50, seed);
        (vec![x, rectified(n, 70, seed + 2)], vec![y, normal(n, 20, seed + 3), rectified(n, 10, seed + 4)])
    };
    let (x, y): (Vec<_>, Vec<_>) = sizes.iter().enumerate().map(|(b, &n)| batch(n, 10 * b as u64)).unzip();
    for (products, tolerance) in [(Products::Exact, EXACT), (Products::Fast, FAST)] {
        let run = Run { products, ..Run::default() };
        let within = largest_error::<f32>(&x, None, run);
        let across = largest_error::<f32>(&x, Some(&y), run);
        assert!(within <= tolerance && across <= tolerance, "{products:?}: {within:e} {across:e}");
    }
}

/// Batches on both sides of what one block holds, and their features, few so that they are soon emulated.
const LARGE: [(usize, usize); 3] = [(255, 6), (256, 7), (257, 8)];

/// A hostile layer beside friendly ones, at several sizes.
fn check_hostile(layer: impl Fn(usize, usize) -> Matrix) {
    check_hostile_at(&LARGE, layer);
}

/// The same, of one that is much like those before and after it: the large sizes take turns.
fn check_one_of_many(turn: usize, layer: impl Fn(usize, usize) -> Matrix) {
    check_hostile_at(&[LARGE[turn % LARGE.len()]], layer);
}

fn check_hostile_at(large: &[(usize, usize)], layer: impl Fn(usize, usize) -> Matrix) {
    for &(n, p) in [(4, 40), (33, 200), (64, 100)].iter().chain(large) {
        check::<f32>(&[layer(n, p), rectified(n, p, 7), normal(n, p, 8)], Run::default());
    }
}

#[test]
fn features_far_from_zero() {
    check_hostile(|n, p| inputs::offset(n, p, 20));
}

#[test]
fn outlying_examples() {
    for (turn, factor) in [1e2, 1e4, 1e6, 1e8].into_iter().enumerate() {
        check_one_of_many(turn, |n, p| inputs::outlier(n, p, factor, 21));
        check_one_of_many(turn + 1, |n, p| inputs::offset_outlier(n, p, factor, 22));
    }
}

#[test]
fn scales() {
    for (turn, factor) in [1e-37, 1e-15, 1e25, 1e37].into_iter().enumerate() {
        check_one_of_many(turn, |n, p| inputs::scaled(&normal(n, p, 8), factor));
    }
}

#[test]
fn scales_that_grow_on_the_way() {
    check_hostile(|n, p| inputs::growing(n, p, 23));
}

#[test]
fn duplicated_examples_and_constant_columns() {
    check_hostile(|n, p| inputs::duplicated(n, p, 24));
    check_hostile(|n, p| inputs::constant_columns(n, p, 25));
}

#[test]
fn one_feature() {
    check_hostile(|n, _| normal(n, 1, 26));
    check_hostile(|n, _| rectified(n, 1, 27));
}

#[test]
fn badly_conditioned_gram_matrices() {
    // Two clusters far apart: the trimmed mean lies in one of them, kappa is large, and products must be redone.
    for (turn, far) in [3.0, 10.0, 100.0, 1e4].into_iter().enumerate() {
        check_one_of_many(turn, |n, p| normal(n, p, 28).map(|i, _, value| value + if i % 7 == 0 { far } else { 0.0 }));
        // All examples alike but for a little: nearly the same row everywhere, seen from a column's middle.
        check_one_of_many(turn + 1, |n, p| {
            normal(n, p, 29).map(|i, j, value| value + far * ((i * 31 + j * 17) % 5) as f64)
        });
    }
}

/// One multiprocessor sums all features: five times what registers hold before it goes to memory. Sums that only grow, and sums that
/// end near where they began.
#[test]
fn sums_over_many_features() {
    const P: usize = 10_000;
    let device = Device { multiprocessors: 1, ..SMALL };
    let alternating = |seed: u64| {
        let x = normal(33, P / 2, seed);
        Matrix::from_fn(33, P, |i, f| match f.checked_sub(P / 2) {
            None => x.get(i, f) + 1.0,
            Some(f) => x.get(i, f) * if i % 2 == 0 { 0.999 } else { -0.999 },
        })
    };
    let layers = [rectified(33, P, 2), alternating(4), normal(33, P, 5)];
    for tiled in [false, true] {
        check::<f32>(&layers, Run { device, tiled, ..Run::default() });
    }
}

/// Entry (i, f) of Sylvester's matrix of signs, whose rows are orthogonal.
fn sign(i: usize, f: usize) -> f64 {
    if (i & f).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
}

#[test]
fn rows_that_are_nearly_orthogonal() {
    // Products are large and cancel: |K| does not show it, reach does.
    for n in [32, 33, 64] {
        for small in [0.3, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4] {
            let layer = |seed: u64| {
                normal(n, 512, seed).map(|i, f, value| if f < 256 { 0.3 * sign(i, f) } else { small * value })
            };
            check::<f32>(&(0..3).map(layer).collect::<Vec<_>>(), Run::default());
        }
    }
}

#[test]
fn orthogonal_rows_have_no_similarity() {
    for n in [4, 32, 64] {
        let layers = vec![Matrix::from_fn(n, 256, |i, f| 0.3 * sign(i, f)), normal(n, 8, 1)];
        let found = cka::<f32>(&[layers], None, Run::default());
        assert!(
            found.get(0, 0).is_nan() && found.get(1, 0).is_nan() && !found.get(1, 1).is_nan(),
            "n = {n}: {found:?}"
        );
    }
}

#[test]
fn layers_that_take_few_values() {
    // Sums of equal terms round in one direction, and equal rows make equal errors: nothing averages out.
    for n in [4, 32, 33, 46] {
        for p in [1, 37, 512] {
            let two = |l: usize| Matrix::from_fn(n, p, |i, _| [1.0, -0.7][i % 2] * (1.0 + l as f64 / 3.0));
            check::<f32>(&(0..3).map(two).collect::<Vec<_>>(), Run::default());
            for classes in [2, 5] {
                let layer = |seed: u64| {
                    let rows = normal(classes, p, seed);
                    Matrix::from_fn(n, p, |i, f| rows.get(i % classes, f))
                };
                check::<f32>(&(0..3).map(layer).collect::<Vec<_>>(), Run::default());
            }
        }
    }
}

/// Labels over all positions of a map, one-hot words, and one of the labels.
fn labels(n: usize, p: usize, turn: usize) -> [Matrix; 3] {
    let (classes, scale) = (3 + turn % 4, 0.0517 * (turn as f64 * 2.3 + 1.0));
    let of = |i: usize| (i * 7919 + i * i * (turn + 3)) % 104_729 % classes;
    [
        Matrix::from_fn(n, p, |i, _| scale * of(i) as f64),
        Matrix::from_fn(n, p, |i, f| if f % classes == of(i) { scale } else { 0.0 }),
        Matrix::from_fn(n, 1, |i, _| f64::from(u8::from(of(i) == 0))),
    ]
}

/// All terms of a sum are equal, and round in one direction, another one for each value
/// that the sum can have.
#[test]
fn columns_that_are_copies_of_each_other() {
    for (n, p, turns) in [(32, 512, 4), (64, 4096, 2), (256, 2048, 1), (257, 1000, 1)] {
        for turn in 0..turns {
            check::<f32>(&labels(n, p, turn), Run::default());
        }
    }
    let [a, b, y] =
        ["00211310000122110013220323203320", "02033132200300330031000101001100", "00011010000100110010000000000000"]
            .map(str::as_bytes);
    let values = [-1.715_213_656_425_476, -1.143_475_770_950_317_4, 1.143_475_770_950_317_4, 1.715_213_656_425_476];
    let others = [-1.715_213_656_425_476, -1.143_475_770_950_317_4, -0.571_737_885_475_158_7, 0.0];
    let place = |digits: &[u8], i: usize| usize::from(digits[i] - b'0');
    let copies = Matrix::from_fn(32, 4096, |i, f| if f % 2 == 0 { others[place(a, i)] } else { values[place(b, i)] });
    check::<f32>(&[copies, Matrix::from_fn(32, 1, |i, _| place(y, i) as f64)], Run::default());
}

/// The same, as many of them as a block adds up at most: 64 flushes of 64 slabs.
#[test]
fn copies_in_the_longest_split() {
    const P: usize = 64 * 64 * 32;
    let device = Device { multiprocessors: 1, ..SMALL };
    assert_eq!(plan::gram_fused(33, P, device).unwrap().splits, 1);
    assert_eq!(plan::gram_tiled(33, P, device).unwrap().splits, 1);
    for tiled in [false, true] {
        let run = Run { device, tiled, ..Run::default() };
        let error = largest_error::<f32>(&[labels(33, P, 1).to_vec()], None, run);
        assert!(error <= EXACT, "tiled {tiled}: {error:e}");
    }
}

#[test]
fn several_outlying_examples() {
    for n in [5, 33] {
        for (count, factor) in [(1, 1e12), (1, 1e25), (2, 1e8), (3, 1e4), (3, 1e8)] {
            let layer = |seed: u64| normal(n, 50, seed).map(|i, _, value| value * if i < count { factor } else { 1.0 });
            check::<f32>(&(0..3).map(layer).collect::<Vec<_>>(), Run::default());
        }
    }
}

#[test]
fn clusters_and_layers_that_are_mostly_dead() {
    for n in [8, 33] {
        for share in [2, 4, 8, 16] {
            let alive =
                |seed: u64| normal(n, 50, seed).map(|i, _, value| if i % share == 0 { 10.0 + value } else { 0.0 });
            if n / share > 1 {
                check::<f32>(&(0..3).map(alive).collect::<Vec<_>>(), Run::default());
            }
        }
        for spread in [0.1, 1e-2, 1e-3] {
            let cluster =
                |seed: u64| normal(n, 50, seed).map(|i, _, value| f64::from(u8::from(4 * i < n)) + spread * value);
            check::<f32>(&(0..3).map(cluster).collect::<Vec<_>>(), Run::default());
        }
    }
}

#[test]
fn a_dead_layer_is_undefined_and_the_others_are_not() {
    for n in [5, 40] {
        // Constant; and alive in one example only, which the unbiased estimator does not see.
        let one = Matrix::from_fn(n, 30, |i, j| if i == 2 { 1.0 + j as f64 } else { 0.0 });
        let layers = vec![Matrix::from_fn(n, 20, |_, j| j as f64 / 3.0), normal(n, 20, 30), one];
        for products in [Products::Exact, Products::Fast] {
            let found = cka::<f32>(std::slice::from_ref(&layers), None, Run { products, ..Run::default() });
            let defined = |i: usize, j: usize| !found.get(i, j).is_nan();
            assert!((0..3).all(|j| !defined(0, j) && !defined(2, j)), "n = {n} {products:?}: {found:?}");
            assert!((found.get(1, 1) - 1.0).abs() <= EXACT);
        }
    }
}

#[test]
fn the_order_of_threads_does_not_show() {
    let layers = [layers(40, 70)];
    let bits = |seed| {
        cka::<f32>(&layers, None, Run { seed, ..Run::default() }).data.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(bits(1), bits(2));
}
