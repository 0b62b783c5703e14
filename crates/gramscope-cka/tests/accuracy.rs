//! Inputs made to break the float32 path, against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cka::{Activation, Comparison, Estimator, Gram, Kernel, Options, Values};
use gramscope_reference::largest_difference;
use support::{Layer, compare, normals, truth};

/// [`Gram::Exact`] promises this,
const EXACT: f64 = 1e-6;
/// and [`Gram::Fast`] this, from 32 examples on.
const FAST: f64 = 1e-3;

/// Holds the layers' comparison to both promises, with both estimators.
fn check(name: &str, layers: Vec<Layer>) {
    let n = layers[0].examples();
    let batches = [layers];
    for estimator in [Estimator::Unbiased, Estimator::Biased] {
        for kernel in [Kernel::Linear, Kernel::Rbf { bandwidth: 0.5 }] {
            let truth = truth(&batches, Options { estimator, kernel, gram: Gram::Exact, ..Options::default() });
            for (gram, promised) in [(Gram::Exact, EXACT), (Gram::Fast, FAST)] {
                if gram == Gram::Fast && n < 32 {
                    continue;
                }
                let error = largest_difference(
                    &compare(&batches, Options { estimator, kernel, gram, ..Options::default() }),
                    &truth,
                );
                assert!(error <= promised, "{name}, n = {n}, {estimator}, {kernel}, {gram}: {error:e}");
            }
        }
    }
}

/// Entry (i, f) of Sylvester's matrix of signs, whose rows are orthogonal.
fn sign(i: usize, f: usize) -> f64 {
    if (i & f).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
}

#[test]
fn rows_that_are_nearly_orthogonal() {
    // The products are large and cancel; what is left is as small as their rounding. |K| does not show it, its reach does.
    for n in [4, 5, 32, 33, 64] {
        for small in [0.3, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4] {
            let layer = |seed: u64| {
                let noise = normals(seed, n * 512);
                let value = |i: usize, f: usize| if f < 256 { 0.3 * sign(i, f) } else { small * noise[i * 512 + f] };
                Layer::from_fn(n, 512, value)
            };
            check(&format!("orthogonal rows plus {small}"), (0..4).map(layer).collect());
        }
    }
}

#[test]
fn orthogonal_rows_have_no_similarity_rather_than_one_of_rounding_errors() {
    for n in [4, 32, 64] {
        let layers = vec![Layer::from_fn(n, 256, |i, f| 0.3 * sign(i, f)), Layer::normal(1, n, 8)];
        let cka = compare(&[layers], Options::default());
        assert!(cka[..3].iter().all(|value| value.is_nan()) && cka[3] == 1.0, "n = {n}: {cka:?}");
    }
}

#[test]
fn layers_that_take_few_values() {
    // Sums of equal terms round in one direction, and equal rows make equal errors: nothing averages out.
    for n in [4, 32, 33, 46, 256] {
        for p in [1, 37, 512] {
            let two = |l: u64| Layer::from_fn(n, p, |i, _| [1.0, -0.7][i % 2] * (1.0 + l as f64 / 3.0));
            check(&format!("two values, p = {p}"), (0..5).map(two).collect());
            for classes in [2, 5] {
                let layer = |seed: u64| {
                    let rows = normals(seed, classes * p);
                    Layer::from_fn(n, p, |i, f| rows[i % classes * p + f])
                };
                check(&format!("{classes} classes, p = {p}"), (0..5).map(layer).collect());
            }
        }
    }
}

#[test]
fn columns_that_are_copies_of_each_other() {
    // Labels over all positions of a map, upsampled maps, one-hot words: all terms of a sum are equal, and round in one direction,
    // another one for each value that the sum can have.
    for (n, p, turns) in [(32, 512, 6), (32, 1000, 2), (64, 512, 6), (64, 2048, 1), (256, 512, 2)] {
        for turn in 0..turns {
            let (classes, scale) = (3 + turn % 4, 0.0517 * (turn as f64 * 2.3 + 1.0));
            let of = |i: usize| (i * 7919 + i * i * (turn + 3)) % 104_729 % classes;
            let layers = vec![
                Layer::from_fn(n, p, |i, _| scale * of(i) as f64),
                Layer::from_fn(n, p, |i, f| if f % classes == of(i) { scale } else { 0.0 }),
                Layer::from_fn(n, 1, |i, _| if of(i) == 0 { 1.0 } else { 0.0 }),
            ];
            check(&format!("{classes} classes times {scale}, p = {p}"), layers);
        }
    }
    // Found by search: chains of 512 were off by 5.9e-6.
    let [a, b, y] =
        ["00211310000122110013220323203320", "02033132200300330031000101001100", "00011010000100110010000000000000"]
            .map(str::as_bytes);
    let values = [-1.715_213_656_425_476, -1.143_475_770_950_317_4, 1.143_475_770_950_317_4, 1.715_213_656_425_476];
    let others = [-1.715_213_656_425_476, -1.143_475_770_950_317_4, -0.571_737_885_475_158_7, 0.0];
    let place = |digits: &[u8], i: usize| usize::from(digits[i] - b'0');
    let copies = Layer::from_fn(32, 512, |i, f| if f % 2 == 0 { others[place(a, i)] } else { values[place(b, i)] });
    check("two columns, 256 times", vec![copies, Layer::from_fn(32, 1, |i, _| place(y, i) as f64)]);
}

