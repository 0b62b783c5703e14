//! Activations on their way from the host to the device, while the device computes with the ones before.
//!
//! Values go through two buffers of pinned host memory, a chunk at a time, on a stream of their own: while one chunk is
//! copied to the device, the next is filled. On the device there is room for two activations, so that one arrives while the
//! other is being multiplied; where memory is short, for one.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, CudaView, DeviceRepr, DriverError, PinnedHostSlice};
use half::{bf16, f16};

use crate::device::{Device, insist, refused};
use crate::error::Error;
use crate::launchers::Values;
use crate::memory::Buffer;

/// Buffers of pinned memory.
const CHUNKS: usize = 2;
/// Bytes of each: long enough for a copy to run at full speed.
const CHUNK_BYTES: usize = 8 << 20;
const _: () = assert!((CHUNKS * CHUNK_BYTES) as u64 == crate::PINNED_BYTES);

/// A layer's output over a batch on the host: `[examples, features]`, row-major.
#[derive(Clone, Copy, Debug)]
pub enum HostValues<'a> {
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// Single precision.
    F32(&'a [f32]),
}

/// The way from the host to the device.
pub struct Uploads {
    device: Arc<Device>,
    /// For copies alone.
    stream: Arc<CudaStream>,
    chunks: Vec<Chunk>,
    next_chunk: usize,
    places: Vec<Place>,
    /// The place that was filled last.
    last_place: usize,
}

/// Pinned host memory.
struct Chunk {
    bytes: PinnedHostSlice<u8>,
    /// What was in it has been copied.
    sent: CudaEvent,
}

/// Device memory for an activation.
struct Place {
    bytes: Buffer<u8>,
    /// The device's stream is done with what was in it.
    free: CudaEvent,
    /// What was copied into it is there.
    arrived: CudaEvent,
}

impl Uploads {
    /// For uploads to `device`, where there is room for one activation, or for two.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn new(device: Arc<Device>, two: bool) -> Result<Self, Error> {
        let stream =
            device.stream().context().new_stream().map_err(|error| refused("creating a stream for uploads", error))?;
        let places = (0..if two { 2 } else { 1 }).map(|_| Place::new(&device)).collect::<Result<_, _>>();
        let places = places.map_err(|error| refused("preparing uploads", error))?;
        Ok(Self { device, stream, chunks: Vec::new(), next_chunk: 0, places, last_place: 0 })
    }

    /// Copies `values` to the device. Returns once the last of them are on their way: whatever is enqueued on the device's
    /// stream from now on finds them there, and may read them until the call after the next (after this one, where there is room
    /// for one activation).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn upload(&mut self, values: HostValues<'_>) -> Result<Values<'_>, Error> {
        let copying = |error| refused("copying an activation to the device", error);
        let bytes = values.bytes();
        let main = self.device.stream();
        // All that reads what was uploaded last has been enqueued by now.
        self.places[self.last_place].free.record(main).map_err(copying)?;
        self.last_place = (self.last_place + 1) % self.places.len();
        let place = &mut self.places[self.last_place];
        if place.bytes.len() < bytes.len() {
            place.bytes.at_least(&self.device, bytes.len())?;
            // Memory comes, zeroed, in the order of the device's stream.
            place.free.record(main).map_err(copying)?;
        }
        self.stream.wait(&place.free).map_err(copying)?;
        if self.chunks.is_empty() {
            let chunks = (0..CHUNKS).map(|_| Chunk::new(&self.device)).collect::<Result<_, _>>();
            self.chunks = chunks.map_err(|error| refused("pinning host memory for uploads", error))?;
        }
        let mut to = place.bytes.at_least(&self.device, bytes.len())?;
        let mut done = 0;
        for part in bytes.chunks(CHUNK_BYTES) {
            let chunk = &mut self.chunks[self.next_chunk];
            chunk.send(part, &mut to.slice_mut(done..done + part.len()), &self.stream).map_err(copying)?;
            self.next_chunk = (self.next_chunk + 1) % CHUNKS;
            done += part.len();
        }
        place.arrived.record(&self.stream).map_err(copying)?;
        main.wait(&place.arrived).map_err(copying)?;
        let there = place.bytes.view()?;
        Ok(match values {
            HostValues::F16(values) => Values::F16(viewed(&there, values)),
            HostValues::Bf16(values) => Values::Bf16(viewed(&there, values)),
            HostValues::F32(values) => Values::F32(viewed(&there, values)),
        })
    }
}

impl HostValues<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F16(values) => bytes_of(values),
            Self::Bf16(values) => bytes_of(values),
            Self::F32(values) => bytes_of(values),
        }
    }
}

/// The bytes that numbers are in memory.
fn bytes_of<T: DeviceRepr>(values: &[T]) -> &[u8] {
    // SAFETY: the range is that of `values`, which are numbers of two or four bytes and have no padding; any byte is a u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The copy of `values` that `bytes` begin with.
fn viewed<'a, T>(bytes: &CudaView<'a, u8>, values: &[T]) -> CudaView<'a, T> {
    // SAFETY: the bytes are a copy of values of this type, and as many; device memory is aligned to 256 bytes.
    unsafe { bytes.transmute(values.len()) }.expect("device memory shorter than what was copied into it")
}

impl Drop for Uploads {
    fn drop(&mut self) {
        // Pinned memory must not go while it is being copied.
        insist(self.stream.context(), || self.stream.synchronize());
    }
}

impl Chunk {
    fn new(device: &Device) -> Result<Self, DriverError> {
        let context = device.stream().context();
        // SAFETY: the memory is written by `send` before anything reads it.
        let bytes = unsafe { context.alloc_pinned(CHUNK_BYTES) }?;
        Ok(Self { bytes, sent: context.new_event(None)? })
    }

    /// Copies `part` to the device, by way of this chunk. Waits for what was in it.
    fn send(
        &mut self,
        part: &[u8],
        to: &mut cudarc::driver::CudaViewMut<'_, u8>,
        stream: &Arc<CudaStream>,
    ) -> Result<(), DriverError> {
        self.sent.synchronize()?;
        let bytes = &mut self.bytes.as_mut_slice()?[..part.len()];
        bytes.copy_from_slice(part);
        stream.memcpy_htod(&*bytes, to)?;
        self.sent.record(stream)
    }
}

impl Place {
    fn new(device: &Device) -> Result<Self, DriverError> {
        let event = || device.stream().context().new_event(None);
        Ok(Self { bytes: Buffer::new("an activation"), free: event()?, arrived: event()? })
    }
}
