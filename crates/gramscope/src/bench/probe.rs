//! Linear probes that learn from a network's layers as they stream by, next to the network's plain forward pass.

#[cfg(feature = "cuda")]
use std::cell::RefCell;
#[cfg(feature = "cuda")]
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Device, Tensor};
#[cfg(feature = "cuda")]
use gramscope_cuda::{Arithmetic, DeviceProbes, ProbeInput, ProbeStep};
#[cfg(feature = "cuda")]
use gramscope_nn::device::{DeviceNetwork, Images, Observed, StoredImages};
use gramscope_nn::{Output, Processor, ResNet, ResNetConfig, threads};
use gramscope_study::probe::linear_probe::{Inputs, LinearProbe, Step};
use serde_json::json;

use super::Rows;
use super::cka::{device_name, with_values};
use super::rounds::{self, Batch, Taken, Time};

const CLASSES: usize = 10;
const SIDE: usize = 32;
/// As `gramscope probe` has it unless told otherwise.
const STEP: Step = Step { learning_rate: 0.01, momentum: 0.9 };

/// Measures a batch of a plain pass, of one whose layers are looked at one by one, of one with the probes that `gramscope probe`
/// trains unless told otherwise, and of one with a probe on every layer, where `processor` says. A GPU is waited for.
///
/// # Errors
/// A network that does not exist; what a GPU may say; a file that cannot be written.
pub(crate) fn run(
    depth: usize,
    width: f64,
    batch_size: usize,
    processor: &Processor,
    rows: &mut Rows<'_>,
) -> anyhow::Result<()> {
    let config = ResNetConfig { depth, width, classes: CLASSES, image_side: SIDE, ..ResNetConfig::default() };
    config.check_evaluation_memory(processor.images_on_host(batch_size))?;
    let network = ResNet::new(&config, 0, &Device::Cpu)?;
    let kinds = kinds(&network);
    let batches = match processor {
        Processor::Cpu => on_cpu(network, &kinds, batch_size)?,
        #[cfg(feature = "cuda")]
        Processor::Gpu { device, arithmetic } => on_gpu(&network, &kinds, batch_size, device, *arithmetic)?,
        #[cfg(not(feature = "cuda"))]
        Processor::Gpu { .. } => anyhow::bail!(gramscope_cuda::Error::NotBuilt),
    };
    let device = device_name(processor.gpu());
    for (kind, taken) in kinds.iter().zip(rounds::in_turn(batches)?) {
        let Taken { ms: Time { wall: ms, cpu: cpu_ms }, over_first: over, .. } = taken;
        let (name, layers, features) = (kind.name, kind.layers().count(), kind.layers().sum::<usize>());
        let text = format!(
            "ResNet-{depth} x{width}, batches of {batch_size}, {name}, {layers} probes: {ms:.1} ms a batch, {:.2} of a plain pass, \
             {cpu_ms:.1} ms of CPU time, {:.2}",
            over.wall, over.cpu
        );
        let fields = json!({
            "bench": "probe", "depth": depth, "width": width, "batch_size": batch_size, "classes": CLASSES,
            "variant": name, "probes": layers, "features": features, "ms": ms, "cpu_ms": cpu_ms, "over_forward": over.wall,
            "cpu_over_forward": over.cpu, "device": device,
        });
        rows.row(&text, &fields)?;
    }
    Ok(())
}

/// What is done with a batch.
struct Kind {
    name: &'static str,
    /// For every layer of the network the features of its probe, if it has one; none where layers are not looked at.
    probes: Option<Vec<Option<usize>>>,
}

impl Kind {
    /// The features of every probe.
    fn layers(&self) -> impl Iterator<Item = usize> {
        self.probes.iter().flatten().flatten().copied()
    }
}

fn kinds(network: &ResNet) -> [Kind; 4] {
    let probes = |chosen: &dyn Fn(&str) -> bool| -> Vec<Option<usize>> {
        let layers = network.layers().iter();
        layers.map(|layer| chosen(&layer.name).then(|| layer.shape.iter().product())).collect()
    };
    let before = format!(".{}", network.config().branch_end());
    let around_additions = |name: &str| name.ends_with(&before) || name.ends_with(".add");
    [
        Kind { name: "plain", probes: None },
        Kind { name: "observed", probes: Some(probes(&|_| false)) },
        Kind { name: "additions", probes: Some(probes(&around_additions)) },
        Kind { name: "all", probes: Some(probes(&|_| true)) },
    ]
}