/// Where the bandwidth is large (Alvarez, "Gaussian RBF CKA in the large bandwidth limit"), K_ij = 1 - d_ij^2 / (2 t^2 M) to d^4 / t^4, which centring makes what it makes of inner products.
#[test]
fn a_wide_rbf_kernel_is_the_linear_one() {
    for n in [4, 5, 33, 64] {
        let batches = [vec![Layer::normal(1, n, 7), Layer::normal(2, n, 40), Layer::normal(3, n, 1)]];
        for estimator in [Estimator::Unbiased, Estimator::Biased] {
            let options = Options { estimator, ..Options::default() };
            let linear = truth(&batches, options);
            for bandwidth in [1e4, 1e7, 1e100] {
                let kernel = Kernel::Rbf { bandwidth };
                let error = largest_difference(&compare(&batches, Options { kernel, ..options }), &linear);
                assert!(error <= EXACT, "n = {n}, {estimator}, {kernel}: {error:e}");
            }
        }
    }
}

#[test]
fn outlying_rows() {
    for n in [5, 32, 33, 256] {
        for (count, factor) in [(1, 1e4), (1, 1e8), (1, 1e12), (1, 1e25), (2, 1e8), (3, 1e4), (3, 1e8)] {
            let row = |i: usize| if i < count { factor } else { 1.0 };
            let all = |seed: u64| {
                let noise = normals(seed, n * 50);
                Layer::from_fn(n, 50, |i, f| noise[i * 50 + f] * row(i))
            };
            check(&format!("{count} rows of {factor:e}"), (0..4).map(all).collect());
            // In features that are constant in all other rows, so that it is not the outlier that decides. Beyond 1e12 the
            // other rows are below the rounding of what their products with the outlier could have been: undefined.
            if factor > 1e12 {
                continue;
            }
            let aside = |seed: u64| {
                let noise = normals(seed, n * 50);
                let value = |i: usize, f: usize| match (f < 10, i < count) {
                    (true, true) => noise[i * 50 + f] * factor,
                    (true, false) => 0.3,
                    _ => noise[i * 50 + f],
                };
                Layer::from_fn(n, 50, value)
            };
            check(&format!("{count} rows of {factor:e} in some features"), (0..4).map(aside).collect());
        }
    }
}

#[test]
fn clusters_and_layers_that_are_mostly_dead() {
    for n in [8, 32, 33, 256] {
        for share in [2, 3, 4, 8, 16] {
            let alive = |seed: u64| {
                let noise = normals(seed, n * 50);
                Layer::from_fn(n, 50, |i, f| if i % share == 0 { 10.0 + noise[i * 50 + f] } else { 0.0 })
            };
            check(&format!("one in {share} is alive"), (0..4).map(alive).collect());
        }
        for spread in [0.1, 1e-2, 1e-3] {
            let cluster = |seed: u64| {
                let noise = normals(seed, n * 50);
                Layer::from_fn(n, 50, |i, f| f64::from(u8::from(4 * i < n)) + spread * noise[i * 50 + f])
            };
            check(&format!("two clusters of spread {spread}"), (0..4).map(cluster).collect());
        }
    }
}

#[test]
fn float64_values_beyond_the_range_of_their_squares() {
    let n = 33;
    let layers: Vec<Layer> = (0..3).map(|seed| Layer::normal(seed, n, 7)).collect();
    for kernel in [Kernel::Linear, Kernel::Rbf { bandwidth: 0.5 }] {
        let options = Options { kernel, ..Options::default() };
        let mut comparison = Comparison::new(&[3], &[(0, 0)], options).unwrap();
        comparison.begin_batch(n).unwrap();
        for (index, (layer, scale)) in layers.iter().zip([1e-200, 1.0, 1e200]).enumerate() {
            let values: Vec<f64> = layer.values.iter().map(|&value| f64::from(value) * scale).collect();
            comparison.observe(0, index, Activation::new(Values::F64(&values), n).unwrap()).unwrap();
        }
        comparison.end_batch().unwrap();
        let found = comparison.finish().unwrap().remove(0).cka;
        let error = largest_difference(&found, &truth(std::slice::from_ref(&layers), options));
        assert!(error <= EXACT, "{kernel}: {error:e}");
    }
}

/// Beside a column that is constant and huge, and gone once it is shifted, the others' products are so small that their squares are 0:
/// what float32 makes of rows that are nearly orthogonal must not pass for well conditioned.
#[test]
fn float64_values_beside_a_huge_constant() {
    let (n, p) = (32, 512);
    let layers: Vec<Layer> = (0..3)
        .map(|seed| {
            let noise = normals(seed, n * p);
            Layer::from_fn(n, p, |i, f| if f < 256 { 0.3 * sign(i, f) } else { 0.01 * noise[i * p + f] })
        })
        .collect();
    let truth = truth(std::slice::from_ref(&layers), Options::default());
    for constant in [1e80, 1e100, 1e140] {
        let mut comparison = Comparison::new(&[3], &[(0, 0)], Options::default()).unwrap();
        comparison.begin_batch(n).unwrap();
        for (index, layer) in layers.iter().enumerate() {
            let row = |row: &[f32]| row.iter().map(|&value| f64::from(value)).chain([constant]).collect::<Vec<f64>>();
            let values: Vec<f64> = layer.values.chunks(p).flat_map(row).collect();
            comparison.observe(0, index, Activation::new(Values::F64(&values), n).unwrap()).unwrap();
        }
        comparison.end_batch().unwrap();
        let error = largest_difference(&comparison.finish().unwrap().remove(0).cka, &truth);
        assert!(error <= EXACT, "{constant:e}: {error:e}");
    }
}
