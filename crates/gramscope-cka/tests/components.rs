//! First principal components against the definitions in float64, and what they must and must not depend on.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cka::{Activation, ComponentSimilarity, Components, Error, Estimator, Values};
use gramscope_reference::{Matrix, components, gram, hsic, largest_difference};
use support::{Layer, normals};

/// Numbers of examples: the smallest, a prime, one more than a power of two twice, of which the larger takes the way of large
/// matrices.
const EXAMPLES: [usize; 4] = [4, 5, 33, 257];
const ESTIMATORS: [Estimator; 2] = [Estimator::Unbiased, Estimator::Biased];
/// Two results of float64 eigendecompositions: some n roundings of the matrix, over a gap of a hundredth at least.
const CLOSE: f64 = 1e-10;
/// The promise of every CKA entry.
const EXACT: f64 = 1e-6;

fn analyse(layers: &[Layer], estimator: Estimator) -> ComponentSimilarity {
    let examples = layers[0].examples();
    let mut components = Components::new(layers.len(), examples, estimator).unwrap();
    for (index, layer) in layers.iter().enumerate().rev() {
        components.observe(index, Activation::new(Values::F32(&layer.values), examples).unwrap()).unwrap();
    }
    components.finish().unwrap()
}

/// Layers with fewer features than examples and with more, each with a strong direction, so that the gap is no accident.
fn related(n: usize) -> Vec<Layer> {
    let shared = normals(n as u64, n);
    [2, 3, n.div_ceil(2) + 1, n + 1, 3 * n]
        .into_iter()
        .enumerate()
        .map(|(index, features)| {
            let own = normals(100 + (n + index) as u64, n * features);
            let share = 0.3 * index as f64;
            Layer::from_fn(n, features, |i, f| {
                let strong = if f == 0 { (features as f64).sqrt() * 3.0 } else { 1.0 };
                5.0 + strong * (share * shared[i] + own[i * features + f])
            })
        })
        .collect()
}

/// CKA of Gram matrices, by the definition of HSIC that is named.
fn cka(k: &Matrix, l: &Matrix, estimator: Estimator) -> f64 {
    let hsic = match estimator {
        Estimator::Unbiased => hsic::unbiased_by_definition,
        Estimator::Biased => hsic::biased,
    };
    hsic(k, l) / (hsic(k, k).sqrt() * hsic(l, l).sqrt())
}

/// The features without their first principal component, on which the examples have the coordinates `v`: the centred
/// features less their projection on it.
fn deflated_features(x: &Matrix, v: &[f64]) -> Matrix {
    let x = gram::centre(x);
    let along: Vec<f64> = (0..x.cols).map(|f| x.column(f).zip(v).map(|(x, v)| x * v).sum()).collect();
    x.map(|i, f, value| value - v[i] * along[f])
}

#[test]
fn every_number_is_that_of_the_definitions() {
    for n in EXAMPLES {
        let layers = related(n);
        let count = layers.len();
        let matrices: Vec<Matrix> = layers.iter().map(Layer::matrix).collect();
        let grams: Vec<Matrix> = matrices.iter().map(components::centred_gram).collect();
        let firsts: Vec<_> = grams.iter().map(components::first).collect();
        let rest = |(x, first): (&Matrix, &components::First)| gram::linear(&deflated_features(x, &first.vector));
        let rests: Vec<Matrix> = matrices.iter().zip(&firsts).map(rest).collect();
        for estimator in ESTIMATORS {
            let found = analyse(&layers, estimator);
            let context = format!("n = {n}, {estimator}");
            assert_eq!((found.layers, found.examples), (count, n));
            for (layer, first) in firsts.iter().enumerate() {
                let ratio = first.second_eigenvalue / first.eigenvalue;
                assert!(ratio <= 0.95, "{context}: a poor test, {ratio}");
                let near = |a: f64, b: f64, what: &str| {
                    assert!((a - b).abs() <= CLOSE, "{context}, layer {layer}, {what}: {a} and {b}");
                };
                near(found.variance_explained[layer], first.fraction, "fraction");
                near(found.second_over_first[layer], ratio, "second over first");
                let vector = &found.first_pc[layer * n..][..n];
                let inner: f64 = vector.iter().zip(&first.vector).map(|(a, b)| a * b).sum();
                near(inner * inner, 1.0, "vector");
                near(vector.iter().map(|v| v * v).sum(), 1.0, "length");
            }
            let pairs = |value: &dyn Fn(usize, usize) -> f64| Matrix::from_fn(count, count, value).data;
            let cosines = pairs(&|i, j| components::square_cosine(&firsts[i], &firsts[j]));
            assert!(
                largest_difference(&found.cosine_sq, &cosines) <= CLOSE,
                "{context}: {:e}",
                largest_difference(&found.cosine_sq, &cosines)
            );
            let plain = largest_difference(&found.cka, &pairs(&|i, j| cka(&grams[i], &grams[j], estimator)));
            assert!(plain <= EXACT, "{context}: {plain:e}");
            let without =
                largest_difference(&found.cka_without_first, &pairs(&|i, j| cka(&rests[i], &rests[j], estimator)));
            assert!(without <= EXACT, "{context}: {without:e}");
        }
    }
}

