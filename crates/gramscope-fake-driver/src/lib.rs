//! A CUDA driver for machines without one: device memory is the host's, and a launch runs the kernel's own source, compiled by
//! the host's compiler, under the emulation of `gramscope-emulation`. So the real binary with its real launchers runs from
//! end to end: names, order and number of arguments, grids, shared memory, buffer lengths, every error message. For tests
//! alone: nothing that users build depends on this crate.
//!
//! Built as a shared library, it is put where the program looks for `libcuda.so.1`. What machine it pretends to be stands in
//! the environment variable `GRAMSCOPE_FAKE_DRIVER`: `version=13000,devices=1,capability=90,memory=MIB,order=SEED,trace=FILE`, in
//! any order, any of them left out. Streams other than the default one are as late as they may be, or, with `order`, as late as is
//! drawn. Memory starts as NaN and is fenced: a write beside it is told on stderr, and breaks the context of the stream that it is
//! given back to.
//!
//! What a driver refuses is refused here, with its results (tests/rules): launches that no device does, handles that are no
//! more, or of something else, or another device's, a thread that has not turned to a device, ranges beyond their memory, memory
//! given back as what it is not, whatever may not be done while a stream is captured. A kernel that fails breaks its context,
//! and so does a stream that takes back memory, or a module, which a launch has yet to use that was given it as an argument; the next
//! call says so. Where CUDA's manual leaves it open whether a driver refuses, this one does.
#![allow(unsafe_code, reason = "the driver's interface is C's")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of each function is that of the driver's function of its name"
)]

mod capture;
mod context;
mod event;
mod function;
mod machine;
mod memory;
mod queue;
mod status;
mod stream;
mod table;
mod tool;
mod work;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use machine::machine;
use memory::Kind;
use status::{Answer, INVALID_IMAGE, INVALID_VALUE};
use work::{HostWork, Work};

/// The first bytes of a fatbin.
const FATBIN_MAGIC: u32 = 0xBA55_ED50;

/// Memory that is given back but not taken back yet, in bytes, with which a device's streams are late; with more they are not, so
/// that the host keeps room.
const MOST_GIVEN_BACK: usize = 256 << 20;

/// The flag of streams that do not wait for the default one, nor it for them.
const NON_BLOCKING: c_uint = 1;

/// Writes `value` to where the caller wants it.
///
/// # Safety
/// `to` is null or may be written.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// The text behind a name.
///
/// # Safety
/// `name` is null or leads to a terminated text that lives as long as it is used.
unsafe fn text<'a>(name: *const c_char) -> Answer<&'a CStr> {
    if name.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(name) })
}

/// Defines functions of the driver's interface.
macro_rules! driver {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, reason = "the driver's names")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
                status::of(|| $body)
            }
        )*
    };
}

