//! Every backward pass against central differences of its forward pass, and convolutions too large for that against loops in
//! float64.
//!
//! Linear operations have no error of truncation, so a large step is taken and only rounding is left. The others are
//! curved: for a step h of a function whose third derivative is about as large as the function, the error of truncation
//! is about h^2 / 6 and that of rounding about 2^-24 / h times the number of roundings that differ.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::{Device, Tensor};
use gramscope_nn::ops::convolution::{self, Geometry};
use gramscope_nn::ops::{batch_norm, elementwise, linear, loss, max_pooling, mixing, pooling};
use gramscope_reference::Tensor4;
use support::{ROUNDING, assert_close, finite_difference, labels, strided, uniform, values, wide};

struct Case {
    x: [usize; 4],
    weight: [usize; 4],
    geometry: Geometry,
}

fn case(x: [usize; 4], out: usize, kernel: usize, stride: usize, padding: usize) -> Case {
    Case { x, weight: [out, kernel, kernel, x[3]], geometry: Geometry { stride, padding } }
}

/// Those of the networks (3 x 3 with padding 1, 1 x 1 without, stride 1 and 2, 7 x 7 of stride 2), on odd, even and single-pixel images,
/// and some that only the general code takes.
fn cases() -> Vec<Case> {
    vec![
        case([2, 5, 7, 2], 3, 3, 1, 1),
        case([2, 5, 7, 3], 2, 3, 2, 1),
        case([2, 4, 6, 2], 17, 3, 2, 1),
        case([2, 1, 1, 2], 3, 3, 1, 1),
        case([2, 1, 1, 2], 3, 3, 2, 1),
        case([3, 2, 9, 17], 2, 3, 1, 1),
        case([2, 5, 7, 2], 3, 1, 1, 0),
        case([2, 5, 7, 3], 2, 1, 2, 0),
        case([2, 4, 6, 2], 3, 1, 2, 0),
        case([2, 6, 5, 2], 3, 2, 3, 1),
        case([2, 7, 9, 2], 3, 5, 2, 2),
        case([2, 3, 3, 2], 3, 1, 1, 1),
        case([2, 9, 8, 3], 5, 7, 2, 3),
        case([2, 1, 2, 3], 2, 7, 2, 3),
    ]
}

/// Sums of `terms` products of uniform values: a partial sum is about sqrt(terms) / 3, as many roundings, so the error
/// is about ROUNDING * terms / 3; six times that.
fn sum_tolerance(terms: usize) -> f64 {
    ROUNDING * 2.0 * (terms as f64 + 2.0)
}

/// Central differences of step 1 add two errors of sums for each of the `outputs` that depend on the value, with random signs.
fn linear_tolerance(terms: usize, outputs: usize) -> f64 {
    sum_tolerance(terms) * (2.0 + (outputs as f64).sqrt())
}

