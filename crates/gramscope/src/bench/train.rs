//! A training step: forward, backward and the optimiser, on images that are in memory.

use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use cpu_time::ProcessTime;
use gramscope_nn::{ResNet, ResNetConfig, Sgd, SgdConfig};
use serde_json::json;

use super::ceilings::Ceilings;
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

/// Measures training steps of one network on the CPU, beside the least time that `ceilings` give what it computes and
/// moves ([`ResNetConfig::training_work`]).
///
/// # Errors
/// A network that does not exist; a file that cannot be written.
pub(crate) fn run(subject: Subject, ceilings: Ceilings, rows: &mut Rows<'_>) -> anyhow::Result<()> {
    let Subject { depth, width, batch_size } = subject;
    let config = ResNetConfig { depth, width, ..ResNetConfig::default() };
    let network = ResNet::new(&config, 0, &Device::Cpu)?;
    let mut optimiser =
        Sgd::for_network(&network, SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4 })?;
    let images = Tensor::rand(0_f32, 1.0, (batch_size, 32, 32, 3), &Device::Cpu)?;
    let labels: Vec<u32> = (0..batch_size).map(|image| image as u32 % 10).collect();
    let labels = Tensor::new(labels, &Device::Cpu)?;
    let (mut times, mut cpu_times) = (Vec::with_capacity(STEPS), Vec::with_capacity(STEPS));
    for step in 0..WARM_UP + STEPS {
        let (start, cpu_start) = (Instant::now(), ProcessTime::try_now()?);
        let gradients = network.loss_and_gradients(&images, &labels)?;
        optimiser.step(&gradients.grads)?;
        if step >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
            cpu_times.push(cpu_start.try_elapsed()?.as_secs_f64() * 1e3);
        }
    }
    let ms = median(times);
    let rate = batch_size as f64 / ms * 1e3;
    let work = config.training_work(batch_size);
    let floor = ceilings.floor_ms(&work);
    let multiply_adds: u64 = work.iter().map(|work| work.multiply_adds).sum();
    let bytes: u64 = work.iter().map(|work| work.bytes).sum();
    let fields = json!({
        "bench": "train", "depth": depth, "width": width, "precision": "f32", "batch_size": batch_size,
        "ms_per_step": ms, "cpu_ms_per_step": median(cpu_times), "images_per_second": rate, "multiply_adds": multiply_adds, "bytes": bytes,
        "floor_ms": floor, "share_of_floor": floor / ms, "multiply_adds_per_second": ceilings.multiply_adds,
        "bytes_per_second": ceilings.bytes, "device": "cpu",
    });
    let text = format!(
        "ResNet-{depth} x{width}, f32, batches of {batch_size}: {ms:.1} ms a step, {rate:.0} images/s; counted floor \
         {floor:.1} ms, {:.2} of the time",
        floor / ms
    );
    rows.row(&text, &fields)
}
