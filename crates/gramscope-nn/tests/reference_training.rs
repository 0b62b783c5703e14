//! Ten training steps of whole networks against the float64 reference, whose loops are put together here.
//!
//! What float32 may be off is found by walking the reference a second time with every result (activations, gradients,
//! velocities, weights) rounded to float32. Its products are still sums in float64; ours are float32 sums of up to
//! K = 90 terms. K roundings of partial sums that grow like a random walk come to sqrt(K / 2), about 7, times one
//! rounding of the whole; twice that, as both are single draws.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use gramscope_nn::ops::batch_norm::{EPSILON, MOMENTUM};
use gramscope_nn::{ResNet, ResNetConfig, Sgd, SgdConfig};
use gramscope_reference::{Matrix, Tensor4, batch_norm, convolution, linear, loss, pooling, relu, sgd};
use support::{assert_close, labels, uniform, wide};

const SUMMATION: f64 = 14.0;
const STEPS: u64 = 10;
const BATCH: usize = 4;
const CLASSES: usize = 3;

/// The learning rate falls once, as at the end of an epoch.
fn settings(step: u64) -> sgd::Settings {
    let learning_rate = if step < STEPS / 2 { 0.05 } else { 0.02 };
    sgd::Settings { learning_rate, momentum: 0.9, weight_decay: 1e-2 }
}

