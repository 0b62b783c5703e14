//! Ten training steps of whole networks against the float64 reference, whose loops are put together here.
//!
//! What float32 may be off is found by walking the reference a second time with every result (activations, gradients,
//! velocities, weights) rounded to float32. Its products are still sums in float64; ours are float32 sums of up to
//! K terms. K roundings of partial sums that grow like a random walk come to sqrt(K / 2) times one rounding of the whole,
//! 7 for K = 90; twice that, as both are single draws.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use gramscope_reference::{Matrix, Tensor4, batch_norm, convolution, linear, loss, pooling, relu, sgd};
use support::{assert_close, labels, uniform, wide};

use super::{FirstComponentPenalty, ResNet, Shake, StepOptions};
use crate::host::{Pass, Plan, Workspace};
use crate::ops::batch_norm::{EPSILON, MOMENTUM};
use crate::ops::mixing;
use crate::program::{HandOut, Program, Statistics};
use crate::topology::{BlockPlan, ConvolutionPlan, ShortcutPlan, StemPlan, Topology};
use crate::{Error, ResNetConfig, Sgd, SgdConfig};

const STEPS: u64 = 10;
const BATCH: usize = 4;
const CLASSES: usize = 3;

/// The learning rate falls once, as at the end of an epoch.
fn settings(step: u64) -> sgd::Settings {
    let learning_rate = if step < STEPS / 2 { 0.05 } else { 0.02 };
    sgd::Settings { learning_rate, momentum: 0.9, weight_decay: 1e-2 }
}

/// Of the run whose branches are mixed, and the numbers of its images.
const SEED: u64 = 17;
const IMAGES: [usize; BATCH] = [3, 0, 8, 5];

/// Two or three blocks a stage: 2, 5 and 10 channels, sides 7, 4 and 2; with identities and projections, without either,
/// with two branches in every block.
fn cifar() -> Vec<(ResNetConfig, Topology)> {
    let config = ResNetConfig { depth: 14, width: 0.15, classes: CLASSES, image_side: 7, ..ResNetConfig::default() };
    let variants = [
        config.clone(),
        ResNetConfig { residual: false, ..config.clone() },
        ResNetConfig { depth: 8, shake_shake: true, ..config },
    ];
    variants.into_iter().map(|config| (config.clone(), config.topology())).collect()
}

/// What the bottleneck family is made of, on few channels: a 7 x 7 stem of stride 2 with max pooling (sides 7 and 4), a
/// projection without a stride, an identity, a projection of stride 2 on its 3 x 3 convolution (side 2).
fn bottlenecks() -> (ResNetConfig, Topology) {
    let convolution = |kernel, from, to, stride| ConvolutionPlan { kernel, from, to, stride };
    let block = |stage, block, from, stride, shortcut, sides: [usize; 3]| BlockPlan {
        stage,
        block,
        convolutions: vec![convolution(1, from, 3, 1), convolution(3, 3, 3, stride), convolution(1, 3, 6, 1)],
        branches: 1,
        shortcut,
        sides: sides.to_vec(),
    };
    let projection =
        |from, stride| ShortcutPlan::Projection { convolution: convolution(1, from, 6, stride), normalised: true };
    let topology = Topology {
        stem: StemPlan { convolution: convolution(7, 3, 5, 2), side: 7, pooled_side: Some(4) },
        blocks: vec![
            block(1, 1, 5, 1, projection(5, 1), [4; 3]),
            block(1, 2, 6, 1, ShortcutPlan::Identity, [4; 3]),
            block(2, 1, 6, 2, projection(6, 2), [4, 2, 2]),
        ],
        classes: CLASSES,
    };
    (ResNetConfig { classes: CLASSES, image_side: 13, ..ResNetConfig::default() }, topology)
}

