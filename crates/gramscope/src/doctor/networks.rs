//! Networks on the GPU: whole training steps beside the CPU's, in every arithmetic.

use std::sync::Arc;

use candle_core::{Device as Host, Tensor};
use candle_nn::Optimizer;
use gramscope_cuda::Device;
use gramscope_cuda::plan::{Arithmetic, Placing};
use gramscope_nn::device::{DeviceNetwork, Images, Order, StoredImages};
use gramscope_nn::{Family, FirstComponentPenalty, ResNet, ResNetConfig, Sgd, SgdConfig, Shake, StepOptions};

use super::inputs::numbers;
use super::{Finding, Report};

const STEPS: usize = 10;
const IMAGES: usize = 8;
/// Odd, so that nothing is even all the way.
const SIDE: usize = 9;
/// Of a size that changes what is learnt.
const PENALTY: FirstComponentPenalty = FirstComponentPenalty { weight: 0.5, threshold: 0.1 };
const SGD: SgdConfig = SgdConfig { learning_rate: 0.02, momentum: 0.9, weight_decay: 1e-4 };

/// A small network's training steps, on one batch.
///
/// In float32, ten steps: each tensor's error is relative to what the steps have moved that tensor by at most. The sides differ
/// by the order of sums: a rounding is 6e-8, a sum has up to 600 terms, and ten steps over few values multiply that by some
/// hundred. TF32 and bfloat16 round factors to 2^-12 and 2^-9 of them, and of the ReLUs about as large a share lets through what
/// it should not, or the reverse: each such unit's gradient is wrong altogether, so that gradients are off by the share's
/// root, 2% and 5% a layer, some 5% and 15% at the stem. So one step is compared, by its direction: 1 - cos is half the square
/// of the relative error, four times which is allowed. A tensor that does not move is 1 off, one that moves backwards 2.
pub(super) fn check(report: &mut Report<'_>, device: &Arc<Device>) {
    let config = ResNetConfig { depth: 8, width: 0.5, image_side: SIDE, ..ResNetConfig::default() };
    let plain = &Training { config, penalty: None };
    let penalised = &Training { penalty: Some(PENALTY), ..plain.clone() };
    let shaken = &Training { config: ResNetConfig { shake_shake: true, ..plain.config.clone() }, penalty: None };
    let bottlenecks = &Training { config: bottlenecks(), penalty: None };
    report.check("ten training steps as on the CPU, f32", || as_on_cpu(plain, device));
    report.check("ten penalised training steps as on the CPU, f32", || as_on_cpu(penalised, device));
    report.check("ten training steps of Shake-Shake as on the CPU, f32", || as_on_cpu(shaken, device));
    report.check("a training step of bottlenecks as on the CPU, f32", || a_step_as_on_cpu(bottlenecks, device));
    for (name, arithmetic, allowed) in [("tf32", Arithmetic::Tf32, 0.005), ("bf16", Arithmetic::Bf16, 0.05)] {
        report.check(&format!("the direction of a training step, {name}"), || {
            same_direction(plain, device, arithmetic, allowed)
        });
    }
    for (name, arithmetic) in [("f32", Arithmetic::Float32), ("tf32", Arithmetic::Tf32), ("bf16", Arithmetic::Bf16)] {
        report.check(&format!("ten training steps, the same bits twice, {name}"), || {
            twice(penalised, device, arithmetic)
        });
        report.check(&format!("ten training steps, captured as launched one by one, {name}"), || {
            captured(plain, device, arithmetic)
        });
    }
}

/// The smallest of its family, with sides down to 2.
fn bottlenecks() -> ResNetConfig {
    ResNetConfig { family: Family::ImageNet, depth: 35, width: 0.0625, image_side: 33, ..ResNetConfig::default() }
}

/// A tensor's name and values.
type Named = (String, Vec<f64>);
/// Every parameter and running statistic of a network.
type State = Vec<Named>;

fn state(network: &ResNet) -> anyhow::Result<State> {
    let values = |tensor: &Tensor| -> candle_core::Result<Vec<f64>> {
        Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    };
    Ok(network
        .state()
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), values(tensor)?)))
        .collect::<candle_core::Result<_>>()?)
}

/// What is trained.
#[derive(Clone)]
struct Training {
    config: ResNetConfig,
    penalty: Option<FirstComponentPenalty>,
}

