//! Evaluation with blocks deleted, against the float64 reference with their branches left out.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use gramscope_nn::ops::batch_norm::EPSILON;
use gramscope_nn::{Error, Family, ResNet, ResNetConfig};
use gramscope_reference::{Matrix, Tensor4, batch_norm, convolution, linear, pooling, relu};
use support::{ROUNDING, assert_close, bits, labels, on_threads, uniform, wide};

const SIDE: usize = 7;
const IMAGES: usize = 3;

fn config(residual: bool) -> ResNetConfig {
    ResNetConfig { depth: 14, width: 0.3, residual, classes: 3, image_side: SIDE, ..ResNetConfig::default() }
}

/// With running statistics that are not those of the start.
fn network(residual: bool) -> ResNet {
    let network = ResNet::new(&config(residual), 3, &Device::Cpu).unwrap();
    for seed in 0..3 {
        network.loss_and_gradients(&uniform(seed, &[5, SIDE, SIDE, 3]), &labels(5, 3)).unwrap();
    }
    network
}

fn images() -> Tensor {
    uniform(9, &[IMAGES, SIDE, SIDE, 3])
}

/// Nothing, every block alone, the ends of every stage, and everything.
fn variants() -> Vec<Vec<bool>> {
    let chosen: [&[usize]; 12] =
        [&[], &[0], &[1], &[2], &[3], &[4], &[5], &[0, 1], &[2, 3], &[4, 5], &[1, 2, 5], &[0, 1, 2, 3, 4, 5]];
    chosen.iter().map(|chosen| (0..6).map(|block| chosen.contains(&block)).collect()).collect()
}

