//! Batch norm, alone and with what is fused into it, against float64.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::Tensor;
use gramscope_nn::ops::batch_norm::{self, EPSILON, Gradients, MOMENTUM};
use gramscope_reference::{Tensor4, batch_norm as reference};
use support::{ROUNDING, bits, uniform, values, wide};

/// (rows, channels): one channel, channels that fill a run of vectors and that do not, more than a run has; two rows, a prime,
/// several runs; in the last three several pieces of work, with a shorter last one.
const SHAPES: [(usize, usize); 15] = [
    (2, 1),
    (2, 64),
    (3, 16),
    (7, 3),
    (257, 17),
    (1021, 16),
    (1021, 1),
    (131, 64),
    (300, 20),
    (67, 136),
    (37, 259),
    (9001, 4),
    (8501, 17),
    (4700, 20),
    (600, 259),
];

/// What a batch norm is given, and what it makes of it.
struct Case {
    rows: usize,
    channels: usize,
    x: Tensor,
    addend: Tensor,
    dy: Tensor,
    statistics: Tensor,
    gamma: Tensor,
    beta: Tensor,
}

impl Case {
    /// Channels of different means and deviations; the second one's gamma is negative.
    fn new((rows, channels): (usize, usize)) -> Self {
        let shape = [rows, 1, 1, channels];
        let spread: Vec<f32> = (0..channels).map(|channel| 1.0 + channel as f32 / 8.0).collect();
        let spread = Tensor::new(spread, &candle_core::Device::Cpu).unwrap();
        let x = (uniform(0, &shape) * 2.0).unwrap().affine(1.0, 0.5).unwrap().broadcast_mul(&spread).unwrap();
        let sign: Vec<f32> = (0..channels).map(|channel| if channel == 1 { -1.0 } else { 1.0 }).collect();
        let sign = Tensor::new(sign, &candle_core::Device::Cpu).unwrap();
        let gamma = (uniform(1, &[channels]).affine(0.5, 1.0).unwrap() * sign).unwrap();
        Self {
            rows,
            channels,
            addend: uniform(2, &shape),
            dy: uniform(3, &shape).affine(1.0, 0.1).unwrap(),
            statistics: batch_norm::statistics(&x).unwrap(),
            gamma,
            beta: uniform(4, &[channels]),
            x,
        }
    }

    fn tensor(&self, values: Vec<f64>) -> Tensor4 {
        Tensor4::new([self.rows, 1, 1, self.channels], values)
    }

    fn normalised(&self, adds: bool, relu: bool) -> Tensor {
        let Self { x, addend, statistics, gamma, beta, .. } = self;
        batch_norm::normalise(x, statistics, gamma, beta, adds.then_some(addend), relu).unwrap()
    }

    /// What two numbers whose difference is normalised come to, of each value: |x| + |mean|, in deviations.
    fn sizes(&self) -> Vec<f64> {
        let statistics = wide(&self.statistics);
        let (mean, variance) = statistics.split_at(self.channels);
        let size = |(index, x): (usize, f64)| {
            let channel = index % self.channels;
            (x.abs() + mean[channel].abs()) / (variance[channel] + EPSILON).sqrt()
        };
        wide(&self.x).into_iter().enumerate().map(size).collect()
    }
}

/// `found` is within eight roundings of float32 of the terms' sizes.
fn check(found: &Tensor, expected: &[f64], sizes: impl Fn(usize) -> f64, what: &str) {
    let found = wide(found);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (error, tolerance) = ((found - expected).abs(), 8.0 * ROUNDING * sizes(index));
        assert!(error <= tolerance, "{what}, value {index}: {found} is not {expected} to {tolerance:e}");
    }
}

/// Means to float32's rounding and 1e-6 deviations, variances to 1e-6 of themselves: sums are float64's. The unbiased variance
/// is at most twice the biased one, and a hundredth of it counts.
#[test]
fn statistics_and_their_running_means() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let Case { rows, channels, ref x, ref statistics, .. } = case;
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let truth = reference::forward(&case.tensor(wide(x)), &ones, &zeros, EPSILON);
        let (running_mean, running_variance) = (uniform(5, &[channels]), uniform(6, &[channels]));
        let (mut moved_mean, mut moved_variance) = (wide(&running_mean), wide(&running_variance));
        batch_norm::track(&running_mean, &running_variance, statistics, rows).unwrap();
        reference::track(&mut moved_mean, &mut moved_variance, &truth, rows, MOMENTUM);
        let statistics = wide(statistics);
        let (mean, variance) = statistics.split_at(channels);
        for (channel, (true_mean, true_variance)) in truth.mean.iter().zip(&truth.variance).enumerate() {
            let of_mean = ROUNDING * true_mean.abs() + 1e-6 * true_variance.sqrt();
            let of_variance = 1e-6 * true_variance;
            let check = |what: &str, found: f64, expected: f64, tolerance: f64| {
                let error = (found - expected).abs();
                assert!(error <= tolerance, "{what} {channel} of {shape:?}, {expected}, is off by {error:e}");
            };
            check("mean", mean[channel], *true_mean, of_mean);
            check("variance", variance[channel], *true_variance, of_variance);
            let of_moved = |moved: f64, tolerance: f64| ROUNDING * moved.abs() + 2.0 * (1.0 - MOMENTUM) * tolerance;
            let (found, expected) = (wide(&running_mean)[channel], moved_mean[channel]);
            check("running mean", found, expected, of_moved(expected, of_mean));
            let (found, expected) = (wide(&running_variance)[channel], moved_variance[channel]);
            check("running variance", found, expected, of_moved(expected, of_variance));
        }
    }
}