/// What float32 sums may cost more than one rounding, for the longest of the convolutions' sums.
fn summation(topology: &Topology) -> f64 {
    let of_blocks = topology.blocks.iter().flat_map(|block| &block.convolutions);
    let convolutions = std::iter::once(&topology.stem.convolution).chain(of_blocks);
    let terms = convolutions.map(|plan| plan.kernel * plan.kernel * plan.from).max().unwrap();
    2.0 * (terms as f64 / 2.0).sqrt()
}

#[test]
fn ten_training_steps_are_the_references() {
    // With these images no value lies too near a corner; with others the margin below may not hold.
    let cases = cifar().into_iter().map(|(config, topology)| (config, topology, 430));
    let (config, topology) = bottlenecks();
    for (config, topology, seed) in cases.chain([(config, topology, 500)]) {
        let (side, summation) = (config.image_side, summation(&topology));
        let network = ResNet::build(&config, &topology, &Device::Cpu).unwrap().with_initial_weights(1).unwrap();
        let mut exact = Reference::new(&network, &topology, false);
        let mut rounded = Reference::new(&network, &topology, true);
        let sgd::Settings { learning_rate, momentum, weight_decay } = settings(0);
        let mut optimiser = Sgd::for_network(&network, SgdConfig { learning_rate, momentum, weight_decay }).unwrap();
        let labels = labels(BATCH, CLASSES);
        let (mut losses, mut expected, mut noisy) = (Vec::new(), Vec::new(), Vec::new());
        for step in 0..STEPS {
            let images = uniform(seed + step, &[BATCH, side, side, 3]);
            let shake = Some(Shake { seed: SEED, epoch: step as u32, images: &IMAGES });
            let options = StepOptions { penalty: None, shake };
            let gradients = network.loss_and_gradients_with(&images, &labels, options).unwrap();
            optimiser.set_learning_rate(settings(step).learning_rate);
            optimiser.step(&gradients.grads).unwrap();
            losses.extend(wide(&gradients.loss));
            expected.push(exact.step(&images, step as u32, settings(step)));
            noisy.push(rounded.step(&images, step as u32, settings(step)));
        }
        // Only then do both see the same side of every ReLU's corner.
        for (exact, rounded) in exact.corners.iter().zip(&rounded.corners) {
            let margin = exact.iter().fold(f64::INFINITY, |least, value| least.min(value.abs()));
            assert!(margin > summation * difference(exact, rounded), "{config:?}: take other images: {margin:e}");
        }
        assert_close("losses", &losses, &expected, summation * difference(&expected, &noisy));
        let tolerance = summation * largest_difference(&exact.state, &rounded.state);
        for (name, tensor) in network.state() {
            assert_close(&name, &wide(&tensor), &exact.state[&name], tolerance);
        }
        let tolerance = summation * largest_difference(&exact.velocities, &rounded.velocities);
        for (name, velocity) in optimiser.velocities() {
            assert_close(&format!("velocity of {name}"), &wide(&velocity), &exact.velocities[&name], tolerance);
        }
    }
}

/// Every parameter has its gradient and the images have none, nor memory for one: a gradient of the stem's result was in the
/// workspace, and so would one of the stem's input have been.
#[test]
fn no_gradient_is_computed_for_the_images() {
    let (imagenet, topology) = bottlenecks();
    for (config, topology) in cifar().into_iter().chain([(imagenet, topology)]) {
        let network = ResNet::build(&config, &topology, &Device::Cpu).unwrap().with_initial_weights(1).unwrap();
        let shape = [BATCH, config.image_side, config.image_side, 3];
        let images = uniform(0, &shape);
        let gradients = network.loss_and_gradients(&images, &labels(BATCH, CLASSES)).unwrap();
        assert_eq!(gradients.grads.get_ids().count(), network.parameters().len());
        assert!(network.parameters().iter().all(|parameter| gradients.grads.get(&parameter.var).is_some()));
        assert!(gradients.grads.get(&images).is_none());
        let StemPlan { convolution, side, .. } = topology.stem;
        assert!(network.workspace.keeps(&[BATCH, side, side, convolution.to]), "{config:?}");
        assert!(!network.workspace.keeps(&shape), "{config:?}");
    }
}

