//! Captures: the kernels that a stream is given between the beginning and the end of one are kept, not run, and make a graph.
//!
//! What a driver cannot capture, or would capture in a way that nobody wants (an allocation, a copy from memory that is not
//! pinned, an event), is refused and spoils the capture, as waiting does. What concerns more than a stream is refused while others
//! capture, too: by mode, or, where it waits for all of a device, always.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::context::{self, Context};
use crate::function::Launch;
use crate::machine::machine;
use crate::memory;
use crate::status::{
    Answer, ILLEGAL_STATE, INVALID_VALUE, STREAM_CAPTURE_IMPLICIT, STREAM_CAPTURE_INVALIDATED,
    STREAM_CAPTURE_ISOLATION, STREAM_CAPTURE_UNSUPPORTED, STREAM_CAPTURE_WRONG_THREAD,
};
use crate::stream;
use crate::table::Table;
use crate::work::{HostWork, Work};

/// Work in its order.
#[derive(Clone)]
struct Graph {
    context: Context,
    work: Vec<Arc<Work>>,
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
    work: Vec<Arc<Work>>,
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
    captures.insert(stream, Capture { context, blocking, mode, thread, work: Vec::new(), spoilt: false });
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
    let Capture { context, work, spoilt, .. } = captures.remove(&stream).ok_or(ILLEGAL_STATE)?;
    if spoilt {
        return Err(STREAM_CAPTURE_INVALIDATED);
    }
    Ok(GRAPHS.add(Graph { context, work }))
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

/// Has a stream launch a kernel, or keeps it where the stream is being captured.
pub(crate) fn launch(stream: usize, launch: Launch) -> Answer {
    let context = launch.context;
    spoil_implicitly(stream, context)?;
    tell(stream, context, Work::Launch(launch))
}

/// Has the host do something, or keeps it where the stream is being captured.
pub(crate) fn call(stream: usize, work: HostWork) -> Answer {
    let context = stream::context_here(stream)?;
    spoil_implicitly(stream, context)?;
    tell(stream, context, Work::Host(work))
}

/// Tells a stream something that is kept where it is being captured.
fn tell(stream: usize, context: Context, work: Work) -> Answer {
    match captures().get_mut(&stream) {
        Some(Capture { spoilt: true, .. }) => return Err(STREAM_CAPTURE_INVALIDATED),
        Some(capture) => {
            capture.work.push(Arc::new(work));
            return Ok(());
        }
        None => (),
    }
    if let Work::Launch(launch) = &work {
        launch.note();
    }
    stream::tell(stream, context, work).map(drop)
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

/// Has a stream do what was captured.
pub(crate) fn run(instance: usize, stream: usize) -> Answer {
    let context = stream::context_here(stream)?;
    let graph = INSTANCES.with(instance, |instance| instance.clone())?;
    if graph.context != context {
        return Err(INVALID_VALUE);
    }
    refuse(stream, context)?;
    machine().note_launch(c"graph", memory::allocated(context));
    for work in graph.work {
        if let Work::Launch(launch) = &*work {
            launch.note();
        }
        stream::tell(stream, context, work)?;
    }
    Ok(())
}