impl Training {
    fn network(&self) -> anyhow::Result<ResNet> {
        Ok(ResNet::new(&self.config, 1, &Host::Cpu)?)
    }
}

/// The branches' shares in the step of this number, where there are two: of another epoch each, so that they differ.
fn shake(step: usize) -> anyhow::Result<Option<Shake<'static>>> {
    const NUMBERS: [usize; IMAGES] = [3, 1, 4, 15, 9, 2, 6, 53];
    Ok(Some(Shake { seed: 7, epoch: u32::try_from(step)?, images: &NUMBERS }))
}

fn batch(side: usize) -> (Vec<f32>, Vec<u32>) {
    let mut numbers = numbers(5);
    let pixels = (0..IMAGES * side * side * 3).map(|_| numbers.between(0.0, 1.0) as f32);
    (pixels.collect(), (0..IMAGES as u32).collect())
}

fn trained_on_cpu(training: &Training, steps: usize) -> anyhow::Result<State> {
    let network = training.network()?;
    let mut sgd = Sgd::for_network(&network, SGD)?;
    let side = training.config.image_side;
    let (pixels, labels) = batch(side);
    let images = Tensor::from_vec(pixels, (IMAGES, side, side, 3), &Host::Cpu)?;
    let labels = Tensor::from_vec(labels, IMAGES, &Host::Cpu)?;
    for step in 0..steps {
        let options = StepOptions { penalty: training.penalty, shake: shake(step)? };
        let gradients = network.loss_and_gradients_with(&images, &labels, options)?;
        sgd.step(&gradients.grads)?;
    }
    state(&network)
}

fn trained_on_gpu(
    training: &Training,
    device: &Arc<Device>,
    arithmetic: Arithmetic,
    steps: usize,
) -> anyhow::Result<State> {
    let network = training.network()?;
    let mut sgd = Sgd::for_network(&network, SGD)?;
    let mut on_device = DeviceNetwork::new(&network, device.clone(), arithmetic)?;
    on_device.learn(&sgd)?;
    training.penalty.into_iter().for_each(|penalty| on_device.penalise(penalty));
    let (pixels, labels) = batch(training.config.image_side);
    for step in 0..steps {
        on_device.step(Images::Host { pixels: &pixels, labels: &labels, shake: shake(step)? })?;
    }
    on_device.write_back(&network, &mut sgd)?;
    state(&network)
}

/// By how much each tensor has moved that has a gradient to move it.
fn movements(before: &State, after: State) -> State {
    let moved = |((name, after), (_, before)): (Named, &Named)| {
        (name, after.iter().zip(before).map(|(after, before)| after - before).collect())
    };
    after.into_iter().zip(before).filter(|(_, (name, _))| !is_taken_away(name, before)).map(moved).collect()
}

/// Whether a tensor of `state` is the bias of a convolution in front of a batch norm, which takes any constant away: its gradient
/// is 0 but for roundings, and has no direction.
fn is_taken_away(name: &str, state: &State) -> bool {
    let Some(layer) = name.strip_suffix(".bias") else { return false };
    let norm = format!("{layer}_bn.bias");
    layer.contains(".conv") || state.iter().any(|(name, _)| *name == norm)
}

fn as_on_cpu(training: &Training, device: &Arc<Device>) -> anyhow::Result<Finding> {
    let before = state(&training.network()?)?;
    let expected = movements(&before, trained_on_cpu(training, STEPS)?);
    let found = movements(&before, trained_on_gpu(training, device, Arithmetic::Float32, STEPS)?);
    let mut finding = Finding::new(1e-3);
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        let largest = expected.iter().fold(0.0_f64, |largest, moved| largest.max(moved.abs()));
        anyhow::ensure!(largest > 0.0, "{name} was not moved by the CPU");
        finding.compare_all(found, expected, largest);
    }
    Ok(finding)
}

