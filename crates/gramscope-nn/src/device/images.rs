//! A batch's images, on their way into a program.

use gramscope_cuda::plan::Placing;
use gramscope_cuda::{BatchPlace, Device, Launcher, Regions, Slice, View, ViewMut};

use super::memory::{Memory, Places};
use super::stored::Stored;
use super::{Images, image_numbers};
use crate::program::{IMAGES, ValueId};
use crate::topology::IMAGE_CHANNELS;
use crate::{Error, Result, Shake};

/// Images and labels of a data set on a device, as bytes: all of them, or those that are used.
pub struct StoredImages {
    pixels: Slice<u8>,
    labels: Slice<u32>,
    /// Of every image of the data set, its place among those that are here.
    rows: Slice<u32>,
    side: usize,
}

/// The places of images in their data set, on a device: the order of many batches.
pub struct ImageNumbers(Slice<u32>);

impl ImageNumbers {
    /// A copy of `numbers`, of at least one.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(device: &Device, numbers: &[u32]) -> Result<Self> {
        Ok(Self(device.upload("the order of images", numbers)?))
    }
}

/// The row of an image that is not stored.
const NO_ROW: u32 = u32::MAX;

impl StoredImages {
    /// A copy of `pixels` `[images, side, side, 3]` and of a label for each.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(device: &Device, pixels: &[u8], labels: &[u32], side: usize) -> Result<Self> {
        Self::at(device, pixels, labels, &(0..labels.len() as u32).collect::<Vec<_>>(), side)
    }

    /// The same of those images alone that are at `chosen`: batches name them by these places all the same.
    ///
    /// # Errors
    /// [`Error::Device`].
    ///
    /// # Panics
    /// If there is no image at one of them.
    pub fn part(device: &Device, pixels: &[u8], labels: &[u32], side: usize, chosen: &[usize]) -> Result<Self> {
        let length = side * side * IMAGE_CHANNELS;
        let mut rows = vec![NO_ROW; labels.len()];
        for (row, &image) in (0..).zip(chosen) {
            rows[image] = row;
        }
        let pixels: Vec<u8> = chosen.iter().flat_map(|image| &pixels[image * length..][..length]).copied().collect();
        let labels: Vec<u32> = chosen.iter().map(|&image| labels[image]).collect();
        Self::at(device, &pixels, &labels, &rows, side)
    }

    fn at(device: &Device, pixels: &[u8], labels: &[u32], rows: &[u32], side: usize) -> Result<Self> {
        Ok(Self {
            pixels: device.upload("the data set's images", pixels)?,
            labels: device.upload("the data set's labels", labels)?,
            rows: device.upload("the places of the data set's images", rows)?,
            side,
        })
    }

    /// Enqueues a batch of them, in `order` from its `start` on.
    fn as_they_are<T: Stored>(
        &self,
        launcher: Launcher<'_>,
        to: &mut ViewMut<'_, T>,
        labels_out: &mut ViewMut<'_, u32>,
        order: &View<'_, u32>,
        start: &View<'_, BatchPlace>,
    ) -> Result<()> {
        let Self { pixels, labels, rows, side } = self;
        let (pixels, labels, rows) = (pixels.as_view(), labels.as_view(), rows.as_view());
        let (placing, count) = (Placing::default(), order.len());
        Ok(launcher.augment(to, labels_out, &pixels, &labels, &rows, order, start, placing, count, *side)?)
    }

    /// Bytes an image.
    fn length(&self) -> usize {
        self.side * self.side * IMAGE_CHANNELS
    }
}

