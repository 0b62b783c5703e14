//! Networks on the GPU: whole training steps beside the CPU's, in every arithmetic.

use std::sync::Arc;

use candle_core::{Device as Host, Tensor};
use candle_nn::Optimizer;
use gramscope_cuda::Device;
use gramscope_cuda::plan::Arithmetic;
use gramscope_nn::device::{DeviceNetwork, Images};
use gramscope_nn::{ResNet, ResNetConfig, Sgd, SgdConfig};

use super::inputs::numbers;
use super::{Finding, Report};

const STEPS: usize = 10;
const IMAGES: usize = 8;
/// Odd, so that nothing is even all the way.
const SIDE: usize = 9;
const SGD: SgdConfig = SgdConfig { learning_rate: 0.02, momentum: 0.9, weight_decay: 1e-4 };

/// Ten steps of a small network, on one batch.
///
/// The parameters' errors are relative to what the steps have moved them by at most. float32 on both sides differs by the
/// order of sums: a rounding is 6e-8, a sum has up to 600 terms, and ten steps over few values multiply that by some
/// hundred. TF32 and bfloat16 round factors to 2^-12 and 2^-9 of them, and of the ReLUs about as large a share lets through what
/// it should not, or the reverse: each such unit's gradient is wrong altogether, so that gradients are off by the share's
/// root, 2% and 5% a layer, which ten steps may triple.
pub(super) fn check(report: &mut Report<'_>, device: &Arc<Device>) {
    for (name, arithmetic, allowed) in
        [("f32", Arithmetic::Float32, 1e-3), ("tf32", Arithmetic::Tf32, 0.2), ("bf16", Arithmetic::Bf16, 0.5)]
    {
        report.check(&format!("ten training steps as on the CPU, {name}"), as_on_cpu(device, arithmetic, allowed));
        report.check(&format!("ten training steps, the same bits twice, {name}"), twice(device, arithmetic));
    }
}

/// Every parameter and running statistic of a network, one after the other.
type State = Vec<f32>;

fn state(network: &ResNet) -> anyhow::Result<State> {
    let tensors = network.state();
    let values = tensors.iter().map(|(_, tensor)| tensor.flatten_all()?.to_vec1::<f32>());
    Ok(values.collect::<candle_core::Result<Vec<_>>>()?.concat())
}

fn network() -> anyhow::Result<ResNet> {
    let config = ResNetConfig { depth: 8, width: 0.5, image_side: SIDE, ..ResNetConfig::default() };
    Ok(ResNet::new(&config, 1, &Host::Cpu)?)
}

fn batch() -> (Vec<f32>, Vec<u32>) {
    let mut numbers = numbers(5);
    let pixels = (0..IMAGES * SIDE * SIDE * 3).map(|_| numbers.between(0.0, 1.0) as f32);
    (pixels.collect(), (0..IMAGES as u32).collect())
}

fn trained_on_cpu() -> anyhow::Result<State> {
    let network = network()?;
    let mut sgd = Sgd::for_network(&network, SGD)?;
    let (pixels, labels) = batch();
    let images = Tensor::from_vec(pixels, (IMAGES, SIDE, SIDE, 3), &Host::Cpu)?;
    let labels = Tensor::from_vec(labels, IMAGES, &Host::Cpu)?;
    for _ in 0..STEPS {
        let gradients = network.loss_and_gradients(&images, &labels)?;
        sgd.step(&gradients.grads)?;
    }
    state(&network)
}

fn trained_on_gpu(device: &Arc<Device>, arithmetic: Arithmetic) -> anyhow::Result<State> {
    let network = network()?;
    let mut sgd = Sgd::for_network(&network, SGD)?;
    let mut on_device = DeviceNetwork::new(&network, device.clone(), arithmetic)?;
    on_device.learn(&sgd)?;
    let (pixels, labels) = batch();
    for _ in 0..STEPS {
        on_device.step(Images::Host { pixels: &pixels, labels: &labels })?;
    }
    on_device.write_back(&network, &mut sgd)?;
    state(&network)
}

fn as_on_cpu(device: &Arc<Device>, arithmetic: Arithmetic, allowed: f64) -> anyhow::Result<Finding> {
    let (before, expected) = (state(&network()?)?, trained_on_cpu()?);
    let found = trained_on_gpu(device, arithmetic)?;
    let moved = before.iter().zip(&expected).map(|(before, after)| f64::from((before - after).abs()));
    let largest = moved.fold(0.0, f64::max);
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    let mut finding = Finding::new(allowed);
    finding.compare_all(found.into_iter().map(f64::from), &expected, largest);
    Ok(finding)
}

fn twice(device: &Arc<Device>, arithmetic: Arithmetic) -> anyhow::Result<Finding> {
    let (first, second) = (trained_on_gpu(device, arithmetic)?, trained_on_gpu(device, arithmetic)?);
    let first: Vec<f64> = first.into_iter().map(f64::from).collect();
    let mut finding = Finding::new(0.0);
    finding.compare_all(second.into_iter().map(f64::from), &first, 1.0);
    Ok(finding)
}
