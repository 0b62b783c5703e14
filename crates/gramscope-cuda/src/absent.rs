//! What stands for a device in a build without CUDA.

use std::convert::Infallible;
use std::sync::Arc;

use crate::choices::Choices;
use crate::error::Error;

/// A device. A build without CUDA has none.
#[derive(Debug)]
pub struct Device(Infallible);

impl Device {
    /// How many devices there are.
    ///
    /// # Errors
    /// Always [`Error::NotBuilt`].
    pub fn count() -> Result<usize, Error> {
        Err(Error::NotBuilt)
    }

    /// Opens device `number`.
    ///
    /// # Errors
    /// Always [`Error::NotBuilt`].
    pub fn open(number: usize) -> Result<Self, Error> {
        let _ = number;
        Err(Error::NotBuilt)
    }

    /// The same device with a stream of its own.
    ///
    /// # Errors
    /// None.
    pub fn fork(&self) -> Result<Self, Error> {
        match self.0 {}
    }

    /// The same device, on which cuDNN computes the convolutions of networks.
    ///
    /// # Errors
    /// None.
    pub fn with_cudnn(self, choices: Arc<dyn Choices>) -> Result<Self, Error> {
        let _ = choices;
        match self.0 {}
    }

    /// Whether cuDNN computes the convolutions of networks.
    pub fn has_cudnn(&self) -> bool {
        match self.0 {}
    }

    /// (free, total) device memory, in bytes.
    ///
    /// # Errors
    /// None.
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        match self.0 {}
    }

    /// The name its maker gave it.
    pub fn name(&self) -> &str {
        match self.0 {}
    }
}

/// A range of a profiler's. A build without CUDA tells no profiler anything.
#[derive(Debug)]
#[must_use = "a range ends when it is dropped"]
pub struct Range;

/// Begins a range called `name`, of which nothing is noted.
pub fn range(name: &str) -> Range {
    let _ = name;
    Range
}
