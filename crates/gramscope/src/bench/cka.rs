//! A network's layers compared with each other over one batch, next to the network's own forward pass.

#[cfg(feature = "cuda")]
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Device, Storage, Tensor};
use gramscope_cka::{Activation, Comparison, Gram, Options, Values};
#[cfg(feature = "cuda")]
use gramscope_cka::{DeviceMemory, Memory};
#[cfg(feature = "cuda")]
use gramscope_cuda::plan::{Arithmetic, Placing};
#[cfg(feature = "cuda")]
use gramscope_nn::device::{DeviceNetwork, Images, Observed, Order, StoredImages};
use gramscope_nn::{Processor, ResNet, ResNetConfig};
use gramscope_train::batches;
use gramscope_train::data::Split;
use gramscope_train::data::builtin::{self, Part};
use serde_json::json;

use super::Rows;
#[cfg(feature = "cuda")]
use super::rounds::BATCHES;
use super::rounds::{self, Batch, Taken};

/// What is done with a batch, the plain pass first: the others are held against it.
const KINDS: [Kind; 4] = [Kind::Plain, Kind::Observed, Kind::Compared(Gram::Exact), Kind::Compared(Gram::Fast)];

/// What is done with a batch.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// It is classified.
    Plain,
    /// Its layers are looked at one by one, and nothing is done with them.
    Observed,
    /// All layers are compared with each other.
    Compared(Gram),
}

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Plain => "plain".to_owned(),
            Self::Observed => "observed".to_owned(),
            Self::Compared(gram) => gram.to_string(),
        }
    }
}

/// Measures a batch of a plain pass, of one whose layers are looked at one by one, and of ones that compare all layers with each
/// other, `exact` and `fast`, where `processor` says: on a GPU both the network and the comparison are there, and it is waited for
/// at the end of each batch. The images are those of the built-in data set; weights are as they are before training, where K and what
/// is left of it once it is centred are of one size, so that nothing is computed again in float64.
///
/// # Errors
/// A network that does not exist; what a comparison or a GPU may say; a file that cannot be written.
pub(crate) fn run(
    config: &ResNetConfig,
    batch_size: usize,
    processor: &Processor,
    rows: &mut Rows<'_>,
) -> anyhow::Result<()> {
    config.check_evaluation_memory(processor.images_on_host(batch_size))?;
    let network = ResNet::new(config, 0, &Device::Cpu)?;
    let images = builtin::split(builtin::SEED, Part::Test, batch_size, config.image_side)?;
    let features: Vec<usize> = network.layers().iter().map(|layer| layer.shape.iter().product()).collect();
    let (batches, precision, element) = match processor {
        Processor::Cpu => (on_cpu(network, &images)?, "f32", 4),
        #[cfg(feature = "cuda")]
        Processor::Gpu { device, arithmetic } => {
            let element = if *arithmetic == Arithmetic::Bf16 { 2 } else { 4 };
            (on_gpu(&network, &images, device, *arithmetic)?, super::train::name(*arithmetic), element)
        }
        #[cfg(not(feature = "cuda"))]
        Processor::Gpu { .. } => anyhow::bail!(gramscope_cuda::Error::NotBuilt),
    };
    let ResNetConfig { family, depth, width, .. } = config;
    let (layers, bytes) = (features.len(), batch_size * features.iter().sum::<usize>() * element);
    let device = device_name(processor.gpu());
    let taken = rounds::in_turn(batches)?;
    let [Taken { ms: forward, .. }, ..] = taken[..] else { return Ok(()) };
    for (kind, Taken { ms, over_first: over, beyond_first: beyond }) in KINDS.into_iter().zip(taken) {
        let name = kind.name();
        // What the comparison adds to a plain pass, to which looking at the layers belongs.
        let cka_ms = matches!(kind, Kind::Compared(_)).then_some(beyond.wall);
        let fields = json!({
            "bench": "cka", "kernel": "cka", "variant": name, "shape": [layers, batch_size], "family": family, "depth": depth,
            "width": width, "batch_size": batch_size, "precision": precision, "backend": processor.backend(),
            "us": ms.wall * 1e3, "bytes": bytes, "batch_ms": ms.wall, "cpu_ms": ms.cpu, "forward_ms": forward.wall, "cka_ms": cka_ms, "over_forward": over.wall,
            "cpu_over_forward": over.cpu, "device": device,
        });
        let cka = cka_ms.map_or_else(String::new, |ms| format!(", {ms:.2} ms of it CKA"));
        let text = format!(
            "ResNet-{depth} x{width}, {layers} layers, {precision}, batches of {batch_size}, {name}: {:.2} ms a batch{cka}, {:.2} of \
             a plain pass, {:.2} ms of CPU time",
            ms.wall, over.wall, ms.cpu
        );
        rows.row(&text, &fields)?;
    }
    Ok(())
}

pub(super) fn device_name(gpu: Option<&Arc<gramscope_cuda::Device>>) -> String {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = gpu {
        return gpu.properties().name.clone();
    }
    let _ = gpu;
    "cpu".to_owned()
}