#[test]
fn convolution() {
    for (index, Case { x: x_shape, weight: weight_shape, geometry }) in cases().into_iter().enumerate() {
        let what = format!("{x_shape:?} * {weight_shape:?}, {geometry:?}");
        let seed = 10 * index as u64;
        let (x, weight) = (uniform(seed, &x_shape), uniform(seed + 1, &weight_shape));
        let bias = uniform(seed + 2, &weight_shape[..1]);
        let y = convolution::forward(&x, &weight, &bias, geometry).unwrap();
        let of_relu = uniform(seed + 6, y.dims());
        convolution::forward_relu_into(&of_relu, &x, &weight, &bias, geometry).unwrap();
        let expected = convolution::forward(&x.relu().unwrap(), &weight, &bias, geometry).unwrap();
        assert_eq!(support::bits(&of_relu), support::bits(&expected), "ReLU and {what}");
        let dy = uniform(seed + 3, y.dims());
        let (pixels, taps) = (y.elem_count() / weight_shape[0], weight_shape[1..].iter().product::<usize>());
        let [out, kh, kw, _] = weight_shape;

        let f = |x: &Tensor| convolution::forward(x, &weight, &bias, geometry).unwrap();
        let expected = finite_difference(&f, &x, &dy, 1.0);
        // Whatever was in that memory is gone.
        let got = uniform(seed + 5, &x_shape);
        convolution::input_gradient_into(&got, &dy, &weight, geometry).unwrap();
        assert_close(&format!("dx of {what}"), &wide(&got), &expected, linear_tolerance(taps, out * kh * kw));

        let (dw, db) = convolution::parameter_gradients(&x, &dy, geometry, (kh, kw)).unwrap();
        let tolerance = linear_tolerance(taps.max(pixels), pixels);
        let f = |weight: &Tensor| convolution::forward(&x, weight, &bias, geometry).unwrap();
        assert_close(&format!("dw of {what}"), &wide(&dw), &finite_difference(&f, &weight, &dy, 1.0), tolerance);
        let f = |bias: &Tensor| convolution::forward(&x, &weight, bias, geometry).unwrap();
        assert_close(&format!("db of {what}"), &wide(&db), &finite_difference(&f, &bias, &dy, 1.0), tolerance);

        let sum = uniform(seed + 4, &x_shape);
        let start = wide(&sum);
        convolution::add_input_gradient(&sum, &dy, &weight, geometry).unwrap();
        let expected: Vec<f64> = start.iter().zip(wide(&got)).map(|(start, dx)| start + dx).collect();
        assert_close(&format!("added dx of {what}"), &wide(&sum), &expected, linear_tolerance(taps * out, 1));
    }
}

/// Weight gradients are sums over groups of images, of which there are sixteen at most, and within an image over passes of some
/// rows of pixels: of more images than groups, with a smaller last group; of more pixels than a pass has, with a shorter last
/// pass; of both.
fn large_cases() -> Vec<Case> {
    vec![
        case([35, 4, 5, 2], 3, 3, 1, 1),
        case([35, 4, 5, 2], 18, 3, 2, 1),
        case([35, 4, 5, 3], 2, 1, 2, 0),
        case([17, 3, 2, 17], 2, 1, 1, 0),
        case([2, 13, 17, 3], 2, 3, 1, 1),
        case([2, 13, 17, 3], 17, 1, 1, 0),
        case([2, 13, 17, 3], 2, 3, 2, 1),
        case([2, 25, 37, 3], 2, 3, 2, 1),
        case([2, 25, 38, 2], 2, 1, 2, 0),
        case([35, 12, 13, 2], 3, 3, 1, 1),
        case([18, 25, 24, 3], 5, 7, 2, 3),
    ]
}

#[test]
fn convolution_of_many_images_and_pixels() {
    for (index, Case { x: x_shape, weight: weight_shape, geometry }) in large_cases().into_iter().enumerate() {
        let what = format!("{x_shape:?} * {weight_shape:?}, {geometry:?}");
        let seed = 10 * index as u64;
        let (x, weight) = (uniform(seed, &x_shape), uniform(seed + 1, &weight_shape));
        let bias = uniform(seed + 2, &weight_shape[..1]);
        let Geometry { stride, padding } = geometry;
        let [out, kh, kw, _] = weight_shape;
        let taps: usize = weight_shape[1..].iter().product();
        let (wide_x, wide_weight) = (Tensor4::new(x_shape, wide(&x)), Tensor4::new(weight_shape, wide(&weight)));

        let y = convolution::forward(&x, &weight, &bias, geometry).unwrap();
        let expected = gramscope_reference::convolution::forward(&wide_x, &wide_weight, &wide(&bias), stride, padding);
        assert_eq!(y.dims(), expected.shape);
        assert_close(&format!("y of {what}"), &wide(&y), &expected.data, sum_tolerance(taps + 1));

        let dy = uniform(seed + 3, y.dims());
        let wide_dy = Tensor4::new(expected.shape, wide(&dy));
        let expected = gramscope_reference::convolution::backward(&wide_x, &wide_weight, &wide_dy, stride, padding);
        let dx = uniform(seed + 4, &x_shape);
        convolution::input_gradient_into(&dx, &dy, &weight, geometry).unwrap();
        assert_close(&format!("dx of {what}"), &wide(&dx), &expected.dx.data, sum_tolerance(kh * kw * out));
        let (dw, db) = convolution::parameter_gradients(&x, &dy, geometry, (kh, kw)).unwrap();
        // A term is some hundreds of times as large as this.
        let tolerance = sum_tolerance(y.elem_count() / out);
        assert_close(&format!("dw of {what}"), &wide(&dw), &expected.dweight.data, tolerance);
        assert_close(&format!("db of {what}"), &wide(&db), &expected.dbias, tolerance);
    }
}

