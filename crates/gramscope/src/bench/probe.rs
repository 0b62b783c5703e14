//! Linear probes that learn from a network's layers as they stream by, next to the network's plain forward pass.

use std::time::Instant;

use candle_core::{Device, Storage, Tensor};
use cpu_time::ProcessTime;
use gramscope_nn::{ResNet, ResNetConfig};
use gramscope_study::probe::linear_probe::{LinearProbe, Step};
use serde_json::json;

use super::{Rows, median};

/// Rounds that do not count, and rounds whose median does. A round is a batch of each kind: what else the machine does
/// meets them all.
const WARM_UP: usize = 2;
const ROUNDS: usize = 9;
const CLASSES: usize = 10;

/// Measures a batch of a plain pass, of one whose layers are looked at one by one, of one with the probes that `gramscope probe`
/// trains unless told otherwise, and of one with a probe on every layer, on the CPU.
///
/// # Errors
/// A network that does not exist; a file that cannot be written.
pub(crate) fn run(depth: usize, width: f64, batch_size: usize, rows: &mut Rows<'_>) -> anyhow::Result<()> {
    let config = ResNetConfig { depth, width, classes: CLASSES, ..ResNetConfig::default() };
    let network = ResNet::new(&config, 0, &Device::Cpu)?;
    let images = Tensor::rand(0_f32, 1.0, (batch_size, 32, 32, 3), &Device::Cpu)?;
    let labels: Vec<u32> = (0..batch_size).map(|image| (image % CLASSES) as u32).collect();
    let labels = Tensor::new(labels, &Device::Cpu)?;
    let before = format!(".{}", config.branch_end());
    let around_additions = |name: &str| name.ends_with(&before) || name.ends_with(".add");
    let mut subjects = [
        Subject::new("plain", &network, |_| false),
        Subject::new("observed", &network, |_| false),
        Subject::new("additions", &network, around_additions),
        Subject::new("all", &network, |_| true),
    ];
    for round in 0..WARM_UP + ROUNDS {
        for subject in &mut subjects {
            let time = subject.batch(&network, &images, &labels)?;
            if round >= WARM_UP {
                subject.times.push(time);
            }
        }
    }
    let [plain, ..] = &subjects;
    for subject in &subjects {
        let Time { wall: ms, cpu: cpu_ms } = subject.median(|time| time);
        let mut rounds = plain.times.iter();
        let over = subject.median(|time| time.over(*rounds.next().expect("as many rounds of every kind")));
        let (layers, features) = (subject.probes.iter().flatten().count(), subject.features);
        let text = format!(
            "ResNet-{depth} x{width}, batches of {batch_size}, {}, {layers} probes: {ms:.1} ms a batch, {:.2} of a plain pass, \
             {cpu_ms:.1} ms of CPU time, {:.2}",
            subject.name, over.wall, over.cpu
        );
        let fields = json!({
            "bench": "probe", "depth": depth, "width": width, "batch_size": batch_size, "classes": CLASSES,
            "variant": subject.name, "probes": layers, "features": features, "ms": ms, "cpu_ms": cpu_ms, "over_forward": over.wall,
            "cpu_over_forward": over.cpu, "device": "cpu",
        });
        rows.row(&text, &fields)?;
    }
    Ok(())
}

/// Milliseconds of a batch, or how many times those of another.
#[derive(Clone, Copy)]
struct Time {
    wall: f64,
    /// Of all threads together.
    cpu: f64,
}

impl Time {
    fn over(self, other: Self) -> Self {
        Self { wall: self.wall / other.wall, cpu: self.cpu / other.cpu }
    }
}

/// One kind of batch.
struct Subject {
    name: &'static str,
    /// For every layer of the network its probe, if it has one.
    probes: Vec<Option<LinearProbe>>,
    /// Features of all probes together.
    features: usize,
    times: Vec<Time>,
}

impl Subject {
    fn new(name: &'static str, network: &ResNet, chosen: impl Fn(&str) -> bool) -> Self {
        let features = |shape: &[usize]| shape.iter().product::<usize>();
        let chosen: Vec<Option<usize>> =
            network.layers().iter().map(|layer| chosen(&layer.name).then(|| features(&layer.shape))).collect();
        let probe = |features: &Option<usize>| features.map(|features| LinearProbe::new(features, CLASSES));
        let probes = chosen.iter().map(probe).collect();
        Self { name, probes, features: chosen.iter().flatten().sum(), times: Vec::new() }
    }

    fn batch(&mut self, network: &ResNet, images: &Tensor, labels: &Tensor) -> anyhow::Result<Time> {
        let (wall, cpu) = (Instant::now(), ProcessTime::try_now()?);
        if self.name == "plain" {
            network.forward(images)?;
        } else {
            network.forward_observed(images, &mut |layer, activation| match &mut self.probes[layer] {
                Some(probe) => learn(probe, activation, labels),
                None => Ok(()),
            })?;
        }
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        Ok(Time { wall: milliseconds(wall.elapsed()), cpu: milliseconds(cpu.try_elapsed()?) })
    }

    /// The medians of wall and CPU time over the rounds, each after `change`.
    fn median(&self, change: impl FnMut(Time) -> Time) -> Time {
        let (wall, cpu) = self.times.iter().copied().map(change).map(|time| (time.wall, time.cpu)).unzip();
        Time { wall: median(wall), cpu: median(cpu) }
    }
}

/// One step of the probe.
fn learn(probe: &mut LinearProbe, activation: &Tensor, labels: &Tensor) -> anyhow::Result<()> {
    const STEP: Step = Step { learning_rate: 0.01, momentum: 0.9 };
    let activation = activation.contiguous()?;
    let (storage, layout) = activation.storage_and_layout();
    let Storage::Cpu(values) = &*storage else { anyhow::bail!("the network runs on the CPU") };
    let values = &values.as_slice::<f32>()?[layout.start_offset()..][..layout.shape().elem_count()];
    probe.step(values, labels, STEP)?;
    Ok(())
}