/// One step of a network so deep that ten would drift apart, of which each tensor's movement is compared as a whole: the length of
/// the difference, relative to its own. The order of sums alone is 1e-5 off, and a value that it puts on the other side of its ReLU
/// turns the gradient by 0.6%, in the smallest layers by 3%. What does not move is 1 off, what moves ten times as far 9.
fn a_step_as_on_cpu(training: &Training, device: &Arc<Device>) -> anyhow::Result<Finding> {
    let before = state(&training.network()?)?;
    let expected = movements(&before, trained_on_cpu(training, 1)?);
    let found = movements(&before, trained_on_gpu(training, device, Arithmetic::Float32, 1)?);
    let mut finding = Finding::new(0.05);
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        let of_movement = length(&mut expected.iter().copied());
        anyhow::ensure!(of_movement > 0.0, "{name} was not moved by the CPU");
        let difference = length(&mut expected.iter().zip(found).map(|(expected, found)| found - expected));
        finding.compare(difference / of_movement, 0.0);
    }
    Ok(finding)
}

fn same_direction(
    training: &Training,
    device: &Arc<Device>,
    arithmetic: Arithmetic,
    allowed: f64,
) -> anyhow::Result<Finding> {
    let before = state(&training.network()?)?;
    let expected = movements(&before, trained_on_cpu(training, 1)?);
    let found = movements(&before, trained_on_gpu(training, device, arithmetic, 1)?);
    let mut finding = Finding::new(allowed);
    for ((_, expected), (_, found)) in expected.iter().zip(&found) {
        finding.compare(cosine(found, expected), 1.0);
    }
    Ok(finding)
}

/// 0 where one of them is 0 altogether.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths = (product(a, a) * product(b, b)).sqrt();
    if lengths == 0.0 { 0.0 } else { product(a, b) / lengths }
}

fn twice(training: &Training, device: &Arc<Device>, arithmetic: Arithmetic) -> anyhow::Result<Finding> {
    let once = || trained_on_gpu(training, device, arithmetic, STEPS);
    let mut finding = Finding::new(0.0);
    for ((_, first), (_, second)) in once()?.iter().zip(once()?) {
        finding.compare_all(second, first, 1.0);
    }
    Ok(finding)
}

/// Two epochs of five steps on images that lie on the device, of which all but the first are launched as one graph each, against the
/// same images from the host, kernel by kernel: the same bits.
fn captured(training: &Training, device: &Arc<Device>, arithmetic: Arithmetic) -> anyhow::Result<Finding> {
    const EPOCHS: u32 = 2;
    let side = training.config.image_side;
    let images = STEPS / EPOCHS as usize * IMAGES;
    let mut numbers = numbers(6);
    let bytes: Vec<u8> = (0..images * side * side * 3).map(|_| numbers.below(256) as u8).collect();
    let labels: Vec<u32> = (0..images as u32).map(|image| image % 10).collect();
    let host = training.network()?;
    let mut sgd = Sgd::for_network(&host, SGD)?;
    let learning = || -> anyhow::Result<DeviceNetwork> {
        let mut network = DeviceNetwork::new(&host, device.clone(), arithmetic)?;
        network.learn(&sgd)?;
        Ok(network)
    };
    let (mut replayed, mut launched) = (learning()?, learning()?);
    let stored = StoredImages::new(device, &bytes, &labels, side)?;
    let mut order = Order::new(device.clone(), images, Placing::default())?;
    for epoch in 1..=EPOCHS {
        // 7 has no factor in common with the number of images.
        let of_epoch: Vec<u32> = (0..images as u32).map(|image| (image * 7 + epoch) % images as u32).collect();
        order.begin(&of_epoch, 0, epoch)?;
        for batch in of_epoch.chunks(IMAGES) {
            replayed.step(Images::Next { images: &stored, order: &mut order, count: IMAGES })?;
            let length = side * side * 3;
            let of =
                |&image: &u32| bytes[image as usize * length..][..length].iter().map(|&byte| f32::from(byte) / 255.0);
            let pixels: Vec<f32> = batch.iter().flat_map(of).collect();
            let labels: Vec<u32> = batch.iter().map(|&image| labels[image as usize]).collect();
            launched.step(Images::Host { pixels: &pixels, labels: &labels, shake: None })?;
        }
    }
    let mut learnt = |network: &DeviceNetwork| {
        network.write_back(&host, &mut sgd)?;
        state(&host)
    };
    let (replayed, launched) = (learnt(&replayed)?, learnt(&launched)?);
    let mut finding = Finding::new(0.0);
    for ((_, found), (_, expected)) in replayed.iter().zip(launched) {
        finding.compare_all(found.iter().copied(), &expected, 1.0);
    }
    Ok(finding)
}
