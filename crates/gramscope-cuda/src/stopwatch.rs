//! Time on a device, without that of the host.

use cudarc::driver::CudaSlice;

use crate::device::{Device, refused};
use crate::error::Error;

/// Bytes that are written while the host enqueues what is measured, a multiprocessor: a gibibyte in all on the fastest devices, counted
/// at 200 us, in which a host enqueues dozens of launches. What others write in a time goes with their multiprocessors.
const BYTES: usize = 8 << 20;
/// The most of it that is memory, or an eighth of what is free: it is written over and over.
const MOST_MEMORY: usize = 64 << 20;
/// How often at most: where hardly any memory is free, the device is less busy.
const MOST_TIMES: usize = 1024;

/// Measures what a device takes for work that it would do faster than the host can enqueue it: while the host does, the device is busy
/// with something else, so that no launch waits for the next.
pub struct Stopwatch<'a> {
    device: &'a Device,
    busy: CudaSlice<u8>,
    /// How often that is written.
    times: usize,
}

impl<'a> Stopwatch<'a> {
    /// With memory to be busy with.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(device: &'a Device) -> Result<Self, Error> {
        let free = usize::try_from(device.memory()?.0).unwrap_or(usize::MAX);
        let bytes = device.properties().multiprocessors as usize * BYTES;
        let busy = device.zeros::<u8>("keeping the device busy", bytes.min(MOST_MEMORY).min(free / 8).max(1))?;
        Ok(Self { device, times: bytes.div_ceil(busy.len()).min(MOST_TIMES), busy })
    }

    /// The microseconds that the device takes for what `enqueue` enqueues on its stream. Waits for it.
    ///
    /// # Errors
    /// Those of `enqueue`; [`Error::Driver`].
    pub fn microseconds(&mut self, enqueue: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        for _ in 0..self.times {
            let filled = self.device.stream().memset_zeros(&mut self.busy);
            filled.map_err(|error| refused("keeping the device busy", error))?;
        }
        let start = self.device.now()?;
        enqueue()?;
        start.microseconds_to(&self.device.now()?)
    }
}
