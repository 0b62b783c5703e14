//! A cuDNN for machines without one, beside the driver of `gramscope-fake-driver`: the calls of its graph interface that
//! Gramscope makes, for convolutions and their gradients. For tests alone: nothing that users build depends on this crate.
//!
//! Every attribute's type and number of values is checked, what a descriptor is made of has to be finalised, and tensors have to
//! go together; what is wrong is said through `cudnnGetLastErrorString`. A graph is computed in plain loops by one of several
//! engines (`engines`), most of which a careful program must not choose, on the stream of its handle: through the driver, so
//! that it can be captured.
//!
//! What it pretends to be stands in the environment variable `GRAMSCOPE_FAKE_CUDNN`: `version=92101,trace=FILE`, either left
//! out. The trace has a line for each engine that is enqueued.
#![allow(unsafe_code, reason = "cuDNN's interface is C's")]
#![allow(clippy::missing_safety_doc, reason = "the contract of each function is that of cuDNN's function of its name")]

mod compute;
mod descriptor;
mod engines;
mod problem;
mod status;
mod stream;

use std::ffi::{c_char, c_int, c_void};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::LazyLock;

use descriptor::Descriptor;
use status::{BAD_PARAM, Failure, SUCCESS};

/// What the environment asks for.
struct Machine {
    version: usize,
    trace: Option<String>,
}

fn machine() -> &'static Machine {
    static MACHINE: LazyLock<Machine> = LazyLock::new(|| {
        let text = std::env::var("GRAMSCOPE_FAKE_CUDNN").unwrap_or_default();
        let value = |key: &str| {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next()
        };
        let version = value("version").and_then(|version| version.parse().ok()).unwrap_or(92_101);
        Machine { version, trace: value("trace") }
    });
    &MACHINE
}

/// Writes a line to the trace, where one is wanted.
fn note(line: &str) {
    let Some(path) = &machine().trace else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
        eprintln!("fake cuDNN: {path}: {error}");
    }
}

/// A handle: its stream.
struct Handle {
    stream: usize,
}

/// Does `work` and keeps what it says of a failure.
fn told(work: impl FnOnce() -> Result<(), Failure>) -> c_int {
    match work() {
        Ok(()) => SUCCESS,
        Err(failure) => failure.keep(),
    }
}

/// Defines functions of cuDNN's interface.
macro_rules! cudnn {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, reason = "cuDNN's names")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int $body
        )*
    };
}

/// The version.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "cuDNN's name")]
pub extern "C" fn cudnnGetVersion() -> usize {
    machine().version
}

/// The name of a status.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "cuDNN's name")]
pub extern "C" fn cudnnGetErrorString(status: c_int) -> *const c_char {
    status::name(status).as_ptr()
}

/// What is to be said of the last error of this thread.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "cuDNN's name")]
pub unsafe extern "C" fn cudnnGetLastErrorString(message: *mut c_char, bytes: usize) {
    let kept = status::last();
    let Some(room) = bytes.checked_sub(1) else { return };
    let length = kept.len().min(room);
    // SAFETY: the caller has room for so many bytes, the last of which is the zero.
    unsafe {
        std::ptr::copy_nonoverlapping(kept.as_ptr(), message.cast(), length);
        message.add(length).write(0);
    }
}

cudnn! {
    /// A handle.
    fn cudnnCreate(handle: *mut *mut c_void) {
        let made = Box::into_raw(Box::new(Handle { stream: 0 }));
        // SAFETY: the interface's contract.
        unsafe { handle.write(made.cast()) };
        SUCCESS
    }

    /// Forgets a handle, and waits for all of the device first, as cuDNN's manual says.
    fn cudnnDestroy(handle: *mut c_void) {
        let waited = told(stream::wait_for_all);
        // SAFETY: handles are those that cudnnCreate has made, and are destroyed once.
        drop(unsafe { Box::from_raw(handle.cast::<Handle>()) });
        waited
    }

    /// The stream that a handle works on.
    fn cudnnSetStream(handle: *mut c_void, stream: *mut c_void) {
        // SAFETY: handles are those that cudnnCreate has made.
        unsafe { (*handle.cast::<Handle>()).stream = stream as usize };
        SUCCESS
    }

    /// An open descriptor of a kind.
    fn cudnnBackendCreateDescriptor(kind: c_int, descriptor: *mut *mut c_void) {
        told(|| {
            let made = Box::into_raw(Box::new(Descriptor::new(kind)?));
            // SAFETY: the interface's contract.
            unsafe { descriptor.write(made.cast()) };
            Ok(())
        })
    }

    /// Forgets a descriptor. With a plan its kernels may be unloaded, which waits for all of the device.
    fn cudnnBackendDestroyDescriptor(descriptor: *mut c_void) {
        // SAFETY: descriptors are those that cudnnBackendCreateDescriptor has made, and are destroyed once.
        let descriptor = unsafe { Box::from_raw(descriptor.cast::<Descriptor>()) };
        if descriptor.is_plan() { told(stream::wait_for_all) } else { SUCCESS }
    }

    /// Sets an attribute of an open descriptor.
    fn cudnnBackendSetAttribute(
        descriptor: *mut c_void, attribute: c_int, kind: c_int, count: i64, values: *const c_void
    ) {
        // SAFETY: descriptors are those that cudnnBackendCreateDescriptor has made; there are so many values of this type.
        told(|| unsafe { (*descriptor.cast::<Descriptor>()).set(attribute, kind, count, values) })
    }

    /// Asks a finalised descriptor for an attribute.
    fn cudnnBackendGetAttribute(
        descriptor: *mut c_void, attribute: c_int, kind: c_int, room: i64, count: *mut i64, values: *mut c_void
    ) {
        // SAFETY: descriptors are those that cudnnBackendCreateDescriptor has made; there is room for so many values of this type,
        // and for their number.
        told(|| unsafe { (*descriptor.cast::<Descriptor>()).get(attribute, kind, room, count, values) })
    }

    /// Closes a descriptor. For a plan kernels may be loaded, which waits for all of the device.
    fn cudnnBackendFinalize(descriptor: *mut c_void) {
        told(|| {
            // SAFETY: descriptors are those that cudnnBackendCreateDescriptor has made.
            let descriptor = unsafe { &mut *descriptor.cast::<Descriptor>() };
            if descriptor.is_plan() {
                stream::wait_for_all()?;
            }
            descriptor.finalise()
        })
    }

    /// Enqueues a plan on the handle's stream.
    fn cudnnBackendExecute(handle: *mut c_void, plan: *mut c_void, pack: *mut c_void) {
        told(|| {
            // SAFETY: handles and descriptors are those that have been made here.
            let (handle, plan, pack) =
                unsafe { (&*handle.cast::<Handle>(), &*plan.cast::<Descriptor>(), &*pack.cast::<Descriptor>()) };
            let (plan, pack) = (plan.closed()?, pack.closed()?);
            if plan.handle() != Some(std::ptr::from_ref(handle) as usize) {
                return Err(Failure::new(BAD_PARAM, "the plan is another handle's"));
            }
            stream::enqueue(handle.stream, compute::Work::new(&plan, &pack)?)
        })
    }
}
