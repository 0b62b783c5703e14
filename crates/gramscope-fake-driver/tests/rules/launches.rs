//! Launches that no device does.

use super::*;

const NOT_FOUND: c_int = 500;
const INVALID_IMAGE: c_int = 200;
const MAX_THREADS: c_uint = 0;
const MAX_DYNAMIC_SHARED: c_uint = 8;

fn attribute(function: usize, attribute: c_uint) -> Result<c_int, c_int> {
    // SAFETY: the value may be written.
    given(|value| unsafe { cuFuncGetAttribute(value, attribute, function) })
}

fn allow_shared(function: usize, bytes: c_int) -> Result<(), c_int> {
    // SAFETY: the call takes numbers.
    told(unsafe { cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED, bytes) })
}

/// Tried on a capture, which keeps what it is given without running it.
#[test]
fn grids_and_blocks_have_limits() {
    let _driver = Driver::new();
    let (stream, loaded) = (stream(NON_BLOCKING).unwrap(), module().unwrap());
    let loss = function(loaded, c"gs_loss_softmax_cross_entropy").unwrap();
    let zero = [0_u128; 8];
    let arguments = [zero.as_ptr().cast(); 16];
    // SAFETY: the call takes a handle and a number.
    told(unsafe { cuStreamBeginCapture_v2(stream, 1) }).unwrap();
    for right in
        [[(1 << 31) - 1, 65_535, 65_535, 1, 1, 1], [1, 1, 1, 1024, 1, 1], [1, 1, 1, 1, 1024, 1], [1, 1, 1, 16, 1, 64]]
    {
        assert_eq!(launch(loss, right, 0, stream, &arguments), Ok(()), "{right:?}");
    }
    for wrong in [
        [0, 1, 1, 32, 1, 1],
        [1, 0, 1, 32, 1, 1],
        [1, 1, 0, 32, 1, 1],
        [1, 1, 1, 0, 1, 1],
        [1, 1, 1, 32, 0, 1],
        [1, 1, 1, 32, 1, 0],
        [1 << 31, 1, 1, 32, 1, 1],
        [1, 65_536, 1, 32, 1, 1],
        [1, 1, 65_536, 32, 1, 1],
        [1, 1, 1, 1025, 1, 1],
        [1, 1, 1, 1, 1025, 1],
        [1, 1, 1, 1, 1, 65],
        [1, 1, 1, 32, 33, 1],
        [1, 1, 1, 1024, 1024, 64],
    ] {
        assert_eq!(launch(loss, wrong, 0, stream, &arguments), Err(INVALID_VALUE), "{wrong:?}");
    }
    // SAFETY: the handle may be written.
    assert!(given(|graph: *mut usize| unsafe { cuStreamEndCapture(stream, graph) }).is_ok());
}

#[test]
fn a_block_has_no_more_threads_than_its_kernel_was_compiled_for() {
    let _driver = Driver::new();
    let (stream, advance) =
        (stream(NON_BLOCKING).unwrap(), function(module().unwrap(), c"gs_augment_advance").unwrap());
    let place = numbers(1, stream);
    let by = 2_u32;
    let arguments = [(&raw const place).cast(), (&raw const by).cast()];
    assert_eq!(attribute(advance, MAX_THREADS), Ok(32));
    assert_eq!(launch(advance, [1, 1, 1, 33, 1, 1], 0, stream, &arguments), Err(INVALID_VALUE));
    assert_eq!(launch(advance, [1, 1, 1, 16, 2, 2], 0, stream, &arguments), Err(INVALID_VALUE));
    assert_eq!((launch(advance, [1, 1, 1, 32, 1, 1], 0, stream, &arguments), number(place)), (Ok(()), 3));
}

