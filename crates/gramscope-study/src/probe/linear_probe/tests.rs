#![allow(clippy::unwrap_used)]

use candle_core::Device;
use gramscope_nn::random::{Philox, Stream};
use gramscope_reference::softmax_regression::SoftmaxRegression;
use gramscope_reference::{Matrix, largest_difference, sgd};

use super::*;

const STEP: Step = Step { learning_rate: 0.1, momentum: 0.9 };

/// Uniform values in [-1, 1).
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut numbers = Philox::new(seed, Stream::Drawing).sequence(0);
    (0..len).map(|_| numbers.between(-1.0, 1.0) as f32).collect()
}

fn labels(examples: usize, classes: usize) -> Tensor {
    let labels: Vec<u32> = (0..examples).map(|example| (example * 7 % classes) as u32).collect();
    Tensor::from_vec(labels, examples, &Device::Cpu).unwrap()
}

fn bits(probe: &LinearProbe) -> Vec<u32> {
    probe.weight().iter().chain(&probe.bias()).map(|value| value.to_bits()).collect()
}

/// Features and examples on both sides of the groups, and one of each.
///
/// In float32 a logit is a sum of p + 1 terms and a gradient one of n, so that a step's error is at most (p + n + 4) roundings
/// of the largest feature (1) times the rate, and that of the last class, whose weights and logits are minus the sum of the
/// others', as many times that as there are others; momentum keeps ten times as many. The problem is convex and the rate small, so
/// that errors add up over the steps and grow no faster.
#[test]
fn steps_are_the_references() {
    const STEPS: u64 = 20;
    for (examples, features, classes) in
        [(1, 1, 2), (5, 3, 2), (16, 512, 3), (17, 513, 10), (31, 1031, 7), (15, 511, 10)]
    {
        let mut probe = LinearProbe::new(features, classes);
        let mut reference = SoftmaxRegression::new(features, classes);
        let labels = labels(examples, classes);
        let places: Vec<usize> = labels.to_vec1::<u32>().unwrap().into_iter().map(|label| label as usize).collect();
        let rate = STEP.learning_rate / features as f64;
        let step = Step { learning_rate: rate, ..STEP };
        let settings = sgd::Settings { learning_rate: rate, momentum: 0.9, weight_decay: 0.0 };
        let rounding = f64::from(f32::EPSILON) / 2.0;
        let tolerance = (classes - 1) as f64 * STEPS as f64 * 10.0 * rate * (features + examples + 4) as f64 * rounding;
        for round in 0..STEPS {
            let x = noise(round, examples * features);
            let wide = Matrix::new(examples, features, x.iter().map(|&value| value.into()).collect());
            let outcome = probe.step(&x, &labels, step).unwrap();
            let expected = reference.step(&wide, &places, settings);
            // Logits are off by the weights' error times the sum of the features, and as much by their own rounding.
            let allowed = 2.0 * features as f64 * tolerance + 4.0 * rounding;
            assert!((outcome.loss - expected).abs() <= allowed, "{examples} x {features}: {} {expected}", outcome.loss);
        }
        let weight = Matrix::from_fn(features, classes, |feature, class| reference.weight.get(class, feature));
        let found = |values: &[f32]| -> Vec<f64> { values.iter().map(|&value| value.into()).collect() };
        let difference = largest_difference(&found(&probe.weight()), &weight.data);
        assert!(difference <= tolerance, "{examples} x {features}: {difference:e} > {tolerance:e}");
        let moved = weight.data.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        assert!(moved > 50.0 * tolerance, "weights of {moved} would hide an error of {tolerance}");
        assert!(largest_difference(&found(&probe.bias()), &reference.bias) <= tolerance);
    }
}

/// A ReLU that is applied as the activations are read gives the bits of one that was applied before; NaN stays NaN.
#[test]
fn a_relu_may_be_left_to_the_probe() {
    for (examples, features, classes) in [(1, 1, 2), (17, 513, 10), (16, 1040, 5)] {
        let (mut one, mut other) = (LinearProbe::new(features, classes), LinearProbe::new(features, classes));
        let labels = labels(examples, classes);
        for round in 0..5 {
            let x = noise(round, examples * features);
            let rectified: Vec<f32> = x.iter().map(|value| value.max(0.0)).collect();
            let left = Inputs { values: &x, relu: true };
            assert_eq!(one.evaluate(left, &labels).unwrap(), other.evaluate(&rectified, &labels).unwrap());
            assert_eq!(one.step(left, &labels, STEP).unwrap(), other.step(&rectified, &labels, STEP).unwrap());
        }
        assert_eq!(bits(&one), bits(&other), "{examples} x {features}");
        let mut x = noise(9, examples * features);
        x[features - 1] = f32::NAN;
        assert!(one.evaluate(Inputs { values: &x, relu: true }, &labels).unwrap().loss.is_nan());
    }
}