#[test]
fn linear_layer() {
    let (x, weight, bias) = (uniform(0, &[5, 19]), uniform(1, &[3, 19]), uniform(2, &[3]));
    let dy = uniform(3, &[5, 3]);
    let got = linear::backward(x.copy().unwrap(), &weight, &dy).unwrap();
    let tolerance = linear_tolerance(19, 5);
    let f = |x: &Tensor| linear::forward(x, &weight, &bias).unwrap();
    assert_close("dx", &wide(&got.dx), &finite_difference(&f, &x, &dy, 1.0), tolerance);
    let f = |weight: &Tensor| linear::forward(&x, weight, &bias).unwrap();
    assert_close("dweight", &wide(&got.dweight), &finite_difference(&f, &weight, &dy, 1.0), tolerance);
    let f = |bias: &Tensor| linear::forward(&x, &weight, bias).unwrap();
    assert_close("dbias", &wide(&got.dbias), &finite_difference(&f, &bias, &dy, 1.0), tolerance);
}

#[test]
fn global_average_pooling() {
    let (x, dy) = (uniform(0, &[2, 3, 5, 3]), uniform(1, &[2, 3]));
    let f = |x: &Tensor| pooling::forward(x).unwrap();
    let got = uniform(2, x.dims());
    pooling::backward_into(&got, &dy).unwrap();
    assert_close("dx", &wide(&got), &finite_difference(&f, &x, &dy, 1.0), linear_tolerance(15, 1));
}

fn max_pooled(x: &Tensor) -> Tensor {
    let y = uniform(9, &max_pooling::result_dims(x).unwrap());
    max_pooling::forward_into(&y, x).unwrap();
    y
}

/// On odd and even sides, down to single pixels; many values are equal, as behind a ReLU.
#[test]
fn max_pooling_is_the_references() {
    for shape in [[2, 5, 7, 3], [2, 6, 4, 2], [3, 1, 1, 2], [2, 2, 1, 17], [1, 9, 2, 1]] {
        let x = uniform(0, &shape).relu().unwrap();
        let wide_x = Tensor4::new(shape, wide(&x));
        let y = max_pooled(&x);
        assert_eq!(wide(&y), gramscope_reference::pooling::max_forward(&wide_x).data, "{shape:?}");
        let dy = uniform(1, y.dims());
        let dx = uniform(2, &shape);
        max_pooling::backward_into(&dx, &x, &y, &dy).unwrap();
        let wide_dy = Tensor4::new(dy.dims().to_vec().try_into().unwrap(), wide(&dy));
        let expected = gramscope_reference::pooling::max_backward(&wide_x, &wide_dy).data;
        // A pixel is in up to four windows, whose gradients of up to 1 are summed.
        assert_close(&format!("dx of {shape:?}"), &wide(&dx), &expected, 3.0 * 4.0 * ROUNDING);
    }
}

