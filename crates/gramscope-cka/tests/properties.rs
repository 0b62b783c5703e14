//! What minibatch CKA does not depend on, and what it must be.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cka::{Activation, Comparison, Error, Estimator, Gram, Kernel, Options, Values};
use gramscope_reference::{Matrix, gram, hsic, largest_difference};
use support::{Layer, compare, normals, truth};

/// What [`Gram::Exact`] promises: two results that are equal in exact arithmetic differ by twice that at most.
const APART: f64 = 2e-6;

const BATCHES: [usize; 3] = [7, 32, 33];
const FEATURES: usize = 24;

fn all_options() -> impl Iterator<Item = Options> {
    [Estimator::Unbiased, Estimator::Biased].into_iter().flat_map(|estimator| {
        let kernels = [Kernel::Linear, Kernel::Rbf { bandwidth: 0.5 }];
        kernels.map(|kernel| Options { estimator, kernel, gram: Gram::Exact, ..Options::default() })
    })
}

/// Three layers that have something in common.
fn related(seed: u64, n: usize) -> Vec<Layer> {
    let shared = normals(seed, n * FEATURES);
    let layer = |index: u64| {
        let own = normals(seed + 1 + index, n * FEATURES);
        let value = |at: usize| shared[at].abs() + (index + 1) as f64 / 3.0 * own[at];
        Layer::from_fn(n, FEATURES, |i, f| value(i * FEATURES + f))
    };
    (0..3).map(layer).collect()
}

/// Holds the comparison of layers and changed layers to that of the layers with themselves.
fn check_invariance(change: impl Fn(&Layer) -> Layer) {
    for n in BATCHES {
        let layers = related(n as u64, n);
        let changed: Vec<Layer> = layers.iter().map(change_of(&change)).collect();
        let mixed = vec![layers[0].clone(), changed[1].clone(), layers[2].clone()];
        for options in all_options() {
            let expected = compare(std::slice::from_ref(&layers), options);
            for changed in [changed.clone(), mixed.clone()] {
                let error = largest_difference(&compare(&[changed], options), &expected);
                assert!(error <= APART, "n = {n}, {options:?}: {error:e}");
            }
        }
    }
}

fn change_of(change: &impl Fn(&Layer) -> Layer) -> impl Fn(&Layer) -> Layer {
    move |layer| change(layer)
}

fn map(layer: &Layer, value: impl Fn(usize, f64) -> f64) -> Layer {
    let width = layer.features;
    Layer::from_fn(layer.examples(), width, |i, f| value(f, f64::from(layer.values[i * width + f])))
}

#[test]
fn an_orthogonal_transformation_of_the_features_changes_nothing() {
    // The reflection at the plane orthogonal to v.
    let v = normals(9, FEATURES);
    let squared: f64 = v.iter().map(|value| value * value).sum();
    check_invariance(|layer| {
        let x = layer.matrix();
        let along = |i: usize| x.row(i).iter().zip(&v).map(|(x, v)| x * v).sum::<f64>();
        Layer::from_fn(x.rows, FEATURES, |i, f| x.get(i, f) - 2.0 * along(i) * v[f] / squared)
    });
}

#[test]
fn a_common_scale_of_the_features_changes_nothing() {
    for scale in [-1.0, 3.0, 1e-15, 1e25] {
        check_invariance(|layer| map(layer, |_, value| scale * value));
    }
}

#[test]
fn a_shift_of_the_features_changes_nothing() {
    // Rounding the shifted values to float32 moves them by 2e-7 of their size, up to 4, each on its own: of the sums over 24
    // features and 33 examples, less than 1e-6.
    check_invariance(|layer| map(layer, |f, value| value + 0.25 * f as f64 - 2.0));
}

#[test]
fn the_order_of_the_features_does_not_matter() {
    check_invariance(|layer| {
        let width = layer.features;
        Layer::from_fn(layer.examples(), width, |i, f| f64::from(layer.values[i * width + (7 * f + 5) % width]))
    });
}

#[test]
fn a_layer_is_like_itself_and_likeness_is_mutual() {
    for n in [4, 5, 32, 33] {
        let mut layers = related(3, n);
        layers.push(layers[0].clone());
        for options in all_options() {
            let cka =
                compare(&[layers.clone(), related(4, n).into_iter().chain(related(4, n)).take(4).collect()], options);
            for i in 0..4 {
                assert_eq!(cka[i * 4 + i], 1.0);
                for j in 0..4 {
                    assert_eq!(cka[i * 4 + j].to_bits(), cka[j * 4 + i].to_bits());
                }
            }
            // A copy is known to be one up to the rounding of the panel.
            assert!((cka[3] - 1.0).abs() <= 1e-6, "n = {n}, {options:?}: {}", cka[3]);
        }
    }
}

