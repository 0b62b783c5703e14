//! The stream of a handle: work goes on it through the driver, as what the host is to do when the stream comes to it.

use std::ffi::{c_int, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::Handle;
use crate::compute::Work;
use crate::status::{EXECUTION_FAILED, Failure, NOT_SUPPORTED};

/// The driver's functions that are used.
struct Driver {
    launch: unsafe extern "C" fn(usize, unsafe extern "C" fn(*mut c_void), *mut c_void) -> c_int,
    is_capturing: unsafe extern "C" fn(usize, *mut c_int) -> c_int,
    synchronise_all: unsafe extern "C" fn() -> c_int,
    _library: libloading::Library,
}

/// The driver that the program has loaded.
fn driver() -> Result<&'static Driver, Failure> {
    static DRIVER: LazyLock<Option<Driver>> = LazyLock::new(|| {
        // SAFETY: it is loaded already; these functions of it have these signatures.
        unsafe {
            let library = libloading::Library::new("libcuda.so.1").ok()?;
            let launch = *library.get(b"cuLaunchHostFunc\0").ok()?;
            let is_capturing = *library.get(b"cuStreamIsCapturing\0").ok()?;
            let synchronise_all = *library.get(b"cuCtxSynchronize\0").ok()?;
            Some(Driver { launch, is_capturing, synchronise_all, _library: library })
        }
    });
    DRIVER.as_ref().ok_or_else(|| Failure::new(EXECUTION_FAILED, "there is no driver"))
}

/// Work that has been enqueued. It is kept for good, once each: what a graph has captured may be launched at any time.
static ENQUEUED: Mutex<Vec<&'static Work>> = Mutex::new(Vec::new());

/// Enqueues `work`.
pub(crate) fn enqueue(stream: usize, work: Work) -> Result<(), Failure> {
    let driver = driver()?;
    work.note();
    let mut enqueued = ENQUEUED.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = match enqueued.iter().find(|known| ***known == work) {
        Some(known) => *known,
        None => {
            let kept: &'static Work = Box::leak(Box::new(work));
            enqueued.push(kept);
            kept
        }
    };
    drop(enqueued);
    // SAFETY: `run` takes what it is given here, which lives for ever.
    match unsafe { (driver.launch)(stream, run, std::ptr::from_ref(kept).cast_mut().cast()) } {
        0 => Ok(()),
        error => Err(Failure::new(EXECUTION_FAILED, format!("the driver says {error}"))),
    }
}

unsafe extern "C" fn run(work: *mut c_void) {
    // SAFETY: this is what `enqueue` has given to the driver.
    unsafe { &*work.cast::<Work>() }.run();
}

/// Waits for all of the device, which spoils every capture on it.
pub(crate) fn wait_for_all() -> Result<(), Failure> {
    // SAFETY: the call takes nothing.
    match unsafe { (driver()?.synchronise_all)() } {
        0 => Ok(()),
        error => Err(Failure::new(EXECUTION_FAILED, format!("the driver says {error}"))),
    }
}

/// Fails where the stream of a handle is being captured: plans are made before.
pub(crate) fn refuse_capture(handle: i64) -> Result<(), Failure> {
    // SAFETY: handles are those that cudnnCreate has made.
    let stream = unsafe { (*(handle.cast_unsigned() as usize as *const Handle)).stream };
    let mut capturing = 0;
    // SAFETY: the driver writes one int.
    let status = unsafe { (driver()?.is_capturing)(stream, &raw mut capturing) };
    if status != 0 || capturing != 0 {
        return Err(Failure::new(NOT_SUPPORTED, "plans are not made while the stream is captured"));
    }
    Ok(())
}
