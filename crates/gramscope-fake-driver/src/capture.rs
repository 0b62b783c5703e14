//! Captures: the kernels that a stream is given between the beginning and the end of one are kept, not run, and make a graph.
//!
//! What a driver cannot capture, or would capture in a way that nobody wants (an allocation, a copy from memory that is not
//! pinned), is refused and spoils the capture, as waiting does.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::machine::{self, machine};
use crate::{CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, ILLEGAL_STATE, SUCCESS};

/// What has been kept.
enum Node {
    /// A launch.
    Kernel {
        kernel: &'static CStr,
        geometry: [u32; 6],
        shared_bytes: usize,
        /// The arguments' bytes, in places aligned for any argument.
        arguments: Vec<Vec<u128>>,
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
pub struct Graph(Arc<Vec<Node>>);

/// A capture under way.
struct Capture {
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
pub(crate) fn begin(stream: usize) -> c_int {
    if stream == 0 {
        return CAPTURE_UNSUPPORTED;
    }
    let capture = Capture { thread: thread::current().id(), nodes: Vec::new(), spoilt: false };
    match captures().insert(stream, capture) {
        None => SUCCESS,
        Some(_) => ILLEGAL_STATE,
    }
}

/// Ends one, with the graph of what was captured.
pub(crate) fn end(stream: usize) -> Result<Graph, c_int> {
    match captures().remove(&stream) {
        None => Err(ILLEGAL_STATE),
        Some(Capture { spoilt: true, .. }) => Err(CAPTURE_INVALIDATED),
        Some(Capture { nodes, .. }) => Ok(Graph(Arc::new(nodes))),
    }
}

/// Whether what a stream is told, which is no launch, must be refused, and how.
pub(crate) fn refusal(stream: usize) -> Option<c_int> {
    let mut captures = captures();
    let capture = captures.get_mut(&stream)?;
    capture.spoilt = true;
    Some(CAPTURE_UNSUPPORTED)
}

/// The same of what concerns all streams: a thread that captures may not do it.
pub(crate) fn refusal_of_thread() -> Option<c_int> {
    let (mut captures, thread) = (captures(), thread::current().id());
    let capture = captures.values_mut().find(|capture| capture.thread == thread)?;
    capture.spoilt = true;
    Some(CAPTURE_UNSUPPORTED)
}

/// Runs a kernel, or keeps it where the stream is being captured.
///
/// # Safety
/// `arguments` leads to the arguments of the kernel.
pub(crate) unsafe fn launch(
    stream: usize,
    kernel: &'static CStr,
    geometry: [u32; 6],
    shared_bytes: usize,
    arguments: *const *const c_void,
) -> c_int {
    if let Some(capture) = captures().get_mut(&stream) {
        // SAFETY: the caller's promise.
        let arguments = unsafe { copied(kernel, arguments) };
        capture.nodes.push(Node::Kernel { kernel, geometry, shared_bytes, arguments });
        return SUCCESS;
    }
    // SAFETY: the caller's promise.
    unsafe { machine::run(kernel, geometry, shared_bytes, arguments) }
}

/// Has the host do something, or keeps it where the stream is being captured.
///
/// # Safety
/// The function may be called with its data, now and whenever the graph that keeps it runs.
pub(crate) unsafe fn call(stream: usize, work: HostWork) {
    if let Some(capture) = captures().get_mut(&stream) {
        capture.nodes.push(Node::Host(work));
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { (work.function)(work.data) };
}

/// Whether a stream is being captured.
pub(crate) fn is_under_way(stream: usize) -> bool {
    captures().contains_key(&stream)
}

/// The arguments' bytes.
///
/// # Safety
/// `arguments` leads to the arguments of `kernel`.
unsafe fn copied(kernel: &CStr, arguments: *const *const c_void) -> Vec<Vec<u128>> {
    let sizes = gramscope_emulation::argument_sizes(kernel);
    let copy = |(index, &bytes): (usize, &usize)| {
        let mut place = vec![0_u128; bytes.div_ceil(size_of::<u128>())];
        // SAFETY: there are as many arguments as sizes, each of so many bytes, and the place has room for them.
        unsafe {
            std::ptr::copy_nonoverlapping((*arguments.add(index)).cast::<u8>(), place.as_mut_ptr().cast(), bytes)
        };
        place
    };
    sizes.iter().enumerate().map(copy).collect()
}

impl Graph {
    /// The same again.
    pub(crate) fn instance(&self) -> Self {
        Self(self.0.clone())
    }

    /// Runs its kernels, and what the host is to do, one after the other.
    pub(crate) fn run(&self) -> c_int {
        machine().note_launch(c"graph");
        for node in self.0.iter() {
            let (kernel, geometry, shared_bytes, arguments) = match node {
                Node::Kernel { kernel, geometry, shared_bytes, arguments } => {
                    (kernel, geometry, shared_bytes, arguments)
                }
                Node::Host(work) => {
                    // SAFETY: whoever had it captured lets it be called whenever the graph runs.
                    unsafe { (work.function)(work.data) };
                    continue;
                }
            };
            let arguments: Vec<*const c_void> = arguments.iter().map(|place| place.as_ptr().cast()).collect();
            // SAFETY: these are the arguments that the kernel was launched with when it was captured.
            let result = unsafe { machine::run(kernel, *geometry, *shared_bytes, arguments.as_ptr()) };
            if result != SUCCESS {
                return result;
            }
        }
        SUCCESS
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{memory, stream};

    /// Launches the kernel that adds `images` to the first of the two numbers at `place`.
    fn advance(stream: usize, place: usize, images: u32) -> c_int {
        let arguments = [(&raw const place).cast::<c_void>(), (&raw const images).cast()];
        let kernel = machine::kernel(c"gs_augment_advance").unwrap();
        // SAFETY: the kernel takes a pointer to two numbers, which `place` is, and a number.
        unsafe { launch(stream, kernel, [1, 1, 1, 32, 1, 1], 0, arguments.as_ptr()) }
    }

    #[test]
    fn what_is_captured_runs_when_its_graph_is_launched() {
        let place = memory::keep(&[0, 7]);
        // SAFETY: two numbers are there, for ever.
        let first = || unsafe { (place as *const u32).read() };
        let stream = stream::create();
        assert_eq!(begin(stream), SUCCESS);
        assert_eq!((advance(stream, place, 3), advance(stream, place, 5), advance(0, place, 100)), (0, 0, 0));
        let graph = end(stream).ok().unwrap();
        assert_eq!(first(), 100);
        assert_eq!((graph.run(), graph.instance().run(), first()), (0, 0, 116));
        assert!(end(stream).is_err() && refusal(stream).is_none());
        assert!(stream::destroy(stream));
    }

    #[test]
    fn the_host_is_called_in_order_too() {
        unsafe extern "C" fn double(number: *mut c_void) {
            // SAFETY: the test below gives it a number.
            unsafe { *number.cast::<u32>() *= 2 };
        }
        let place = memory::keep(&[3, 7]);
        // SAFETY: two numbers are there, for ever.
        let first = || unsafe { (place as *const u32).read() };
        let work = HostWork { function: double, data: place as *mut c_void };
        let stream = stream::create();
        // SAFETY: the number is there for ever, and nobody else uses it.
        let call = |stream| unsafe { call(stream, work) };
        call(stream);
        assert_eq!((first(), is_under_way(stream), begin(stream), is_under_way(stream)), (6, false, SUCCESS, true));
        call(stream);
        assert_eq!(advance(stream, place, 1), 0);
        call(stream);
        let graph = end(stream).ok().unwrap();
        assert_eq!((first(), graph.run(), first(), graph.run(), first()), (6, 0, 26, 0, 106));
        assert!(stream::destroy(stream));
    }

    #[test]
    fn what_cannot_be_captured_spoils_a_capture() {
        let stream = stream::create();
        assert_eq!(begin(0), CAPTURE_UNSUPPORTED);
        for spoil in [|stream| refusal(stream), |_| refusal_of_thread()] {
            assert_eq!((spoil(stream), begin(stream)), (None, SUCCESS));
            assert_eq!(thread::spawn(refusal_of_thread).join().unwrap(), None);
            assert_eq!(spoil(stream), Some(CAPTURE_UNSUPPORTED));
            assert_eq!(end(stream).err(), Some(CAPTURE_INVALIDATED));
        }
        assert!(stream::destroy(stream));
    }
}