#[test]
fn a_pair_of_models_is_compared_as_one_model_is_with_itself() {
    let n = 33;
    let layers = related(5, n);
    for options in all_options() {
        let expected = compare(std::slice::from_ref(&layers), options);
        let mut comparison = Comparison::new(&[3, 2], &[(0, 1), (1, 0)], options).unwrap();
        comparison.begin_batch(n).unwrap();
        for (model, count) in [(1, 2), (0, 3)] {
            for layer in (0..count).rev() {
                let values = Values::F32(&layers[layer].values);
                comparison.observe(model, layer, Activation::new(values, n).unwrap()).unwrap();
            }
        }
        comparison.end_batch().unwrap();
        let [xy, yx] = comparison.finish().unwrap().try_into().unwrap();
        for (i, j) in (0..3).flat_map(|i| (0..2).map(move |j| (i, j))) {
            for found in [xy.cka[i * 2 + j], yx.cka[j * 3 + i]] {
                // The diagonal is known to be 1 within a model, and computed between two.
                assert!((found - expected[i * 3 + j]).abs() <= APART, "{options:?}, ({i}, {j}): {found}");
            }
        }
    }
}

#[test]
fn the_product_of_panels_is_hsic_as_it_was_first_written_down() {
    for n in [4, 5, 32, 33] {
        let layers = related(6, n);
        let batches = [layers, related(7, n)];
        let matrices: Vec<Vec<Matrix>> =
            batches.iter().map(|batch| batch.iter().map(Layer::matrix).collect()).collect();
        let mut comparison = Comparison::new(&[3], &[(0, 0)], Options::default()).unwrap();
        for batch in &batches {
            comparison.begin_batch(n).unwrap();
            for (index, layer) in batch.iter().enumerate() {
                comparison.observe(0, index, Activation::new(Values::F32(&layer.values), n).unwrap()).unwrap();
            }
            comparison.end_batch().unwrap();
        }
        let found = comparison.finish().unwrap().remove(0);
        let mean = |i: usize, j: usize| {
            let hsic =
                |batch: &Vec<Matrix>| hsic::unbiased_by_definition(&gram::linear(&batch[i]), &gram::linear(&batch[j]));
            matrices.iter().map(hsic).sum::<f64>() / 2.0
        };
        for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
            let (expected, scale) = (mean(i, j), (mean(i, i) * mean(j, j)).sqrt());
            let error = (found.hsic_xy[i * 3 + j] - expected).abs() / scale;
            assert!(error <= 1e-6, "n = {n}, ({i}, {j}): {error:e}");
        }
    }
}

/// Observes each of `batches`, layer by layer.
fn observe_all(comparison: &mut Comparison, batches: &[Vec<Layer>]) {
    for batch in batches {
        let n = batch[0].examples();
        comparison.begin_batch(n).unwrap();
        for (index, layer) in batch.iter().enumerate() {
            comparison.observe(0, index, Activation::new(Values::F32(&layer.values), n).unwrap()).unwrap();
        }
        comparison.end_batch().unwrap();
    }
}

/// Wherever a comparison is left, and however often: over batches of other sizes and scales, of which the first has a layer that is
/// all zero, and with it an RBF kernel that is not defined.
#[test]
fn a_comparison_that_goes_on_from_the_sums_of_another_ends_in_the_same_bits() {
    let scaled = |layers: Vec<Layer>, scale: f64| layers.iter().map(|layer| map(layer, |_, v| scale * v)).collect();
    let mut first = related(10, 7);
    first[1] = map(&first[1], |_, _| 0.0);
    let batches: [Vec<Layer>; 4] =
        [first, scaled(related(11, 33), 1e-15), scaled(related(12, 33), 1e15), scaled(related(13, 7), 1.0)];
    for options in all_options() {
        let begin = || Comparison::new(&[3], &[(0, 0)], options).unwrap();
        let bits = |comparison: Comparison| {
            let found = comparison.finish().unwrap().remove(0);
            let values = [found.cka, found.hsic_xy, found.hsic_xx, found.hsic_yy].concat();
            (values.into_iter().map(f64::to_bits).collect::<Vec<_>>(), found.undefined_x, found.batches)
        };
        let mut whole = begin();
        observe_all(&mut whole, &batches);
        let expected = bits(whole);
        for split in 0..=batches.len() {
            let (mut before, mut after) = (begin(), begin());
            observe_all(&mut before, &batches[..split]);
            let totals = before.totals().unwrap();
            assert_eq!((totals.batches, &before.totals().unwrap()), (split, &totals), "looking changes nothing");
            // What it has summed itself is forgotten.
            observe_all(&mut after, &batches[..1]);
            after.go_on_from(totals).unwrap();
            assert_eq!(after.batches(), split);
            observe_all(&mut after, &batches[split..]);
            assert_eq!(bits(after), expected, "{options:?}, after {split} batches");
        }
    }
}