/// The network in plain float64 loops.
struct Reference(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Reference {
    fn of(network: &ResNet) -> Self {
        Self(network.state().into_iter().map(|(name, t)| (name, (t.dims().to_vec(), wide(&t)))).collect())
    }

    fn values(&self, name: &str, part: &str) -> &[f64] {
        &self.0[&format!("{name}.{part}")].1
    }

    fn convolve(&self, name: &str, x: &Tensor4, stride: usize) -> Tensor4 {
        let (shape, values) = &self.0[&format!("{name}.weight")];
        let weight = Tensor4::new(shape.clone().try_into().unwrap(), values.clone());
        convolution::forward(x, &weight, self.values(name, "bias"), stride, weight.shape[1] / 2)
    }

    fn normalise(&self, name: &str, x: &Tensor4) -> Tensor4 {
        let [gamma, beta] = ["weight", "bias"].map(|part| self.values(name, part));
        let [mean, variance] = ["running_mean", "running_var"].map(|part| self.values(name, part));
        batch_norm::inference(x, gamma, beta, mean, variance, EPSILON)
    }

    fn logits(&self, images: &Tensor, deleted: &[bool]) -> Matrix {
        let images = Tensor4::new([IMAGES, SIDE, SIDE, 3], wide(images));
        let mut x = relu::forward(&self.normalise("stem.bn", &self.convolve("stem.conv", &images, 1)));
        for (block, deleted) in config(true).block_names().iter().zip(deleted) {
            let stride = if self.0.contains_key(&format!("{block}.shortcut.weight")) { 2 } else { 1 };
            let shortcut = match stride {
                1 => x.clone(),
                _ => self.convolve(&format!("{block}.shortcut"), &x, stride),
            };
            let hidden = self.convolve(&format!("{block}.conv1"), &x, stride);
            let hidden = relu::forward(&self.normalise(&format!("{block}.bn1"), &hidden));
            let branch = self.convolve(&format!("{block}.conv2"), &hidden, 1);
            let branch = self.normalise(&format!("{block}.bn2"), &branch);
            let kept = if *deleted { 0.0 } else { 1.0 };
            x = relu::forward(&shortcut.zip(&branch, |shortcut, branch| shortcut + kept * branch));
        }
        let (shape, values) = &self.0["logits.weight"];
        let weight = Matrix::new(shape[0], shape[1], values.clone());
        linear::forward(&pooling::forward(&x), &weight, self.values("logits", "bias"))
    }
}

/// Blocks with an identity and with a projection, of stride 2 too. Thirty operations follow each other, each a sum of at most
/// 9 x 19 = 171 products: what float32 rounds is at most 30 x 171 roundings of the largest value on the way, which the
/// largest logit stands for within a factor of ten; errors that add up at random stay far below.
#[test]
fn deleted_blocks_contribute_nothing() {
    let network = network(true);
    let reference = Reference::of(&network);
    let whole = reference.logits(&images(), &[false; 6]);
    for (variant, logits) in variants().iter().zip(network.forward_without(&images(), &variants()).unwrap()) {
        let expected = reference.logits(&images(), variant);
        let largest = expected.data.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        let tolerance = 30.0 * 171.0 * ROUNDING * largest;
        assert_close(&format!("{variant:?}"), &wide(&logits), &expected.data, tolerance);
        let moved = gramscope_reference::largest_difference(&expected.data, &whole.data);
        assert!(variant.iter().all(|deleted| !deleted) || moved > 10.0 * tolerance, "{variant:?} would pass unseen");
    }
}

/// The prefix they share is computed once and is nobody else's memory afterwards.
#[test]
fn variants_together_are_variants_alone_for_any_number_of_threads() {
    let network = network(true);
    let all = || -> Vec<_> { network.forward_without(&images(), &variants()).unwrap().iter().map(bits).collect() };
    let together = all();
    for (variant, together) in variants().into_iter().zip(&together) {
        let alone = network.forward_without(&images(), &[variant]).unwrap();
        assert_eq!(&bits(&alone[0]), together);
    }
    assert_eq!(together[0], bits(&network.forward(&images()).unwrap()), "nothing deleted is the network itself");
    for threads in [1, 2] {
        assert_eq!(on_threads(threads, all), together, "{threads} threads");
    }
}

/// Two branches go together; a projection stays with its batch norm.
#[test]
fn every_family_keeps_its_shortcuts() {
    let shaken = ResNetConfig { depth: 8, shake_shake: true, ..config(true) };
    let bottlenecks = ResNetConfig { family: Family::ImageNet, depth: 35, width: 0.1, image_side: 33, ..config(true) };
    for config in [shaken, bottlenecks] {
        let network = ResNet::new(&config, 3, &Device::Cpu).unwrap();
        let side = config.image_side;
        network.loss_and_gradients(&uniform(0, &[5, side, side, 3]), &labels(5, 3)).unwrap();
        let images = uniform(9, &[IMAGES, side, side, 3]);
        let blocks = config.block_names().len();
        let variants = [vec![false; blocks], (0..blocks).map(|block| block == 1).collect()];
        let logits = network.forward_without(&images, &variants).unwrap();
        assert_eq!(bits(&logits[0]), bits(&network.forward(&images).unwrap()), "{config:?}");

        // Block 1 follows the shortcut: its branches' last batch norms give nothing once gamma and beta are zero.
        let prefix = &config.block_names()[1];
        for parameter in network.parameters() {
            let of_last = [".bn2.", ".bn3."].iter().any(|part| parameter.name.contains(part));
            let hidden = config.family == Family::ImageNet && parameter.name.contains(".bn2.");
            if parameter.name.starts_with(prefix.as_str()) && of_last && !hidden {
                parameter.var.set(&parameter.var.zeros_like().unwrap()).unwrap();
            }
        }
        assert_eq!(bits(&logits[1]), bits(&network.forward(&images).unwrap()), "{config:?}");
    }
}

#[test]
fn what_cannot_be_deleted_is_an_error() {
    let error = network(false).forward_without(&images(), &variants()).unwrap_err();
    assert!(matches!(error, Error::NoShortcuts), "{error}");
    let error = network(true).forward_without(&images(), &[vec![true; 5]]).unwrap_err().to_string();
    assert!(error.contains("[5]") && error.contains("6 blocks"), "{error}");
    assert!(network(true).forward_without(&images(), &[]).unwrap().is_empty());
}
