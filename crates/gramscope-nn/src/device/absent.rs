//! What stands for a network on a device in a build without CUDA.

use std::convert::Infallible;
use std::sync::Arc;

use gramscope_cuda::Device;
use gramscope_cuda::plan::{Arithmetic, Placing};

use super::{Images, TakeLayer, Totals};
use crate::{Error, FirstComponentPenalty, ResNet, Result, Sgd};

/// A copy of a network on a device. A build without CUDA has none.
pub struct DeviceNetwork(Infallible);

impl DeviceNetwork {
    /// A copy of `network` on `device`.
    ///
    /// # Errors
    /// Always [`gramscope_cuda::Error::NotBuilt`].
    pub fn new(network: &ResNet, device: Arc<Device>, arithmetic: Arithmetic) -> Result<Self> {
        let _ = (network, device, arithmetic);
        Err(gramscope_cuda::Error::NotBuilt.into())
    }

    /// The device it is on.
    pub fn device(&self) -> &Arc<Device> {
        match self.0 {}
    }

    /// Bytes of device memory that looking at every layer takes.
    pub fn observation_bytes(&self, images: usize) -> u64 {
        let _ = images;
        match self.0 {}
    }

    /// Takes the memory in which `other` was observed.
    pub fn take_memory_of(&mut self, other: &mut Self) {
        let _ = other;
        match self.0 {}
    }

    /// The logits of a batch.
    ///
    /// # Errors
    /// None.
    pub fn forward(&mut self, images: Images<'_>) -> Result<Vec<f32>> {
        let _ = images;
        match self.0 {}
    }

    /// Hands a copy of every layer that is wanted to `take`.
    ///
    /// # Errors
    /// None.
    pub fn forward_copied<E: From<Error>>(
        &mut self,
        images: Images<'_>,
        wanted: &dyn Fn(usize) -> bool,
        take: &mut TakeLayer<'_, E>,
    ) -> Result<(), E> {
        let _ = (images, wanted, take);
        match self.0 {}
    }

    /// Hands layers out several at a time.
    pub fn hand_out_together(&mut self) {
        match self.0 {}
    }

    /// The logits of a batch with blocks deleted.
    ///
    /// # Errors
    /// None.
    pub fn forward_without(&mut self, images: Images<'_>, variants: &[Vec<bool>]) -> Result<Vec<Vec<f32>>> {
        let _ = (images, variants);
        match self.0 {}
    }

    /// Bytes of device memory that this takes.
    ///
    /// # Errors
    /// None.
    pub fn ablation_bytes(&mut self, images: usize, variants: &[Vec<bool>]) -> Result<u64> {
        let _ = (images, variants);
        match self.0 {}
    }

    /// Makes it ready to be trained.
    ///
    /// # Errors
    /// None.
    pub fn learn(&mut self, sgd: &Sgd) -> Result<()> {
        let _ = sgd;
        match self.0 {}
    }

    /// Adds `penalty` to the loss.
    pub fn penalise(&mut self, penalty: FirstComponentPenalty) {
        let _ = penalty;
        match self.0 {}
    }

    /// Changes the learning rate.
    ///
    /// # Errors
    /// None.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        let _ = rate;
        match self.0 {}
    }

    /// A training step.
    ///
    /// # Errors
    /// None.
    pub fn step(&mut self, images: Images<'_>) -> Result<()> {
        let _ = images;
        match self.0 {}
    }

    /// What the sums of the steps begin with.
    ///
    /// # Errors
    /// None.
    pub fn set_totals(&mut self, totals: Totals) -> Result<()> {
        let _ = totals;
        match self.0 {}
    }

    /// The sums so far.
    ///
    /// # Errors
    /// None.
    pub fn totals(&self) -> Result<Totals> {
        match self.0 {}
    }

    /// Copies everything to the host.
    ///
    /// # Errors
    /// None.
    pub fn write_back(&self, network: &ResNet, sgd: &mut Sgd) -> Result<()> {
        let _ = (network, sgd);
        match self.0 {}
    }
}

/// A data set's images and labels on a device. A build without CUDA has none.
pub struct StoredImages(#[allow(dead_code, reason = "there are no values of it")] Infallible);

impl StoredImages {
    /// A copy of `pixels` and labels.
    ///
    /// # Errors
    /// Always [`gramscope_cuda::Error::NotBuilt`].
    pub fn new(device: &Device, pixels: &[u8], labels: &[u32], side: usize) -> Result<Self> {
        let _ = (device, pixels, labels, side);
        Err(gramscope_cuda::Error::NotBuilt.into())
    }

    /// The same of those images alone that are at `chosen`.
    ///
    /// # Errors
    /// Always [`gramscope_cuda::Error::NotBuilt`].
    pub fn part(device: &Device, pixels: &[u8], labels: &[u32], side: usize, chosen: &[usize]) -> Result<Self> {
        let _ = chosen;
        Self::new(device, pixels, labels, side)
    }
}

/// The places of images in their data set, on a device. A build without CUDA has none.
pub struct ImageNumbers(#[allow(dead_code, reason = "there are no values of it")] Infallible);

impl ImageNumbers {
    /// A copy of `numbers`.
    ///
    /// # Errors
    /// Always [`gramscope_cuda::Error::NotBuilt`].
    pub fn new(device: &Device, numbers: &[u32]) -> Result<Self> {
        let _ = (device, numbers);
        Err(gramscope_cuda::Error::NotBuilt.into())
    }
}

/// The order of an epoch's images on a device. A build without CUDA has none.
pub struct Order(Infallible);

impl Order {
    /// For epochs of so many images.
    ///
    /// # Errors
    /// Always [`gramscope_cuda::Error::NotBuilt`].
    pub fn new(device: Arc<Device>, images: usize, placing: Placing) -> Result<Self> {
        let _ = (device, images, placing);
        Err(gramscope_cuda::Error::NotBuilt.into())
    }

    /// Begins an epoch.
    ///
    /// # Errors
    /// None.
    pub fn begin(&mut self, indices: &[u32], taken: usize, epoch: u32) -> Result<()> {
        let _ = (indices, taken, epoch);
        match self.0 {}
    }
}
