//! Work that is enqueued once and launched again and again: a CUDA graph.
//!
//! A graph's kernels keep the addresses that they were given. So that launching it is as safe as launching them one by one,
//! what their launchers looked at is kept beside it, and every launch is shown the memory anew: borrowed, so that it is
//! there, and compared with what there was when the graph was captured.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DevicePtr};

use crate::cudnn::Cudnn;
use crate::device::{Device, refused};
use crate::error::Error;
use crate::launch::{self, Span, wrong};

/// What messages call it.
const GRAPH: &str = "a graph of captured kernels";

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
        let (start, _record) = buffer.device_ptr(buffer.stream());
        Self { start, end: start + buffer.num_bytes() as u64, written }
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
}

impl Captured {
    /// The graph of this work, which uses `memory` and nothing else.
    ///
    /// # Errors
    /// [`Error::Argument`] where it reads or writes other memory.
    pub fn over(self, memory: &Regions<'_>) -> Result<Graph, Error> {
        let Self { graph, stream, spans, cudnn } = self;
        let known = |span: &Span| memory.regions.iter().any(|region| region.holds(span));
        match spans.iter().find(|span| !known(span)) {
            Some(span) => Err(wrong(GRAPH, span.argument, "memory that is not shown to it", "memory that is")),
            None => Ok(Graph { graph, stream, regions: memory.regions.clone(), _cudnn: cudnn }),
        }
    }
}

/// Kernels that are launched together, in their order, on the stream of the device that they were captured on.
pub struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    regions: Vec<Region>,
    /// Its kernels go with it.
    _cudnn: Option<Arc<Cudnn>>,
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
        // A graph must not go while it runs. What the driver says now, it would say to whoever asks next.
        let _ = self.stream.synchronize();
    }
}

impl Device {
    /// Captures what `work` enqueues on this device's stream, without running it: kernels alone, through launchers, from this
    /// thread. Nothing may be allocated, copied or waited for; and no device of this GPU on which cuDNN computes may go meanwhile,
    /// wherever it is, for cuDNN then waits for all of the GPU, which spoils the capture.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Driver`] where something cannot be captured.
    pub fn capture<E: From<Error>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Captured, E> {
        let capturing = |error| refused("capturing kernels", error);
        // Other threads may allocate and wait meanwhile, for other runs.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream().begin_capture(mode).map_err(capturing)?;
        let (done, spans) = launch::collecting_spans(work);
        // The stream is of use again only once the capture has ended, whatever came of the work.
        let graph = self.stream().end_capture(CUgraphInstantiate_flags(0));
        done?;
        let nothing = || wrong(GRAPH, "work", "nothing", "at least a kernel");
        let graph = graph.map_err(capturing)?.ok_or_else(nothing)?;
        Ok(Captured { graph, stream: self.stream().clone(), spans, cudnn: self.cudnn().cloned() })
    }
}
