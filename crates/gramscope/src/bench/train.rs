//! A training step: forward, backward and the optimiser, on images that are in memory.

use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use cpu_time::ProcessTime;
use gramscope_cuda::plan::{Arithmetic, Placing};
use gramscope_nn::device::{DeviceNetwork, Images, StoredImages};
use gramscope_nn::{Processor, ResNet, ResNetConfig, Sgd, SgdConfig, Work};
use serde_json::json;

use super::ceilings::Ceilings;
use super::{Rows, median};

/// Rounds that do not count, and rounds whose median does.
const WARM_UP: usize = 2;
const ROUNDS: usize = 8;
/// Steps of a round on a GPU, which is waited for behind the last: as training does.
const STEPS_A_ROUND: usize = 16;
/// The recipe's optimiser.
const SGD: SgdConfig = SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4 };

/// The network of one row.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) config: ResNetConfig,
    pub(crate) batch_size: usize,
}

/// Milliseconds that a step takes: by the clock, and of the processor's time.
struct Times {
    ms: f64,
    cpu_ms: f64,
}

/// Measures training steps of one network where `processor` says, beside the least time that `ceilings`, where they are known,
/// give what it computes and moves ([`ResNetConfig::training_work`]).
///
/// # Errors
/// A network that does not exist, or not there; too little memory; a file that cannot be written.
pub(crate) fn run(
    subject: &Subject,
    processor: &Processor,
    ceilings: Option<Ceilings>,
    rows: &mut Rows<'_>,
) -> anyhow::Result<()> {
    let Subject { config, batch_size } = subject;
    let network = ResNet::new(config, 0, &Device::Cpu)?;
    let (Times { ms, cpu_ms }, device, precision) = match processor {
        Processor::Cpu => (on_cpu(subject, &network)?, "cpu".to_owned(), "f32"),
        Processor::Gpu { device, arithmetic, .. } => {
            let times = on_gpu(subject, DeviceNetwork::new(&network, device.clone(), *arithmetic)?, device)?;
            (times, super::cka::device_name(Some(device)), name(*arithmetic))
        }
    };
    let work = work(subject, precision);
    let rate = *batch_size as f64 / ms * 1e3;
    let floor = ceilings.map(|ceilings| ceilings.floor_ms(&work));
    let (depth, width) = (config.depth, config.width);
    let fields = json!({
        "bench": "train", "family": config.family, "depth": depth, "width": width, "precision": precision,
        "batch_size": batch_size, "image_side": config.image_side, "ms_per_step": ms, "cpu_ms_per_step": cpu_ms,
        "images_per_second": rate, "multiply_adds": work.iter().map(|work| work.multiply_adds).sum::<u64>(),
        "bytes": work.iter().map(|work| work.bytes).sum::<u64>(), "floor_ms": floor,
        "share_of_floor": floor.map(|floor| floor / ms),
        "multiply_adds_per_second": ceilings.map(|ceilings| ceilings.multiply_adds),
        "bytes_per_second": ceilings.map(|ceilings| ceilings.bytes), "device": device,
    });
    let beside =
        floor.map_or_else(String::new, |floor| format!("; counted floor {floor:.2} ms, {:.2} of the time", floor / ms));
    let text = format!(
        "ResNet-{depth} x{width}, {precision}, batches of {batch_size}: {ms:.2} ms a step, {rate:.0} images/s{beside}"
    );
    rows.row(&text, &fields)
}

fn name(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::Float32 => "f32",
        Arithmetic::Tf32 => "tf32",
        Arithmetic::Bf16 => "bf16",
    }
}

/// What a step computes and moves, where an activation's value takes 4 bytes, or 2.
fn work(subject: &Subject, precision: &str) -> Vec<Work> {
    let mut work = subject.config.training_work(subject.batch_size);
    if precision == name(Arithmetic::Bf16) {
        // Weights are a small part of what is moved.
        work.iter_mut().for_each(|work| work.bytes /= 2);
    }
    work
}

fn labels(subject: &Subject) -> Vec<u32> {
    let classes = subject.config.classes as u32;
    (0..subject.batch_size).map(|image| image as u32 % classes).collect()
}

fn on_cpu(subject: &Subject, network: &ResNet) -> anyhow::Result<Times> {
    let side = subject.config.image_side;
    let mut optimiser = Sgd::for_network(network, SGD)?;
    let images = Tensor::rand(0_f32, 1.0, (subject.batch_size, side, side, 3), &Device::Cpu)?;
    let labels = Tensor::new(labels(subject), &Device::Cpu)?;
    rounds(
        1,
        || {
            let gradients = network.loss_and_gradients(&images, &labels)?;
            Ok(optimiser.step(&gradients.grads)?)
        },
        || Ok(()),
    )
}

/// The images are cropped and flipped on the way, from bytes that are on the device.
fn on_gpu(subject: &Subject, network: DeviceNetwork, device: &gramscope_cuda::Device) -> anyhow::Result<Times> {
    let Subject { config, batch_size } = subject;
    let host = ResNet::new(config, 0, &Device::Cpu)?;
    let network = std::cell::RefCell::new(network);
    network.borrow_mut().learn(&Sgd::for_network(&host, SGD)?)?;
    let pixels: Vec<u8> =
        (0..batch_size * config.image_side.pow(2) * 3).map(|place| (place * 97 % 251) as u8).collect();
    let images = StoredImages::new(device, &pixels, &labels(subject), config.image_side)?;
    let order: Vec<u32> = (0..*batch_size as u32).collect();
    let placing = Placing { seed: 0, epoch: 1, padding: 4.min(config.image_side - 1), flip: true };
    rounds(
        STEPS_A_ROUND,
        || Ok(network.borrow_mut().step(Images::Stored { images: &images, order: &order, placing })?),
        || Ok(network.borrow().totals().map(drop)?),
    )
}

/// The median over rounds of what one of `steps` steps takes, behind which `wait` waits.
fn rounds(
    steps: usize,
    mut step: impl FnMut() -> anyhow::Result<()>,
    mut wait: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Times> {
    let (mut times, mut cpu_times) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..WARM_UP + ROUNDS {
        let (start, cpu_start) = (Instant::now(), ProcessTime::try_now()?);
        for _ in 0..steps {
            step()?;
        }
        wait()?;
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3 / steps as f64);
            cpu_times.push(cpu_start.try_elapsed()?.as_secs_f64() * 1e3 / steps as f64);
        }
    }
    Ok(Times { ms: median(times), cpu_ms: median(cpu_times) })
}