impl Images<'_> {
    /// How many there are, each of so many numbers; with a label each, where they are learnt from.
    pub(super) fn count(&self, length: usize, learns: bool) -> Result<usize> {
        let wrong = |what, expected, got| Err(Error::Shape { what, expected, got });
        match *self {
            Self::Host { pixels, .. } if pixels.is_empty() || !pixels.len().is_multiple_of(length) => {
                wrong("the batch of images", format!("{length} numbers an image, and at least one"), vec![pixels.len()])
            }
            Self::Host { pixels, shake: Some(Shake { images, .. }), .. } if images.len() != pixels.len() / length => {
                let expected = format!("one for each of {} images", pixels.len() / length);
                wrong("the batch's image numbers", expected, vec![images.len()])
            }
            Self::Host { pixels, labels, .. } => {
                let count = pixels.len() / length;
                match labels.len() == count || labels.is_empty() && !learns {
                    true => Ok(count),
                    false => wrong("the batch's labels", format!("one for each of {count} images"), vec![labels.len()]),
                }
            }
            Self::Stored { order: [], .. } => wrong("the batch of images", "at least one".to_owned(), vec![0]),
            Self::Ordered { numbers, ref range, .. } if range.is_empty() || range.end > numbers.0.len() => {
                let expected = format!("at least one, of {} that are in order", numbers.0.len());
                wrong("the batch of images", expected, vec![range.start, range.end])
            }
            Self::Stored { images, .. } | Self::Ordered { images, .. } | Self::Next { images, .. }
                if images.length() != length =>
            {
                let got = vec![images.side, images.side, IMAGE_CHANNELS];
                wrong("the data set's images", format!("{length} bytes an image"), got)
            }
            Self::Stored { order, .. } => Ok(order.len()),
            Self::Ordered { ref range, .. } => Ok(range.len()),
            Self::Next { ref order, count, .. } => match (1..=order.left()).contains(&count) {
                true => Ok(count),
                false => {
                    let expected = format!("from 1 to {}, which the epoch has left", order.left());
                    wrong("the next images of an epoch", expected, vec![count])
                }
            },
        }
    }

    /// How they are placed, where they are the next of an order.
    pub(super) fn placing(&self) -> Option<Placing> {
        match self {
            Self::Next { order, .. } => Some(order.placing),
            Self::Host { .. } | Self::Stored { .. } | Self::Ordered { .. } => None,
        }
    }

    /// A batch of `count` has been enqueued.
    pub(super) fn are_taken(&mut self, count: usize) {
        if let Self::Next { order, .. } = self {
            order.take(count);
        }
    }

    /// Shows `memory` what device memory they are read from.
    pub(super) fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        let images = match self {
            Self::Host { .. } => return,
            Self::Stored { images, .. } => images,
            Self::Ordered { images, numbers, .. } => {
                memory.reads(&numbers.0);
                images
            }
            Self::Next { images, order, .. } => {
                memory.reads(&order.indices);
                memory.writes(&mut order.place);
                images
            }
        };
        memory.reads(&images.pixels);
        memory.reads(&images.labels);
        memory.reads(&images.rows);
    }

    /// Puts them where the program of `places` expects them, and their labels beside.
    pub(super) fn place<T: Stored>(
        &mut self,
        device: &Device,
        memory: &mut Memory<T>,
        places: Places<'_>,
    ) -> Result<()> {
        const TO: [ValueId; 1] = [IMAGES];
        let count = places.images;
        let [mut to] = places.of(&mut memory.values, TO)?;
        let (to, labels) = (&mut to.view_mut(), &mut memory.labels.slice_mut(..count));
        let launcher = device.launcher();
        match self {
            Self::Host { pixels, labels: from, shake } => {
                device.copy_to("the images of a batch", &T::from_host(pixels), to)?;
                device.copy_to("the labels of a batch", from, &mut labels.slice_mut(..from.len()))?;
                match shake {
                    None => share_evenly(device, &mut memory.shares, places)?,
                    Some(Shake { seed, epoch, images }) => {
                        let order = &mut memory.order.slice_mut(..count);
                        device.copy_to("the numbers of a batch's images", &image_numbers(images), order)?;
                        let place = &mut memory.order_start.as_view_mut();
                        device.copy_to("the epoch", &[BatchPlace { first: 0, epoch: *epoch }], place)?;
                        draw_shares(device, &mut memory.shares, places, &order.as_view(), &place.as_view(), *seed)?;
                    }
                }
            }
            Self::Stored { images, order, .. } => {
                device.copy_to("the order of a batch", order, &mut memory.order.slice_mut(..count))?;
                let (order, start) = (memory.order.slice(..count), memory.order_start.as_view());
                images.as_they_are(launcher, to, labels, &order, &start)?;
                share_evenly(device, &mut memory.shares, places)?;
            }
            Self::Ordered { images, numbers, range } => {
                let (order, start) = (numbers.0.slice(range.clone()), memory.order_start.as_view());
                images.as_they_are(launcher, to, labels, &order, &start)?;
                share_evenly(device, &mut memory.shares, places)?;
            }
            Self::Next { images, order, .. } => {
                let StoredImages { pixels, labels: from, rows, side } = images;
                let (pixels, from, rows) = (pixels.as_view(), from.as_view(), rows.as_view());
                let (indices, place) = (order.indices.as_view(), order.place.as_view());
                launcher.augment(to, labels, &pixels, &from, &rows, &indices, &place, order.placing, count, *side)?;
                draw_shares(device, &mut memory.shares, places, &indices, &place, order.placing.seed)?;
                launcher.advance(&mut order.place.as_view_mut(), count)?;
            }
        }
        Ok(())
    }
}

/// Draws the branches' shares of every block that wants some, for the batch from `place` on in `order`.
fn draw_shares(
    device: &Device,
    shares: &mut Slice<f32>,
    places: Places<'_>,
    order: &View<'_, u32>,
    place: &View<'_, BatchPlace>,
    seed: u64,
) -> Result<()> {
    match places.program.drawn_blocks() {
        0 => Ok(()),
        blocks => {
            let shares = &mut shares.slice_mut(..2 * blocks * places.images);
            Ok(device.launcher().draw_shares(shares, order, place, seed, blocks, places.images)?)
        }
    }
}

/// The same of a batch of which nobody says which images it has: one half for all.
fn share_evenly(device: &Device, shares: &mut Slice<f32>, places: Places<'_>) -> Result<()> {
    match places.program.drawn_blocks() {
        0 => Ok(()),
        blocks => {
            let halves = vec![0.5; 2 * blocks * places.images];
            Ok(device.copy_to("the shares of branches", &halves, &mut shares.slice_mut(..halves.len()))?)
        }
    }
}
