//! A run's steps on a GPU.
//!
//! The images that are used lie there as bytes, and a batch is cropped and flipped where it is; only the order of the images
//! goes to the device, once an epoch. Where the host has to draw a batch, because its colours are distorted, it goes as float32.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use gramscope_cuda::plan::Placing;
use gramscope_nn::device::{DeviceNetwork, Images, Order, StoredImages, Totals, image_numbers};
use gramscope_nn::{Processor, ResNet, Sgd, Shake};

use crate::augment::Augmentation;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::evaluate::{self, Evaluation};
use crate::settings::TrainSettings;

/// A run's network and data on a GPU.
pub(super) struct OnDevice {
    network: DeviceNetwork,
    /// The training images, unless the host draws them.
    train: Option<Stored>,
    test: Stored,
}

/// A split's images, and the order in which they are taken.
struct Stored {
    images: StoredImages,
    order: Order,
}

impl Stored {
    /// The next `count`.
    fn next(&mut self, count: usize) -> Images<'_> {
        Images::Next { images: &self.images, order: &mut self.order, count }
    }
}

impl OnDevice {
    /// For the run of `settings` on the images at `indices`, of these `labels`, from where `network` and `sgd` are; none where
    /// the CPU trains.
    pub(super) fn new(
        processor: &Processor,
        settings: &TrainSettings,
        dataset: &Dataset,
        labels: &[u32],
        indices: &[usize],
        network: &ResNet,
        sgd: &Sgd,
    ) -> Result<Option<Self>> {
        let Processor::Gpu { device, arithmetic } = processor else { return Ok(None) };
        let mut on_device = DeviceNetwork::new(network, device.clone(), *arithmetic)?;
        on_device.learn(sgd)?;
        if let Some(penalty) = settings.penalty() {
            on_device.penalise(penalty);
        }
        let Dataset { train, test, image_side: side, .. } = dataset;
        let in_order = |images: StoredImages, count: usize, placing: Placing| -> Result<Stored> {
            Ok(Stored { images, order: Order::new(device.clone(), count, placing)? })
        };
        let is_drawn_here = settings.colour_distortion > 0.0;
        let stored = if is_drawn_here {
            None
        } else if indices.len() == train.len() {
            Some(StoredImages::new(device, train.pixels(), labels, *side)?)
        } else {
            Some(StoredImages::part(device, train.pixels(), labels, *side, indices)?)
        };
        let placing = Augmentation::new(settings).placing();
        let train = stored.map(|images| in_order(images, indices.len(), placing)).transpose()?;
        let count = test.len();
        let test = StoredImages::new(device, test.pixels(), test.labels(), *side)?;
        let test = in_order(test, count, Placing::default())?;
        Ok(Some(Self { network: on_device, train, test }))
    }

    /// The name of the GPU.
    pub(super) fn gpu(&self) -> String {
        self.network.device().name().to_owned()
    }

    /// Begins `epoch`, of the images at `order`, or goes on with it behind the first `taken`, of which the sums are `so_far`.
    pub(super) fn begin_epoch(
        &mut self,
        epoch: u32,
        learning_rate: f64,
        order: &[usize],
        taken: usize,
        so_far: Totals,
    ) -> Result<()> {
        self.network.set_learning_rate(learning_rate)?;
        if let Some(train) = &mut self.train {
            train.order.begin(&image_numbers(order), taken, epoch)?;
        }
        Ok(self.network.set_totals(so_far)?)
    }

    /// Enqueues a step on the images at `indices` of the training split, of these `labels`: the next of the epoch. `shake` is of
    /// the same images.
    pub(super) fn step(
        &mut self,
        augmentation: &Augmentation,
        split: &Split,
        labels: &[u32],
        indices: &[usize],
        epoch: u32,
        shake: Option<Shake<'_>>,
    ) -> Result<()> {
        if let Some(train) = &mut self.train {
            return Ok(self.network.step(train.next(indices.len()))?);
        }
        let pixels = augmentation.batch(split, indices, epoch, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let labels: Vec<u32> = indices.iter().map(|&index| labels[index]).collect();
        Ok(self.network.step(Images::Host { pixels: &pixels, labels: &labels, shake })?)
    }

    /// The sums of the epoch's losses and of its correct images.
    pub(super) fn totals(&self) -> Result<Totals> {
        Ok(self.network.totals()?)
    }

    /// How the network does on the test images; nothing once `stop` is set.
    pub(super) fn evaluate(&mut self, split: &Split, classes: usize, stop: &AtomicBool) -> Result<Option<Evaluation>> {
        let indices: Vec<usize> = (0..split.len()).collect();
        let mut logits = Vec::with_capacity(split.len() * classes);
        self.test.order.begin(&image_numbers(&indices), 0, 1)?;
        for batch in indices.chunks(evaluate::BATCH) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            logits.extend(self.network.forward(self.test.next(batch.len()))?);
        }
        Ok(Some(Evaluation::new(logits, split.labels(), classes)))
    }

    /// Brings what has been learnt to the host.
    pub(super) fn write_back(&self, network: &ResNet, sgd: &mut Sgd) -> Result<()> {
        Ok(self.network.write_back(network, sgd)?)
    }
}