/// Values that lie further apart than the step, so that no step changes which is the largest.
#[test]
fn max_pooling_gradient() {
    let shape = [2, 5, 6, 2];
    let count: usize = shape.iter().product();
    let order = uniform(3, &[count]).arg_sort_last_dim(true).unwrap().to_dtype(candle_core::DType::F32).unwrap();
    let x = (order.reshape(&shape).unwrap() / 16.0).unwrap();
    let y = max_pooled(&x);
    let dy = uniform(1, y.dims());
    let dx = uniform(2, &shape);
    max_pooling::backward_into(&dx, &x, &y, &dy).unwrap();
    // The values are multiples of the step, so that differences of the sums in float64 are exact but for the division.
    let expected = finite_difference(&|x| max_pooled(x), &x, &dy, 1.0 / 64.0);
    assert_close("dx", &wide(&dx), &expected, 3.0 * 4.0 * ROUNDING);
}

#[test]
fn a_nan_shows_in_every_window_it_is_in() {
    let mut values = vec![1.0f32; 25];
    values[12] = f32::NAN;
    let x = Tensor::from_vec(values, (1, 5, 5, 1), &Device::Cpu).unwrap();
    let y = wide(&max_pooled(&x));
    assert_eq!(
        y.iter().map(|y| y.is_nan()).collect::<Vec<_>>(),
        [4].map(|i| (0..9).map(|j| i == j).collect::<Vec<_>>())[0]
    );
}

#[test]
fn mixing_of_branches() {
    let shape = [3, 2, 3, 5];
    let (a, b) = (uniform(0, &shape), uniform(1, &shape));
    let shares = Tensor::new(&[0.25f32, 1.0, 0.0], &Device::Cpu).unwrap();
    let dm = uniform(2, &shape);
    // Three operations on values up to 1.
    let tolerance = linear_tolerance(2, 1);
    let f = |a: &Tensor| mixing::mix(a.copy().unwrap(), &b, &shares).unwrap();
    let part = uniform(3, &shape);
    mixing::part_into(&part, &dm, &shares, true).unwrap();
    assert_close("first", &wide(&part), &finite_difference(&f, &a, &dm, 1.0), tolerance);
    let f = |b: &Tensor| mixing::mix(a.copy().unwrap(), b, &shares).unwrap();
    mixing::part_into(&part, &dm, &shares, false).unwrap();
    assert_close("second", &wide(&part), &finite_difference(&f, &b, &dm, 1.0), tolerance);
}

/// Every share is drawn for itself: by image, block, epoch and seed; forward and backward.
#[test]
fn shares_are_uniform_and_independent() {
    const N: usize = 20_000;
    let images: Vec<usize> = (0..N).collect();
    let [alpha, beta] = mixing::shares(1, 2, 3, &images);
    assert_eq!(mixing::shares(1, 2, 3, &[7, 5])[0], [alpha[7], alpha[5]]);
    for other in [mixing::shares(2, 2, 3, &images), mixing::shares(1, 3, 3, &images), mixing::shares(1, 2, 4, &images)]
    {
        assert_ne!(other[0][..4], alpha[..4]);
    }
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / N as f64;
    let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
    let (alpha, beta) = (wide(&alpha), wide(&beta));
    assert!(alpha.iter().chain(&beta).all(|share| (0.0..1.0).contains(share)));
    // Five standard errors: the variance of a uniform variable is 1/12, that of a product of two centred ones 1/144, that of
    // a square of one 1/180.
    let error = |variance: f64| 5.0 * (variance / N as f64).sqrt();
    for shares in [&alpha, &beta] {
        assert!((mean(&mut shares.iter().copied()) - 0.5).abs() < error(1.0 / 12.0));
        assert!((mean(&mut shares.iter().map(|share| (share - 0.5).powi(2))) - 1.0 / 12.0).abs() < error(1.0 / 180.0));
    }
    let products = &mut alpha.iter().zip(&beta).map(|(a, b)| (a - 0.5) * (b - 0.5));
    assert!(mean(products).abs() < error(1.0 / 144.0));
}

