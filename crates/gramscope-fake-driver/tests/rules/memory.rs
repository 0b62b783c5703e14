//! Memory: what it is given back as, and where it ends.

use super::*;

/// (free, total)
fn info() -> (usize, usize) {
    let (mut free, mut total) = (0, 0);
    // SAFETY: both may be written.
    told(unsafe { cuMemGetInfo_v2(&raw mut free, &raw mut total) }).unwrap();
    (free, total)
}

/// A float in the host's memory.
fn float(at: usize) -> f32 {
    // SAFETY: callers give pinned memory of theirs.
    unsafe { (at as *const f32).read() }
}

#[test]
fn memory_starts_as_nan_and_is_fenced() {
    let _driver = Driver::new();
    let (host, device) = (pinned(12).unwrap(), allocate(12, 0).unwrap());
    assert!([0, 4, 8].into_iter().all(|offset| float(host + offset).is_nan()));
    assert!(f32::from_bits(number(device)).is_nan());
    assert_eq!((free_pinned(host), free(device, 0)), (Ok(()), Ok(())));
    let fenced = allocate(12, 0).unwrap();
    // SAFETY: the byte after the memory given out is the driver's, and stays there until it is given back.
    unsafe { (fenced as *mut u8).add(12).write(0) };
    assert_eq!((free(fenced, 0), synchronise(0)), (Ok(()), Err(ILLEGAL_ADDRESS)));
}

