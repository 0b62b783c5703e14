//! The order of an epoch's images, on a device.

use std::sync::Arc;

use gramscope_cuda::plan::Placing;
use gramscope_cuda::{BatchPlace, Device, Slice};

use crate::{Error, Result};

/// In which order an epoch takes images of a data set, how it places them, and how far it has come, on a device. Batches that
/// take what comes next ([`Images::Next`](super::Images::Next)) need nothing of the host.
pub struct Order {
    device: Arc<Device>,
    pub(super) indices: Slice<u32>,
    /// Where the next batch begins, and in which epoch: a batch moves it on when it runs.
    pub(super) place: Slice<BatchPlace>,
    pub(super) placing: Placing,
    /// Images that have been taken by all batches that are enqueued.
    taken: usize,
}

impl Order {
    /// For epochs of so many images, at least one, placed as `placing` says.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(device: Arc<Device>, images: usize, placing: Placing) -> Result<Self> {
        let what = "the order of an epoch's images";
        let (indices, place) = (device.zeros(what, images)?, device.zeros(what, 1)?);
        Ok(Self { device, indices, place, placing, taken: images })
    }

    /// Begins `epoch`, from 1, of the images at `indices` of the data set, of which the first `taken` have been taken.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of images than an epoch has; [`Error::Device`].
    pub fn begin(&mut self, indices: &[u32], taken: usize, epoch: u32) -> Result<()> {
        let images = self.indices.len();
        if indices.len() != images || taken > images {
            let (expected, got) = (format!("{images} images"), vec![indices.len(), taken]);
            return Err(Error::Shape { what: "the order of an epoch's images", expected, got });
        }
        // No epoch has as many as 2^32 images.
        let place = BatchPlace { first: u32::try_from(taken).unwrap_or(u32::MAX), epoch };
        self.device.copy_to("the order of an epoch's images", indices, &mut self.indices.as_view_mut())?;
        self.device.copy_to("the place in an epoch", &[place], &mut self.place.as_view_mut())?;
        self.taken = taken;
        Ok(())
    }

    /// Images that nothing has taken.
    pub(super) fn left(&self) -> usize {
        self.indices.len() - self.taken
    }

    /// A batch of so many has been enqueued.
    pub(super) fn take(&mut self, images: usize) {
        self.taken += images;
    }
}