/// Equation 4 of Nguyen et al.: CKA = sum_ij l_i m_j <u_i, v_j>^2 / (sqrt(sum l_i^2) sqrt(sum m_j^2)), and without the first
/// components the same sums from the second on.
#[test]
fn cka_is_the_weighted_sum_over_pairs_of_components() {
    for n in [4, 5, 33] {
        let layers = related(n);
        let decomposed: Vec<(Vec<f64>, Matrix)> = layers
            .iter()
            .map(|layer| {
                let (values, vectors) = components::eigen(&components::centred_gram(&layer.matrix()));
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
                let vectors = vectors.map(|i, j, _| vectors.get(i, order[j]));
                (order.iter().map(|&index| values[index]).collect(), vectors)
            })
            .collect();
        let from = |first: usize, x: usize, y: usize| {
            let ((l, u), (m, v)) = (&decomposed[x], &decomposed[y]);
            let cosine = |i: usize, j: usize| u.column(i).zip(v.column(j)).map(|(a, b)| a * b).sum::<f64>();
            let pairs = (first..n).flat_map(|i| (first..n).map(move |j| (i, j)));
            let sum: f64 = pairs.map(|(i, j)| l[i] * m[j] * cosine(i, j).powi(2)).sum();
            let length = |values: &[f64]| values[first..].iter().map(|value| value * value).sum::<f64>().sqrt();
            sum / (length(l) * length(m))
        };
        let found = analyse(&layers, Estimator::Biased);
        for (x, y) in (0..layers.len()).flat_map(|x| (0..layers.len()).map(move |y| (x, y))) {
            for (first, cka) in [(0, &found.cka), (1, &found.cka_without_first)] {
                let (found, expected) = (cka[x * layers.len() + y], from(first, x, y));
                assert!((found - expected).abs() <= EXACT, "n = {n}, ({x}, {y}), from {first}: {found}, {expected}");
            }
        }
    }
}

fn map(layer: &Layer, value: impl Fn(usize, usize, f64) -> f64) -> Layer {
    let width = layer.features;
    Layer::from_fn(layer.examples(), width, |i, f| value(i, f, f64::from(layer.values[i * width + f])))
}

#[test]
fn scale_shift_and_order_of_the_features_change_nothing() {
    let changes: [fn(&Layer) -> Layer; 4] = [
        |layer| map(layer, |_, _, value| -1e20 * value),
        |layer| map(layer, |_, _, value| 1e-20 * value),
        |layer| map(layer, |_, f, value| value + 0.25 * f as f64 - 2.0),
        |layer| {
            let (values, width) = (layer.values.clone(), layer.features);
            map(layer, |i, f, _| f64::from(values[i * width + (f + 1) % width]))
        },
    ];
    for n in EXAMPLES {
        let layers = related(n);
        let before = analyse(&layers, Estimator::Unbiased);
        for (number, change) in changes.iter().enumerate() {
            let after = analyse(&layers.iter().map(change).collect::<Vec<_>>(), Estimator::Unbiased);
            let compared = [
                (&before.variance_explained, &after.variance_explained),
                (&before.cosine_sq, &after.cosine_sq),
                (&before.cka, &after.cka),
                (&before.cka_without_first, &after.cka_without_first),
            ];
            for (index, (before, after)) in compared.into_iter().enumerate() {
                // The changed values are rounded to float32, each on its own: by 1e-7 of their size, which a shift makes
                // larger than what varies by a factor of up to 3 n / 4; and over the smallest gap, a twentieth.
                let tolerance = 20.0 * 1.2e-7 * (1.0 + 0.75 * n as f64);
                assert!(
                    largest_difference(before, after) <= tolerance,
                    "n = {n}, change {number}, {index}: {:e}",
                    largest_difference(before, after)
                );
            }
        }
    }
}

