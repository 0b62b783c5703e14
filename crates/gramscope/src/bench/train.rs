//! A training step: forward, backward and the optimiser, on images that are in memory.

use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use gramscope_nn::{ResNet, ResNetConfig, Sgd, SgdConfig};
use serde_json::json;

use super::{Rows, median};

/// Steps that do not count, and steps whose median does.
const WARM_UP: usize = 2;
const STEPS: usize = 8;

/// The network of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) depth: usize,
    pub(crate) width: f64,
    pub(crate) batch_size: usize,
}

/// Measures training steps of one network on the CPU.
///
/// # Errors
/// A network that does not exist; a file that cannot be written.
pub(crate) fn run(subject: Subject, rows: &mut Rows<'_>) -> anyhow::Result<()> {
    let Subject { depth, width, batch_size } = subject;
    let config = ResNetConfig { depth, width, ..ResNetConfig::default() };
    let network = ResNet::new(&config, 0, &Device::Cpu)?;
    let mut optimiser =
        Sgd::for_network(&network, SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4 })?;
    let images = Tensor::rand(0_f32, 1.0, (batch_size, 32, 32, 3), &Device::Cpu)?;
    let labels: Vec<u32> = (0..batch_size).map(|image| image as u32 % 10).collect();
    let labels = Tensor::new(labels, &Device::Cpu)?;
    let mut times = Vec::with_capacity(STEPS);
    for step in 0..WARM_UP + STEPS {
        let start = Instant::now();
        let gradients = network.loss_and_gradients(&images, &labels)?;
        optimiser.step(&gradients.grads)?;
        if step >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let ms = median(times);
    let rate = batch_size as f64 / ms * 1e3;
    let fields = json!({
        "bench": "train", "depth": depth, "width": width, "precision": "f32", "batch_size": batch_size,
        "ms_per_step": ms, "images_per_second": rate, "device": "cpu",
    });
    rows.row(
        &format!("ResNet-{depth} x{width}, f32, batches of {batch_size}: {ms:.1} ms a step, {rate:.0} images/s"),
        &fields,
    )
}