#[test]
fn normalised_values() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let statistics = wide(&case.statistics);
        let (mean, variance) = statistics.split_at(case.channels);
        let (gamma, beta, addend) = (wide(&case.gamma), wide(&case.beta), wide(&case.addend));
        let plain = reference::inference(&case.tensor(wide(&case.x)), &gamma, &beta, mean, variance, EPSILON);
        let normalised = case.sizes();
        let sizes = |index: usize| {
            let channel = index % case.channels;
            gamma[channel].abs() * normalised[index] + beta[channel].abs() + addend[index].abs()
        };
        for (adds, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let value = |(sum, addend): (&f64, &f64)| {
                let sum = if adds { sum + addend } else { *sum };
                if relu { sum.max(0.0) } else { sum }
            };
            let expected: Vec<f64> = plain.data.iter().zip(&addend).map(value).collect();
            let what = format!("{shape:?}, addend {adds}, ReLU {relu}");
            check(&case.normalised(adds, relu), &expected, sizes, &what);
        }
    }
}

/// In the memory of x it is the same to the last bit, NaN and infinity too.
#[test]
fn in_place_the_values_are_the_same() {
    for shape in SHAPES {
        let mut case = Case::new(shape);
        let mut odd = wide(&case.x).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        (odd[0], odd[1]) = (f32::NAN, f32::NEG_INFINITY);
        case.x = Tensor::from_vec(odd, case.x.shape(), case.x.device()).unwrap();
        for relu in [false, true] {
            let Case { x, statistics, gamma, beta, .. } = &case;
            let memory = x.copy().unwrap();
            let found = batch_norm::normalise_in_place(memory.clone(), statistics, gamma, beta, relu).unwrap();
            assert_eq!(bits(&found), bits(&case.normalised(false, relu)), "{shape:?}, relu {relu}");
            assert_eq!(bits(&found), bits(&memory), "{shape:?}: it lies elsewhere");
        }
    }
}

/// The gradients from g, that of the batch norm's own result.
fn check_gradients(found: &Gradients, g: &[f64], case: &Case, what: &str) {
    let (rows, channels, gamma) = (case.rows, case.channels, wide(&case.gamma));
    let truth = reference::backward(&case.tensor(wide(&case.x)), &gamma, &case.tensor(g.to_vec()), EPSILON);
    let normalised = case.sizes();
    // What the terms of a channel's sums come to in magnitude.
    let (mut plain, mut product) = (vec![0.0; channels], vec![0.0; channels]);
    for (index, (g, normalised)) in g.iter().zip(&normalised).enumerate() {
        plain[index % channels] += g.abs();
        product[index % channels] += g.abs() * normalised;
    }
    check(&found.dbeta, &truth.dbeta, |channel| plain[channel], &format!("dbeta of {what}"));
    check(&found.dgamma, &truth.dgamma, |channel| product[channel], &format!("dgamma of {what}"));
    let variance = wide(&case.statistics).split_off(channels);
    let sizes = |index: usize| {
        let channel = index % channels;
        let scale = gamma[channel].abs() / (variance[channel] + EPSILON).sqrt();
        scale * (g[index].abs() + (plain[channel] + normalised[index] * product[channel]) / rows as f64)
    };
    check(&found.dx, &truth.dx.data, sizes, &format!("dx of {what}"));
}

/// Where the ReLU lets through is what its result says: a value that is 0 but for roundings may be on either side.
#[test]
fn gradients() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let Case { x, dy, statistics, gamma, beta, .. } = &case;
        let behind_relu = |y: &Tensor| -> Vec<f64> {
            values(y).iter().zip(wide(dy)).map(|(y, dy)| if *y > 0.0 { dy } else { 0.0 }).collect()
        };
        let found = batch_norm::backward(x.copy().unwrap(), statistics, gamma, dy).unwrap();
        check_gradients(&found, &wide(dy), &case, &format!("batch norm, {shape:?}"));

        let found = batch_norm::backward_relu(x, statistics, gamma, beta, dy.copy().unwrap()).unwrap();
        let g = behind_relu(&case.normalised(false, true));
        check_gradients(&found, &g, &case, &format!("batch norm and ReLU, {shape:?}"));

        let y = case.normalised(true, true);
        let (x, dy) = (x.copy().unwrap(), dy.copy().unwrap());
        let (found, daddend) = batch_norm::backward_add_relu(x, statistics, gamma, &y, dy).unwrap();
        let g = behind_relu(&y);
        assert!(wide(&daddend) == g, "the addend's gradient, {shape:?}");
        check_gradients(&found, &g, &case, &format!("batch norm, addition and ReLU, {shape:?}"));
    }
}
