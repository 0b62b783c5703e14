//! The penalty on first principal components: its value and gradient against float64.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::{DType, Device, Tensor};
use gramscope_nn::ops::first_component::add_penalty_gradient;
use gramscope_nn::{FirstComponentPenalty, ResNet, ResNetConfig, StepOptions};
use gramscope_reference::{Matrix, components};
use support::{assert_close, labels, uniform, wide};

const WEIGHT: f64 = 3.0;

/// The penalty of X [n, p] by its definition.
fn penalty(x: &[f64], n: usize, threshold: f64) -> f64 {
    components::penalty(&Matrix::new(n, x.len() / n, x.to_vec()), WEIGHT, threshold)
}

/// Values with one direction that is larger than the others, and means far from 0.
fn activations(n: usize, width: usize) -> Tensor {
    let (noise, row, column) = (uniform(1, &[n, width]), uniform(2, &[n, 1]), uniform(3, &[1, width]));
    (noise + (row.matmul(&column).unwrap() * 2.0).unwrap()).unwrap().broadcast_add(&(column * 5.0).unwrap()).unwrap()
}

/// A central difference of step h = 1e-5 is off by h^2 and by the rounding of P over h, 1e-9 together. Of float32 there are
/// the sums of products of a slab (512 terms: 512 roundings of 2^-24 at worst, 3e-5) and the addition to `dx`, which stays
/// below 2. Both terms of the gradient are at most 2 weight / sqrt(tr K').
#[test]
fn value_and_gradient_are_those_of_the_definition() {
    for (n, width) in [(2, 3), (3, 1), (5, 17), (8, 513), (13, 40)] {
        let x = activations(n, width);
        let values = wide(&x);
        for threshold in [0.0, 0.2] {
            let before = uniform(4, &[n, width]);
            let dx = before.copy().unwrap();
            let found = add_penalty_gradient(&dx, &x, WEIGHT, threshold).unwrap();
            let expected = penalty(&values, n, threshold);
            assert!((found - expected).abs() <= 3e-5 * WEIGHT, "{n} x {width}: {found}, expected {expected}");
            let places: Vec<usize> = (0..values.len()).step_by(values.len().div_ceil(20)).collect();
            let difference = |at: usize| {
                const STEP: f64 = 1e-5;
                let moved = |by: f64| {
                    let mut values = values.clone();
                    values[at] += by;
                    penalty(&values, n, threshold)
                };
                (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
            };
            let expected: Vec<f64> = places.iter().map(|&at| difference(at)).collect();
            let added = wide(&dx).into_iter().zip(wide(&before)).map(|(after, before)| after - before);
            let added: Vec<f64> = added.collect();
            let found: Vec<f64> = places.iter().map(|&at| added[at]).collect();
            let centred = components::centred_gram(&Matrix::new(n, width, values.clone()));
            let trace: f64 = (0..n).map(|i| centred.get(i, i)).sum();
            let tolerance = 3e-5 * 2.0 * WEIGHT / trace.sqrt() + 2.0 * support::ROUNDING + 1e-9;
            assert_close(&format!("{n} x {width}, threshold {threshold}"), &found, &expected, tolerance);
        }
    }
}

#[test]
fn what_explains_little_or_nothing_costs_nothing() {
    let dx = uniform(4, &[6, 2, 2, 3]);
    let before = support::bits(&dx);
    let constant = uniform(5, &[1, 2, 2, 3]).repeat((6, 1, 1, 1)).unwrap();
    for (x, threshold) in [(constant, 0.0), (uniform(6, &[6, 2, 2, 3]), 0.9), (uniform(7, &[6, 2, 2, 3]), 1.0)] {
        assert_eq!(add_penalty_gradient(&dx, &x, WEIGHT, threshold).unwrap(), 0.0);
        assert_eq!(support::bits(&dx), before);
    }
    let short = Tensor::zeros((6, 2), DType::F32, &Device::Cpu).unwrap();
    assert!(add_penalty_gradient(&dx, &short, WEIGHT, 0.0).is_err());
}

/// The gradients that the penalty adds to a whole network's, against central differences of it, as one vector. The penalty
/// is computed in float64 of float32 activations, some 1e-7 of relative error each, which a step of 1/1024 turns into 1e-4
/// a value beside gradients of 0.1 and more; kinks of ReLUs as in the test of the loss.
#[test]
fn gradients_of_a_network_under_the_penalty() {
    const STEP: f32 = 1.0 / 1024.0;
    let config = ResNetConfig { depth: 8, width: 0.15, classes: 3, image_side: 5, ..ResNetConfig::default() };
    let network = ResNet::new(&config, 21, &Device::Cpu).unwrap();
    let (images, labels) = (((uniform(8, &[6, 5, 5, 3]) + 1.0).unwrap() * 0.5).unwrap(), labels(6, 3));
    let penalty = Some(FirstComponentPenalty { weight: WEIGHT, threshold: 0.1 });
    let plain = network.loss_and_gradients(&images, &labels).unwrap();
    let penalised =
        network.loss_and_gradients_with(&images, &labels, StepOptions { penalty, ..StepOptions::default() }).unwrap();
    assert_eq!(plain.penalty, 0.0);
    assert_eq!(wide(&plain.loss), wide(&penalised.loss));
    let (mut error, mut norm) = (0.0, 0.0);
    for parameter in network.parameters() {
        let gradient = |gradients: &gramscope_nn::Gradients| wide(gradients.grads.get(&parameter.var).unwrap());
        let (plain, penalised) = (gradient(&plain), gradient(&penalised));
        let start = support::values(&parameter.var);
        let set = |values: &[f32]| {
            let values = Tensor::from_slice(values, parameter.var.shape(), &Device::Cpu).unwrap();
            parameter.var.set(&values).unwrap();
        };
        for i in (0..start.len()).step_by(start.len().div_ceil(5)) {
            let penalty_at = |value: f32| {
                let mut moved = start.clone();
                moved[i] = value;
                set(&moved);
                network
                    .loss_and_gradients_with(&images, &labels, StepOptions { penalty, ..StepOptions::default() })
                    .unwrap()
                    .penalty
            };
            let (above, below) = (start[i] + STEP, start[i] - STEP);
            let expected = (penalty_at(above) - penalty_at(below)) / (f64::from(above) - f64::from(below));
            error += (expected - (penalised[i] - plain[i])).powi(2);
            norm += expected.powi(2);
        }
        set(&start);
    }
    assert!(norm > 0.0 && (error / norm).sqrt() < 0.01, "{} of {}", error.sqrt(), norm.sqrt());
}