#[test]
fn memory_is_given_back_once_and_as_what_it_is() {
    let _driver = Driver::new();
    let (host, device) = (pinned(64).unwrap(), allocate(64, 0).unwrap());
    assert_eq!((free(host, 0), free_pinned(device)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
    assert_eq!((free(device + 4, 0), free_pinned(host + 4)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
    let ordinary = 0_u64;
    let ordinary = &raw const ordinary as usize;
    assert_eq!(
        (free(ordinary, 0), free_pinned(ordinary), free(0, 0)),
        (Err(INVALID_VALUE), Err(INVALID_VALUE), Err(INVALID_VALUE))
    );
    assert_eq!((free(device, 0), free_pinned(host)), (Ok(()), Ok(())));
    assert_eq!((free(device, 0), free_pinned(host)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
}

#[test]
fn nothing_is_allocated_of_nothing_and_no_more_than_there_is() {
    let driver = Driver::new();
    assert_eq!((allocate(0, 0), pinned(0)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
    assert_eq!((allocate(MEMORY + 1, 0), allocate(usize::MAX, 0)), (Err(OUT_OF_MEMORY), Err(OUT_OF_MEMORY)));
    assert_eq!(pinned(usize::MAX), Err(OUT_OF_MEMORY));
    let all = allocate(MEMORY, 0).unwrap();
    assert_eq!((allocate(1, 0), pinned(1).is_ok()), (Err(OUT_OF_MEMORY), true));
    // The other device has its own.
    turn_to(driver.contexts[1]).unwrap();
    assert!(allocate(MEMORY, 0).is_ok());
    turn_to(driver.contexts[0]).unwrap();
    assert_eq!((free(all, 0), allocate(MEMORY, 0).is_ok()), (Ok(()), true));
    // SAFETY: the address may be written.
    assert_eq!(given(|pointer: *mut usize| unsafe { cuMemHostAlloc(pointer, 4, 8) }), Err(INVALID_VALUE));
}

/// What is given back in the order of a stream is there for whoever allocates, and is free once somebody has waited.
#[test]
fn memory_is_free_once_somebody_has_waited() {
    let _driver = Driver::new();
    let (stream, event) = (stream(NON_BLOCKING).unwrap(), event(0).unwrap());
    assert_eq!(info(), (MEMORY, MEMORY));
    for wait in [0, 1, 2] {
        let piece = allocate(1 << 20, stream).unwrap();
        assert_eq!((info().0, free(piece, stream), info().0), (MEMORY - (1 << 20), Ok(()), MEMORY - (1 << 20)));
        let again = allocate(1 << 19, stream).unwrap();
        assert_eq!((info().0, free(again, stream)), (MEMORY - (1 << 20), Ok(())));
        record(event, stream).unwrap();
        // SAFETY: the calls take handles.
        told(unsafe { [cuStreamSynchronize(stream), cuEventSynchronize(event), cuCtxSynchronize()][wait] }).unwrap();
        assert_eq!(info().0, MEMORY);
    }
}

#[test]
fn copies_end_where_memory_does() {
    let _driver = Driver::new();
    let (device, host) = (allocate(64, 0).unwrap(), pinned(64).unwrap());
    let (other, host_bytes) = (allocate(64, 0).unwrap(), host as *mut u8);
    let ordinary = [0_u8; 65];
    assert_eq!((upload(device, ordinary.as_ptr(), 64, 0), upload(device + 63, host_bytes, 1, 0)), (Ok(()), Ok(())));
    for (to, bytes) in [(device, 65), (device + 1, 64), (device - 1, 1), (device + 64, 1), (0, 1), (host, 1)] {
        assert_eq!(upload(to, ordinary.as_ptr(), bytes, 0), Err(INVALID_VALUE));
        // SAFETY: what lies beyond the memory is refused.
        unsafe {
            assert_eq!(cuMemsetD8Async(to, 0, bytes, 0), INVALID_VALUE);
            assert_eq!(cuMemcpyDtoDAsync_v2(to, other, bytes, 0), INVALID_VALUE);
            assert_eq!(cuMemcpyDtoDAsync_v2(other, to, bytes, 0), INVALID_VALUE);
            assert_eq!(cuMemcpyDtoHAsync_v2(host_bytes, to, bytes, 0), INVALID_VALUE);
        }
    }
    // Neither may the host's end be beyond pinned memory, or on a device.
    for (from, bytes) in [(host + 1, 64), (host - 1, 64), (host + 64, 1), (other, 1)] {
        assert_eq!(upload(device, from as *const u8, bytes, 0), Err(INVALID_VALUE));
        // SAFETY: what lies beyond the memory is refused.
        assert_eq!(unsafe { cuMemcpyDtoHAsync_v2(from as *mut u8, device, bytes, 0) }, INVALID_VALUE);
    }
    assert_eq!((upload(0, ordinary.as_ptr(), 0, 0), upload(device, ordinary.as_ptr(), 0, 0)), (Ok(()), Ok(())));
}

#[test]
fn memory_that_is_being_copied_is_not_given_back() {
    let _driver = Driver::new();
    let copying = stream(NON_BLOCKING).unwrap();
    let (device, host) = (allocate(64, copying).unwrap(), pinned(64).unwrap());
    upload(device, host as *const u8, 64, copying).unwrap();
    assert_eq!(free_pinned(host), Err(INVALID_VALUE));
    // The same stream comes to it after the copy.
    assert_eq!((free(device, copying), synchronise(copying), free_pinned(host)), (Ok(()), Ok(()), Ok(())));
}

/// Whoever gives memory back has its stream wait for those that use it.
#[test]
fn memory_that_another_stream_has_yet_to_use_is_not_given_back() {
    let _driver = Driver::new();
    let kernel = function(module().unwrap(), c"gs_augment_advance").unwrap();
    let [using, other] = [(); 2].map(|()| stream(NON_BLOCKING).unwrap());
    for (waits, expected) in [(true, Ok(())), (false, Err(ILLEGAL_ADDRESS))] {
        let (place, used) = (numbers(1, using), event(0).unwrap());
        advance(kernel, place, 1, using).unwrap();
        record(used, using).unwrap();
        if waits {
            wait(other, used).unwrap();
        }
        assert_eq!((free(place, other), synchronise(other)), (Ok(()), expected));
    }
}

#[test]
fn memory_that_has_been_given_back_is_not_used_any_more() {
    let _driver = Driver::new();
    let kernel = function(module().unwrap(), c"gs_augment_advance").unwrap();
    let [giving, other] = [(); 2].map(|()| stream(NON_BLOCKING).unwrap());
    let (place, byte) = (numbers(1, giving), 1_u8);
    assert_eq!((free(place, giving), free(place, giving)), (Ok(()), Err(INVALID_VALUE)));
    assert_eq!(upload(place, &raw const byte, 1, giving), Err(INVALID_VALUE));
    // Whichever of the two streams gets there first, and a kernel finds out for itself.
    assert_eq!((advance(kernel, place, 1, other), synchronise(other)), (Ok(()), Err(ILLEGAL_ADDRESS)));
}

/// However late streams are, the host has room.
#[test]
fn not_too_much_waits_to_be_given_back() {
    let _driver = Driver::new();
    let (kernel, late) = (function(module().unwrap(), c"gs_augment_advance").unwrap(), stream(NON_BLOCKING).unwrap());
    let place = numbers(1, late);
    advance(kernel, place, 1, late).unwrap();
    let turn = |()| {
        let piece = allocate(MEMORY / 2, late).unwrap();
        free(piece, late).unwrap();
        number_now(place)
    };
    let seen: Vec<u32> = std::iter::repeat_n((), 40).map(turn).collect();
    assert_eq!((seen[0], seen[31], seen[39]), (1, 1, 2));
}
