//! A run's network under observation.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, Storage, Tensor};
use gramscope_cka::{Activation, Comparison, Values};
use gramscope_cuda::Device;
use gramscope_nn::device::DeviceNetwork;
#[cfg(feature = "cuda")]
use gramscope_nn::device::Observed;
use gramscope_nn::{Output, Processor, ResNet, threads};
use gramscope_train::Run;
use gramscope_train::digest::hexadecimal;
use md5::{Digest, Md5};
use regex::Regex;

use super::{Batch, ModelInfo, TestImages, in_layer};
use crate::names::run_names;
use crate::{Error, HOST, Result, Setting};

/// What there is to see of an activation.
pub(crate) type View<'a> = Result<Activation<'a>, gramscope_cka::Error>;

/// A network and which of its layers are compared.
pub(crate) struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) network: ResNet,
    /// Where it runs.
    processor: Processor,
    /// Its copy on a GPU, where one runs it. A pass changes nothing but its memory.
    on_device: Option<RefCell<DeviceNetwork>>,
    /// For each layer of the network, its place among those compared.
    places: Vec<Option<usize>>,
}

impl Model {
    /// Opens the networks of `runs`, all for images of this size. Runs of equal names get a number.
    pub(crate) fn open_all(
        runs: &[Run],
        pattern: Option<&Regex>,
        images: &TestImages,
        processor: &Processor,
    ) -> Result<Vec<Self>> {
        let open = |(run, name)| Self::of_run(run, name, pattern, images, processor);
        runs.iter().zip(run_names(runs)).map(open).collect()
    }

    /// Opens the network of `run`, for images of this size.
    pub(crate) fn open_one(
        run: &Run,
        pattern: Option<&Regex>,
        images: &TestImages,
        processor: &Processor,
    ) -> Result<Self> {
        Self::of_run(run, run.name(), pattern, images, processor)
    }

    fn of_run(
        run: &Run,
        name: String,
        pattern: Option<&Regex>,
        images: &TestImages,
        processor: &Processor,
    ) -> Result<Self> {
        let mut model = Self::open(name, run.network(&HOST)?, pattern)?;
        model.info.batch_statistics = run.has_batch_statistics();
        images.check_side(&model.info.name, &model.network)?;
        model.move_to(processor)?;
        Ok(model)
    }

    /// Opens a run's network.
    pub(crate) fn open(name: String, network: ResNet, pattern: Option<&Regex>) -> Result<Self> {
        let mut info = ModelInfo { name, layers: Vec::new(), stages: Vec::new(), batch_statistics: false };
        let mut places = Vec::with_capacity(network.layers().len());
        for layer in network.layers() {
            let chosen = pattern.is_none_or(|pattern| pattern.is_match(&layer.name));
            places.push(chosen.then_some(info.layers.len()));
            if chosen {
                info.layers.push(layer.name.clone());
                info.stages.push(layer.stage);
            }
        }
        match pattern {
            Some(pattern) if info.layers.is_empty() => {
                let problem = format!("none of the layers of {} matches \"{pattern}\"", info.name);
                Err(Error::incomparable(problem).mended_by(&[Setting::Layers]))
            }
            _ => Ok(Self { info, network, processor: Processor::Cpu, on_device: None, places }),
        }
    }

    /// Puts the network where it is to run.
    pub(crate) fn move_to(&mut self, processor: &Processor) -> Result<()> {
        let Processor::Gpu { device, arithmetic } = processor else { return Ok(()) };
        let network = DeviceNetwork::new(&self.network, device.clone(), *arithmetic)?;
        self.processor = processor.clone();
        self.on_device = Some(RefCell::new(network));
        Ok(())
    }

    /// Where it runs.
    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The GPU that runs it, where one does.
    pub(crate) fn gpu(&self) -> Option<&Arc<Device>> {
        self.processor.gpu()
    }

    /// Has a GPU hand layers out several at a time from now on.
    pub(super) fn hand_out_together(&self) {
        if let Some(network) = &self.on_device {
            network.borrow_mut().hand_out_together();
        }
    }

    /// Takes the memory in which a GPU ran `other`, so that models that take turns have as much as one of them.
    pub(super) fn take_memory_of(&self, other: &Self) {
        if let (Some(network), Some(other)) = (&self.on_device, &other.on_device) {
            network.borrow_mut().take_memory_of(&mut other.borrow_mut());
        }
    }

    /// The places of the chosen layers among the network's, ascending.
    pub(crate) fn chosen(&self) -> impl Iterator<Item = usize> {
        (0..self.places.len()).filter(|&layer| self.places[layer].is_some())
    }

    /// The values of the largest layer's output for one image.
    pub(crate) fn largest_output(&self) -> usize {
        self.network.layers().iter().map(|layer| layer.shape.iter().product()).max().unwrap_or(0)
    }

    /// A digest of all that its activations depend on beside the images.
    pub(crate) fn digest(&self) -> Result<String> {
        let about = format!("{:?} {}", self.network.config(), self.info.batch_statistics);
        let mut digest = Md5::new_with_prefix(about);
        for (name, tensor) in self.network.state() {
            digest.update(name);
            digest.update(bytemuck::cast_slice(&tensor.flatten_all()?.to_vec1::<f32>()?));
        }
        Ok(hexadecimal(digest))
    }

