//! Threads that have not turned to a device, or to another one.

use super::*;

const NOT_INITIALIZED: c_int = 3;
const INVALID_DEVICE: c_int = 101;
const CONTEXT_IS_DESTROYED: c_int = 709;
const LAUNCH_FAILED: c_int = 719;

/// Called once, before anything else.
pub(crate) fn refuses_everything_before_it_is_started() {
    // SAFETY: all of them may be written.
    unsafe {
        assert_eq!(given(|count: *mut c_int| cuDeviceGetCount(count)), Err(NOT_INITIALIZED));
        assert_eq!(given(|context: *mut usize| cuCtxGetCurrent(context)), Err(NOT_INITIALIZED));
    }
    assert_eq!((retain(0), turn_to(0)), (Err(NOT_INITIALIZED), Err(NOT_INITIALIZED)));
    assert_eq!((stream(0), event(0), module()), (Err(NOT_INITIALIZED), Err(NOT_INITIALIZED), Err(NOT_INITIALIZED)));
}

#[test]
fn there_are_as_many_devices_as_there_are() {
    let _driver = Driver::new();
    for device in [-1, 2] {
        assert_eq!(retain(device), Err(INVALID_DEVICE));
        // SAFETY: all of them may be written.
        unsafe {
            assert_eq!(given(|value: *mut c_int| cuDeviceGet(value, device)), Err(INVALID_DEVICE));
            assert_eq!(given(|value: *mut c_int| cuDeviceGetAttribute(value, 75, device)), Err(INVALID_DEVICE));
            assert_eq!(given(|value: *mut usize| cuDeviceTotalMem_v2(value, device)), Err(INVALID_DEVICE));
        }
    }
}