/// The loss of logits up to 1 is curved like exp; its third derivative is below 1/10, and step 1/32 leaves a truncation
/// of 1e-3 / 6 / 10 < 2e-5 and a rounding of 2^-24 * 2 / (2/32) = 2e-6.
#[test]
fn cross_entropy() {
    let logits = uniform(0, &[4, 3]);
    let labels = labels(4, 3);
    let f = |logits: &Tensor| loss::forward(logits, &labels).unwrap().0;
    let one = Tensor::ones((), candle_core::DType::F32, &Device::Cpu).unwrap();
    let expected = finite_difference(&f, &logits, &one, 1.0 / 32.0);
    assert_close("dlogits", &wide(&loss::backward(&logits, &labels).unwrap()), &expected, 3e-5);
}

/// Batch norm and ReLU (and addition) of a batch, statistics included, as one function.
fn norm_relu(x: &Tensor, gamma: &Tensor, beta: &Tensor, addend: Option<&Tensor>) -> Tensor {
    let statistics = batch_norm::statistics(x).unwrap();
    batch_norm::normalise(x, &statistics, gamma, beta, addend, true).unwrap()
}

const STEP: f32 = 1.0 / 256.0;

/// An input whose batch norm has no value so near the kink of the ReLU that a step crosses it: the first seed that
/// gives one. A step in x moves a normalised value by at most about STEP * gamma / deviation < 4 STEP.
fn away_from_the_kink(gamma: &Tensor, beta: &Tensor, addend: Option<&Tensor>, shape: &[usize]) -> Tensor {
    let far = |x: &Tensor| {
        let statistics = batch_norm::statistics(x).unwrap();
        let y = batch_norm::normalise(x, &statistics, gamma, beta, addend, false).unwrap();
        values(&y).iter().all(|y| y.abs() > 4.0 * STEP)
    };
    (0..1000).map(|seed| uniform(100 + seed, shape)).find(far).unwrap()
}

/// Third derivatives of batch norm by x are about 1 / deviation^3 <= 8: truncation 8 STEP^2 / 6 < 3e-5 for each output
/// of the channel, each with a weight up to 1; by its 30 values, 5e-4 if their signs are random, as is rounding:
/// sqrt(30) * 2^-24 / STEP < 1e-4. Doubled.
const CURVED: f64 = 1.2e-3;

#[test]
fn batch_norm_and_relu() {
    let shape = [2, 3, 5, 3];
    let gamma = Tensor::new(&[0.7f32, -1.3, 1.0], &Device::Cpu).unwrap();
    let beta = Tensor::new(&[0.2f32, 0.4, -0.1], &Device::Cpu).unwrap();
    let x = away_from_the_kink(&gamma, &beta, None, &shape);
    let dy = uniform(1, &shape);
    let statistics = batch_norm::statistics(&x).unwrap();
    let got = batch_norm::backward_relu(&x, &statistics, &gamma, &beta, dy.copy().unwrap()).unwrap();
    let f = |x: &Tensor| norm_relu(x, &gamma, &beta, None);
    assert_close("dx", &wide(&got.dx), &finite_difference(&f, &x, &dy, STEP), CURVED);
    let f = |gamma: &Tensor| norm_relu(&x, gamma, &beta, None);
    assert_close("dgamma", &wide(&got.dgamma), &finite_difference(&f, &gamma, &dy, STEP), CURVED);
    let f = |beta: &Tensor| norm_relu(&x, &gamma, beta, None);
    assert_close("dbeta", &wide(&got.dbeta), &finite_difference(&f, &beta, &dy, STEP), CURVED);
}

