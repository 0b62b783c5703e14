//! Streams that are late, in which order; streams and events that are no more, or were never what they are taken for.

use super::*;

const NOT_READY: c_int = 600;
const UNTIMED: c_uint = 2;

fn destroy(stream: usize) -> Result<(), c_int> {
    // SAFETY: the call takes a handle.
    told(unsafe { cuStreamDestroy_v2(stream) })
}

fn destroy_event(event: usize) -> Result<(), c_int> {
    // SAFETY: the call takes a handle.
    told(unsafe { cuEventDestroy_v2(event) })
}

fn elapsed(start: usize, end: usize) -> Result<f32, c_int> {
    // SAFETY: the number may be written.
    given(|milliseconds| unsafe { cuEventElapsedTime_v2(milliseconds, start, end) })
}

/// Copies a number on the device.
fn copy(to: usize, from: usize, stream: usize) {
    // SAFETY: callers give two buffers with a number each.
    told(unsafe { cuMemcpyDtoDAsync_v2(to, from, 4, stream) }).unwrap();
}

fn device_number(at: usize) -> u64 {
    // SAFETY: callers give device memory of eight bytes, which here is the host's.
    unsafe { (at as *const u64).read() }
}

#[test]
fn copies_are_made_when_they_are_waited_for() {
    let _driver = Driver::new();
    let (copying, to) = (stream(NON_BLOCKING).unwrap(), allocate(8, 0).unwrap());
    let values = [1_u64, 2, 3];
    let send = |index: usize| upload(to, (&raw const values[index]).cast(), 8, copying).unwrap();
    send(0);
    let (first, unrelated) = (event(0).unwrap(), event(0).unwrap());
    record(first, copying).unwrap();
    send(1);
    record(unrelated, 0).unwrap();
    // SAFETY: the calls take handles.
    let wait = |event| told(unsafe { cuEventSynchronize(event) });
    assert_eq!((wait(unrelated), device_number(to)), (Ok(()), u64::MAX));
    assert_eq!((wait(first), wait(first), device_number(to)), (Ok(()), Ok(()), 1));
    assert_eq!((synchronise(copying), device_number(to)), (Ok(()), 2));
    send(2);
    // Destroyed, it still does what it was told.
    assert_eq!((destroy(copying), device_number(to)), (Ok(()), 2));
    // SAFETY: the call takes nothing.
    assert_eq!((told(unsafe { cuCtxSynchronize() }), device_number(to)), (Ok(()), 3));

    let (back, host) = (stream(NON_BLOCKING).unwrap(), pinned(8).unwrap());
    // SAFETY: both have eight bytes, and are not given back before the copy is made.
    told(unsafe { cuMemcpyDtoHAsync_v2(host as *mut u8, to, 8, back) }).unwrap();
    assert_eq!(device_number(host), u64::MAX);
    assert_eq!((synchronise(back), device_number(host)), (Ok(()), 3));
}

#[test]
fn a_stream_does_what_it_is_told_when_it_is_waited_for() {
    let _driver = Driver::new();
    let kernel = function(module().unwrap(), c"gs_augment_advance").unwrap();
    let [late, other] = [(); 2].map(|()| stream(NON_BLOCKING).unwrap());
    let (place, copied) = (numbers(1, late), numbers(0, late));
    advance(kernel, place, 2, late).unwrap();
    copy(copied, place, late);
    // SAFETY: the buffer has eight bytes.
    told(unsafe { cuMemsetD8Async(place, 0, 8, late) }).unwrap();
    assert_eq!((synchronise(other), number_now(place), number_now(copied)), (Ok(()), 1, 0));
    assert_eq!((synchronise(late), number_now(place), number_now(copied)), (Ok(()), 0, 3));
}

/// Two streams have no order but the one that an event gives them: one that does not wait finds what was there before.
#[test]
fn a_stream_that_does_not_wait_for_another_comes_first() {
    let _driver = Driver::new();
    let kernel = function(module().unwrap(), c"gs_augment_advance").unwrap();
    let [writing, reading] = [(); 2].map(|()| stream(NON_BLOCKING).unwrap());
    let (place, copied, written) = (numbers(0, writing), numbers(0, reading), event(UNTIMED).unwrap());
    advance(kernel, place, 1, writing).unwrap();
    copy(copied, place, reading);
    assert_eq!((synchronise(reading), number_now(copied)), (Ok(()), 0));
    record(written, writing).unwrap();
    assert_eq!(wait(reading, written), Ok(()));
    // Neither what is told later nor where the event is recorded then is waited for.
    advance(kernel, place, 10, writing).unwrap();
    record(written, writing).unwrap();
    copy(copied, place, reading);
    assert_eq!((synchronise(reading), number_now(copied)), (Ok(()), 1));
    assert_eq!((synchronise(writing), number_now(place)), (Ok(()), 11));
}

/// The streams that the default one waits for are done when it does something, the others not.
#[test]
fn the_default_stream_waits_for_those_that_are_made_for_it() {
    let _driver = Driver::new();
    let kernel = function(module().unwrap(), c"gs_augment_advance").unwrap();
    for (flags, expected) in [(0, 2), (NON_BLOCKING, 1)] {
        let late = stream(flags).unwrap();
        let place = numbers(1, late);
        advance(kernel, place, 1, late).unwrap();
        assert_eq!(number_now(place), expected);
    }
}

