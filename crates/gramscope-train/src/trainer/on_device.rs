//! A run's steps on a GPU.
//!
//! The images that are used lie there as bytes, and a batch is cropped and flipped where it is; only the order of its images
//! goes to the device. Where the host has to draw it, because its colours are distorted, it goes as float32.

use candle_core::Device;
use gramscope_nn::device::{DeviceNetwork, Images, StoredImages, Totals};
use gramscope_nn::{Processor, ResNet, Sgd};

use crate::augment::{Augmentation, UNPLACED};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluate::{self, Evaluation};
use crate::settings::TrainSettings;

/// A run's network and data on a GPU.
pub(super) struct OnDevice {
    network: DeviceNetwork,
    /// The training images, unless the host draws them.
    train: Option<StoredImages>,
    test: StoredImages,
}

impl OnDevice {
    /// Where a run of `settings` is trained: on `processor`, or on the CPU if only that can and no GPU was named.
    pub(super) fn place_of<'a>(processor: &'a Processor, settings: &TrainSettings) -> Result<&'a Processor> {
        let setting = match settings {
            _ if settings.first_pc_penalty > 0.0 => "first_pc_penalty",
            _ if settings.shake_shake => "shake_shake",
            _ => return Ok(processor),
        };
        match processor {
            Processor::Cpu => Ok(processor),
            Processor::Gpu { named: true, .. } => Err(Error::OnCpuOnly { setting }),
            Processor::Gpu { named: false, .. } => {
                tracing::warn!("{setting} is computed on the CPU alone so far: this run is trained there");
                Ok(&Processor::Cpu)
            }
        }
    }

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
        let Processor::Gpu { device, arithmetic, .. } = processor else { return Ok(None) };
        let mut on_device = DeviceNetwork::new(network, device.clone(), *arithmetic)?;
        on_device.learn(sgd)?;
        let Dataset { train, test, image_side: side, .. } = dataset;
        let is_drawn_here = settings.colour_distortion > 0.0;
        let train = if is_drawn_here {
            None
        } else if indices.len() == train.len() {
            Some(StoredImages::new(device, train.pixels(), labels, *side)?)
        } else {
            Some(StoredImages::part(device, train.pixels(), labels, *side, indices)?)
        };
        let test = StoredImages::new(device, test.pixels(), test.labels(), *side)?;
        Ok(Some(Self { network: on_device, train, test }))
    }

    /// The name of the GPU.
    pub(super) fn gpu(&self) -> String {
        self.network.device().name().to_owned()
    }

    /// Begins an epoch, or goes on with one, of which there is so much.
    pub(super) fn begin_epoch(&mut self, learning_rate: f64, so_far: Totals) -> Result<()> {
        self.network.set_learning_rate(learning_rate)?;
        Ok(self.network.set_totals(so_far)?)
    }

    /// Enqueues a step on the images at `indices` of the training split, of these `labels`.
    pub(super) fn step(
        &mut self,
        augmentation: &Augmentation,
        split: &Split,
        labels: &[u32],
        indices: &[usize],
        epoch: u32,
    ) -> Result<()> {
        if let Some(images) = &self.train {
            let (order, placing) = (places(indices), augmentation.placing(epoch));
            return Ok(self.network.step(Images::Stored { images, order: &order, placing })?);
        }
        let pixels = augmentation.batch(split, indices, epoch, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let labels: Vec<u32> = indices.iter().map(|&index| labels[index]).collect();
        Ok(self.network.step(Images::Host { pixels: &pixels, labels: &labels })?)
    }

    /// The sums of the epoch's losses and of its correct images.
    pub(super) fn totals(&self) -> Result<Totals> {
        Ok(self.network.totals()?)
    }

    /// How the network does on the test images.
    pub(super) fn evaluate(&mut self, split: &Split, classes: usize) -> Result<Evaluation> {
        let indices: Vec<usize> = (0..split.len()).collect();
        let mut logits = Vec::with_capacity(split.len() * classes);
        for batch in indices.chunks(evaluate::BATCH) {
            let (images, order) = (&self.test, places(batch));
            logits.extend(self.network.forward(Images::Stored { images, order: &order, placing: UNPLACED })?);
        }
        Ok(Evaluation::new(logits, split.labels(), classes))
    }

    /// Brings what has been learnt to the host.
    pub(super) fn write_back(&self, network: &ResNet, sgd: &mut Sgd) -> Result<()> {
        Ok(self.network.write_back(network, sgd)?)
    }
}

/// Places in a split, as a device takes them: no split has as many as 2^32 images.
fn places(indices: &[usize]) -> Vec<u32> {
    indices.iter().map(|&index| u32::try_from(index).unwrap_or(u32::MAX)).collect()
}