#[test]
fn threads_have_equally_many_groups() {
    for (examples, threads, groups) in
        [(1, 2, 1), (16, 2, 1), (128, 1, 2), (128, 2, 2), (250, 3, 6), (128, 16, 8), (4096, 3, 66)]
    {
        let size = group_size(examples, threads);
        assert!(EXAMPLES.contains(&size), "{examples} examples, {threads} threads: {size}");
        assert_eq!(examples.div_ceil(size), groups, "{examples} examples, {threads} threads: groups of {size}");
    }
}

/// Groups of 35 examples for one and two threads, of 24 and 16 for three and eight: an odd one is multiplied alone in some, beside another
/// in others.
#[test]
fn the_same_bits_for_any_number_of_threads() {
    let (examples, features, classes) = (70, 1500, 10);
    let trained = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut probe = LinearProbe::new(features, classes);
            let outcomes: Vec<Outcome> = (0..5)
                .map(|round| probe.step(&noise(round, examples * features), &labels(examples, classes), STEP).unwrap())
                .collect();
            (bits(&probe), outcomes)
        })
    };
    let one = trained(1);
    assert_eq!(trained(2), one);
    assert_eq!(trained(3), one);
    assert_eq!(trained(8), one);
}

/// Features of a norm of 1e4: the loss jumps about, and stays a number. NaN leaves the weights as they were.
#[test]
fn large_features_do_not_diverge_and_nan_changes_nothing() {
    let (examples, features) = (32, 64);
    let mut probe = LinearProbe::new(features, 10);
    let labels = labels(examples, 10);
    for round in 0..200 {
        let x: Vec<f32> = noise(round, examples * features).iter().map(|value| 1e4 * (value + 1.0)).collect();
        assert!(probe.step(&x, &labels, STEP).unwrap().loss.is_finite(), "step {round}");
    }
    // rate times the largest feature over 1 - momentum, a step.
    assert!(probe.weight().iter().all(|weight| weight.abs() <= 200.0 * 0.1 * 2e4 / 0.1));
    let before = probe.clone();
    let mut x = noise(0, examples * features);
    x[70] = f32::NAN;
    assert!(probe.step(&x, &labels, STEP).unwrap().loss.is_nan());
    assert_eq!(bits(&probe), bits(&before));
    assert!(probe.evaluate(&x, &labels).unwrap().loss.is_nan());
}

#[test]
fn labels_must_be_classes() {
    let mut probe = LinearProbe::new(2, 2);
    let three = Tensor::from_vec(vec![0_u32, 2], 2, &Device::Cpu).unwrap();
    assert!(probe.step(&[0.0; 4], &three, STEP).unwrap_err().to_string().contains("image 1 is 2"));
}

/// Numbers below float32's normal ones are a hundred times slower to compute with. Examples that the probe is sure of have gradients
/// that small, and features that are 0 from some step on (0.9^900 < 2^-126) velocities.
#[test]
fn nothing_shrinks_below_the_normal_numbers() {
    let (examples, features, classes) = (8, 40, 4);
    let mut probe = LinearProbe::new(features, classes);
    let labels = labels(examples, classes);
    let x: Vec<f32> = noise(3, examples * features).iter().map(|value| 20.0 * value).collect();
    let is_normal = |value: &f32| *value == 0.0 || value.is_normal();
    for _ in 0..50 {
        probe.step(&x, &labels, STEP).unwrap();
    }
    assert!(probe.weight_velocity.as_flattened().iter().any(|velocity| *velocity != 0.0));
    for step in 0..1000 {
        probe.step(&vec![0.0; examples * features], &labels, STEP).unwrap();
        assert!(probe.weight_velocity.as_flattened().iter().all(is_normal), "step {step}");
    }
    assert!(probe.weight_velocity.as_flattened().iter().all(|velocity| *velocity == 0.0));
}
