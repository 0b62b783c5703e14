//! Captures: the kernels that a stream is given between the beginning and the end of one are kept, not run, and make a graph.
//!
//! What a driver cannot capture, or would capture in a way that nobody wants (an allocation, a copy from memory that is not
//! pinned, an event), is refused and spoils the capture, as waiting does. What concerns more than a stream is refused while others
//! capture, too: by mode, or, where it waits for all of a device, always.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::context::{self, Context};
use crate::function::Launch;
use crate::machine::machine;
use crate::memory;
use crate::status::{
    Answer, ILLEGAL_ADDRESS, ILLEGAL_STATE, INVALID_VALUE, STREAM_CAPTURE_IMPLICIT, STREAM_CAPTURE_INVALIDATED,
    STREAM_CAPTURE_ISOLATION, STREAM_CAPTURE_UNSUPPORTED, STREAM_CAPTURE_WRONG_THREAD,
};
use crate::stream;
use crate::table::Table;

/// What has been kept.
#[derive(Clone)]
enum Node {
    /// A launch.
    Kernel {
        launch: Launch,
        arguments: Vec<Vec<u128>>,
        /// The device memory that they point into.
        pieces: Vec<(usize, (Context, u64))>,
    },
    /// What the host is to do.
    Host(HostWork),
}

/// A function of the host's, and what it is given.
#[derive(Clone, Copy)]
pub(crate) struct HostWork {
    pub(crate) function: unsafe extern "C" fn(*mut c_void),
    pub(crate) data: *mut c_void,
}

// SAFETY: who gives it to the driver lets it be called from any thread.
unsafe impl Send for HostWork {}
// SAFETY: the same.
unsafe impl Sync for HostWork {}

/// Launches in their order.
#[derive(Clone)]
struct Graph {
    context: Context,
    nodes: Arc<Vec<Node>>,
}

/// Graphs, and those that can be launched.
static GRAPHS: Table<Graph> = Table::new();
static INSTANCES: Table<Graph> = Table::new();

/// What a capture forbids beside its stream: to all threads what might be unsafe, to the one that captures, or to none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

/// A capture under way.
struct Capture {
    context: Context,
    /// Of a stream that the default one waits for.
    blocking: bool,
    mode: Mode,
    thread: ThreadId,
    nodes: Vec<Node>,
    spoilt: bool,
}

/// Captures by their streams.
static CAPTURES: Mutex<BTreeMap<usize, Capture>> = Mutex::new(BTreeMap::new());

fn captures() -> MutexGuard<'static, BTreeMap<usize, Capture>> {
    CAPTURES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins one. The default stream has none.
pub(crate) fn begin(stream: usize, mode: c_uint) -> Answer {
    let context = stream::context_here(stream)?;
    let mode = match mode {
        0 => Mode::Global,
        1 => Mode::ThreadLocal,
        2 => Mode::Relaxed,
        _ => return Err(INVALID_VALUE),
    };
    if stream::is_default(stream) {
        return Err(STREAM_CAPTURE_UNSUPPORTED);
    }
    let (blocking, thread) = (stream::is_blocking(stream), thread::current().id());
    let mut captures = captures();
    if captures.contains_key(&stream) {
        return Err(ILLEGAL_STATE);
    }
    captures.insert(stream, Capture { context, blocking, mode, thread, nodes: Vec::new(), spoilt: false });
    Ok(())
}

/// Ends one, with the graph of what was captured.
pub(crate) fn end(stream: usize) -> Answer<usize> {
    stream::context_here(stream)?;
    let mut captures = captures();
    let capture = captures.get(&stream).ok_or(ILLEGAL_STATE)?;
    if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
        return Err(STREAM_CAPTURE_WRONG_THREAD);
    }
    let Capture { context, nodes, spoilt, .. } = captures.remove(&stream).ok_or(ILLEGAL_STATE)?;
    if spoilt {
        return Err(STREAM_CAPTURE_INVALIDATED);
    }
    Ok(GRAPHS.add(Graph { context, nodes: Arc::new(nodes) }))
}

/// How far a capture is: 0 where there is none, 1, or 2 where it is spoilt.
pub(crate) fn status(stream: usize) -> Answer<c_int> {
    let context = stream::context_here(stream)?;
    spoil_implicitly(stream, context)?;
    Ok(captures().get(&stream).map_or(0, |capture| 1 + c_int::from(capture.spoilt)))
}

/// A stream is destroyed, and what was captured of it with it.
pub(crate) fn forget(stream: usize) {
    captures().remove(&stream);
}

/// Refuses what a stream is told that is no launch, where the stream is being captured.
pub(crate) fn refuse(stream: usize, context: Context) -> Answer {
    refuse_with(stream, context, STREAM_CAPTURE_UNSUPPORTED)
}

/// Refuses that a stream that is being captured waits for an event: they all are recorded outside.
pub(crate) fn refuse_waiting(stream: usize, context: Context) -> Answer {
    refuse_with(stream, context, STREAM_CAPTURE_ISOLATION)
}

