//! One network's pass over test images, in batches whose size is nothing to what comes out: an image's activations do not depend on
//! the others of its batch. (With batch statistics they would; and cuDNN has engines by the size of a batch, which round differently.)

use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_cka::Activation;

use super::{Batch, BatchNeeds, Feed, MemoryLimits, Model, Progress, TestImages, in_layer};
use crate::{Error, Result};

/// A network and the images that it is to see, first ones first, in batches as large as memory allows.
pub(crate) struct Pass<'a> {
    model: &'a Model,
    feed: Feed<'a>,
    indices: Vec<usize>,
    /// Images of every batch but the last.
    size: usize,
}

impl<'a> Pass<'a> {
    /// To look at every chosen layer of `model` over `data`, in batches of at most so many images, within `memory`, of which `needs`
    /// says what is taken of the host's.
    ///
    /// # Errors
    /// Memory that is too little for one image.
    pub(crate) fn observing(
        model: &'a Model,
        data: &'a TestImages,
        needs: &BatchNeeds,
        memory: MemoryLimits,
        most: usize,
    ) -> Result<Self> {
        Self::new(model, data, needs, &|images| Ok(model.device_bytes(images)), memory, most)
    }

    /// The same for anything else, where so many images take what `device_bytes` says on the GPU that runs the network, where one does.
    ///
    /// # Errors
    /// As there; those of `device_bytes`.
    pub(crate) fn new(
        model: &'a Model,
        data: &'a TestImages,
        needs: &BatchNeeds,
        device_bytes: &dyn Fn(usize) -> Result<u64>,
        memory: MemoryLimits,
        most: usize,
    ) -> Result<Self> {
        let most = needs.within(memory.host, most)?;
        let feed = Feed::new(data, slice::from_ref(model), memory.device)?;
        let size = feed.most_at_once(&model.info.name, 1..=most, device_bytes)?;
        Ok(Self { model, feed, indices: (0..data.len()).collect(), size })
    }

    /// Runs the network over one batch after the other and calls `take` for each of its chosen layers, with the number of the batch,
    /// that of the layer, both from 0, and the activation.
    ///
    /// # Errors
    /// Those of `take`, and what the network may say.
    pub(crate) fn each_layer(
        &self,
        progress: &mut dyn FnMut(Progress<'_>),
        take: &mut dyn FnMut(usize, usize, Activation<'_>) -> Result<()>,
    ) -> Result<()> {
        let info = &self.model.info;
        let (layers, batches) = (info.layers.len(), self.batches());
        let mut done = 0;
        for (batch, indices) in self.indices.chunks(self.size).enumerate() {
            self.model.each_layer(&self.feed.batch(indices)?, 0..layers, &mut |layer, view| {
                take(batch, layer, view.map_err(in_layer(&info.name, &info.layers[layer], batch))?)?;
                done += 1;
                progress(Progress { done, total: batches * layers, batch: batch + 1, batches, subject: &info.name });
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Calls `take` with every batch and the places of its images in the data, until `stop` is set.
    ///
    /// # Errors
    /// Those of `take`; [`Error::Interrupted`] once `stop` is set.
    pub(crate) fn each_batch(
        &self,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress<'_>),
        take: &mut dyn FnMut(&Batch, &[usize]) -> Result<()>,
    ) -> Result<()> {
        let batches = self.batches();
        for (done, indices) in (1..).zip(self.indices.chunks(self.size)) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            take(&self.feed.batch(indices)?, indices)?;
            progress(Progress { done, total: batches, batch: done, batches, subject: &self.model.info.name });
        }
        Ok(())
    }

    fn batches(&self) -> usize {
        self.indices.len().div_ceil(self.size)
    }
}
