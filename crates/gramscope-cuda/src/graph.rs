//! Work that is enqueued once and launched again and again: a CUDA graph.
//!
//! A graph's kernels keep the addresses that they were given. So that launching it is as safe as launching them one by one,
//! what their launchers looked at is kept beside it, and every launch is shown the memory anew: borrowed, so that it is
//! there, and compared with what there was when the graph was captured.

use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError};

use crate::cudnn::Cudnn;
use crate::device::{self, Device, refused};
use crate::error::Error;
use crate::launch::{self, Span, wrong};
use crate::launchers::Kernels;

/// What messages call it.
const GRAPH: &str = "a graph of captured kernels";

/// Captures under way, of all threads.
static CAPTURES: RwLock<()> = RwLock::new(());

/// Keeps all threads from capturing, once the captures under way have ended: for what may wait for all of a GPU or load or unload its
/// modules out of our sight, which spoils them. Nothing where this thread captures: that capture is spoilt.
pub(crate) fn without_captures() -> Option<RwLockWriteGuard<'static, ()>> {
    (!launch::is_collecting()).then(|| CAPTURES.write().unwrap_or_else(PoisonError::into_inner))
}

/// Device memory that captured work reads and writes, buffer by buffer, borrowed for a launch.
#[derive(Debug, Default)]
pub struct Regions<'a> {
    regions: Vec<Region>,
    borrowed: PhantomData<&'a mut ()>,
}

/// A buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    written: bool,
    /// The address of the stream whose memory it is.
    stream: usize,
}

impl<'a> Regions<'a> {
    /// `buffer` may be read.
    pub fn reads<T>(&mut self, buffer: &'a CudaSlice<T>) {
        self.regions.push(Region::new(buffer, false));
    }

    /// `buffer` may be read and written.
    pub fn writes<T>(&mut self, buffer: &'a mut CudaSlice<T>) {
        self.regions.push(Region::new(buffer, true));
    }
}

impl Region {
    fn new<T>(buffer: &CudaSlice<T>, written: bool) -> Self {
        let stream = buffer.stream();
        let (start, _record) = buffer.device_ptr(stream);
        Self { start, end: start + buffer.num_bytes() as u64, written, stream: stream.cu_stream() as usize }
    }

    fn holds(&self, span: &Span) -> bool {
        self.start <= span.start && span.end <= self.end && (self.written || !span.written)
    }
}

/// Work that has been captured, and not yet been shown its memory.
pub struct Captured {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    spans: Vec<Span>,
    cudnn: Option<Arc<Cudnn>>,
    kernels: Arc<Kernels>,
}

impl Captured {
    /// The graph of this work, which uses `memory` and nothing else.
    ///
    /// # Errors
    /// [`Error::Argument`] where it reads or writes other memory.
    pub fn over(self, memory: &Regions<'_>) -> Result<Graph, Error> {
        let Self { graph, stream, spans, cudnn, kernels } = self;
        let known = |span: &Span| memory.regions.iter().any(|region| region.holds(span));
        match spans.iter().find(|span| !known(span)) {
            Some(span) => Err(wrong(GRAPH, span.argument, "memory that is not shown to it", "memory that is")),
            None => {
                let regions = memory.regions.clone();
                Ok(Graph { graph, stream, regions, _cudnn: cudnn, _kernels: kernels })
            }
        }
    }
}

/// Kernels that are launched together, in their order, on the stream of the device that they were captured on.
pub struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    regions: Vec<Region>,
    /// The kernels go with these.
    _cudnn: Option<Arc<Cudnn>>,
    _kernels: Arc<Kernels>,
}

// SAFETY: a graph may be used from any thread by one at a time, and it is not `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Enqueues the kernels. False, and nothing is enqueued, where `memory` is not what they were captured with.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn launch(&self, memory: &Regions<'_>) -> Result<bool, Error> {
        if memory.regions != self.regions {
            return Ok(false);
        }
        self.graph.launch().map_err(|error| refused("launching captured kernels", error))?;
        Ok(true)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A graph must not go while it runs.
        device::insist(self.stream.context(), || self.stream.synchronize());
    }
}

/// A capture under way, which ends with this.
struct Capturing<'a>(Option<&'a Arc<CudaStream>>);

impl<'a> Capturing<'a> {
    fn begin(stream: &'a Arc<CudaStream>) -> Result<Self, DriverError> {
        // Other threads may allocate and wait meanwhile, for other runs.
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        Ok(Self(Some(stream)))
    }

    /// The graph of what was captured, unless it was nothing.
    fn end(mut self) -> Result<Option<CudaGraph>, DriverError> {
        self.0.take().map_or(Ok(None), end)
    }
}

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        // After a panic.
        if let Some(stream) = self.0 {
            let _ = end(stream);
        }
    }
}

/// Ends a stream's capture: it is of use again only then. Where that fails it may not have been tried (`device::insist`).
fn end(stream: &Arc<CudaStream>) -> Result<Option<CudaGraph>, DriverError> {
    let end = || stream.end_capture(CUgraphInstantiate_flags(0));
    end().or_else(|first| {
        let graph = end().map_err(|_| first)?;
        stream.context().record_err::<()>(Err(first));
        Ok(graph)
    })
}

impl Device {
    /// Captures what `work` enqueues on this device's stream, without running it: kernels alone, through launchers, from this
    /// thread. Nothing may be allocated, copied, waited for or captured within, and no device may go. Waits for other threads in which
    /// cuDNN is started, chooses plans or ends.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Driver`] where something cannot be captured.
    pub fn capture<E: From<Error>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Captured, E> {
        if launch::is_collecting() {
            return Err(wrong(GRAPH, "work", "a capture within a capture", "launches").into());
        }
        let failed = |error| refused("capturing kernels", error);
        let _under_way = CAPTURES.read().unwrap_or_else(PoisonError::into_inner);
        let capturing = Capturing::begin(self.stream()).map_err(failed)?;
        let (done, spans) = launch::collecting_spans(work);
        let graph = capturing.end();
        done?;
        let nothing = || wrong(GRAPH, "work", "nothing", "at least a kernel");
        let graph = graph.map_err(failed)?.ok_or_else(nothing)?;
        let (stream, cudnn, kernels) = (self.stream().clone(), self.cudnn().cloned(), self.kernels().clone());
        Ok(Captured { graph, stream, spans, cudnn, kernels })
    }
}