#[test]
fn the_order_of_the_examples_moves_coordinates_and_nothing_else() {
    for n in EXAMPLES {
        let layers = related(n);
        let turned: Vec<Layer> = layers
            .iter()
            .map(|layer| map(layer, |i, f, _| f64::from(layer.values[(i + 1) % n * layer.features + f])))
            .collect();
        let (before, after) = (analyse(&layers, Estimator::Unbiased), analyse(&turned, Estimator::Unbiased));
        assert!(largest_difference(&before.cosine_sq, &after.cosine_sq) <= CLOSE);
        assert!(largest_difference(&before.cka_without_first, &after.cka_without_first) <= EXACT);
        for (before, after) in before.first_pc.chunks_exact(n).zip(after.first_pc.chunks_exact(n)) {
            let inner: f64 = (0..n).map(|i| before[(i + 1) % n] * after[i]).sum();
            assert!((inner * inner - 1.0).abs() <= CLOSE, "n = {n}: {inner}");
        }
    }
}

#[test]
fn matrices_are_symmetric_with_ones_on_the_diagonal_and_vectors_stand_upright() {
    for n in EXAMPLES {
        let layers = related(n);
        let found = analyse(&layers, Estimator::Unbiased);
        let count = layers.len();
        for matrix in [&found.cka, &found.cka_without_first, &found.cosine_sq] {
            for (i, j) in (0..count).flat_map(|i| (0..count).map(move |j| (i, j))) {
                assert_eq!(matrix[i * count + j].to_bits(), matrix[j * count + i].to_bits());
                assert!(i != j || (matrix[i * count + j] - 1.0).abs() <= 1e-12, "n = {n}, layer {i}");
            }
        }
        for vector in found.first_pc.chunks_exact(n) {
            let most = vector.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!(vector.iter().all(|value| value.abs() <= most), "n = {n}");
            // A component of centred features has mean zero.
            assert!(vector.iter().sum::<f64>().abs() <= 1e-12 * n as f64, "n = {n}");
        }
    }
}

#[test]
fn undefined_layers_are_named_and_leave_the_others_alone() {
    for n in EXAMPLES {
        let mut layers = related(n);
        layers.insert(1, Layer::from_fn(n, 7, |_, f| 0.1 * f as f64));
        layers.insert(3, Layer::from_fn(n, 1, |i, _| ((i * i) % 7) as f64));
        layers.push(Layer::from_fn(n, 3, |i, f| if i == 2 { 1.0 + f as f64 } else { 0.0 }));
        let (dead, single, alone) = (1, 3, layers.len() - 1);
        let all: Vec<usize> = (0..layers.len()).collect();
        for estimator in ESTIMATORS {
            let found = analyse(&layers, estimator);
            assert_eq!(found.undefined, [dead]);
            // Alive in one example: of that, U-centring leaves nothing.
            let without_cka = if estimator == Estimator::Unbiased { vec![dead, alone] } else { vec![dead] };
            assert_eq!(found.undefined_cka, without_cka, "n = {n}, {estimator}");
            assert_eq!(found.undefined_without_first, [dead, single, alone], "n = {n}, {estimator}");
            for (matrix, undefined) in [
                (&found.cosine_sq, &found.undefined),
                (&found.cka, &found.undefined_cka),
                (&found.cka_without_first, &found.undefined_without_first),
            ] {
                for (&i, &j) in all.iter().flat_map(|i| all.iter().map(move |j| (i, j))) {
                    let expected = undefined.contains(&i) || undefined.contains(&j);
                    assert_eq!(matrix[i * all.len() + j].is_nan(), expected, "n = {n}, {estimator}, ({i}, {j})");
                }
            }
            assert!(found.variance_explained[dead].is_nan() && found.second_over_first[dead].is_nan());
            assert!(found.first_pc[dead * n..][..n].iter().all(|value| value.is_nan()));
            for layer in [single, alone] {
                assert!((found.variance_explained[layer] - 1.0).abs() <= 1e-12);
                assert!(found.second_over_first[layer].abs() <= 1e-12);
            }
        }
    }
}