#[test]
fn batch_norm_alone() {
    let shape = [2, 3, 5, 3];
    let (gamma, beta) = (uniform(4, &[3]), uniform(5, &[3]));
    let (x, dy) = (uniform(0, &shape), uniform(1, &shape));
    let statistics = batch_norm::statistics(&x).unwrap();
    let norm = |x: &Tensor, gamma: &Tensor, beta: &Tensor| {
        let statistics = batch_norm::statistics(x).unwrap();
        batch_norm::normalise(x, &statistics, gamma, beta, None, false).unwrap()
    };
    let got = batch_norm::backward(x.copy().unwrap(), &statistics, &gamma, &dy).unwrap();
    let f = |x: &Tensor| norm(x, &gamma, &beta);
    assert_close("dx", &wide(&got.dx), &finite_difference(&f, &x, &dy, STEP), CURVED);
    let f = |gamma: &Tensor| norm(&x, gamma, &beta);
    assert_close("dgamma", &wide(&got.dgamma), &finite_difference(&f, &gamma, &dy, STEP), CURVED);
    let f = |beta: &Tensor| norm(&x, &gamma, beta);
    assert_close("dbeta", &wide(&got.dbeta), &finite_difference(&f, &beta, &dy, STEP), CURVED);
}

/// The fused forms, with an addition and without, are the plain ones, one after the other, to the last bit.
#[test]
fn fused_backward_passes_are_the_plain_ones() {
    let shape = [2, 3, 5, 17];
    let (x, addend, dy) = (uniform(0, &shape), uniform(1, &shape), uniform(2, &shape));
    let (gamma, beta) = (uniform(4, &[17]), uniform(5, &[17]));
    let statistics = batch_norm::statistics(&x).unwrap();
    let y = norm_relu(&x, &gamma, &beta, Some(&addend));
    let same = |fused: &batch_norm::Gradients, plain: &batch_norm::Gradients| {
        for (fused, plain) in [(&fused.dx, &plain.dx), (&fused.dgamma, &plain.dgamma), (&fused.dbeta, &plain.dbeta)] {
            assert_eq!(support::bits(fused), support::bits(plain));
        }
    };
    let (fused, daddend) =
        batch_norm::backward_add_relu(x.copy().unwrap(), &statistics, &gamma, &y, dy.copy().unwrap()).unwrap();
    let dsum = elementwise::relu_backward(dy.copy().unwrap(), &y).unwrap();
    assert_eq!(support::bits(&daddend), support::bits(&dsum));
    same(&fused, &batch_norm::backward(x.copy().unwrap(), &statistics, &gamma, &dsum).unwrap());

    let y = norm_relu(&x, &gamma, &beta, None);
    let fused = batch_norm::backward_relu(&x, &statistics, &gamma, &beta, dy.copy().unwrap()).unwrap();
    let dsum = elementwise::relu_backward(dy, &y).unwrap();
    same(&fused, &batch_norm::backward(x, &statistics, &gamma, &dsum).unwrap());
}

#[test]
fn batch_norm_addition_and_relu() {
    let shape = [2, 3, 5, 2];
    let gamma = Tensor::new(&[0.7f32, -1.3], &Device::Cpu).unwrap();
    let beta = Tensor::new(&[0.2f32, 0.4], &Device::Cpu).unwrap();
    let addend = uniform(2, &shape);
    let x = away_from_the_kink(&gamma, &beta, Some(&addend), &shape);
    let dy = uniform(1, &shape);
    let statistics = batch_norm::statistics(&x).unwrap();
    let y = norm_relu(&x, &gamma, &beta, Some(&addend));
    let (got, daddend) =
        batch_norm::backward_add_relu(x.copy().unwrap(), &statistics, &gamma, &y, dy.copy().unwrap()).unwrap();
    let f = |x: &Tensor| norm_relu(x, &gamma, &beta, Some(&addend));
    assert_close("dx", &wide(&got.dx), &finite_difference(&f, &x, &dy, STEP), CURVED);
    let f = |gamma: &Tensor| norm_relu(&x, gamma, &beta, Some(&addend));
    assert_close("dgamma", &wide(&got.dgamma), &finite_difference(&f, &gamma, &dy, STEP), CURVED);
    let f = |beta: &Tensor| norm_relu(&x, &gamma, beta, Some(&addend));
    assert_close("dbeta", &wide(&got.dbeta), &finite_difference(&f, &beta, &dy, STEP), CURVED);
    let f = |addend: &Tensor| norm_relu(&x, &gamma, &beta, Some(addend));
    assert_close("daddend", &wide(&daddend), &finite_difference(&f, &addend, &dy, STEP), CURVED);
}