/// A label an image.
fn labels(batch_size: usize) -> Vec<u32> {
    (0..batch_size).map(|image| (image % CLASSES) as u32).collect()
}

/// A batch of each kind, on the CPU.
fn on_cpu(network: ResNet, kinds: &[Kind], batch_size: usize) -> anyhow::Result<Vec<Batch>> {
    let network = Arc::new(network);
    let images = Tensor::rand(0_f32, 1.0, (batch_size, SIDE, SIDE, 3), &Device::Cpu)?;
    let labels = Tensor::new(labels(batch_size), &Device::Cpu)?;
    let batch = |kind: &Kind| -> Batch {
        let (network, images, labels) = (network.clone(), images.clone(), labels.clone());
        let Some(probes) = &kind.probes else { return Box::new(move || Ok(network.forward(&images).map(drop)?)) };
        let probe = |features: &Option<usize>| features.map(|features| LinearProbe::new(features, CLASSES));
        let mut probes: Vec<Option<LinearProbe>> = probes.iter().map(probe).collect();
        Box::new(move || {
            threads::enter(|| {
                network.forward_observed(&images, &mut |layer, output| match &mut probes[layer] {
                    Some(probe) => learn(probe, output, &labels),
                    None => Ok(()),
                })
            })?;
            Ok(())
        })
    };
    Ok(kinds.iter().map(batch).collect())
}

/// One step of the probe.
fn learn(probe: &mut LinearProbe, output: &Output, labels: &Tensor) -> anyhow::Result<()> {
    let (activation, relu) = output.as_stored();
    with_values(activation, |values| probe.step(Inputs { values, relu }, labels, STEP))??;
    Ok(())
}

/// A batch of each kind, on a GPU, where the images lie.
#[cfg(feature = "cuda")]
fn on_gpu(
    network: &ResNet,
    kinds: &[Kind],
    batch_size: usize,
    device: &Arc<gramscope_cuda::Device>,
    arithmetic: Arithmetic,
) -> anyhow::Result<Vec<Batch>> {
    let pixels: Vec<u8> = (0..batch_size * SIDE * SIDE * 3).map(|place| (place * 97 % 251) as u8).collect();
    let images = Rc::new(StoredImages::new(device, &pixels, &labels(batch_size), SIDE)?);
    let order: Vec<u32> = (0..u32::try_from(batch_size)?).collect();
    let network = Rc::new(RefCell::new(DeviceNetwork::new(network, device.clone(), arithmetic)?));
    let batch = |kind: &Kind| -> anyhow::Result<Batch> {
        let (device, network, images, order) = (device.clone(), network.clone(), images.clone(), order.clone());
        let Some(probes) = &kind.probes else {
            let forward = move || network.borrow_mut().forward(Images::Stored { images: &images, order: &order });
            return Ok(Box::new(move || Ok(forward().map(drop)?)));
        };
        let mut count = 0..;
        let places: Vec<Option<usize>> = probes.iter().map(|features| features.and_then(|_| count.next())).collect();
        let inputs: Vec<ProbeInput> = kind.layers().map(ProbeInput::Whole).collect();
        let step = ProbeStep { learning_rate: STEP.learning_rate, momentum: STEP.momentum };
        let (mut probes, labels) = (DeviceProbes::new(device.clone(), &inputs, CLASSES, step)?, labels(batch_size));
        Ok(Box::new(move || {
            probes.begin_batch(&labels)?;
            let images = Images::Stored { images: &images, order: &order };
            network.borrow_mut().forward_observed::<anyhow::Error>(images, &mut |layers| {
                for Observed { layer, values } in layers {
                    if let Some(place) = places[*layer] {
                        probes.learn(place, values)?;
                    }
                }
                Ok(())
            })?;
            Ok(device.synchronise()?)
        }))
    };
    kinds.iter().map(batch).collect()
}