driver! {
    /// Starts the driver.
    fn cuInit(flags: c_uint) {
        context::start(flags)
    }

    /// The CUDA version supported. The driver need not have been started.
    fn cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: the interface's contract.
        unsafe { give(version, machine().version) }
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: *mut c_int) {
        context::started()?;
        // SAFETY: the interface's contract.
        unsafe { give(count, machine().devices) }
    }

    /// A device's handle: its number.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        context::device(ordinal)?;
        // SAFETY: the interface's contract.
        unsafe { give(device, ordinal) }
    }

    /// A device's name.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        context::device(device)?;
        let text = c"Emulated GPU";
        if name.is_null() || usize::try_from(length).unwrap_or(0) < text.count_bytes() + 1 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: `name` has room for `length` bytes, which are enough.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name, text.count_bytes() + 1) };
        Ok(())
    }

    /// A device's memory.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        context::device(device)?;
        // SAFETY: the interface's contract.
        unsafe { give(bytes, machine().memory) }
    }

    /// A device's attributes, those asked for.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) {
        context::device(device)?;
        // SAFETY: the interface's contract.
        unsafe { give(value, machine().attribute(attribute)?) }
    }

    /// A device's one context.
    fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) {
        // SAFETY: the interface's contract.
        unsafe { give(context, context::retain(device)?) }
    }

    /// It is retained once less.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        context::release(device)
    }

    /// The context that this thread has turned to, or null.
    fn cuCtxGetCurrent(context: *mut usize) {
        // SAFETY: the interface's contract.
        unsafe { give(context, context::current()?) }
    }

    /// Has this thread turn to a context, or to none.
    fn cuCtxSetCurrent(context: usize) {
        context::set_current(context)
    }

    /// Waits for all that a device has been told.
    fn cuCtxSynchronize() {
        let context = context::here()?;
        capture::refuse_waiting_for_all(context)?;
        stream::synchronise_all(context);
        memory::waited(context);
        context::usable(context)
    }

    /// A stream beside the default one.
    fn cuStreamCreate(stream: *mut usize, flags: c_uint) {
        let context = context::here()?;
        if flags & !NON_BLOCKING != 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the interface's contract.
        unsafe { give(stream, stream::create(context, flags & NON_BLOCKING == 0)) }
    }

    /// Takes a stream's handle away. What it was told, it will still do.
    fn cuStreamDestroy_v2(stream: usize) {
        stream::context(stream)?;
        capture::forget(stream);
        stream::destroy(stream)
    }

    /// Waits for all that a stream has been told.
    fn cuStreamSynchronize(stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        capture::refuse_unsafe()?;
        machine().note("synchronise 0");
        stream::synchronise(stream);
        memory::waited(context);
        context::usable(context)
    }

    /// From now on what the stream is told is kept.
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_uint) {
        capture::begin(stream, mode)
    }

    /// The graph of what was kept; null where the capture was spoilt.
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) {
        // SAFETY: the interface's contract.
        unsafe { give(graph, 0) }?;
        // SAFETY: the same.
        unsafe { give(graph, capture::end(stream)?) }
    }

    /// Whether what the stream is told is kept: 1, or 2 where that is in vain.
    fn cuStreamIsCapturing(stream: usize, status: *mut c_int) {
        // SAFETY: the interface's contract.
        unsafe { give(status, capture::status(stream)?) }
    }

    /// Has the host do something when the stream comes to it.
    fn cuLaunchHostFunc(stream: usize, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let function = function.ok_or(INVALID_VALUE)?;
        capture::call(stream, HostWork { function, data })
    }

    /// A graph that can be launched.
    fn cuGraphInstantiateWithFlags(instance: *mut usize, graph: usize, flags: u64) {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the interface's contract.
        unsafe { give(instance, capture::instantiate(graph)?) }
    }

    /// Has a stream do what was captured.
    fn cuGraphLaunch(instance: usize, stream: usize) {
        capture::run(instance, stream)
    }

    /// Forgets a graph that can be launched.
    fn cuGraphExecDestroy(instance: usize) {
        capture::destroy_instance(instance)
    }

    /// Forgets a graph.
    fn cuGraphDestroy(graph: usize) {
        capture::destroy_graph(graph)
    }

    /// What the stream is told next comes after what was told before the event.
    fn cuStreamWaitEvent(stream: usize, event: usize, flags: c_uint) {
        let context = stream::context_here(stream)?;
        event::context(event)?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        capture::refuse_waiting(stream, context)?;
        event::wait(event, stream)
    }

    /// Free and total memory.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (context, memory) = (context::here()?, machine().memory);
        // SAFETY: the interface's contract.
        unsafe { give(free, memory::free_bytes(context, memory)) }?;
        // SAFETY: the same.
        unsafe { give(total, memory) }
    }

    /// Device memory.
    fn cuMemAllocAsync(pointer: *mut usize, bytes: usize, stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        if memory::given_back(context) > MOST_GIVEN_BACK {
            stream::synchronise_all(context);
        }
        // SAFETY: the interface's contract.
        unsafe { give(pointer, memory::allocate(bytes, machine().memory, Kind::Device(context))?) }
    }

    /// Device memory given back when the stream comes to it; whoever allocates may count on it now. The thread need not have turned
    /// to the stream's context.
    fn cuMemFreeAsync(pointer: usize, stream: usize) {
        let context = stream::context(stream)?;
        capture::refuse(stream, context)?;
        memory::give_back(pointer, Kind::Device(context))?;
        stream::tell(stream, context, Work::Free { address: pointer }).map(drop)
    }

    /// Host memory.
    fn cuMemHostAlloc(pointer: *mut usize, bytes: usize, flags: c_uint) {
        // For every context, mapped into the device's addresses, written by the host alone.
        const KNOWN: c_uint = 7;
        context::here()?;
        capture::refuse_unsafe()?;
        if flags & !KNOWN != 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the interface's contract.
        unsafe { give(pointer, memory::allocate(bytes, usize::MAX, Kind::Host)?) }
    }

    /// Host memory given back.
    fn cuMemFreeHost(pointer: usize) {
        context::here()?;
        capture::refuse_unsafe()?;
        memory::free(pointer, Kind::Host)
    }

    /// Sets bytes.
    fn cuMemsetD8Async(to: usize, value: u8, bytes: usize, stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        memory::check_device(to, bytes, context)?;
        stream::tell(stream, context, Work::Set { to, value, bytes }).map(drop)
    }

    /// Copies to the device. CUDA does not say that a copy from memory that is not pinned is done when the call returns, either.
    fn cuMemcpyHtoDAsync_v2(to: usize, from: *const u8, bytes: usize, stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        memory::check_device(to, bytes, context)?;
        memory::check_host(from as usize, bytes)?;
        machine().note_upload(bytes);
        stream::tell(stream, context, Work::Copy { to, from: from as usize, bytes }).map(drop)
    }

    /// Copies to the host, like copies to the device.
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: usize, bytes: usize, stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        memory::check_device(from, bytes, context)?;
        memory::check_host(to as usize, bytes)?;
        machine().note_download(bytes);
        stream::tell(stream, context, Work::Copy { to: to as usize, from, bytes }).map(drop)
    }

    /// Copies on the device.
    fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        memory::check_device(to, bytes, context)?;
        memory::check_device(from, bytes, context)?;
        stream::tell(stream, context, Work::Copy { to, from, bytes }).map(drop)
    }

    /// A module, if the image is a fatbin. The kernels that it holds are known already.
    fn cuModuleLoadData(module: *mut usize, image: *const u32) {
        context::here()?;
        capture::refuse_unsafe()?;
        // SAFETY: an image is longer than its magic number.
        if image.is_null() || unsafe { image.read_unaligned() } != FATBIN_MAGIC {
            return Err(INVALID_IMAGE);
        }
        // SAFETY: the interface's contract.
        unsafe { give(module, function::load()?) }
    }

    /// Forgets a module.
    fn cuModuleUnload(module: usize) {
        context::here()?;
        capture::refuse_unsafe()?;
        function::unload(module)
    }

    /// A kernel.
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) {
        // SAFETY: the interface's contract.
        unsafe { give(function, function::find(module, text(name)?)?) }
    }

    /// The constants that launch geometry depends on, the one array that modules export.
    fn cuModuleGetGlobal_v2(pointer: *mut usize, bytes: *mut usize, module: usize, name: *const c_char) {
        // SAFETY: the interface's contract.
        let (address, length) = function::constants_of(module, unsafe { text(name) }?)?;
        // SAFETY: the same.
        unsafe { give(pointer, address) }?;
        // SAFETY: the same.
        unsafe { give(bytes, length) }
    }

    /// What a kernel needs, and what it may ask for.
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: usize) {
        // SAFETY: the interface's contract.
        unsafe { give(value, function::attribute(function, attribute)?) }
    }

    /// Lets a kernel ask for more shared memory than any may.
    fn cuFuncSetAttribute(function: usize, attribute: c_uint, value: c_int) {
        function::set_attribute(function, attribute, value)
    }

    /// Has a stream run a kernel.
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
        extra: *const c_void,
    ) {
        let context = stream::context_here(stream)?;
        let geometry = [grid_x, grid_y, grid_z, block_x, block_y, block_z];
        // Arguments come one by one here, not packed.
        if !extra.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the interface's contract: `arguments` leads to the kernel's arguments.
        let launch = unsafe { function::launch(function, geometry, shared_bytes as usize, context, arguments) }?;
        capture::launch(stream, launch)
    }

    /// A point in a stream's work, to be.
    fn cuEventCreate(event: *mut usize, flags: c_uint) {
        // SAFETY: the interface's contract.
        unsafe { give(event, event::create(flags)?) }
    }

    /// That point is where the stream comes to next.
    fn cuEventRecord(event: usize, stream: usize) {
        let context = stream::context_here(stream)?;
        capture::refuse(stream, context)?;
        event::record(event, stream)
    }

    /// Waits until a stream has come to an event.
    fn cuEventSynchronize(event: usize) {
        let context = event::context(event)?;
        capture::refuse_unsafe()?;
        event::synchronise(event)?;
        memory::waited(context);
        context::usable(context)
    }

    /// Milliseconds between two points.
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) {
        // SAFETY: the interface's contract.
        unsafe { give(milliseconds, event::milliseconds(start, end)?) }
    }

    /// Forgets a point in time.
    fn cuEventDestroy_v2(event: usize) {
        event::destroy(event)
    }

    /// The name of a result.
    fn cuGetErrorName(error: c_int, name: *mut *const c_char) {
        // SAFETY: the interface's contract.
        unsafe { give(name, status::name(error)?.as_ptr()) }
    }

    /// What a result means: its name does.
    fn cuGetErrorString(error: c_int, text: *mut *const c_char) {
        // SAFETY: the same contract.
        unsafe { give(text, status::name(error)?.as_ptr()) }
    }
}