/// The ReLU's gradient at exactly 0 is 0.
#[test]
fn relu_at_zero() {
    let x = Tensor::zeros((2, 2, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
    let dy = uniform(0, x.dims());
    let (gamma, beta) = (uniform(1, &[2]), Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap());
    let statistics = batch_norm::statistics(&x).unwrap();
    let y = norm_relu(&x, &gamma, &beta, None);
    assert!(values(&y).iter().all(|y| *y == 0.0));
    let got = batch_norm::backward_relu(&x, &statistics, &gamma, &beta, dy.copy().unwrap()).unwrap();
    assert_close("dbeta", &wide(&got.dbeta), &[0.0; 2], 0.0);
    let (_, daddend) = batch_norm::backward_add_relu(x.copy().unwrap(), &statistics, &gamma, &y, dy).unwrap();
    assert_close("daddend", &wide(&daddend), &[0.0; 16], 0.0);
}

/// Arguments that are views give the same bits as contiguous ones.
#[test]
fn views() {
    let geometry = Geometry { stride: 2, padding: 1 };
    let (x, weight, bias) = (uniform(0, &[2, 5, 7, 3]), uniform(1, &[2, 3, 3, 3]), uniform(2, &[2]));
    let dy = uniform(3, &[2, 3, 4, 2]);
    let same = |what: &str, a: &Tensor, b: &Tensor| assert_eq!(support::bits(a), support::bits(b), "{what}");
    same(
        "forward",
        &convolution::forward(&x, &weight, &bias, geometry).unwrap(),
        &convolution::forward(&strided(&x), &strided(&weight), &strided(&bias), geometry).unwrap(),
    );
    let (a, b) = (uniform(8, x.dims()), uniform(9, x.dims()));
    convolution::input_gradient_into(&a, &dy, &weight, geometry).unwrap();
    convolution::input_gradient_into(&b, &strided(&dy), &strided(&weight), geometry).unwrap();
    same("input gradient", &a, &b);
    let (dw, db) = convolution::parameter_gradients(&x, &dy, geometry, (3, 3)).unwrap();
    let (dw2, db2) = convolution::parameter_gradients(&strided(&x), &strided(&dy), geometry, (3, 3)).unwrap();
    same("dw", &dw, &dw2);
    same("db", &db, &db2);

    let (gamma, beta, addend) = (uniform(4, &[3]), uniform(5, &[3]), uniform(6, x.dims()));
    let dy = uniform(7, x.dims());
    let statistics = batch_norm::statistics(&x).unwrap();
    same("statistics", &statistics, &batch_norm::statistics(&strided(&x)).unwrap());
    let y = norm_relu(&x, &gamma, &beta, Some(&addend));
    same("batch norm", &y, &norm_relu(&strided(&x), &strided(&gamma), &strided(&beta), Some(&strided(&addend))));
    let a = batch_norm::backward_relu(&x, &statistics, &gamma, &beta, dy.copy().unwrap()).unwrap();
    let b = batch_norm::backward_relu(&strided(&x), &strided(&statistics), &gamma, &beta, strided(&dy)).unwrap();
    same("dx", &a.dx, &b.dx);
    same("dgamma", &a.dgamma, &b.dgamma);
    let (a, a2) =
        batch_norm::backward_add_relu(x.copy().unwrap(), &statistics, &gamma, &y, dy.copy().unwrap()).unwrap();
    let (b, b2) = batch_norm::backward_add_relu(strided(&x), &statistics, &gamma, &strided(&y), strided(&dy)).unwrap();
    same("dx after addition", &a.dx, &b.dx);
    same("dbeta after addition", &a.dbeta, &b.dbeta);
    same("daddend", &a2, &b2);
    same("pooling", &pooling::forward(&x).unwrap(), &pooling::forward(&strided(&x)).unwrap());
}