#[test]
fn no_more_than_so_much_waits_in_a_stream() {
    let _driver = Driver::new();
    let (kernel, late) = (function(module().unwrap(), c"gs_augment_advance").unwrap(), stream(NON_BLOCKING).unwrap());
    let place = numbers(0, late);
    for (launches, done) in [(1024, 0), (3, 3)] {
        for _ in 0..launches {
            advance(kernel, place, 1, late).unwrap();
        }
        assert_eq!(number_now(place), done);
    }
    assert_eq!(number(place), 1027);
}

/// The seed of a drawn order, where a test of these runs in a process of its own.
pub(crate) const ORDER: &str = "GRAMSCOPE_TEST_ORDER";

/// With drawn orders a stream that does not wait for another comes sometimes first and sometimes last, but one that waits comes
/// last, and each does in order what it was told.
#[test]
fn orders_are_drawn() {
    if std::env::var_os(ORDER).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", "streams::orders_are_drawn"]).env(ORDER, "7").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let _driver = Driver::new();
    let kernel = function(module().unwrap(), c"gs_augment_advance").unwrap();
    let [writing, reading] = [(); 2].map(|()| stream(NON_BLOCKING).unwrap());
    let written = event(UNTIMED).unwrap();
    let read = |waits: bool| {
        let (place, copied) = (numbers(0, writing), numbers(9, reading));
        for _ in 0..2 {
            advance(kernel, place, 1, writing).unwrap();
        }
        record(written, writing).unwrap();
        if waits {
            wait(reading, written).unwrap();
        }
        copy(copied, place, reading);
        synchronise(reading).unwrap();
        (number_now(copied), number(place))
    };
    let mut without: Vec<_> = std::iter::repeat_with(|| read(false)).take(200).collect();
    without.sort_unstable();
    without.dedup();
    assert_eq!(without, [(0, 2), (1, 2), (2, 2)]);
    assert!(std::iter::repeat_with(|| read(true)).take(200).all(|seen| seen == (2, 2)));
}

#[test]
fn streams_and_events_are_no_more_once_destroyed() {
    let _driver = Driver::new();
    let (gone, gone_event) = (stream(NON_BLOCKING).unwrap(), event(0).unwrap());
    let (memory, kernel) = (numbers(1, gone), function(module().unwrap(), c"gs_augment_advance").unwrap());
    assert_eq!((destroy(gone), destroy_event(gone_event)), (Ok(()), Ok(())));
    let (stream, event) = (stream(NON_BLOCKING).unwrap(), event(0).unwrap());
    for wrong in [gone, gone_event, event, kernel, 77, usize::MAX] {
        assert_eq!((synchronise(wrong), destroy(wrong)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
        assert_eq!((allocate(4, wrong), free(memory, wrong)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
        assert_eq!(
            (advance(kernel, memory, 1, wrong), record(event, wrong)),
            (Err(INVALID_HANDLE), Err(INVALID_HANDLE))
        );
        assert_eq!(wait(wrong, event), Err(INVALID_HANDLE));
    }
    for wrong in [0, gone, gone_event, stream, usize::MAX] {
        assert_eq!((record(wrong, stream), wait(stream, wrong)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
        assert_eq!((destroy_event(wrong), elapsed(event, wrong)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
        // SAFETY: the call takes a handle.
        assert_eq!(unsafe { cuEventSynchronize(wrong) }, INVALID_HANDLE);
    }
    // The default stream is nobody's to destroy.
    assert_eq!((destroy(0), destroy(1)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
}

#[test]
fn time_is_taken_between_events_that_were_recorded_and_are_timed() {
    let _driver = Driver::new();
    let stream = stream(NON_BLOCKING).unwrap();
    let [start, middle, end, untimed] = [0, 0, 1, UNTIMED].map(|flags| event(flags).unwrap());
    assert_eq!(elapsed(start, end), Err(INVALID_HANDLE));
    for event in [start, untimed, middle] {
        record(event, stream).unwrap();
    }
    assert_eq!((elapsed(start, end), elapsed(start, untimed)), (Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
    let (to, from) = (allocate(1, stream).unwrap(), 1_u8);
    upload(to, &raw const from, 1, stream).unwrap();
    record(end, stream).unwrap();
    assert_eq!(elapsed(start, end), Err(NOT_READY));
    synchronise(stream).unwrap();
    // The whole is its parts; each is rounded three times on its way to milliseconds, by half of an epsilon.
    let [first, second, whole] =
        [(start, middle), (middle, end), (start, end)].map(|(from, to)| elapsed(from, to).unwrap());
    let apart = (f64::from(first) + f64::from(second) - f64::from(whole)).abs();
    assert!(apart <= 3.0 * f64::from(f32::EPSILON) * f64::from(whole), "{first} {second} {whole}");
}

#[test]
fn flags_that_are_not_known_are_refused() {
    let _driver = Driver::new();
    assert_eq!((stream(2), event(4), event(8)), (Err(INVALID_VALUE), Err(INVALID_VALUE), Err(INVALID_VALUE)));
    let (stream, event) = (stream(0).unwrap(), event(0).unwrap());
    // SAFETY: the call takes handles.
    assert_eq!(told(unsafe { cuStreamWaitEvent(stream, event, 2) }), Err(INVALID_VALUE));
    // An event that was never recorded is not waited for.
    assert_eq!(wait(stream, event), Ok(()));
}