fn refuse_with(stream: usize, context: Context, status: c_int) -> Answer {
    spoil_implicitly(stream, context)?;
    match captures().get_mut(&stream) {
        Some(capture) => {
            capture.spoilt = true;
            Err(status)
        }
        None => Ok(()),
    }
}

/// Refuses what a driver cannot capture and which a captured stream may depend on: to the thread that captures, and to others as it
/// wishes.
pub(crate) fn refuse_unsafe() -> Answer {
    let thread = thread::current().id();
    let forbids = |capture: &Capture| match capture.mode {
        Mode::Global => true,
        Mode::ThreadLocal => capture.thread == thread,
        Mode::Relaxed => false,
    };
    spoil_those(forbids, STREAM_CAPTURE_UNSUPPORTED)
}

/// Refuses to wait for all of a device while a stream of it is being captured, by whomever, in whatever mode.
pub(crate) fn refuse_waiting_for_all(context: Context) -> Answer {
    spoil_those(|capture| capture.context == context, STREAM_CAPTURE_UNSUPPORTED)
}

/// The default stream would wait for those that are being captured, unless they do not wait for it either.
fn spoil_implicitly(stream: usize, context: Context) -> Answer {
    if !stream::is_default(stream) {
        return Ok(());
    }
    spoil_those(|capture| capture.blocking && capture.context == context, STREAM_CAPTURE_IMPLICIT)
}

fn spoil_those(are_meant: impl Fn(&Capture) -> bool, status: c_int) -> Answer {
    let mut captures = captures();
    let mut are_spoilt = false;
    for capture in captures.values_mut().filter(|capture| are_meant(capture)) {
        capture.spoilt = true;
        are_spoilt = true;
    }
    if are_spoilt { Err(status) } else { Ok(()) }
}

impl Capture {
    /// Keeps what a stream is told.
    fn keep(&mut self, node: Node) -> Answer {
        if self.spoilt {
            return Err(STREAM_CAPTURE_INVALIDATED);
        }
        self.nodes.push(node);
        Ok(())
    }
}

/// Runs a kernel, or keeps it where the stream is being captured.
///
/// # Safety
/// `arguments` leads to the arguments of the kernel.
pub(crate) unsafe fn launch(stream: usize, launch: Launch, arguments: *const *const c_void) -> Answer {
    spoil_implicitly(stream, launch.context)?;
    // SAFETY: the caller's promise.
    let arguments = unsafe { launch.copied(arguments) }?;
    if let Some(capture) = captures().get_mut(&stream) {
        let pieces = launch.pieces(&arguments);
        return capture.keep(Node::Kernel { launch, arguments, pieces });
    }
    stream::synchronise(stream);
    // SAFETY: the caller's promise.
    unsafe { launch.run(&arguments) };
    Ok(())
}

/// Has the host do something, or keeps it where the stream is being captured.
///
/// # Safety
/// The function may be called with its data, now and whenever the graph that keeps it runs.
pub(crate) unsafe fn call(stream: usize, work: HostWork) -> Answer {
    let context = stream::context_here(stream)?;
    spoil_implicitly(stream, context)?;
    if let Some(capture) = captures().get_mut(&stream) {
        return capture.keep(Node::Host(work));
    }
    stream::synchronise(stream);
    // SAFETY: the caller's promise.
    unsafe { (work.function)(work.data) };
    Ok(())
}

/// A graph that can be launched.
pub(crate) fn instantiate(graph: usize) -> Answer<usize> {
    context::started()?;
    GRAPHS.with(graph, |graph| INSTANCES.add(graph.clone()))
}

/// Forgets a graph. Those made of it that can be launched stay.
pub(crate) fn destroy_graph(graph: usize) -> Answer {
    GRAPHS.remove(graph).map(drop)
}

/// Forgets a graph that can be launched.
pub(crate) fn destroy_instance(instance: usize) -> Answer {
    INSTANCES.remove(instance).map(drop)
}

/// Runs what was captured.
pub(crate) fn run(instance: usize, stream: usize) -> Answer {
    let context = stream::context_here(stream)?;
    let graph = INSTANCES.with(instance, |instance| instance.clone())?;
    if graph.context != context {
        return Err(INVALID_VALUE);
    }
    refuse(stream, context)?;
    stream::synchronise(stream);
    graph.run();
    Ok(())
}

impl Graph {
    /// Runs its kernels, and what the host is to do, one after the other, until one breaks the context.
    fn run(&self) {
        machine().note_launch(c"graph", memory::allocated(self.context));
        for node in self.nodes.iter() {
            if context::usable(self.context).is_err() {
                return;
            }
            match node {
                Node::Kernel { pieces, .. }
                    if pieces.iter().any(|&(address, id)| memory::piece_at(address) != Some(id)) =>
                {
                    eprintln!("fake driver: a graph is launched whose memory has been given back");
                    context::break_with(self.context, ILLEGAL_ADDRESS);
                }
                // SAFETY: these are the arguments that the kernel was launched with when it was captured.
                Node::Kernel { launch, arguments, .. } => unsafe { launch.run(arguments) },
                // SAFETY: whoever had it captured lets it be called whenever the graph runs.
                Node::Host(work) => unsafe { (work.function)(work.data) },
            }
        }
    }
}