#[test]
fn equal_first_and_second_eigenvalues_show_in_their_ratio() {
    for n in [4, 8, 256, 260] {
        // Two orthogonal features of equal length, and a weak third.
        let wave = |i: usize, period: usize| if (i / (period / 2)).is_multiple_of(2) { 1.0 } else { -1.0 };
        let tied = |stretch: f64| {
            Layer::from_fn(n, 3, |i, f| match f {
                0 => stretch * wave(i, 2),
                1 => wave(i, 4),
                _ => 0.01 * wave(i, 2) * wave(i, 4),
            })
        };
        let found = analyse(&[tied(1.0), tied(1.25)], Estimator::Biased);
        assert!((found.second_over_first[0] - 1.0).abs() <= 1e-12, "n = {n}: {}", found.second_over_first[0]);
        assert!((found.second_over_first[1] - 0.64).abs() <= 1e-12, "n = {n}: {}", found.second_over_first[1]);
        // Even so it is a component: it lies in the plane of the two.
        let share = (1.0 / 2.0001, found.variance_explained[0]);
        assert!((share.0 - share.1).abs() <= 1e-7, "n = {n}: {share:?}");
    }
}

#[test]
fn values_of_any_format_and_scale_are_taken_for_what_they_are() {
    let n = 33;
    let layers: Vec<Layer> =
        related(n).iter().map(|layer| map(layer, |_, _, value| (8.0 * value).round() / 8.0)).collect();
    let expected = analyse(&layers, Estimator::Unbiased);
    for scale in [1.0, 2f64.powi(-500), 2f64.powi(500)] {
        let mut components = Components::new(layers.len(), n, Estimator::Unbiased).unwrap();
        for (index, layer) in layers.iter().enumerate() {
            let values: Vec<f64> = layer.values.iter().map(|&value| scale * f64::from(value)).collect();
            let activation = Activation::new(Values::F64(&values), n).unwrap();
            let first = components.first(index, activation).unwrap().unwrap();
            assert_eq!(first.vector, expected.first_pc[index * n..][..n]);
            components.observe(index, activation).unwrap();
        }
        assert_eq!(components.finish().unwrap(), expected);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (n, features) in [(5, 3), (64, 5000), (300, 700), (300, 100)] {
        let layers: Vec<Layer> = (0..5).map(|seed| Layer::normal(seed, n, features + seed as usize)).collect();
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| analyse(&layers, Estimator::Unbiased));
            let all = [found.variance_explained, found.cosine_sq, found.cka, found.cka_without_first, found.first_pc];
            all.map(|values| values.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        };
        let expected = bits(1);
        for threads in [2, 3] {
            assert!(bits(threads) == expected, "n = {n}, {features} features, {threads} threads");
        }
    }
}

#[test]
fn wrong_use_is_an_error() {
    assert_eq!(Components::new(0, 5, Estimator::Unbiased).unwrap_err(), Error::NoLayers { model: 0 });
    assert!(matches!(Components::new(1, 3, Estimator::Unbiased).unwrap_err(), Error::TooFewExamples { .. }));
    assert!(matches!(Components::new(2, usize::MAX, Estimator::Biased).unwrap_err(), Error::TooManyExamples { .. }));
    let mut components = Components::new(2, 4, Estimator::Unbiased).unwrap();
    let mut values = [1.0f32, 2.0, 3.0, 5.0];
    let good = values;
    let good = Activation::new(Values::F32(&good), 4).unwrap();
    values[2] = f32::NAN;
    let bad = Activation::new(Values::F32(&values), 4).unwrap();
    assert_eq!(components.observe(1, bad).unwrap_err(), Error::NonFinite { model: 0, layer: 1, batch: 0, example: 2 });
    assert!(matches!(components.observe(2, good).unwrap_err(), Error::UnknownLayer { layer: 2, .. }));
    let short = Activation::new(Values::F32(&values[..2]), 2).unwrap();
    assert!(matches!(components.observe(0, short).unwrap_err(), Error::WrongExamples { found: 2, .. }));
    components.observe(1, good).unwrap();
    assert!(matches!(components.observe(1, good).unwrap_err(), Error::ObservedTwice { layer: 1, .. }));
    assert_eq!(components.finish().unwrap_err(), Error::NotObserved { model: 0, layer: 0, batch: 0 });
}