    /// The bytes of its parameters and running statistics.
    pub(crate) fn bytes(&self) -> u64 {
        (self.network.config().parameter_count() * size_of::<f32>()) as u64
    }

    /// The bytes that looking at batches of so many images takes on its GPU, where it is on one.
    pub(crate) fn device_bytes(&self, images: usize) -> u64 {
        self.on_device.as_ref().map_or(0, |network| network.borrow().observation_bytes(images))
    }

    /// The shape of every chosen layer's output for one image, channels last.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &[usize]> {
        let layers = self.network.layers().iter().zip(&self.places).filter(|(_, place)| place.is_some());
        layers.map(|(layer, _)| layer.shape.as_slice())
    }

    /// The channels of every chosen layer, or its features where it has no channels.
    pub(crate) fn channels(&self) -> Vec<usize> {
        self.shapes().map(|shape| shape[shape.len() - 1]).collect()
    }

    /// Runs the network over `images` and hands the activation of every layer that `comparison` wants in this round to it, as
    /// it is made; this is its model number `index`. `batch` counts from 0. Where both are on one GPU, the activation does not
    /// leave it.
    pub(super) fn observe(
        &self,
        index: usize,
        images: &Batch,
        batch: usize,
        comparison: &mut Comparison,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.on_device.is_some() && comparison.takes_device_values() {
            return self.observe_on_device(index, images, batch, comparison);
        }
        self.each_layer(images, comparison.wanted(index), &mut |place, view| {
            view.and_then(|view| comparison.observe(index, place, view)).map_err(in_layer(
                &self.info.name,
                &self.info.layers[place],
                batch,
            ))
        })
    }

    /// Runs the network over `images` and calls `take` with the place of every chosen layer, where it is one of `wanted`, and a
    /// view of its activation, in their order.
    pub(crate) fn each_layer(
        &self,
        images: &Batch,
        wanted: Range<usize>,
        take: &mut dyn FnMut(usize, View<'_>) -> Result<()>,
    ) -> Result<()> {
        let place_of = |layer: usize| self.places[layer].filter(|place| wanted.contains(place));
        if let Some(network) = &self.on_device {
            let examples = images.len()?;
            let is_wanted = |layer: usize| place_of(layer).is_some();
            let take = &mut |layer: usize, values: &[f32]| match place_of(layer) {
                Some(place) => take(place, Activation::new(Values::F32(values), examples)),
                None => Ok(()),
            };
            return images.on_device(|images| network.borrow_mut().forward_copied(images, &is_wanted, take));
        }
        self.network.forward_observed::<Error>(images.host()?, &mut |layer, output| match place_of(layer) {
            Some(place) => with_view(output.values()?, |view| take(place, view)),
            None => Ok(()),
        })?;
        Ok(())
    }

    /// Runs the network on the CPU over `images` and calls `take` with the place of every chosen layer and its output, as it
    /// is made, on one of the threads that operations share.
    pub(crate) fn each_output(
        &self,
        images: &Batch,
        take: &mut (dyn FnMut(usize, &mut Output) -> Result<()> + Send),
    ) -> Result<()> {
        let (network, places, images) = (&self.network, &self.places, images.host()?);
        threads::enter(|| {
            network.forward_observed::<Error>(images, &mut |layer, output| match places[layer] {
                Some(place) => take(place, output),
                None => Ok(()),
            })
        })?;
        Ok(())
    }

    /// The bytes that [`Self::forward_without`] takes for so many images on its GPU, where it is on one.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn device_ablation_bytes(&self, images: usize, variants: &[Vec<bool>]) -> Result<u64> {
        match &self.on_device {
            Some(network) => Ok(network.borrow_mut().ablation_bytes(images, variants)?),
            None => Ok(0),
        }
    }

    /// The most bytes of the host's memory that [`Self::forward_without`] takes for a batch of `images`, beside parameters and logits.
    ///
    /// # Errors
    /// As [`ResNet::ablation_bytes`].
    pub(crate) fn host_ablation_bytes(&self, images: usize, variants: &[Vec<bool>]) -> Result<u64> {
        match &self.on_device {
            Some(_) => Ok(0),
            None => Ok(self.network.ablation_bytes(images, variants)?),
        }
    }

    /// The logits `[n, classes]` of `images` for each of `variants`, in which flagged blocks are deleted
    /// ([`ResNet::forward_without`]).
    pub(crate) fn forward_without(&self, images: &Batch, variants: &[Vec<bool>]) -> Result<Vec<Tensor>> {
        let Some(network) = &self.on_device else { return Ok(self.network.forward_without(images.host()?, variants)?) };
        let shape = (images.len()?, self.network.config().classes);
        let all = images.on_device(|images| Ok(network.borrow_mut().forward_without(images, variants)?))?;
        Ok(all.into_iter().map(|logits| Tensor::from_vec(logits, shape, &HOST)).collect::<candle_core::Result<_>>()?)
    }

    /// Runs the network on its GPU and hands activations to `comparison`, on the same one, as many together as are there.
    #[cfg(feature = "cuda")]
    fn observe_on_device(&self, index: usize, images: &Batch, batch: usize, comparison: &mut Comparison) -> Result<()> {
        let (examples, wanted) = (images.len()?, comparison.wanted(index));
        self.each_device_group(images, wanted, &mut |together| {
            let places = || together.iter().filter_map(|&(place, _)| place);
            let name = match [places().min(), places().max()] {
                [Some(first), Some(last)] if first < last => {
                    format!("{} to {}", self.info.layers[first], self.info.layers[last])
                }
                [Some(only), _] => self.info.layers[only].clone(),
                _ => return Ok(()),
            };
            let _range = gramscope_cuda::range(&name);
            let observed = comparison.observe_on_device(index, together, examples);
            observed.map_err(in_layer(&self.info.name, &name, batch))
        })
    }

    /// Runs the network on its GPU over `images` and calls `take` with the place of every chosen layer, where it is one of
    /// `wanted`, and its activation, in their order. What `take` enqueues on that GPU's stream sees it.
    #[cfg(feature = "cuda")]
    pub(crate) fn each_device_layer(
        &self,
        images: &Batch,
        wanted: Range<usize>,
        take: &mut dyn FnMut(usize, &gramscope_cuda::Values<'_>) -> Result<()>,
    ) -> Result<()> {
        self.each_device_group(images, wanted, &mut |together| {
            let wanted = together.iter().filter_map(|&(place, values)| Some((place?, values)));
            wanted.into_iter().try_for_each(|(place, values)| {
                let _range = gramscope_cuda::range(&self.info.layers[place]);
                take(place, values)
            })
        })
    }

    /// The same with all layers that are there at once, those that are not wanted without a place.
    #[cfg(feature = "cuda")]
    fn each_device_group(
        &self,
        images: &Batch,
        wanted: Range<usize>,
        take: &mut dyn FnMut(&Group<'_>) -> Result<()>,
    ) -> Result<()> {
        let on_cpu = || candle_core::Error::msg("layers on a GPU of a network on the CPU");
        let mut network = self.on_device.as_ref().ok_or_else(on_cpu)?.borrow_mut();
        let place = |layer: usize| self.places[layer].filter(|place| wanted.contains(place));
        let observe = &mut |layers: &[Observed<'_>]| {
            let together: Vec<_> = layers.iter().map(|observed| (place(observed.layer), &observed.values)).collect();
            take(&together)
        };
        images.on_device(|images| network.forward_observed(images, observe))
    }
}

/// Layers that are there at once: the place of each that is wanted, and its activation.
#[cfg(feature = "cuda")]
type Group<'a> = [(Option<usize>, &'a gramscope_cuda::Values<'a>)];

/// Calls `use_view` with `activation`, [examples, ...], as a view of its values.
pub(crate) fn with_view(activation: &Tensor, use_view: impl FnOnce(View<'_>) -> Result<()>) -> Result<()> {
    let activation = activation.contiguous()?;
    let examples = activation.dim(0)?;
    let (storage, layout) = activation.storage_and_layout();
    let start = layout.start_offset();
    let range = start..start + layout.shape().elem_count();
    let values = match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Values::F32(&values[range]),
        Storage::Cpu(CpuStorage::F64(values)) => Values::F64(&values[range]),
        Storage::Cpu(CpuStorage::F16(values)) => Values::F16(&values[range]),
        Storage::Cpu(CpuStorage::BF16(values)) => Values::Bf16(&values[range]),
        _ => return Err(candle_core::Error::msg("activations must be floating-point numbers").into()),
    };
    use_view(Activation::new(values, examples))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use candle_core::Device;
    use gramscope_cka::Options;
    use gramscope_nn::ResNetConfig;

    use super::*;

    #[test]
    fn nan_in_a_network_is_named_by_run_layer_and_batch() {
        let config = ResNetConfig { depth: 8, width: 0.2, classes: 3, image_side: 8, ..ResNetConfig::default() };
        let network = ResNet::new(&config, 0, &Device::Cpu).unwrap();
        let mut state: HashMap<String, Tensor> = network.state().into_iter().collect();
        let bias = &state["stage2.block1.conv1.bias"];
        let broken = Tensor::full(f32::NAN, bias.shape(), &Device::Cpu).unwrap();
        state.insert("stage2.block1.conv1.bias".to_owned(), broken);
        network.load_state(&state).unwrap();
        let model = Model::open("broken run".to_owned(), network, None).unwrap();

        let layers = model.info.layers.len();
        let mut comparison = Comparison::new(&[layers], &[(0, 0)], Options::default()).unwrap();
        comparison.begin_batch(4).unwrap();
        let images = Batch::Host(Tensor::rand(0f32, 1f32, (4, 8, 8, 3), &Device::Cpu).unwrap());
        let error = model.observe(0, &images, 2, &mut comparison).unwrap_err();
        let Error::NonFinite { model, layer, batch, .. } = &error else { panic!("{error}") };
        assert_eq!((model.as_str(), layer.as_str(), *batch), ("broken run", "stage2.block1.conv1", 3));
    }
}
