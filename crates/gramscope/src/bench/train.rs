//! A training step: forward, backward and the optimiser, on images that are in memory.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use cpu_time::ProcessTime;
use gramscope_cuda::plan::{Arithmetic, Placing};
use gramscope_nn::device::{DeviceNetwork, Images, Order, StoredImages};
use gramscope_nn::{Processor, ResNet, ResNetConfig, Sgd, SgdConfig, Work};
use serde_json::json;

use super::ceilings::Ceilings;
use super::{Rows, median};

/// Rounds that do not count, and rounds whose median does.
const WARM_UP: usize = 2;
const ROUNDS: usize = 8;
/// Steps of a round on a GPU at most, which is waited for behind the last: as training does,
const STEPS_A_ROUND: usize = 16;
/// and milliseconds that they are to take: a network whose step takes as long by itself is measured step by step.
const ROUND_MS: f64 = 250.0;
/// The recipe's optimiser.
const SGD: SgdConfig = SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4 };

/// The network of one row.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) config: ResNetConfig,
    pub(crate) batch_size: usize,
    /// How many of them are trained at once on a GPU, after one alone.
    pub(crate) jobs: usize,
}

/// Milliseconds that a step takes: by the clock, and of the processor's time.
struct Times {
    ms: f64,
    cpu_ms: f64,
}

/// Measures training steps of one network where `processor` says, and on a GPU of several at once, beside the least time that
/// `ceilings` give what it computes and moves ([`ResNetConfig::training_work`]).
///
/// # Errors
/// A network that does not exist, or not there; too little memory; a file that cannot be written.
pub(crate) fn run(
    subject: &Subject,
    processor: &Processor,
    ceilings: Ceilings,
    rows: &mut Rows<'_>,
) -> anyhow::Result<()> {
    let row = |networks: usize, times: Times, alone: Option<f64>| Row {
        subject,
        processor,
        ceilings,
        networks,
        times,
        alone,
    };
    match processor {
        Processor::Cpu => row(1, rounds(1, &mut [OnCpu::new(subject)?])?, None).write(rows),
        Processor::Gpu { device, arithmetic } => {
            let network = |_| OnGpu::new(subject, Arc::new(device.fork()?), *arithmetic);
            let mut one = [network(0)?];
            let steps = steps_a_round(&mut one)?;
            let times = rounds(steps, &mut one)?;
            let alone = times.ms;
            row(1, times, None).write(rows)?;
            if subject.jobs == 1 {
                return Ok(());
            }
            let mut networks = (0..subject.jobs).map(network).collect::<anyhow::Result<Vec<_>>>()?;
            row(subject.jobs, rounds(steps, &mut networks)?, Some(alone)).write(rows)
        }
    }
}

/// What has been measured of so many networks of one kind, trained at once.
struct Row<'a> {
    subject: &'a Subject,
    processor: &'a Processor,
    ceilings: Ceilings,
    networks: usize,
    /// Of a step of each.
    times: Times,
    /// Milliseconds of a step where one is trained alone.
    alone: Option<f64>,
}

impl Row<'_> {
    fn write(self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        let Self {
            subject: Subject { config, batch_size, .. }, networks, ceilings, times: Times { ms, cpu_ms }, ..
        } = self;
        let (device, precision) = match self.processor {
            Processor::Cpu => ("cpu".to_owned(), "f32"),
            Processor::Gpu { device, arithmetic } => (super::cka::device_name(Some(device)), name(*arithmetic)),
        };
        let work = work(self.subject, precision);
        let rate = (networks * batch_size) as f64 / ms * 1e3;
        let floor = networks as f64 * ceilings.floor_ms(&work);
        // How much sooner all are done than one after the other.
        let gain = self.alone.map(|alone| networks as f64 * alone / ms);
        let (depth, width) = (config.depth, config.width);
        let fields = json!({
            "bench": "train", "backend": self.processor.backend(), "family": config.family, "depth": depth, "width": width, "precision": precision,
            "batch_size": batch_size, "image_side": config.image_side, "captured": self.processor.gpu().is_some(),
            "networks_at_once": networks, "ms_per_step": ms, "cpu_ms_per_step": cpu_ms, "images_per_second": rate,
            "over_one_after_the_other": gain, "multiply_adds": work.iter().map(|work| work.multiply_adds).sum::<u64>(),
            "bytes": work.iter().map(|work| work.bytes).sum::<u64>(), "floor_ms": floor, "share_of_floor": floor / ms,
            "multiply_adds_per_second": ceilings.multiply_adds, "bytes_per_second": ceilings.bytes, "device": device,
        });
        let many = if networks == 1 { String::new() } else { format!("{networks} networks at once, ") };
        let has_cudnn = self.processor.gpu().is_some_and(|device| device.has_cudnn());
        let cudnn = if has_cudnn { ", cuDNN's convolutions" } else { "" };
        let gain = gain.map_or_else(String::new, |gain| format!(", {gain:.2} times one after the other"));
        // Where there is no rate of products, bytes alone make the floor.
        let of = if ceilings.multiply_adds.is_some() { "" } else { " of its bytes" };
        let share = floor / ms;
        let text = format!(
            "ResNet-{depth} x{width}, {many}{precision}{cudnn}, batches of {batch_size}: {ms:.2} ms a step, {rate:.0} images/s\
             {gain}; counted floor{of} {floor:.2} ms, {share:.2} of the time"
        );
        rows.row(&text, &fields)
    }
}