/// What is counted before anything is computed is what lies in memory at most: no less, and of what nothing takes over within a step
/// not much more.
#[test]
fn memory_is_what_was_counted() {
    let (imagenet, topology) = bottlenecks();
    for (config, topology) in cifar().into_iter().chain([(imagenet, topology)]) {
        let network = ResNet::build(&config, &topology, &Device::Cpu).unwrap().with_initial_weights(1).unwrap();
        let side = config.image_side;
        let images = uniform(0, &[BATCH, side, side, 3]);
        let mut plans = vec![
            Plan::new(Program::evaluation(&topology, side)),
            Plan::new(Program::observation(&topology, side, HandOut::OneByOne)),
        ];
        if config.residual {
            let blocks = topology.blocks.len();
            let endings = (0..=blocks).map(|first| (0..blocks).map(|block| block >= first).collect());
            let alone = (0..blocks).map(|only| (0..blocks).map(|block| block == only).collect());
            plans.push(Plan::new(Program::ablation(&topology, side, &endings.chain(alone).collect::<Vec<_>>())));
        }
        for plan in plans {
            let workspace = Workspace::default();
            let mut pass = Pass::evaluation(&plan, &network.parts, Statistics::Running, &images, &workspace);
            pass.run(&mut |_, _| Ok::<(), Error>(())).unwrap();
            let (found, counted) = (pass.most_numbers(), plan.numbers() * BATCH);
            assert!(found <= counted && 2 * found > counted, "{config:?}: {found} of {counted} counted");
            assert_eq!(workspace.numbers(), 0, "{config:?}: memory that nothing asks for is kept");
        }
    }
}

/// From its second step on training takes no memory that it does not give back.
#[test]
fn training_gives_back_what_it_takes() {
    let (imagenet, topology) = bottlenecks();
    for (config, topology) in cifar().into_iter().chain([(imagenet, topology)]) {
        let network = ResNet::build(&config, &topology, &Device::Cpu).unwrap().with_initial_weights(1).unwrap();
        let images = uniform(0, &[BATCH, config.image_side, config.image_side, 3]);
        let options = StepOptions {
            penalty: Some(FirstComponentPenalty { weight: 1.0, threshold: 0.2 }),
            shake: Some(Shake { seed: SEED, epoch: 1, images: &IMAGES }),
        };
        for options in [StepOptions::default(), options] {
            let kept = || {
                network.loss_and_gradients_with(&images, &labels(BATCH, CLASSES), options).unwrap();
                network.workspace.numbers()
            };
            let [_, second, third] = [kept(), kept(), kept()];
            assert!(second > 0 && second == third, "{config:?}: {second} numbers, then {third}");
        }
    }
}

/// The shares of the first branch of block number `block` in all images, forward and backward.
fn shares(epoch: u32, block: usize) -> [[f64; BATCH]; 2] {
    mixing::shares(SEED, epoch, block, &IMAGES).map(|shares| {
        let shares: Vec<f64> = shares.into_iter().map(f64::from).collect();
        shares.try_into().unwrap()
    })
}

fn rest(shares: [f64; BATCH]) -> [f64; BATCH] {
    shares.map(|share| 1.0 - share)
}

/// Every image times its share.
fn scaled(x: &Tensor4, shares: [f64; BATCH]) -> Tensor4 {
    let image = x.data.len() / BATCH;
    let data = x.data.iter().enumerate().map(|(index, value)| value * shares[index / image]).collect();
    Tensor4 { shape: x.shape, data }
}