#[test]
fn an_attribute_that_is_not_known_is_not_made_up() {
    let _driver = Driver::new();
    // SAFETY: the value may be written.
    let attribute = |number| given(|value: *mut c_int| unsafe { cuDeviceGetAttribute(value, number, 0) });
    assert_eq!((attribute(75), attribute(97)), (Ok(9), Ok(232_448)));
    assert_eq!((attribute(0), attribute(1000)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
}

/// What is made is made in the context of the thread; a stream is not enough to do something on it.
#[test]
fn a_thread_has_to_turn_to_a_device() {
    let driver = Driver::new();
    let (stream_0, event_0, module_0) = (stream(NON_BLOCKING).unwrap(), event(0).unwrap(), module().unwrap());
    let (function_0, memory) = (function(module_0, c"gs_augment_advance").unwrap(), numbers(1, stream_0));
    let nowhere = std::thread::spawn(move || {
        // SAFETY: the handle may be written.
        assert_eq!(given(|context: *mut usize| unsafe { cuCtxGetCurrent(context) }), Ok(0));
        assert_eq!((stream(0), event(0), module()), (Err(INVALID_CONTEXT), Err(INVALID_CONTEXT), Err(INVALID_CONTEXT)));
        assert_eq!((synchronise(0), synchronise(stream_0)), (Err(INVALID_CONTEXT), Err(INVALID_CONTEXT)));
        assert_eq!((allocate(4, stream_0), pinned(4)), (Err(INVALID_CONTEXT), Err(INVALID_CONTEXT)));
        assert_eq!(function(module_0, c"gs_augment_advance"), Err(INVALID_CONTEXT));
        assert_eq!(advance(function_0, memory, 1, stream_0), Err(INVALID_CONTEXT));
        assert_eq!((record(event_0, stream_0), wait(stream_0, event_0)), (Err(INVALID_CONTEXT), Err(INVALID_CONTEXT)));
        // SAFETY: the calls take no memory.
        assert_eq!(unsafe { (cuCtxSynchronize(), cuGraphLaunch(1, stream_0)) }, (INVALID_CONTEXT, INVALID_CONTEXT));
        // SAFETY: both may be written.
        assert_eq!(given(|free: *mut usize| unsafe { cuMemGetInfo_v2(free, free) }), Err(INVALID_CONTEXT));
        // Of a stream of its own, what it was allocated from says enough.
        assert_eq!((free(memory, 0), free(memory, stream_0)), (Err(INVALID_CONTEXT), Ok(())));
    });
    nowhere.join().unwrap();
    // SAFETY: the handle may be written.
    assert_eq!(given(|context: *mut usize| unsafe { cuCtxGetCurrent(context) }), Ok(driver.contexts[0]));
}

#[test]
fn what_belongs_to_another_device_is_refused() {
    let driver = Driver::new();
    let (stream_0, event_0, module_0) = (stream(NON_BLOCKING).unwrap(), event(0).unwrap(), module().unwrap());
    let (function_0, memory_0) = (function(module_0, c"gs_augment_advance").unwrap(), numbers(1, stream_0));
    turn_to(driver.contexts[1]).unwrap();
    let (stream_1, event_1, module_1) = (stream(NON_BLOCKING).unwrap(), event(0).unwrap(), module().unwrap());
    let (function_1, memory_1) = (function(module_1, c"gs_augment_advance").unwrap(), numbers(1, stream_1));
    assert_eq!((synchronise(stream_0), allocate(4, stream_0)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
    assert_eq!(function(module_0, c"gs_augment_advance"), Err(INVALID_HANDLE));
    assert_eq!((advance(function_0, memory_1, 1, stream_1)), Err(INVALID_HANDLE));
    assert_eq!((advance(function_1, memory_1, 1, stream_0)), Err(INVALID_HANDLE));
    // An event is recorded in its own context, and waited for in any.
    assert_eq!((record(event_0, stream_1), record(event_1, stream_1)), (Err(INVALID_HANDLE), Ok(())));
    assert_eq!((wait(stream_1, event_0), wait(stream_0, event_0)), (Ok(()), Err(INVALID_HANDLE)));
    assert_eq!((free(memory_0, stream_1), free(memory_1, stream_0)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
    let byte = 1_u8;
    assert_eq!(upload(memory_0, &raw const byte, 1, stream_1), Err(INVALID_VALUE));
    // SAFETY: it would be the byte of a buffer.
    assert_eq!(told(unsafe { cuMemsetD8Async(memory_0, 0, 1, stream_1) }), Err(INVALID_VALUE));
    assert_eq!(advance(function_1, memory_1, 1, stream_1), Ok(()));
    // A kernel finds out for itself.
    assert_eq!((advance(function_1, memory_0, 1, stream_1), synchronise(stream_1)), (Ok(()), Err(ILLEGAL_ADDRESS)));
}

#[test]
fn a_failed_kernel_breaks_its_context_and_the_next_call_says_so() {
    let driver = Driver::new();
    let (stream_0, place, other) =
        (stream(NON_BLOCKING).unwrap(), allocate(4096, 0).unwrap(), allocate(4096, 0).unwrap());
    let broken = function(module().unwrap(), c"gs_faulty_divergent_barrier").unwrap();
    let arguments = [(&raw const place).cast(), (&raw const other).cast()];
    assert_eq!(launch(broken, [1, 1, 1, 256, 1, 1], 1024, stream_0, &arguments), Ok(()));
    assert_eq!(
        (synchronise(stream_0), event(0), allocate(4, stream_0)),
        (Err(LAUNCH_FAILED), Err(LAUNCH_FAILED), Err(LAUNCH_FAILED))
    );
    assert_eq!((free(place, stream_0), module()), (Err(LAUNCH_FAILED), Err(LAUNCH_FAILED)));
    // The other device's is not concerned.
    turn_to(driver.contexts[1]).unwrap();
    assert_eq!(synchronise(0), Ok(()));
}

#[test]
fn a_context_goes_when_nobody_retains_it() {
    let driver = Driver::new();
    let (context, kept) = (driver.contexts[0], stream(NON_BLOCKING).unwrap());
    assert_eq!(retain(0), Ok(context));
    // SAFETY: the calls take numbers.
    let release = |device| told(unsafe { cuDevicePrimaryCtxRelease_v2(device) });
    assert_eq!((release(0), synchronise(kept), release(0)), (Ok(()), Ok(()), Ok(())));
    assert_eq!((synchronise(kept), event(0)), (Err(CONTEXT_IS_DESTROYED), Err(CONTEXT_IS_DESTROYED)));
    assert_eq!((release(0), turn_to(context)), (Err(INVALID_CONTEXT), Err(INVALID_CONTEXT)));
    let next = retain(0).unwrap();
    turn_to(next).unwrap();
    assert_eq!((event(0).is_ok(), synchronise(kept)), (true, Err(CONTEXT_IS_DESTROYED)));
}
