//! The optimiser and the loss.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;
use gramscope_nn::ops::loss;
use gramscope_nn::{Error, ResNet, ResNetConfig, Sgd, SgdConfig};
use support::{ROUNDING, assert_close, bits, labels, uniform, wide};

const CONFIG: SgdConfig = SgdConfig { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.05 };

fn network(seed: u64) -> ResNet {
    let config = ResNetConfig { depth: 8, width: 0.2, classes: 3, image_side: 5, ..ResNetConfig::default() };
    ResNet::new(&config, seed, &Device::Cpu).unwrap()
}

/// Random gradients, a different set for each step.
fn gradients(network: &ResNet, step: u64) -> GradStore {
    let mut grads = GradStore::default();
    for (index, parameter) in network.parameters().iter().enumerate() {
        grads.insert(&parameter.var, uniform(1000 * step + index as u64, parameter.var.dims()));
    }
    grads
}

/// Three steps against v = momentum v - rate (g + 2 decay w), w = w + v in float64. A step rounds about four times,
/// values are below 2, and momentum carries the errors of the steps before: 3 steps * 4 * 2 * (1 + 0.9 + 0.81)
/// roundings.
#[test]
fn steps_follow_the_formula() {
    let network = network(1);
    let mut sgd = Sgd::for_network(&network, CONFIG).unwrap();
    let mut expected: Vec<(Vec<f64>, Vec<f64>)> =
        network.parameters().iter().map(|p| (wide(&p.var), vec![0.0; p.var.elem_count()])).collect();
    for step in 0..3 {
        let grads = gradients(&network, step);
        sgd.step(&grads).unwrap();
        for (parameter, (w, v)) in network.parameters().iter().zip(&mut expected) {
            let decay = if parameter.decays { 2.0 * CONFIG.weight_decay } else { 0.0 };
            let g = wide(grads.get(&parameter.var).unwrap());
            for ((w, v), g) in w.iter_mut().zip(v.iter_mut()).zip(g) {
                *v = CONFIG.momentum * *v - CONFIG.learning_rate * (g + decay * *w);
                *w += *v;
            }
        }
    }
    let velocities = sgd.velocities();
    for ((parameter, (name, velocity)), (w, v)) in network.parameters().iter().zip(&velocities).zip(&expected) {
        assert_eq!(&parameter.name, name);
        assert_close(name, &wide(&parameter.var), w, 66.0 * ROUNDING);
        assert_close(&format!("velocity of {name}"), &wide(velocity), v, 66.0 * ROUNDING);
    }
}

/// An optimiser that took over velocities goes on like the one they are from, to the last bit.
#[test]
fn velocities_round_trip() {
    let (network, copy) = (network(1), network(2));
    let mut sgd = Sgd::for_network(&network, CONFIG).unwrap();
    sgd.step(&gradients(&network, 0)).unwrap();
    copy.load_state(&network.state().into_iter().collect::<HashMap<_, _>>()).unwrap();
    let mut restored = Sgd::for_network(&copy, CONFIG).unwrap();
    restored.load_velocities(&sgd.velocities().into_iter().collect::<HashMap<_, _>>()).unwrap();
    sgd.step(&gradients(&network, 1)).unwrap();
    restored.step(&gradients(&copy, 1)).unwrap();
    for (a, b) in network.parameters().iter().zip(copy.parameters()) {
        assert_eq!(bits(&a.var), bits(&b.var), "{}", a.name);
    }
}

#[test]
fn velocities_that_do_not_fit_are_refused() {
    let network = network(1);
    let mut sgd = Sgd::for_network(&network, CONFIG).unwrap();
    let mut velocities: HashMap<String, Tensor> = sgd.velocities().into_iter().collect();
    let logits = velocities.remove("logits.weight").unwrap();
    let error = sgd.load_velocities(&velocities).unwrap_err();
    assert!(matches!(error, Error::MissingState { name } if name == "logits.weight"));
    velocities.insert("logits.weight".to_owned(), logits.t().unwrap());
    assert!(matches!(sgd.load_velocities(&velocities).unwrap_err(), Error::StateShape { .. }));
    velocities.insert("logits.weight".to_owned(), logits.clone());
    velocities.insert("logits.gamma".to_owned(), logits);
    assert!(matches!(sgd.load_velocities(&velocities).unwrap_err(), Error::SurplusState { .. }));
}

/// As candle's trait makes it: weights decay, vectors do not, and what has no gradient stays.
#[test]
fn as_candles_optimiser() {
    let weight = Var::from_tensor(&uniform(0, &[2, 3])).unwrap();
    let bias = Var::from_tensor(&uniform(1, &[3])).unwrap();
    let idle = Var::from_tensor(&uniform(2, &[3])).unwrap();
    let before = [wide(&weight), wide(&bias), wide(&idle)];
    let mut sgd = Sgd::new(vec![weight.clone(), bias.clone(), idle.clone()], CONFIG).unwrap();
    let mut grads = GradStore::default();
    grads.insert(&weight, weight.zeros_like().unwrap());
    grads.insert(&bias, bias.zeros_like().unwrap());
    sgd.set_learning_rate(0.5);
    assert_eq!(sgd.learning_rate(), 0.5);
    sgd.step(&grads).unwrap();
    let decayed: Vec<f64> = before[0].iter().map(|w| w * (1.0 - 0.5 * 2.0 * CONFIG.weight_decay)).collect();
    assert_close("weight", &wide(&weight), &decayed, 3.0 * ROUNDING);
    assert_close("bias", &wide(&bias), &before[1], 0.0);
    assert_close("idle", &wide(&idle), &before[2], 0.0);
}

/// Training on one batch makes its loss small: the gradients point the right way together.
#[test]
fn a_batch_is_learnt() {
    let network = network(4);
    let mut sgd = Sgd::for_network(&network, SgdConfig { weight_decay: 1e-4, ..CONFIG }).unwrap();
    let (images, labels) = (uniform(1, &[6, 5, 5, 3]), labels(6, 3));
    let mut losses = Vec::new();
    for _ in 0..60 {
        let gradients = network.loss_and_gradients(&images, &labels).unwrap();
        sgd.step(&gradients.grads).unwrap();
        losses.push(gradients.loss.to_scalar::<f32>().unwrap());
    }
    let correct = network.loss_and_gradients(&images, &labels).unwrap().correct.to_scalar::<f32>().unwrap();
    assert!(losses[59] < 0.1 * losses[0], "{losses:?}");
    assert_eq!(correct, 6.0);
}

#[test]
fn loss_of_known_logits() {
    let labels = labels(2, 4);
    let even = Tensor::zeros((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let (value, correct) = loss::forward(&even, &labels).unwrap();
    assert_close("even", &wide(&value), &[4f64.ln()], 2.0 * ROUNDING);
    // Of equal logits the first counts as the answer: right for label 0, wrong for label 1.
    assert_close("correct", &wide(&correct), &[1.0], 0.0);

    let huge = Tensor::new(&[[1e30f32, -1e30, 0.0, 0.0], [-3e38, 3e38, 0.0, 0.0]], &Device::Cpu).unwrap();
    let (value, correct) = loss::forward(&huge, &labels).unwrap();
    assert_close("huge", &wide(&value), &[0.0], 0.0);
    assert_close("correct", &wide(&correct), &[2.0], 0.0);
    assert_close("gradient", &wide(&loss::backward(&huge, &labels).unwrap()), &[0.0; 8], 0.0);

    let broken = Tensor::new(&[[f32::NAN, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let (value, _) = loss::forward(&broken, &labels).unwrap();
    assert!(wide(&value)[0].is_nan());
}