/// 2, 5 and 10 channels, sides 7, 4 and 2; with identities and projections, and without either.
#[test]
fn ten_training_steps_are_the_references() {
    for residual in [true, false] {
        let config = ResNetConfig { depth: 14, width: 0.15, residual, classes: CLASSES, image_side: 7 };
        let network = ResNet::new(&config, 1, &Device::Cpu).unwrap();
        let mut exact = Reference::new(&network, false);
        let mut rounded = Reference::new(&network, true);
        let sgd::Settings { learning_rate, momentum, weight_decay } = settings(0);
        let mut optimiser = Sgd::for_network(&network, SgdConfig { learning_rate, momentum, weight_decay }).unwrap();
        let labels = labels(BATCH, CLASSES);
        let (mut losses, mut expected, mut noisy) = (Vec::new(), Vec::new(), Vec::new());
        for step in 0..STEPS {
            let images = uniform(430 + step, &[BATCH, 7, 7, 3]);
            let gradients = network.loss_and_gradients(&images, &labels).unwrap();
            optimiser.set_learning_rate(settings(step).learning_rate);
            optimiser.step(&gradients.grads).unwrap();
            losses.extend(wide(&gradients.loss));
            expected.push(exact.step(&images, settings(step)));
            noisy.push(rounded.step(&images, settings(step)));
        }
        // Only then do both see the same side of every ReLU's corner.
        for (exact, rounded) in exact.corners.iter().zip(&rounded.corners) {
            let margin = exact.iter().fold(f64::INFINITY, |least, value| least.min(value.abs()));
            assert!(margin > SUMMATION * difference(exact, rounded), "take other images: {margin:e}");
        }
        assert_close("losses", &losses, &expected, SUMMATION * difference(&expected, &noisy));
        let tolerance = SUMMATION * largest_difference(&exact.state, &rounded.state);
        for (name, tensor) in network.state() {
            assert_close(&name, &wide(&tensor), &exact.state[&name], tolerance);
        }
        let tolerance = SUMMATION * largest_difference(&exact.velocities, &rounded.velocities);
        for (name, velocity) in optimiser.velocities() {
            assert_close(&format!("velocity of {name}"), &wide(&velocity), &exact.velocities[&name], tolerance);
        }
    }
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

fn largest_difference(a: &Values, b: &Values) -> f64 {
    a.iter().fold(0.0, |largest, (name, values)| largest.max(difference(values, &b[name])))
}

type Values = HashMap<String, Vec<f64>>;

/// A network of the reference's operations, with its optimiser.
struct Reference {
    /// Names and strides.
    blocks: Vec<(String, usize)>,
    residual: bool,
    shapes: HashMap<String, Vec<usize>>,
    /// Parameters and running statistics.
    state: Values,
    velocities: Values,
    gradients: Values,
    /// What each ReLU has seen.
    corners: Vec<Vec<f64>>,
    /// Whether results are rounded to float32.
    rounded: bool,
}

/// A block, as its backward pass needs it.
struct Passed {
    input: Tensor4,
    convolved1: Tensor4,
    hidden: Tensor4,
    convolved2: Tensor4,
    output: Tensor4,
}

impl Reference {
    /// With the weights of `network`.
    fn new(network: &ResNet, rounded: bool) -> Self {
        let blocks = (1..=3).flat_map(|stage| {
            (1..=network.config().blocks_per_stage())
                .map(move |block| (format!("stage{stage}.block{block}"), if stage > 1 && block == 1 { 2 } else { 1 }))
        });
        let parameters = network.parameters().iter();
        Self {
            blocks: blocks.collect(),
            residual: network.config().residual,
            shapes: network.state().iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect(),
            state: network.state().iter().map(|(name, tensor)| (name.clone(), wide(tensor))).collect(),
            velocities: parameters.map(|p| (p.name.clone(), vec![0.0; p.var.elem_count()])).collect(),
            gradients: Values::new(),
            corners: Vec::new(),
            rounded,
        }
    }

    /// One step; returns the loss without the penalty.
    fn step(&mut self, images: &Tensor, settings: sgd::Settings) -> f64 {
        let images = Tensor4::new([BATCH, 7, 7, 3], wide(images));
        let labels: Vec<usize> = (0..BATCH).map(|image| image % CLASSES).collect();
        let convolved = self.convolve("stem.conv", &images, 1);
        let normalised = self.normalise("stem.bn", &convolved);
        let stem = self.cut(&normalised);
        let mut x = stem.clone();
        let mut passed = Vec::new();
        for (name, stride) in self.blocks.clone() {
            let block = self.forward(&name, stride, x);
            x = block.output.clone();
            passed.push(block);
        }
        let pooled = self.kept_matrix(pooling::forward(&x));
        let weight = self.linear_weight();
        let logits = self.kept_matrix(linear::forward(&pooled, &weight, &self.state["logits.bias"]));

        let dlogits = self.kept_matrix(loss::cross_entropy_gradient(&logits, &labels));
        let head = linear::backward(&pooled, &weight, &dlogits);
        self.keep_gradient("logits.weight", head.dweight.data);
        self.keep_gradient("logits.bias", head.dbias);
        let [_, h, w, _] = x.shape;
        let mut dx = self.kept(pooling::backward(&self.kept_matrix(head.dx), h, w));
        for ((name, stride), passed) in self.blocks.clone().iter().zip(&passed).rev() {
            dx = self.backward(name, *stride, passed, &dx);
        }
        let dx = self.backward_norm("stem.bn", &convolved, &relu::backward(&stem, &dx));
        self.backward_convolution("stem.conv", &images, &dx, 1);
        self.update(settings);
        self.round(vec![loss::cross_entropy(&logits, &labels)])[0]
    }

    fn forward(&mut self, name: &str, stride: usize, input: Tensor4) -> Passed {
        let convolved1 = self.convolve(&format!("{name}.conv1"), &input, stride);
        let normalised = self.normalise(&format!("{name}.bn1"), &convolved1);
        let hidden = self.cut(&normalised);
        let convolved2 = self.convolve(&format!("{name}.conv2"), &hidden, 1);
        let normalised = self.normalise(&format!("{name}.bn2"), &convolved2);
        let sum = match (self.residual, stride) {
            (false, _) => normalised,
            (true, 1) => self.add(&normalised, &input),
            (true, _) => self.add(&normalised, &self.convolve(&format!("{name}.shortcut"), &input, stride)),
        };
        let output = self.cut(&sum);
        Passed { input, convolved1, hidden, convolved2, output }
    }

    fn backward(&mut self, name: &str, stride: usize, passed: &Passed, dy: &Tensor4) -> Tensor4 {
        let Passed { input, convolved1, hidden, convolved2, output } = passed;
        let dsum = relu::backward(output, dy);
        let dconvolved = self.backward_norm(&format!("{name}.bn2"), convolved2, &dsum);
        let dhidden = self.backward_convolution(&format!("{name}.conv2"), hidden, &dconvolved, 1);
        let dconvolved = self.backward_norm(&format!("{name}.bn1"), convolved1, &relu::backward(hidden, &dhidden));
        let dinput = self.backward_convolution(&format!("{name}.conv1"), input, &dconvolved, stride);
        match (self.residual, stride) {
            (false, _) => dinput,
            (true, 1) => self.add(&dinput, &dsum),
            (true, _) => {
                let dshortcut = self.backward_convolution(&format!("{name}.shortcut"), input, &dsum, stride);
                self.add(&dinput, &dshortcut)
            }
        }
    }

    /// With zeros around the image so that stride 1 keeps its size.
    fn convolve(&self, name: &str, x: &Tensor4, stride: usize) -> Tensor4 {
        let weight = self.weight(name);
        self.kept(convolution::forward(x, &weight, &self.state[&format!("{name}.bias")], stride, weight.shape[1] / 2))
    }

    fn backward_convolution(&mut self, name: &str, x: &Tensor4, dy: &Tensor4, stride: usize) -> Tensor4 {
        let weight = self.weight(name);
        let gradients = convolution::backward(x, &weight, dy, stride, weight.shape[1] / 2);
        self.keep_gradient(&format!("{name}.weight"), gradients.dweight.data);
        self.keep_gradient(&format!("{name}.bias"), gradients.dbias);
        self.kept(gradients.dx)
    }

    fn normalise(&mut self, name: &str, x: &Tensor4) -> Tensor4 {
        let [gamma, beta] = self.affine(name);
        let mut forward = batch_norm::forward(x, &gamma, &beta, EPSILON);
        forward.mean = self.round(forward.mean);
        forward.variance = self.round(forward.variance);
        let [mean, variance] = ["running_mean", "running_var"].map(|part| format!("{name}.{part}"));
        let [mut running_mean, mut running_variance] = [&mean, &variance].map(|name| self.state[name].clone());
        let count = x.data.len() / gamma.len();
        batch_norm::track(&mut running_mean, &mut running_variance, &forward, count, MOMENTUM);
        self.state.insert(mean, self.round(running_mean));
        self.state.insert(variance, self.round(running_variance));
        self.kept(forward.y)
    }

    fn backward_norm(&mut self, name: &str, x: &Tensor4, dy: &Tensor4) -> Tensor4 {
        let [gamma, _] = self.affine(name);
        let gradients = batch_norm::backward(x, &gamma, dy, EPSILON);
        self.keep_gradient(&format!("{name}.weight"), gradients.dgamma);
        self.keep_gradient(&format!("{name}.bias"), gradients.dbeta);
        self.kept(gradients.dx)
    }

    /// The ReLU.
    fn cut(&mut self, x: &Tensor4) -> Tensor4 {
        self.corners.push(x.data.clone());
        relu::forward(x)
    }

    fn add(&self, a: &Tensor4, b: &Tensor4) -> Tensor4 {
        self.kept(a.zip(b, |a, b| a + b))
    }

    /// Keras's step of everything that has a velocity; what has more than one dimension decays.
    fn update(&mut self, settings: sgd::Settings) {
        for (name, gradient) in std::mem::take(&mut self.gradients) {
            let (mut w, mut v) = (self.state[&name].clone(), self.velocities[&name].clone());
            sgd::step(&mut w, &mut v, &gradient, self.shapes[&name].len() > 1, settings);
            self.state.insert(name.clone(), self.round(w));
            self.velocities.insert(name, self.round(v));
        }
    }

    /// Gamma and beta.
    fn affine(&self, name: &str) -> [Vec<f64>; 2] {
        ["weight", "bias"].map(|part| self.state[&format!("{name}.{part}")].clone())
    }

    fn weight(&self, name: &str) -> Tensor4 {
        let name = format!("{name}.weight");
        Tensor4::new(self.shapes[&name].clone().try_into().unwrap(), self.state[&name].clone())
    }

    fn linear_weight(&self) -> Matrix {
        let [rows, cols] = self.shapes["logits.weight"].clone().try_into().unwrap();
        Matrix::new(rows, cols, self.state["logits.weight"].clone())
    }

    fn keep_gradient(&mut self, name: &str, gradient: Vec<f64>) {
        let gradient = self.round(gradient);
        assert!(self.gradients.insert(name.to_owned(), gradient).is_none(), "{name} has two gradients");
    }

    fn kept(&self, tensor: Tensor4) -> Tensor4 {
        Tensor4 { shape: tensor.shape, data: self.round(tensor.data) }
    }

    fn kept_matrix(&self, matrix: Matrix) -> Matrix {
        Matrix { data: self.round(matrix.data), ..matrix }
    }

    fn round(&self, mut values: Vec<f64>) -> Vec<f64> {
        if self.rounded {
            values.iter_mut().for_each(|value| *value = f64::from(*value as f32));
        }
        values
    }
}
