//! A CUDA driver for machines without one: device memory is the host's, and a launch runs the kernel's own source, compiled by
//! the host's compiler, under the emulation of `gramscope-emulation`. So the real binary with its real launchers runs from
//! end to end: names, order and number of arguments, grids, shared memory, buffer lengths, every error message. For tests
//! alone: nothing that users build depends on this crate.
//!
//! Built as a shared library, it is put where the program looks for `libcuda.so.1`. What machine it pretends to be stands in
//! the environment variable `GRAMSCOPE_FAKE_DRIVER`: `version=13000,devices=1,capability=90,memory=MIB,shared=BYTES,trace=FILE`, in any
//! order, any of them left out. Everything is synchronous but copies from pinned memory on streams other than the default one,
//! which are as late as they may be. Memory starts as NaN and is fenced: a write beside it is told on stderr, and the call that
//! frees it fails.
#![allow(unsafe_code, reason = "the driver's interface is C's")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of each function is that of the driver's function of its name"
)]

mod capture;
mod machine;
mod memory;
mod stream;
mod tool;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use capture::{Graph, HostWork};
use machine::machine;
use stream::Event;

/// The driver's results, as many as are given.
const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NO_DEVICE: c_int = 100;
const INVALID_DEVICE: c_int = 101;
const INVALID_IMAGE: c_int = 200;
const ILLEGAL_STATE: c_int = 401;
const NOT_FOUND: c_int = 500;
const LAUNCH_FAILED: c_int = 719;
const CAPTURE_UNSUPPORTED: c_int = 900;
const CAPTURE_INVALIDATED: c_int = 901;

/// The first bytes of a fatbin.
const FATBIN_MAGIC: u32 = 0xBA55_ED50;

/// Writes `value` to where the caller wants it.
///
/// # Safety
/// `to` is null or may be written.
unsafe fn give<T>(to: *mut T, value: T) -> c_int {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    SUCCESS
}

/// Defines functions of the driver's interface.
macro_rules! driver {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, reason = "the driver's names")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int $body
        )*
    };
}

