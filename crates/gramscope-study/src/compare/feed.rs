//! Images on their way into networks.

use std::iter::successors;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use std::sync::Arc;

use candle_core::Tensor;
use gramscope_cka::DeviceMemory;
use gramscope_cuda::Device;
use gramscope_nn::device::{ImageNumbers, Images, StoredImages, image_numbers};
use gramscope_train::batches::images;
use gramscope_train::data::Split;

use super::{Model, TestImages};
use crate::{HOST, Result};

/// Of the GPU's memory that may be taken, the part that all images may have; of more, a batch is there at a time.
const IMAGES_PART: u64 = 8;

/// A batch of images.
pub(crate) enum Batch {
    /// On the host: `[n, side, side, 3]` f32 in [0, 1].
    Host(Tensor),
    /// On a GPU, as bytes.
    Stored {
        /// Those of the batch, and perhaps others.
        images: Rc<StoredImages>,
        /// Places in the data, of this batch and perhaps of others.
        numbers: Rc<ImageNumbers>,
        /// Those of this one.
        range: Range<usize>,
    },
}

/// Images in the order in which batches are to take them. Where they are all on a GPU it is, too, so that no batch has to be
/// waited for.
pub(crate) struct InOrder<'a> {
    indices: &'a [usize],
    numbers: Option<Rc<ImageNumbers>>,
}

impl Batch {
    /// How many images.
    pub(crate) fn len(&self) -> Result<usize> {
        match self {
            Self::Host(images) => Ok(images.dim(0)?),
            Self::Stored { range, .. } => Ok(range.len()),
        }
    }

    /// The images as a network on the CPU takes them.
    pub(super) fn host(&self) -> Result<&Tensor> {
        match self {
            Self::Host(images) => Ok(images),
            Self::Stored { .. } => Err(candle_core::Error::msg("images on a GPU for a network on the CPU").into()),
        }
    }

    /// Calls `run` with the images as a network on a GPU takes them.
    pub(super) fn on_device<R>(&self, run: impl FnOnce(Images<'_>) -> Result<R>) -> Result<R> {
        match self {
            Self::Host(images) => {
                run(Images::Host { pixels: &images.flatten_all()?.to_vec1::<f32>()?, labels: &[], shake: None })
            }
            Self::Stored { images, numbers, range } => run(Images::Ordered { images, numbers, range: range.clone() }),
        }
    }
}

/// Hands out images in batches, where the networks run that are to see them.
pub(crate) struct Feed<'a> {
    split: &'a Split,
    gpu: Option<OnGpu>,
}

/// The GPU that all networks run on.
struct OnGpu {
    device: Arc<Device>,
    /// All images that are used, where there is room for them.
    all: Option<Rc<StoredImages>>,
    /// Their bytes.
    images: u64,
    /// What was asked for, and what networks and images have taken.
    memory: DeviceMemory,
}