/// By how much the largest value of each window of 3 x 3 pixels with stride 2 leads over the next that differs from it; a
/// window of zeros alone has no corner.
fn leads(x: &Tensor4) -> Vec<f64> {
    let [n, h, w, c] = x.shape;
    let near = |centre: usize, length: usize| centre.saturating_sub(1)..(centre + 2).min(length);
    let mut leads = Vec::new();
    for (n, i) in (0..n).flat_map(|n| (0..h).step_by(2).map(move |i| (n, i))) {
        for (j, c) in (0..w).step_by(2).flat_map(|j| (0..c).map(move |c| (j, c))) {
            let pixels = near(i, h).flat_map(|i| near(j, w).map(move |j| (i, j)));
            let mut values: Vec<f64> = pixels.map(|(i, j)| x.get([n, i, j, c])).collect();
            values.sort_by(|a, b| b.total_cmp(a));
            let second = values.iter().find(|value| **value < values[0]);
            leads.push(second.map_or(1.0, |second| values[0] - second));
        }
    }
    leads
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
    topology: Topology,
    shapes: HashMap<String, Vec<usize>>,
    /// Parameters and running statistics.
    state: Values,
    velocities: Values,
    gradients: Values,
    /// What each ReLU has seen, and by how much the largest value of each window of a max pooling leads.
    corners: Vec<Vec<f64>>,
    /// Whether results are rounded to float32.
    rounded: bool,
}

/// A convolution and its batch norm, as their backward pass needs them.
struct Unit {
    input: Tensor4,
    convolved: Tensor4,
}

/// A block, as its backward pass needs it.
struct Passed {
    input: Tensor4,
    /// The units of each branch.
    branches: Vec<Vec<Unit>>,
    /// Of a projection with a batch norm.
    projected: Option<Tensor4>,
    output: Tensor4,
}

impl Reference {
    /// With the weights of `network`.
    fn new(network: &ResNet, topology: &Topology, rounded: bool) -> Self {
        let parameters = network.parameters().iter();
        Self {
            topology: topology.clone(),
            shapes: network.state().iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect(),
            state: network.state().iter().map(|(name, tensor)| (name.clone(), wide(tensor))).collect(),
            velocities: parameters.map(|p| (p.name.clone(), vec![0.0; p.var.elem_count()])).collect(),
            gradients: Values::new(),
            corners: Vec::new(),
            rounded,
        }
    }

    /// One step; returns the loss without the penalty.
    fn step(&mut self, images: &Tensor, epoch: u32, settings: sgd::Settings) -> f64 {
        let images = Tensor4::new(images.dims().to_vec().try_into().unwrap(), wide(images));
        let labels: Vec<usize> = (0..BATCH).map(|image| image % CLASSES).collect();
        let StemPlan { convolution, pooled_side, .. } = self.topology.stem.clone();
        let convolved = self.convolve("stem.conv", &images, convolution.stride);
        let normalised = self.normalise("stem.bn", &convolved);
        let stem = self.cut(&normalised);
        let mut x = if pooled_side.is_some() { self.pool(&stem) } else { stem.clone() };
        let blocks = self.topology.blocks.clone();
        let mut passed = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let block = self.forward(block, shares(epoch, index)[0], x);
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
        for (index, (block, passed)) in blocks.iter().zip(&passed).enumerate().rev() {
            dx = self.backward(block, shares(epoch, index)[1], passed, &dx);
        }
        let dstem = if pooled_side.is_some() { self.kept(pooling::max_backward(&stem, &dx)) } else { dx };
        let dx = self.backward_norm("stem.bn", &convolved, &relu::backward(&stem, &dstem));
        self.backward_convolution("stem.conv", &images, &dx, convolution.stride);
        self.update(settings);
        self.round(vec![loss::cross_entropy(&logits, &labels)])[0]
    }

