#![allow(clippy::unwrap_used)]

use gramscope_nn::random::{Philox, Stream};
use gramscope_reference::Matrix;
use gramscope_reference::cosine::mean_cosine;

use super::*;

/// Float64 accumulation errs by n roundings for n features, twice, and by as many for the mean; this is far above both for
/// what is tested here, at most 1000 of either, and far below the 1e-6 that is promised.
const TOLERANCE: f64 = 2000.0 * f64::EPSILON;

/// A matrix of float32 numbers, a pure function of `seed`.
fn matrix(seed: u32, rows: usize, cols: usize) -> Matrix {
    let mut numbers = Philox::new(0, Stream::Drawing).sequence(seed);
    Matrix::from_fn(rows, cols, |_, _| f64::from(numbers.normal() as f32))
}

/// Means and counts of `layers`, handed over in batches of `size` examples.
fn found(layers: &[Matrix], size: usize) -> (Vec<f64>, Vec<f64>) {
    let shapes: Vec<Vec<usize>> = layers.iter().map(|layer| vec![layer.cols]).collect();
    let mut cosines = Cosines::new(&shapes);
    let examples = layers[0].rows;
    for (batch, first) in (0..examples).step_by(size).enumerate() {
        let count = size.min(examples - first);
        for (index, layer) in layers.iter().enumerate() {
            let values = &layer.data[first * layer.cols..][..count * layer.cols];
            cosines.observe(index, batch, Activation::new(Values::F64(values), count).unwrap()).unwrap();
        }
    }
    cosines.finish()
}

/// Compares with the definition, entry by entry.
fn check(layers: &[Matrix], size: usize) {
    let (means, counts) = found(layers, size);
    for (x, one) in layers.iter().enumerate() {
        for (y, other) in layers.iter().enumerate() {
            let at = x * layers.len() + y;
            let (mean, count) = if one.cols == other.cols { mean_cosine(one, other) } else { (f64::NAN, 0) };
            let same = if mean.is_nan() { means[at].is_nan() } else { (means[at] - mean).abs() <= TOLERANCE };
            assert!(same && counts[at] == count as f64, "({x}, {y}): {} and {mean}", means[at]);
        }
    }
}

#[test]
fn cosines_are_those_of_the_definition() {
    for (examples, features, layers) in [(1, 1, 1), (1, 1000, 2), (7, 1, 3), (17, 31, 5), (64, 33, 33), (130, 97, 9)] {
        // Every third layer has a shape of its own, and one example of every second layer is all zero.
        let made = |layer: usize| {
            let cols = if layer % 3 == 2 { features + layer } else { features };
            let shared = matrix(0, examples, cols);
            let own = matrix(1 + layer as u32, examples, cols);
            let zero = (layer % 2 == 1).then_some(layer % examples);
            shared.map(|i, j, value| if zero == Some(i) { 0.0 } else { value + own.get(i, j) })
        };
        let layers: Vec<Matrix> = (0..layers).map(made).collect();
        for size in [1, 5, examples] {
            check(&layers, size);
        }
    }
}

#[test]
fn batches_and_threads_change_no_bit() {
    let layers: Vec<Matrix> = (0..12).map(|layer| matrix(layer, 41, if layer < 8 { 257 } else { 64 })).collect();
    let bits = |(means, _): (Vec<f64>, Vec<f64>)| means.iter().map(|mean| mean.to_bits()).collect::<Vec<_>>();
    let whole = bits(found(&layers, 41));
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for size in [1, 8, 41] {
            assert!(pool.install(|| bits(found(&layers, size))) == whole, "{threads} threads, batches of {size}");
        }
    }
}

/// Scaled, negated and shifted copies; the scales' squares leave the range of float64.
#[test]
fn scale_does_not_matter_and_sign_does() {
    let x = matrix(1, 6, 29);
    let copies = [1.0, -1.0, 1e-300, -1e300].map(|scale| x.map(|_, _, value| scale * value));
    let (means, _) = found(&copies, 4);
    for (at, mean) in means.iter().enumerate() {
        let sign = [1.0, -1.0, 1.0, -1.0];
        let expected = sign[at / 4] * sign[at % 4];
        assert!((mean - expected).abs() <= TOLERANCE, "{at}: {mean}");
    }
    // With itself, a layer has exactly 1; a constant in all features is not taken out.
    assert!((0..4).all(|layer| means[5 * layer] == 1.0), "{means:?}");
    let shifted = [x.clone(), x.map(|_, _, value| value + 1e6), x.map(|_, _, value| -value + 1e6)];
    check(&shifted, 6);
    assert!(found(&shifted, 6).0[3 + 2] > 0.999);
}

#[test]
fn zeros_are_left_out_and_counted() {
    let x = matrix(1, 3, 4);
    let half = x.map(|i, _, value| if i == 1 { 0.0 } else { value });
    let dead = x.map(|_, _, _| -0.0);
    let layers = [x, half, dead];
    check(&layers, 2);
    let (means, counts) = found(&layers, 2);
    assert_eq!(counts, [3.0, 2.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    // It is the same where it is not zero, and the third example does not pull the mean away.
    assert!((means[1] - 1.0).abs() <= TOLERANCE && means[8].is_nan());
}

#[test]
fn what_is_not_finite_is_placed() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut cosines = Cosines::new(&[vec![2, 2], vec![4], vec![2, 2]]);
        let mut values = [1.0_f32; 12];
        values[7] = bad;
        let good = [1.0_f32; 12];
        let view = |values| Activation::new(Values::F32(values), 3).unwrap();
        cosines.observe(0, 5, view(&good)).unwrap();
        let error = cosines.observe(2, 5, view(&values)).unwrap_err();
        assert!(
            matches!(error, gramscope_cka::Error::NonFinite { layer: 2, batch: 5, example: 1, .. }),
            "{bad}: {error}"
        );
    }
}

/// Equal numbers of features are not equal shapes; an example takes its rows from the first layer of a shape to the last.
#[test]
fn shapes_are_told_apart_and_weighed() {
    let shapes = [vec![2, 3], vec![6], vec![2, 3], vec![10], vec![6]];
    let cosines = Cosines::new(&shapes);
    assert_eq!(cosines.by_shape().collect::<Vec<_>>(), [0, 2, 1, 4, 3]);
    // Side by side, 12 values and 12; at the fourth layer, 12 and 10; and the map of two layers.
    assert_eq!(cosines.bytes(0..5), 8 * (12 + 12) + 12 * 4);
    assert_eq!(cosines.bytes(cosines.by_shape()), 8 * 12 + 12 * 4);
}
