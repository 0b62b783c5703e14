//! What a driver refuses, and with which result: a program that runs here must not owe it to the stand-in's good nature.
#![allow(unsafe_code, reason = "the driver's interface is C's")]
#![allow(clippy::unwrap_used)]

mod captures;
mod contexts;
mod launches;
mod memory;
mod streams;

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use gramscope_fake_driver::*;

const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const INVALID_CONTEXT: c_int = 201;
const INVALID_HANDLE: c_int = 400;
const ILLEGAL_ADDRESS: c_int = 700;

/// Memory of each of the two devices, in bytes.
const MEMORY: usize = 16 << 20;

/// The driver, with nobody else at it: started, this thread turned to the first of two devices.
struct Driver {
    contexts: [usize; 2],
    _alone: MutexGuard<'static, ()>,
}

/// What a call writes, or the result that says why it did not.
fn given<T: Default>(call: impl FnOnce(*mut T) -> c_int) -> Result<T, c_int> {
    let mut value = T::default();
    match call(&raw mut value) {
        0 => Ok(value),
        error => Err(error),
    }
}

fn told(result: c_int) -> Result<(), c_int> {
    if result == 0 { Ok(()) } else { Err(result) }
}

impl Driver {
    fn new() -> Self {
        static DRIVER: Mutex<()> = Mutex::new(());
        static START: Once = Once::new();
        let alone = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        START.call_once(|| {
            contexts::refuses_everything_before_it_is_started();
            let mut machine = format!("devices=2,memory={}", MEMORY >> 20);
            if let Ok(order) = std::env::var(streams::ORDER) {
                machine += &format!(",order={order}");
            }
            // SAFETY: nothing but the driver reads the environment meanwhile, and that through the same library.
            unsafe { std::env::set_var("GRAMSCOPE_FAKE_DRIVER", machine) };
            // SAFETY: the call takes a number.
            assert_eq!(unsafe { (cuInit(1), cuInit(0)) }, (INVALID_VALUE, 0));
        });
        let contexts = [0, 1].map(|device| retain(device).unwrap());
        turn_to(contexts[0]).unwrap();
        Self { contexts, _alone: alone }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        turn_to(0).unwrap();
        for device in [0, 1] {
            // SAFETY: the call takes a number.
            assert_eq!(unsafe { cuDevicePrimaryCtxRelease_v2(device) }, 0);
        }
    }
}

fn retain(device: c_int) -> Result<usize, c_int> {
    // SAFETY: the handle may be written.
    given(|context| unsafe { cuDevicePrimaryCtxRetain(context, device) })
}

fn turn_to(context: usize) -> Result<(), c_int> {
    // SAFETY: the call takes a number.
    told(unsafe { cuCtxSetCurrent(context) })
}

/// A stream that does not wait for the default one, unless it is asked to.
fn stream(flags: c_uint) -> Result<usize, c_int> {
    // SAFETY: the handle may be written.
    given(|stream| unsafe { cuStreamCreate(stream, flags) })
}

const NON_BLOCKING: c_uint = 1;

fn synchronise(stream: usize) -> Result<(), c_int> {
    // SAFETY: the call takes a handle.
    told(unsafe { cuStreamSynchronize(stream) })
}

fn event(flags: c_uint) -> Result<usize, c_int> {
    // SAFETY: the handle may be written.
    given(|event| unsafe { cuEventCreate(event, flags) })
}

fn record(event: usize, stream: usize) -> Result<(), c_int> {
    // SAFETY: the call takes handles.
    told(unsafe { cuEventRecord(event, stream) })
}

fn wait(stream: usize, event: usize) -> Result<(), c_int> {
    // SAFETY: the call takes handles.
    told(unsafe { cuStreamWaitEvent(stream, event, 0) })
}

fn allocate(bytes: usize, stream: usize) -> Result<usize, c_int> {
    // SAFETY: the address may be written.
    given(|pointer| unsafe { cuMemAllocAsync(pointer, bytes, stream) })
}

fn free(pointer: usize, stream: usize) -> Result<(), c_int> {
    // SAFETY: nobody uses the memory any longer.
    told(unsafe { cuMemFreeAsync(pointer, stream) })
}

fn pinned(bytes: usize) -> Result<usize, c_int> {
    // SAFETY: the address may be written.
    given(|pointer| unsafe { cuMemHostAlloc(pointer, bytes, 0) })
}

fn free_pinned(pointer: usize) -> Result<(), c_int> {
    // SAFETY: nobody uses the memory any longer.
    told(unsafe { cuMemFreeHost(pointer) })
}

/// Copies the host's bytes, which have to stay until that is waited for, to the device.
fn upload(to: usize, from: *const u8, bytes: usize, stream: usize) -> Result<(), c_int> {
    // SAFETY: callers give bytes that are there.
    told(unsafe { cuMemcpyHtoDAsync_v2(to, from, bytes, stream) })
}

/// A number in device memory as it is now.
fn number_now(at: usize) -> u32 {
    let mut number = 0_u32;
    // SAFETY: the number is there until the copy is made, which on the default stream is at once.
    told(unsafe { cuMemcpyDtoHAsync_v2((&raw mut number).cast(), at, 4, 0) }).unwrap();
    number
}

/// A number in device memory once the device has done all that it was told.
fn number(at: usize) -> u32 {
    // SAFETY: the call takes nothing.
    told(unsafe { cuCtxSynchronize() }).unwrap();
    number_now(at)
}

/// Two numbers on the device, as a kernel of ours wants them.
fn numbers(first: u32, stream: usize) -> usize {
    let place = allocate(8, stream).unwrap();
    let values = [first, 7];
    upload(place, values.as_ptr().cast(), 8, stream).unwrap();
    synchronise(stream).unwrap();
    place
}

fn module() -> Result<usize, c_int> {
    let image = [0xBA55_ED50_u32, 0];
    // SAFETY: the handle may be written; the image is longer than its magic number.
    given(|module| unsafe { cuModuleLoadData(module, image.as_ptr()) })
}

fn unload(module: usize) -> Result<(), c_int> {
    // SAFETY: the call takes a handle.
    told(unsafe { cuModuleUnload(module) })
}

fn function(module: usize, name: &CStr) -> Result<usize, c_int> {
    // SAFETY: the handle may be written; the name is terminated.
    given(|function| unsafe { cuModuleGetFunction(function, module, name.as_ptr()) })
}

/// Launches a kernel with these arguments; `geometry` is grid x, y, z, block x, y, z.
fn launch(
    function: usize,
    geometry: [u32; 6],
    shared_bytes: u32,
    stream: usize,
    arguments: &[*const c_void],
) -> Result<(), c_int> {
    let [gx, gy, gz, bx, by, bz] = geometry;
    let (arguments, extra) = (arguments.as_ptr(), std::ptr::null());
    // SAFETY: callers give the kernel's arguments.
    told(unsafe { cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, arguments, extra) })
}

/// Launches the kernel that adds `by` to the first of the two numbers at `place`.
fn advance(function: usize, place: usize, by: u32, stream: usize) -> Result<(), c_int> {
    launch(function, [1, 1, 1, 32, 1, 1], 0, stream, &[(&raw const place).cast(), (&raw const by).cast()])
}