impl<'a> Feed<'a> {
    /// Of `data` to `models`. `limit` is what may be taken of a GPU's memory in all; most of what is free where there is none.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn new(data: &'a TestImages, models: &[Model], limit: Option<u64>) -> Result<Self> {
        Self::of_part(data.split(), &(0..data.len()).collect::<Vec<_>>(), models, limit, None)
    }

    /// The same of those images of `split` alone that are `chosen`, beside those of another feed of the same networks.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn of_part(
        split: &'a Split,
        chosen: &[usize],
        models: &[Model],
        limit: Option<u64>,
        beside: Option<&Self>,
    ) -> Result<Self> {
        // They are all where the first is.
        let Some(device) = models.first().and_then(Model::gpu) else { return Ok(Self { split, gpu: None }) };
        let others = beside.and_then(|feed| feed.gpu.as_ref()).map_or(0, |gpu| gpu.images);
        let taken = models.iter().map(Model::bytes).sum::<u64>() + others;
        let mut memory = DeviceMemory { limit, taken, ..DeviceMemory::default() };
        let free = device.memory().map_err(gramscope_nn::Error::from)?.0;
        let mut all = None;
        let bytes = image_bytes(split, chosen.len());
        if bytes <= memory.allowance(free) / IMAGES_PART {
            all = Some(Rc::new(stored(device, split, chosen)?));
            memory.taken += bytes;
        }
        let images = memory.taken - taken;
        Ok(Self { split, gpu: Some(OnGpu { device: device.clone(), all, images, memory }) })
    }

    /// The images at `indices`.
    ///
    /// # Errors
    /// Those of the device, and what candle may say.
    pub(crate) fn batch(&self, indices: &[usize]) -> Result<Batch> {
        self.batch_of(&self.in_order(indices)?, 0..indices.len())
    }

    /// The images at `indices`, for batches to be taken of.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn in_order<'i>(&self, indices: &'i [usize]) -> Result<InOrder<'i>> {
        let numbers = match &self.gpu {
            Some(OnGpu { device, all: Some(_), .. }) => Some(numbers(device, indices)?),
            _ => None,
        };
        Ok(InOrder { indices, numbers })
    }

    /// Those at `range` of an order of this feed's.
    ///
    /// # Errors
    /// Those of the device, and what candle may say.
    pub(crate) fn batch_of(&self, order: &InOrder<'_>, range: Range<usize>) -> Result<Batch> {
        let indices = &order.indices[range.clone()];
        let Some(OnGpu { device, all, .. }) = &self.gpu else {
            return Ok(Batch::Host(images(self.split, indices, self.split.image_side(), &HOST)?));
        };
        if let (Some(all), Some(numbers)) = (all, &order.numbers) {
            return Ok(Batch::Stored { images: all.clone(), numbers: numbers.clone(), range });
        }
        let images = Rc::new(stored(device, self.split, indices)?);
        Ok(Batch::Stored { images, numbers: numbers(device, indices)?, range: 0..indices.len() })
    }

    /// The labels of the images at `indices`.
    pub(crate) fn labels(&self, indices: &[usize]) -> Vec<u32> {
        indices.iter().map(|&index| self.split.label(index)).collect()
    }

    /// What a comparison on the networks' GPU is to know of the memory there, where batches of so many images are looked at by
    /// networks that take turns.
    pub(crate) fn device_memory(&self, models: &[Model], images: usize) -> DeviceMemory {
        let largest = models.iter().map(|model| model.device_bytes(images)).max().unwrap_or(0);
        match &self.gpu {
            None => DeviceMemory { other: largest, ..DeviceMemory::default() },
            Some(gpu) => DeviceMemory { other: largest + gpu.batch_bytes(self.split, images), ..gpu.memory },
        }
    }

    /// How many images `name` can be shown at once in what memory its GPU may give, where so many take what `bytes` says beside
    /// themselves: the end of `range`, or its half, a quarter and so on; the end on the CPU.
    ///
    /// # Errors
    /// [`gramscope_cuda::Error::MemoryLimit`] where there is no room even for the start of the range; those of `bytes`.
    pub(crate) fn most_at_once(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
        bytes: &dyn Fn(usize) -> Result<u64>,
    ) -> Result<usize> {
        let (least, most) = range.into_inner();
        let Some(gpu) = &self.gpu else { return Ok(most) };
        let free = gpu.device.memory().map_err(gramscope_nn::Error::from)?.0;
        let limit = gpu.memory.allowance(free);
        let mut needed = 0;
        for images in successors(Some(most), |&images| (images > least).then(|| (images / 2).max(least))) {
            needed = gpu.memory.taken + gpu.batch_bytes(self.split, images) + bytes(images)?;
            if needed <= limit {
                return Ok(images);
            }
        }
        let what = format!("{least} images at once in {name}");
        Err(gramscope_nn::Error::from(gramscope_cuda::Error::MemoryLimit { what, needed, limit, free }).into())
    }

    /// The bytes of a GPU that a batch of so many images takes beside those that are there.
    pub(crate) fn batch_bytes(&self, images: usize) -> u64 {
        self.gpu.as_ref().map_or(0, |gpu| gpu.batch_bytes(self.split, images))
    }
}

impl OnGpu {
    /// Bytes that a batch of so many images of `split` takes beside those that are there.
    fn batch_bytes(&self, split: &Split, images: usize) -> u64 {
        match self.all {
            Some(_) => 0,
            None => image_bytes(split, images),
        }
    }
}

/// Those images of `split` that are `chosen`, on a device.
fn stored(device: &Device, split: &Split, chosen: &[usize]) -> Result<StoredImages> {
    let (pixels, labels, side) = (split.pixels(), split.labels(), split.image_side());
    Ok(match chosen.len() == split.len() {
        true => StoredImages::new(device, pixels, labels, side)?,
        false => StoredImages::part(device, pixels, labels, side, chosen)?,
    })
}

/// The places of images, on a device.
fn numbers(device: &Device, indices: &[usize]) -> Result<Rc<ImageNumbers>> {
    Ok(Rc::new(ImageNumbers::new(device, &image_numbers(indices))?))
}

/// The bytes that so many images of `split` take, with their labels and places in an order, and the rows of all that there are.
fn image_bytes(split: &Split, images: usize) -> u64 {
    let image = split.pixels().len() / split.len().max(1) + 2 * size_of::<u32>();
    (image * images + split.len() * size_of::<u32>()) as u64
}