#[test]
fn shared_memory_beyond_48_kib_has_to_be_asked_for() {
    let _driver = Driver::new();
    let (stream, loaded) = (stream(NON_BLOCKING).unwrap(), module().unwrap());
    let advance = function(loaded, c"gs_augment_advance").unwrap();
    let place = numbers(0, stream);
    let by = 1_u32;
    let with = |shared_bytes| {
        launch(advance, [1, 1, 1, 32, 1, 1], shared_bytes, stream, &[(&raw const place).cast(), (&raw const by).cast()])
    };
    assert_eq!((with(48 << 10), with((48 << 10) + 1)), (Ok(()), Err(INVALID_VALUE)));
    assert_eq!((allow_shared(advance, 100_000), with(100_000), with(100_001)), (Ok(()), Ok(()), Err(INVALID_VALUE)));
    assert_eq!((allow_shared(advance, 232_449), allow_shared(advance, -1)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
    assert_eq!((allow_shared(advance, 232_448), with(232_448)), (Ok(()), Ok(())));
    // For this kernel alone, however often it is looked up.
    assert_eq!(function(loaded, c"gs_augment_advance"), Ok(advance));
    let crop = function(loaded, c"gs_augment_crop_f32").unwrap();
    assert_eq!(
        (attribute(advance, MAX_DYNAMIC_SHARED), attribute(crop, MAX_DYNAMIC_SHARED)),
        (Ok(232_448), Ok(48 << 10))
    );
    // SAFETY: the call takes numbers.
    assert_eq!(told(unsafe { cuFuncSetAttribute(advance, MAX_THREADS, 32) }), Err(INVALID_VALUE));
    assert_eq!((attribute(advance, 77), attribute(advance, 1)), (Err(INVALID_VALUE), Ok(0)));
}

#[test]
fn a_launch_needs_its_arguments() {
    let _driver = Driver::new();
    let (stream, advance) =
        (stream(NON_BLOCKING).unwrap(), function(module().unwrap(), c"gs_augment_advance").unwrap());
    let place = numbers(1, stream);
    let missing = [(&raw const place).cast(), std::ptr::null()];
    assert_eq!(launch(advance, [1, 1, 1, 32, 1, 1], 0, stream, &missing), Err(INVALID_VALUE));
    let (by, none) = (1_u32, std::ptr::null());
    let (all, packed) = ([(&raw const place).cast(), (&raw const by).cast::<c_void>()], (&raw const by).cast());
    // SAFETY: no arguments, and arguments two ways, are refused.
    unsafe {
        assert_eq!(cuLaunchKernel(advance, 1, 1, 1, 32, 1, 1, 0, stream, std::ptr::null(), none), INVALID_VALUE);
        assert_eq!(cuLaunchKernel(advance, 1, 1, 1, 32, 1, 1, 0, stream, all.as_ptr(), packed), INVALID_VALUE);
    }
    assert_eq!(number(place), 1);
}

#[test]
fn kernels_go_with_their_module() {
    let _driver = Driver::new();
    let (stream, module_0) = (stream(NON_BLOCKING).unwrap(), module().unwrap());
    let (place, kernel) = (numbers(1, stream), function(module_0, c"gs_augment_advance").unwrap());
    assert_eq!(function(module_0, c"gs_no_such_kernel"), Err(NOT_FOUND));
    // An image is a family's.
    assert_eq!(function(module_0, c"gs_elementwise_relu_f32"), Err(NOT_FOUND));
    for wrong in [0, 1, stream, module_0, place] {
        assert_eq!(advance(wrong, place, 1, stream), Err(INVALID_HANDLE));
        assert_eq!(attribute(wrong, MAX_THREADS), Err(INVALID_HANDLE));
    }
    assert_eq!((advance(kernel, place, 1, stream), synchronise(stream), unload(module_0)), (Ok(()), Ok(()), Ok(())));
    assert_eq!((advance(kernel, place, 1, stream), unload(module_0)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
    assert_eq!(function(module_0, c"gs_augment_advance"), Err(INVALID_HANDLE));
    assert_eq!(number(place), 2);
    let image = [0_u32; 2];
    // SAFETY: the handle may be written; the image is longer than its magic number.
    assert_eq!(given(|module: *mut usize| unsafe { cuModuleLoadData(module, image.as_ptr()) }), Err(INVALID_IMAGE));
}

/// Neither while it has yet to run nor when a graph launches it again.
#[test]
fn a_kernel_outlives_no_module() {
    let driver = Driver::new();
    let run = |wait: bool| {
        let (stream, module) = (stream(NON_BLOCKING).unwrap(), module().unwrap());
        let (place, kernel) = (numbers(1, stream), function(module, c"gs_augment_advance").unwrap());
        // SAFETY: the call takes a handle and a number.
        told(unsafe { cuStreamBeginCapture_v2(stream, 1) }).unwrap();
        advance(kernel, place, 1, stream).unwrap();
        // SAFETY: the handles may be written.
        let graph = given(|graph| unsafe { cuStreamEndCapture(stream, graph) }).unwrap();
        // SAFETY: the same.
        let instance = given(|made| unsafe { cuGraphInstantiateWithFlags(made, graph, 0) }).unwrap();
        // SAFETY: what the kernel was given is there.
        let replay = || told(unsafe { cuGraphLaunch(instance, stream) });
        assert_eq!(replay(), Ok(()));
        if wait {
            synchronise(stream).unwrap();
        }
        assert_eq!(unload(module), Ok(()));
        let unloaded = synchronise(stream);
        (unloaded, unloaded.and_then(|()| replay()).and_then(|()| synchronise(stream)))
    };
    assert_eq!(run(true), (Ok(()), Err(ILLEGAL_ADDRESS)));
    turn_to(driver.contexts[1]).unwrap();
    assert_eq!(run(false), (Err(ILLEGAL_ADDRESS), Err(ILLEGAL_ADDRESS)));
}

#[test]
fn constants_are_a_modules_own() {
    let _driver = Driver::new();
    let module = module().unwrap();
    let mut bytes = 0_usize;
    let mut global = |name: &CStr| {
        // SAFETY: both may be written; the name is terminated.
        given(|at: *mut usize| unsafe { cuModuleGetGlobal_v2(at, &raw mut bytes, module, name.as_ptr()) })
    };
    let at = global(c"gs_constants").unwrap();
    assert_eq!(global(c"gs_no_such_array"), Err(NOT_FOUND));
    assert!(bytes > 0 && bytes.is_multiple_of(4));
    // It is the module's to give back.
    assert_eq!((free(at, 0), unload(module)), (Err(INVALID_VALUE), Ok(())));
}