/// What `take` says of the values of an activation on the CPU.
pub(super) fn with_values<T>(activation: &Tensor, take: impl FnOnce(&[f32]) -> T) -> anyhow::Result<T> {
    let (storage, layout) = activation.storage_and_layout();
    let Storage::Cpu(values) = &*storage else { anyhow::bail!("the network runs on the CPU") };
    Ok(take(&values.as_slice::<f32>()?[layout.start_offset()..][..layout.shape().elem_count()]))
}

/// A batch of each kind, on the CPU.
fn on_cpu(network: ResNet, images: &Split) -> anyhow::Result<Vec<Batch>> {
    let (examples, side, layers) = (images.len(), network.config().image_side, network.layers().len());
    let images = batches::images(images, &(0..examples).collect::<Vec<_>>(), side, &Device::Cpu)?;
    let network = Rc::new(network);
    let batch = |kind| -> anyhow::Result<Batch> {
        let (network, images) = (network.clone(), images.clone());
        let gram = match kind {
            Kind::Plain => return Ok(Box::new(move || Ok(network.forward(&images).map(drop)?))),
            Kind::Observed => {
                let observed = move || network.forward_observed::<anyhow::Error>(&images, &mut |_, _| Ok(()));
                return Ok(Box::new(move || observed().map(drop)));
            }
            Kind::Compared(gram) => gram,
        };
        let mut comparison = Comparison::new(&[layers], &[(0, 0)], Options { gram, ..Options::default() })?;
        Ok(Box::new(move || {
            comparison.begin_batch(examples)?;
            network.forward_observed::<anyhow::Error>(&images, &mut |layer, output| {
                let observe =
                    |values: &[f32]| comparison.observe(0, layer, Activation::new(Values::F32(values), examples)?);
                Ok(with_values(output.values()?, observe)??)
            })?;
            Ok(comparison.end_batch()?)
        }))
    };
    KINDS.into_iter().map(batch).collect()
}

/// A batch of each kind, on a GPU, where the images lie. A plain pass is captured, as evaluations are; its logits come to the host.
#[cfg(feature = "cuda")]
fn on_gpu(
    network: &ResNet,
    images: &Split,
    device: &Arc<gramscope_cuda::Device>,
    arithmetic: Arithmetic,
) -> anyhow::Result<Vec<Batch>> {
    let (examples, layers) = (images.len(), network.layers().len());
    let features = network.layers().iter().map(|layer| layer.shape.iter().product()).max().unwrap_or(0);
    let stored = Rc::new(StoredImages::new(device, images.pixels(), images.labels(), images.image_side())?);
    let order: Vec<u32> = (0..u32::try_from(examples)?).collect();
    let mut network = DeviceNetwork::new(network, device.clone(), arithmetic)?;
    if Options::default().takes_together(examples) {
        network.hand_out_together();
    }
    let network = Rc::new(RefCell::new(network));
    let batch = |kind| -> anyhow::Result<Batch> {
        let (device, network, images, order) = (device.clone(), network.clone(), stored.clone(), order.clone());
        let gram = match kind {
            Kind::Plain => {
                let placing = Placing { seed: 0, padding: 0, flip: false };
                let mut all = Order::new(device, BATCHES * examples, placing)?;
                all.begin(&order.repeat(BATCHES), 0, 1)?;
                return Ok(Box::new(move || {
                    let next = Images::Next { images: &images, order: &mut all, count: examples };
                    Ok(network.borrow_mut().forward(next).map(drop)?)
                }));
            }
            Kind::Observed => {
                return Ok(Box::new(move || {
                    let images = Images::Stored { images: &images, order: &order };
                    network.borrow_mut().forward_observed::<anyhow::Error>(images, &mut |_| Ok(()))?;
                    Ok(device.synchronise()?)
                }));
            }
            Kind::Compared(gram) => gram,
        };
        let options = Options { gram, ..Options::default() };
        let mut comparison = Comparison::on(Some(device.clone()), &[layers], &[(0, 0)], options)?;
        let other = network.borrow().observation_bytes(examples);
        let memory = DeviceMemory { features, other, ..DeviceMemory::default() };
        comparison.limit_memory(Memory { device: memory, ..Memory::default() });
        Ok(Box::new(move || {
            comparison.begin_batch(examples)?;
            loop {
                let (wanted, images) = (comparison.wanted(0), Images::Stored { images: &images, order: &order });
                network.borrow_mut().forward_observed::<anyhow::Error>(images, &mut |layers| {
                    let wanted = |observed: &Observed<'_>| Some(observed.layer).filter(|layer| wanted.contains(layer));
                    let together: Vec<_> = layers.iter().map(|layer| (wanted(layer), &layer.values)).collect();
                    Ok(comparison.observe_on_device(0, &together, examples)?)
                })?;
                if !comparison.next_round()? {
                    break;
                }
            }
            comparison.end_batch()?;
            Ok(device.synchronise()?)
        }))
    };
    KINDS.into_iter().map(batch).collect()
}