/// As `--precision` has it.
pub(super) fn name(arithmetic: Arithmetic) -> &'static str {
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

/// A network being trained.
trait Training: Send {
    /// Makes a step, or enqueues it.
    fn step(&mut self) -> anyhow::Result<()>;

    /// Waits for all steps so far, at the end of a round.
    fn wait(&mut self) -> anyhow::Result<()>;
}

struct OnCpu {
    network: ResNet,
    optimiser: Sgd,
    images: Tensor,
    labels: Tensor,
}

impl OnCpu {
    fn new(subject: &Subject) -> anyhow::Result<Self> {
        let side = subject.config.image_side;
        subject.config.check_training_memory(subject.batch_size)?;
        let network = ResNet::new(&subject.config, 0, &Device::Cpu)?;
        Ok(Self {
            optimiser: Sgd::for_network(&network, SGD)?,
            network,
            images: Tensor::rand(0_f32, 1.0, (subject.batch_size, side, side, 3), &Device::Cpu)?,
            labels: Tensor::new(labels(subject), &Device::Cpu)?,
        })
    }
}

impl Training for OnCpu {
    fn step(&mut self) -> anyhow::Result<()> {
        let gradients = self.network.loss_and_gradients(&self.images, &self.labels)?;
        Ok(self.optimiser.step(&gradients.grads)?)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The images are cropped and flipped on the way, from bytes that are on the device, and steps are captured, as in training.
struct OnGpu {
    network: DeviceNetwork,
    images: StoredImages,
    order: Order,
    /// A round's images, again and again those there are.
    indices: Vec<u32>,
    batch_size: usize,
}

impl OnGpu {
    fn new(subject: &Subject, device: Arc<gramscope_cuda::Device>, arithmetic: Arithmetic) -> anyhow::Result<Self> {
        let Subject { config, batch_size, .. } = subject;
        config.check_training_memory(0)?;
        let host = ResNet::new(config, 0, &Device::Cpu)?;
        let mut network = DeviceNetwork::new(&host, device.clone(), arithmetic)?;
        network.learn(&Sgd::for_network(&host, SGD)?)?;
        let pixels: Vec<u8> =
            (0..batch_size * config.image_side.pow(2) * 3).map(|place| (place * 97 % 251) as u8).collect();
        let images = StoredImages::new(&device, &pixels, &labels(subject), config.image_side)?;
        let indices: Vec<u32> = (0..STEPS_A_ROUND).flat_map(|_| 0..*batch_size as u32).collect();
        let placing = Placing { seed: 0, padding: 4.min(config.image_side - 1), flip: true };
        let mut order = Order::new(device, indices.len(), placing)?;
        order.begin(&indices, 0, 1)?;
        Ok(Self { network, images, order, indices, batch_size: *batch_size })
    }
}

impl Training for OnGpu {
    fn step(&mut self) -> anyhow::Result<()> {
        let Self { network, images, order, batch_size, .. } = self;
        Ok(network.step(Images::Next { images, order, count: *batch_size })?)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        self.network.totals()?;
        Ok(self.order.begin(&self.indices, 0, 1)?)
    }
}

/// Steps that make a round: the first is another than those behind it, which are captured.
fn steps_a_round(networks: &mut [impl Training; 1]) -> anyhow::Result<usize> {
    let [network] = networks;
    let mut ms = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        network.step()?;
        network.wait()?;
        ms = ms.min(start.elapsed().as_secs_f64() * 1e3);
    }
    // At least 1, and no more than there are images of.
    Ok((1..STEPS_A_ROUND).find(|&steps| steps as f64 * ms >= ROUND_MS).unwrap_or(STEPS_A_ROUND))
}

/// The median over rounds of what a step takes, where each of `networks` makes `steps` of them a round, all at once.
fn rounds(steps: usize, networks: &mut [impl Training]) -> anyhow::Result<Times> {
    let (mut times, mut cpu_times) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..WARM_UP + ROUNDS {
        let (start, cpu_start) = (Instant::now(), ProcessTime::try_now()?);
        all_at_once(networks, &|network| {
            (0..steps).try_for_each(|_| network.step())?;
            network.wait()
        })?;
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3 / steps as f64);
            cpu_times.push(cpu_start.try_elapsed()?.as_secs_f64() * 1e3 / steps as f64);
        }
    }
    Ok(Times { ms: median(times), cpu_ms: median(cpu_times) })
}

/// Does `work` with each of `networks`, the first on this thread and the others on one each.
fn all_at_once<T: Training>(
    networks: &mut [T],
    work: &(dyn Fn(&mut T) -> anyhow::Result<()> + Sync),
) -> anyhow::Result<()> {
    let Some((first, others)) = networks.split_first_mut() else { return Ok(()) };
    thread::scope(|scope| {
        let others: Vec<_> = others.iter_mut().map(|network| scope.spawn(|| work(network))).collect();
        let first = work(first);
        others.into_iter().map(|other| other.join().expect("a network's thread panicked")).fold(first, Result::and)
    })
}