    fn forward(&mut self, plan: &BlockPlan, shares: [f64; BATCH], input: Tensor4) -> Passed {
        let mut branches = Vec::new();
        let mut results = Vec::new();
        for branch in 0..plan.branches {
            let (units, result) = self.forward_branch(&plan.branch_prefix(branch), &plan.convolutions, &input);
            branches.push(units);
            results.push(result);
        }
        let mixed = match &results[..] {
            [single] => single.clone(),
            [a, b] => self.kept(scaled(a, shares).zip(&scaled(b, rest(shares)), |a, b| a + b)),
            _ => panic!("a block has one branch or two"),
        };
        let name = format!("{}.shortcut", plan.prefix());
        let mut projected = None;
        let sum = match plan.shortcut {
            ShortcutPlan::None => mixed,
            ShortcutPlan::Identity => self.add(&mixed, &input),
            ShortcutPlan::Projection { convolution, normalised } => {
                let mut addend = self.convolve(&name, &input, convolution.stride);
                if normalised {
                    let after = self.normalise(&format!("{name}_bn"), &addend);
                    projected = Some(std::mem::replace(&mut addend, after));
                }
                self.add(&mixed, &addend)
            }
        };
        let output = self.cut(&sum);
        Passed { input, branches, projected, output }
    }

    /// The branch's units and the result of the last one's batch norm.
    fn forward_branch(&mut self, prefix: &str, plans: &[ConvolutionPlan], input: &Tensor4) -> (Vec<Unit>, Tensor4) {
        let mut units = Vec::new();
        let mut x = input.clone();
        for (number, plan) in (1..).zip(plans) {
            let convolved = self.convolve(&format!("{prefix}.conv{number}"), &x, plan.stride);
            let normalised = self.normalise(&format!("{prefix}.bn{number}"), &convolved);
            let next = if number < plans.len() { self.cut(&normalised) } else { normalised };
            units.push(Unit { input: std::mem::replace(&mut x, next), convolved });
        }
        (units, x)
    }

    fn backward(&mut self, plan: &BlockPlan, shares: [f64; BATCH], passed: &Passed, dy: &Tensor4) -> Tensor4 {
        let dsum = relu::backward(&passed.output, dy);
        let mut parts = Vec::new();
        for (branch, units) in passed.branches.iter().enumerate() {
            let dresult = match (plan.branches, branch) {
                (1, _) => dsum.clone(),
                (_, 0) => self.kept(scaled(&dsum, shares)),
                _ => self.kept(scaled(&dsum, rest(shares))),
            };
            parts.push(self.backward_branch(&plan.branch_prefix(branch), &plan.convolutions, units, dresult));
        }
        let name = format!("{}.shortcut", plan.prefix());
        match plan.shortcut {
            ShortcutPlan::None => (),
            ShortcutPlan::Identity => parts.push(dsum),
            ShortcutPlan::Projection { convolution, .. } => {
                let dprojected = match &passed.projected {
                    None => dsum,
                    Some(projected) => self.backward_norm(&format!("{name}_bn"), projected, &dsum),
                };
                parts.push(self.backward_convolution(&name, &passed.input, &dprojected, convolution.stride));
            }
        }
        parts.into_iter().reduce(|sum, part| self.add(&sum, &part)).unwrap()
    }

    fn backward_branch(
        &mut self,
        prefix: &str,
        plans: &[ConvolutionPlan],
        units: &[Unit],
        dresult: Tensor4,
    ) -> Tensor4 {
        let mut dx = dresult;
        for (number, (plan, unit)) in (1..).zip(plans.iter().zip(units)).collect::<Vec<_>>().into_iter().rev() {
            let dconvolved = self.backward_norm(&format!("{prefix}.bn{number}"), &unit.convolved, &dx);
            dx = self.backward_convolution(&format!("{prefix}.conv{number}"), &unit.input, &dconvolved, plan.stride);
            if number > 1 {
                dx = relu::backward(&unit.input, &dx);
            }
        }
        dx
    }

    /// The max pooling.
    fn pool(&mut self, x: &Tensor4) -> Tensor4 {
        self.corners.push(leads(x));
        pooling::max_forward(x)
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