#[test]
fn a_comparison_does_not_go_on_from_sums_of_other_layers_or_pairs_or_within_a_batch() {
    let begin =
        |layers: &[usize], pairs: &[(usize, usize)]| Comparison::new(layers, pairs, Options::default()).unwrap();
    let totals = begin(&[3, 2], &[(0, 1)]).totals().unwrap();
    begin(&[3, 2], &[(0, 1)]).go_on_from(totals.clone()).unwrap();
    for (layers, pairs) in [(&[2, 3], &[(0, 1)][..]), (&[3, 2], &[(0, 0)]), (&[3, 2], &[(0, 1), (1, 1)])] {
        assert_eq!(begin(layers, pairs).go_on_from(totals.clone()), Err(Error::OtherTotals), "{layers:?}, {pairs:?}");
    }
    let mut open = begin(&[3, 2], &[(0, 1)]);
    open.begin_batch(7).unwrap();
    assert_eq!(open.totals(), Err(Error::BatchOpen { batch: 0 }));
    assert_eq!(open.go_on_from(totals), Err(Error::BatchOpen { batch: 0 }));
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    // Few features and many, batches in float32 and in float64, and enough layers for several blocks of pairs.
    for (n, features) in [(5, 3), (33, 40), (64, 700), (129, 5000), (300, 100)] {
        let layers: Vec<Layer> = (0..9).map(|seed| Layer::normal(seed, n, features + seed as usize)).collect();
        let options = all_options().collect::<Vec<_>>();
        let bits = |threads: usize| -> Vec<u64> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let all = |&options: &Options| compare(std::slice::from_ref(&layers), options);
            pool.install(|| options.iter().flat_map(all).map(f64::to_bits).collect())
        };
        let expected = bits(1);
        for threads in [2, 3] {
            assert!(bits(threads) == expected, "n = {n}, {features} features, {threads} threads");
        }
    }
}

#[test]
fn float32_and_float64_products_agree() {
    // The format of the values does not choose the arithmetic; the batch does: 31 examples are multiplied in float64, 32 in
    // float32, and `fast` multiplies both in float32.
    for n in [31, 32, 256] {
        let layers = related(8, n);
        for estimator in [Estimator::Unbiased, Estimator::Biased] {
            let [exact, fast] = [Gram::Exact, Gram::Fast].map(|gram| {
                compare(
                    std::slice::from_ref(&layers),
                    Options { estimator, kernel: Kernel::Linear, gram, ..Options::default() },
                )
            });
            // These layers are well conditioned: float32 keeps the promise of `exact` by itself.
            assert!(
                largest_difference(&exact, &fast) <= 1e-6,
                "n = {n}, {estimator}: {:e}",
                largest_difference(&exact, &fast)
            );
        }
    }
}

#[test]
fn values_of_any_format_are_taken_for_what_they_are() {
    let n = 33;
    let layers: Vec<Layer> =
        related(9, n).iter().map(|layer| map(layer, |_, value| (8.0 * value).round() / 8.0)).collect();
    let expected = compare(std::slice::from_ref(&layers), Options::default());
    let mut comparison = Comparison::new(&[3; 3], &[(0, 0), (1, 1), (2, 2)], Options::default()).unwrap();
    comparison.begin_batch(n).unwrap();
    for (index, layer) in layers.iter().enumerate() {
        let half: Vec<_> = layer.values.iter().map(|&value| half::f16::from_f32(value)).collect();
        let brain: Vec<_> = layer.values.iter().map(|&value| half::bf16::from_f32(value)).collect();
        let double: Vec<_> = layer.values.iter().map(|&value| f64::from(value)).collect();
        for (model, values) in [Values::F16(&half), Values::Bf16(&brain), Values::F64(&double)].into_iter().enumerate()
        {
            comparison.observe(model, index, Activation::new(values, n).unwrap()).unwrap();
        }
    }
    comparison.end_batch().unwrap();
    // Shifts are rounded to float32 for float32 values alone; both ways keep the promise of `exact`.
    for similarity in comparison.finish().unwrap() {
        assert!(
            largest_difference(&similarity.cka, &expected) <= 1e-6,
            "{:e}",
            largest_difference(&similarity.cka, &expected)
        );
    }
}

/// Rows of length one, from examples whose scales differ by many powers of ten; one is zero in every layer but one.
#[test]
fn examples_are_normalised_as_defined() {
    for n in [4, 7, 33, 64] {
        let scaled = |seed: u64, features: usize, zero: bool| {
            let normal = Layer::normal(seed, n, features);
            let scale = |i: usize| if zero && i == 1 { 0.0 } else { 10f64.powi((i % 9) as i32 - 4) };
            Layer::from_fn(n, features, |i, f| scale(i) * (1.0 + f64::from(normal.values[i * features + f])))
        };
        let layers = vec![scaled(1, 5, true), scaled(2, 40, false), scaled(3, 700, true)];
        for (estimator, kernel) in [
            (Estimator::Unbiased, Kernel::Linear),
            (Estimator::Biased, Kernel::Linear),
            (Estimator::Unbiased, Kernel::Rbf { bandwidth: 0.5 }),
        ] {
            let options = Options { estimator, kernel, normalise_examples: true, ..Options::default() };
            let batches = [layers.clone()];
            let error = largest_difference(&compare(&batches, options), &truth(&batches, options));
            assert!(error <= 1e-6, "n = {n}, {estimator}, {kernel}: {error:e}");
            let plain = largest_difference(
                &compare(&batches, Options { normalise_examples: false, ..options }),
                &truth(&batches, options),
            );
            assert!(plain > 1e-3, "n = {n}, {estimator}, {kernel}: normalising changed nothing");
        }
    }
}
