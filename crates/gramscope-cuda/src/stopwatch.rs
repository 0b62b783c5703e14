//! Time on a device, without that of the host.

use cudarc::driver::CudaSlice;

use crate::device::{Device, refused};
use crate::error::Error;

/// Bytes that are written, over and over, while the host enqueues what is measured, or an eighth of what is free.
const BYTES: usize = 64 << 20;
/// How often: a gibibyte in all, counted at 200 us on the fastest devices, in which a host enqueues dozens of launches.
const TIMES: usize = 16;

/// Measures what a device takes for work that it would do faster than the host can enqueue it: while the host does, the device is busy
/// with something else, so that no launch waits for the next.
pub struct Stopwatch<'a> {
    device: &'a Device,
    busy: CudaSlice<u8>,
}

impl<'a> Stopwatch<'a> {
    /// With memory to be busy with.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(device: &'a Device) -> Result<Self, Error> {
        let free = usize::try_from(device.memory()?.0).unwrap_or(usize::MAX);
        Ok(Self { device, busy: device.zeros("keeping the device busy", BYTES.min(free / 8))? })
    }

    /// The microseconds that the device takes for what `enqueue` enqueues on its stream. Waits for it.
    ///
    /// # Errors
    /// Those of `enqueue`; [`Error::Driver`].
    pub fn microseconds(&mut self, enqueue: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        for _ in 0..TIMES {
            let filled = self.device.stream().memset_zeros(&mut self.busy);
            filled.map_err(|error| refused("keeping the device busy", error))?;
        }
        let start = self.device.now()?;
        enqueue()?;
        start.microseconds_to(&self.device.now()?)
    }
}