driver! {
    /// Starts the driver.
    fn cuInit(flags: c_uint) {
        let _ = flags;
        if machine().devices == 0 { NO_DEVICE } else { SUCCESS }
    }

    /// The CUDA version supported.
    fn cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: the interface's contract.
        unsafe { give(version, machine().version) }
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: *mut c_int) {
        // SAFETY: the interface's contract.
        unsafe { give(count, machine().devices) }
    }

    /// A device's handle: its number.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        if !(0..machine().devices).contains(&ordinal) {
            return INVALID_DEVICE;
        }
        // SAFETY: the interface's contract.
        unsafe { give(device, ordinal) }
    }

    /// A device's name.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        let _ = device;
        let text = c"Emulated GPU";
        if usize::try_from(length).unwrap_or(0) < text.count_bytes() + 1 {
            return INVALID_VALUE;
        }
        // SAFETY: `name` has room for `length` bytes, which are enough.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name, text.count_bytes() + 1) };
        SUCCESS
    }

    /// A device's memory.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        let _ = device;
        // SAFETY: the interface's contract.
        unsafe { give(bytes, machine().memory) }
    }

    /// A device's attributes, those asked for.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) {
        let _ = device;
        let Some(found) = machine().attribute(attribute) else { return INVALID_VALUE };
        // SAFETY: the interface's contract.
        unsafe { give(value, found) }
    }

    /// The one context.
    fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) {
        let _ = device;
        // SAFETY: the interface's contract.
        unsafe { give(context, 1) }
    }

    /// Nothing to release.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        let _ = device;
        SUCCESS
    }

    /// The one context.
    fn cuCtxGetCurrent(context: *mut usize) {
        // SAFETY: the interface's contract.
        unsafe { give(context, 1) }
    }

    /// There is but one context.
    fn cuCtxSetCurrent(context: usize) {
        let _ = context;
        SUCCESS
    }

    /// Nothing but copies is ever left to wait for.
    fn cuCtxSynchronize() {
        if let Some(refusal) = capture::refusal_of_thread() {
            return refusal;
        }
        stream::synchronise_all();
        SUCCESS
    }

    /// A stream beside the default one.
    fn cuStreamCreate(stream: *mut usize, flags: c_uint) {
        let _ = flags;
        // SAFETY: the interface's contract.
        unsafe { give(stream, stream::create()) }
    }

    /// Forgets a stream once it has done what it was told.
    fn cuStreamDestroy_v2(stream: usize) {
        if stream::destroy(stream) { SUCCESS } else { INVALID_VALUE }
    }

    /// Nothing but copies is ever left to wait for.
    fn cuStreamSynchronize(stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        machine().note("synchronise 0");
        stream::synchronise(stream);
        SUCCESS
    }

    /// From now on what the stream is told is kept.
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_uint) {
        let _ = mode;
        capture::begin(stream)
    }

    /// The graph of what was kept.
    fn cuStreamEndCapture(stream: usize, graph: *mut *mut Graph) {
        match capture::end(stream) {
            // SAFETY: the interface's contract.
            Ok(captured) => unsafe { give(graph, Box::into_raw(Box::new(captured))) },
            Err(error) => error,
        }
    }

    /// Whether what the stream is told is kept: 1.
    fn cuStreamIsCapturing(stream: usize, status: *mut c_int) {
        // SAFETY: the interface's contract.
        unsafe { give(status, capture::is_under_way(stream).into()) }
    }

    /// Has the host do something when the stream comes to it.
    fn cuLaunchHostFunc(stream: usize, function: unsafe extern "C" fn(*mut c_void), data: *mut c_void) {
        stream::synchronise(stream);
        // SAFETY: the interface's contract: it may be called with its data.
        unsafe { capture::call(stream, HostWork { function, data }) };
        SUCCESS
    }

    /// A graph that can be launched.
    fn cuGraphInstantiateWithFlags(instance: *mut *mut Graph, graph: *const Graph, flags: u64) {
        let _ = flags;
        // SAFETY: graphs are those that cuStreamEndCapture has made.
        let made = unsafe { &*graph }.instance();
        // SAFETY: the interface's contract.
        unsafe { give(instance, Box::into_raw(Box::new(made))) }
    }

    /// Runs what was captured.
    fn cuGraphLaunch(instance: *const Graph, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        stream::synchronise(stream);
        // SAFETY: instances are those that cuGraphInstantiateWithFlags has made.
        unsafe { &*instance }.run()
    }

    /// Forgets a graph that can be launched.
    fn cuGraphExecDestroy(instance: *mut Graph) {
        // SAFETY: instances are those that cuGraphInstantiateWithFlags has made, and are destroyed once.
        drop(unsafe { Box::from_raw(instance) });
        SUCCESS
    }

    /// Forgets a graph.
    fn cuGraphDestroy(graph: *mut Graph) {
        // SAFETY: graphs are those that cuStreamEndCapture has made, and are destroyed once.
        drop(unsafe { Box::from_raw(graph) });
        SUCCESS
    }

    /// What comes next on any stream may need what came before the event.
    fn cuStreamWaitEvent(stream: usize, event: *const Event, flags: c_uint) {
        let _ = flags;
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        // SAFETY: events are those that cuEventCreate has made.
        unsafe { &*event }.wait();
        SUCCESS
    }

    /// Free and total memory.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let memory = machine().memory;
        // SAFETY: the interface's contract.
        unsafe { give(free, memory.saturating_sub(memory::used())).max(give(total, memory)) }
    }

    /// Device memory.
    fn cuMemAllocAsync(pointer: *mut usize, bytes: usize, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        let Some(address) = memory::allocate(bytes, machine().memory, memory::Kind::Device) else { return OUT_OF_MEMORY };
        // SAFETY: the interface's contract.
        unsafe { give(pointer, address) }
    }

    /// Device memory given back.
    fn cuMemFreeAsync(pointer: usize, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        stream::synchronise(stream);
        if memory::free(pointer) { SUCCESS } else { INVALID_VALUE }
    }

    /// Host memory.
    fn cuMemHostAlloc(pointer: *mut usize, bytes: usize, flags: c_uint) {
        let _ = flags;
        if let Some(refusal) = capture::refusal_of_thread() {
            return refusal;
        }
        let Some(address) = memory::allocate(bytes, usize::MAX, memory::Kind::Host) else { return OUT_OF_MEMORY };
        // SAFETY: the interface's contract.
        unsafe { give(pointer, address) }
    }

    /// Host memory given back.
    fn cuMemFreeHost(pointer: usize) {
        if memory::free(pointer) { SUCCESS } else { INVALID_VALUE }
    }

    /// Sets bytes.
    fn cuMemsetD8Async(to: usize, value: u8, bytes: usize, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        if !memory::holds(to, bytes) {
            return INVALID_VALUE;
        }
        stream::synchronise(stream);
        // SAFETY: the range lies in memory that this library has given out.
        unsafe { std::ptr::write_bytes(to as *mut u8, value, bytes) };
        SUCCESS
    }

    /// Copies to the device, when somebody waits for it: CUDA does not say that a copy from memory that is not pinned is done when
    /// the call returns, either.
    fn cuMemcpyHtoDAsync_v2(to: usize, from: *const u8, bytes: usize, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        if !memory::holds(to, bytes) {
            return INVALID_VALUE;
        }
        machine().note_upload(bytes);
        // SAFETY: the target lies in memory that this library has given out; the source is the caller's until the copy is made.
        unsafe { stream::copy(stream, to, from as usize, bytes) };
        SUCCESS
    }

    /// Copies to the host, when somebody waits for it, like copies to the device.
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: usize, bytes: usize, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        if !memory::holds(from, bytes) {
            return INVALID_VALUE;
        }
        machine().note_download(bytes);
        // SAFETY: the source lies in memory that this library has given out; the target is the caller's until the copy is made.
        unsafe { stream::copy(stream, to as usize, from, bytes) };
        SUCCESS
    }

    /// Copies on the device.
    fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        if !memory::holds(to, bytes) || !memory::holds(from, bytes) {
            return INVALID_VALUE;
        }
        stream::synchronise(stream);
        // SAFETY: both lie in memory that this library has given out.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        SUCCESS
    }

    /// A module, if the image is a fatbin. The kernels that it holds are known already.
    fn cuModuleLoadData(module: *mut usize, image: *const u32) {
        // SAFETY: an image is longer than its magic number.
        if unsafe { image.read_unaligned() } != FATBIN_MAGIC {
            return INVALID_IMAGE;
        }
        // SAFETY: the interface's contract.
        unsafe { give(module, 1) }
    }

    /// Nothing to unload.
    fn cuModuleUnload(module: usize) {
        let _ = module;
        SUCCESS
    }

    /// A kernel: its name is kept for the launch.
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) {
        let _ = module;
        // SAFETY: names are terminated.
        let name = unsafe { CStr::from_ptr(name) };
        let Some(known) = machine::kernel(name) else { return NOT_FOUND };
        // SAFETY: the interface's contract. A handle is one word.
        unsafe { give(function, known.as_ptr() as usize) }
    }

    /// The constants that launch geometry depends on, the one array that modules export.
    fn cuModuleGetGlobal_v2(pointer: *mut usize, bytes: *mut usize, module: usize, name: *const c_char) {
        let _ = module;
        // SAFETY: names are terminated.
        if unsafe { CStr::from_ptr(name) } != c"gs_constants" {
            return NOT_FOUND;
        }
        let constants = machine::constants();
        // SAFETY: the interface's contract.
        unsafe { give(pointer, constants.0).max(give(bytes, constants.1)) }
    }

    /// Kernels have no memory of their own here.
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: usize) {
        let _ = (attribute, function);
        // SAFETY: the interface's contract.
        unsafe { give(value, 0) }
    }

    /// Shared memory is as much as a launch asks for.
    fn cuFuncSetAttribute(function: usize, attribute: c_uint, value: c_int) {
        let _ = (function, attribute, value);
        SUCCESS
    }

    /// Runs a kernel.
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: usize,
        arguments: *const *const c_void,
        extra: usize,
    ) {
        let _ = extra;
        let Some(kernel) = machine::name(function) else { return INVALID_VALUE };
        let geometry = [grid_x, grid_y, grid_z, block_x, block_y, block_z];
        if shared_bytes as usize > machine::machine().shared || geometry.contains(&0) {
            return INVALID_VALUE;
        }
        stream::synchronise(stream);
        // SAFETY: the interface's contract: `arguments` leads to the kernel's arguments.
        unsafe { capture::launch(stream, kernel, geometry, shared_bytes as usize, arguments) }
    }

    /// A point in a stream's work.
    fn cuEventCreate(event: *mut *mut Event, flags: c_uint) {
        let _ = flags;
        // SAFETY: the interface's contract.
        unsafe { give(event, Box::into_raw(Box::new(Event::in_stream(0)))) }
    }

    /// That point is now.
    fn cuEventRecord(event: *mut Event, stream: usize) {
        if let Some(refusal) = capture::refusal(stream) {
            return refusal;
        }
        // SAFETY: events are those that cuEventCreate has made.
        unsafe { give(event, Event::in_stream(stream)) }
    }

    /// Nothing but copies is ever left to wait for.
    fn cuEventSynchronize(event: *const Event) {
        // SAFETY: events are those that cuEventCreate has made.
        unsafe { &*event }.wait();
        SUCCESS
    }

    /// Nothing is ever running.
    fn cuEventQuery(event: usize) {
        let _ = event;
        SUCCESS
    }

    /// Milliseconds between two points.
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: *const Event, end: *const Event) {
        // SAFETY: events are those that cuEventCreate has made.
        let elapsed = unsafe { (*end).at.saturating_duration_since((*start).at) };
        // SAFETY: the interface's contract.
        unsafe { give(milliseconds, elapsed.as_secs_f32() * 1e3) }
    }

    /// Forgets a point in time.
    fn cuEventDestroy_v2(event: *mut Event) {
        // SAFETY: events are those that cuEventCreate has made, and are destroyed once.
        drop(unsafe { Box::from_raw(event) });
        SUCCESS
    }

    /// The name of a result.
    fn cuGetErrorName(error: c_int, name: *mut *const c_char) {
        let text = match error {
            INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
            OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
            NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
            INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
            INVALID_IMAGE => c"CUDA_ERROR_INVALID_IMAGE",
            NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
            LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
            ILLEGAL_STATE => c"CUDA_ERROR_ILLEGAL_STATE",
            CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            CAPTURE_INVALIDATED => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
            _ => return INVALID_VALUE,
        };
        // SAFETY: the interface's contract.
        unsafe { give(name, text.as_ptr()) }
    }

    /// What a result means: its name does.
    fn cuGetErrorString(error: c_int, text: *mut *const c_char) {
        // SAFETY: the same contract.
        unsafe { cuGetErrorName(error, text) }
    }
}
