//! What every launcher does before it launches: look at each argument.

use std::cell::RefCell;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DriverError, LaunchConfig};

use crate::device;
use crate::error::{Dimensions, Error};

/// The buffers of one launch, looked at one after the other.
pub(crate) struct Arguments<'a> {
    kernel: &'static str,
    stream: &'a Arc<CudaStream>,
    spans: Vec<Span>,
}

/// Where a buffer lies.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) argument: &'static str,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) written: bool,
}

thread_local! {
    /// The buffers of this thread's launches, while they are collected.
    static COLLECTED: RefCell<Option<Vec<Span>>> = const { RefCell::new(None) };
}

/// Does `work` and returns, beside what came of it, every buffer that its launches were given.
pub(crate) fn collecting_spans<R>(work: impl FnOnce() -> R) -> (R, Vec<Span>) {
    struct Collecting;
    impl Drop for Collecting {
        fn drop(&mut self) {
            COLLECTED.set(None);
        }
    }
    COLLECTED.set(Some(Vec::new()));
    // Where the work panics, too.
    let _collecting = Collecting;
    let done = work();
    (done, COLLECTED.take().unwrap_or_default())
}

/// Whether this thread's buffers are being collected: its launches are captured, and nothing else may be done.
pub(crate) fn is_collecting() -> bool {
    COLLECTED.with_borrow(Option::is_some)
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(kernel: &'static str, stream: &'a Arc<CudaStream>) -> Self {
        Self { kernel, stream, spans: Vec::new() }
    }

    /// What messages call the kernel.
    pub(crate) fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// The stream of the launch, whose memory the buffers are.
    pub(crate) fn stream(&self) -> &'a Arc<CudaStream> {
        self.stream
    }

    /// `buffer` has at least `length` values, and nothing that is written overlaps it.
    pub(crate) fn reads<T>(
        &mut self,
        argument: &'static str,
        buffer: &impl DevicePtr<T>,
        length: usize,
    ) -> Result<(), Error> {
        self.add(argument, buffer, length, false)
    }

    /// `buffer` has at least `length` values, and overlaps no other.
    pub(crate) fn writes<T>(
        &mut self,
        argument: &'static str,
        buffer: &impl DevicePtr<T>,
        length: usize,
    ) -> Result<(), Error> {
        self.add(argument, buffer, length, true)
    }

    /// `buffer` begins at a multiple of `bytes`.
    pub(crate) fn aligned<T>(
        &self,
        argument: &'static str,
        buffer: &impl DevicePtr<T>,
        bytes: usize,
    ) -> Result<(), Error> {
        let (start, _record) = buffer.device_ptr(self.stream);
        if start.is_multiple_of(bytes as u64) {
            return Ok(());
        }
        Err(wrong(self.kernel, argument, format!("at {start:#x}"), format!("aligned to {bytes} bytes")))
    }

    fn add<T>(
        &mut self,
        argument: &'static str,
        buffer: &impl DevicePtr<T>,
        length: usize,
        written: bool,
    ) -> Result<(), Error> {
        check_stream(self.kernel, argument, buffer, self.stream)?;
        let (start, _record) = buffer.device_ptr(self.stream);
        if buffer.len() < length {
            let (found, expected) = (format!("{} values", buffer.len()), format!("at least {length}"));
            return Err(Error::Argument { kernel: self.kernel, argument, found, expected });
        }
        if !start.is_multiple_of(align_of::<T>() as u64) {
            let (found, expected) = (format!("at {start:#x}"), format!("aligned to {} bytes", align_of::<T>()));
            return Err(Error::Argument { kernel: self.kernel, argument, found, expected });
        }
        let span = Span { argument, start, end: start + (length * size_of::<T>()) as u64, written };
        let clash = |other: &&Span| (written || other.written) && span.start < other.end && other.start < span.end;
        if let Some(other) = self.spans.iter().find(clash) {
            return Err(Error::Overlap { kernel: self.kernel, first: other.argument, second: argument });
        }
        self.spans.push(span);
        COLLECTED.with_borrow_mut(|collected| collected.iter_mut().for_each(|spans| spans.push(span)));
        Ok(())
    }
}

/// Memory is used in the order of the stream that it is of.
pub(crate) fn check_stream<T>(
    kernel: &'static str,
    argument: &'static str,
    buffer: &impl DevicePtr<T>,
    stream: &Arc<CudaStream>,
) -> Result<(), Error> {
    if Arc::ptr_eq(buffer.stream(), stream) {
        return Ok(());
    }
    Err(wrong(kernel, argument, "another stream's memory", "memory of the stream it runs on"))
}

/// The argument is out of range.
pub(crate) fn wrong(
    kernel: &'static str,
    argument: &'static str,
    found: impl ToString,
    expected: impl ToString,
) -> Error {
    Error::Argument { kernel, argument, found: found.to_string(), expected: expected.to_string() }
}

/// `dimensions` as the driver wants them.
pub(crate) fn config(dimensions: Dimensions) -> LaunchConfig {
    let Dimensions { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes } = dimensions;
    LaunchConfig { grid_dim: (gx, gy, gz), block_dim: (bx, by, bz), shared_mem_bytes: shared_bytes }
}

/// The driver refused to launch `kernel`.
pub(crate) fn refused(kernel: &'static str, dimensions: Dimensions, error: DriverError) -> Error {
    Error::Launch { kernel, dimensions, message: device::message(error) }
}
