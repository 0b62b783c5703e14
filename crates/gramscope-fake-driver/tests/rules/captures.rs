//! What may not be done while a stream is captured, and what becomes of what was.

use std::thread;

use super::*;

const ILLEGAL_STATE: c_int = 401;
const UNSUPPORTED: c_int = 900;
const INVALIDATED: c_int = 901;
const ISOLATION: c_int = 905;
const IMPLICIT: c_int = 906;
const WRONG_THREAD: c_int = 908;

/// The modes of a capture.
const GLOBAL: c_uint = 0;
const THREAD_LOCAL: c_uint = 1;
const RELAXED: c_uint = 2;

/// Something that a driver is told.
type Call<'a> = &'a (dyn Fn() -> Result<(), c_int> + Sync);

fn begin(stream: usize, mode: c_uint) -> Result<(), c_int> {
    // SAFETY: the call takes a handle and a number.
    told(unsafe { cuStreamBeginCapture_v2(stream, mode) })
}

fn end(stream: usize) -> Result<usize, c_int> {
    // SAFETY: the handle may be written.
    given(|graph| unsafe { cuStreamEndCapture(stream, graph) })
}

fn status(stream: usize) -> Result<c_int, c_int> {
    // SAFETY: the number may be written.
    given(|status| unsafe { cuStreamIsCapturing(stream, status) })
}

fn instance(graph: usize) -> Result<usize, c_int> {
    // SAFETY: the handle may be written.
    given(|instance| unsafe { cuGraphInstantiateWithFlags(instance, graph, 0) })
}

fn replay(instance: usize, stream: usize) -> Result<(), c_int> {
    // SAFETY: what the kernels were given is there, or its absence is noticed.
    told(unsafe { cuGraphLaunch(instance, stream) })
}

fn synchronise_all() -> Result<(), c_int> {
    // SAFETY: the call takes nothing.
    told(unsafe { cuCtxSynchronize() })
}

fn advancing() -> usize {
    function(module().unwrap(), c"gs_augment_advance").unwrap()
}

/// Does something on a thread of its own that has turned to a context.
fn elsewhere<R: Send>(context: usize, work: impl FnOnce() -> R + Send) -> R {
    let turned = || {
        turn_to(context).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(turned).join().unwrap())
}

#[test]
fn what_is_captured_runs_when_its_graph_is_launched() {
    let _driver = Driver::new();
    let (captured, kernel) = (stream(NON_BLOCKING).unwrap(), advancing());
    let place = numbers(0, captured);
    assert_eq!((begin(captured, THREAD_LOCAL), status(captured)), (Ok(()), Ok(1)));
    for (stream, by) in [(captured, 3), (captured, 5), (0, 100)] {
        assert_eq!(advance(kernel, place, by, stream), Ok(()));
    }
    let graph = end(captured).unwrap();
    assert_eq!((number(place), status(captured)), (100, Ok(0)));
    let [first, second] = [(); 2].map(|()| instance(graph).unwrap());
    // SAFETY: the call takes a handle.
    assert_eq!(unsafe { cuGraphDestroy(graph) }, 0);
    assert_eq!((replay(first, captured), replay(second, captured), number(place)), (Ok(()), Ok(()), 116));
}

#[test]
fn the_host_is_called_in_order_too() {
    unsafe extern "C" fn double(number: *mut c_void) {
        // SAFETY: the test below gives it a number.
        unsafe { *number.cast::<u32>() *= 2 };
    }
    let _driver = Driver::new();
    let (captured, kernel) = (stream(NON_BLOCKING).unwrap(), advancing());
    let place = numbers(3, captured);
    // SAFETY: the number is there for as long as the driver is, here in the host's memory, and nobody else uses it meanwhile.
    let call = || told(unsafe { cuLaunchHostFunc(captured, Some(double), place as *mut c_void) });
    // SAFETY: no function is refused.
    assert_eq!(unsafe { cuLaunchHostFunc(captured, None, std::ptr::null_mut()) }, INVALID_VALUE);
    assert_eq!((call(), number(place), begin(captured, THREAD_LOCAL)), (Ok(()), 6, Ok(())));
    assert_eq!((call(), advance(kernel, place, 1, captured), call()), (Ok(()), Ok(()), Ok(())));
    let instance = instance(end(captured).unwrap()).unwrap();
    assert_eq!((number(place), replay(instance, captured), number(place)), (6, Ok(()), 26));
    assert_eq!((replay(instance, captured), number(place)), (Ok(()), 106));
}

/// What the stream is told that is no launch is refused, and what comes after is in vain.
#[test]
fn what_cannot_be_captured_spoils_a_capture() {
    let _driver = Driver::new();
    let (captured, kernel, event) = (stream(NON_BLOCKING).unwrap(), advancing(), event(0).unwrap());
    let place = numbers(1, captured);
    let replayed = {
        begin(captured, RELAXED).unwrap();
        advance(kernel, place, 0, captured).unwrap();
        instance(end(captured).unwrap()).unwrap()
    };
    let byte = 1_u8;
    let spoil: [(Call<'_>, c_int); 9] = [
        (&|| synchronise(captured), UNSUPPORTED),
        (&|| allocate(4, captured).map(drop), UNSUPPORTED),
        (&|| free(place, captured), UNSUPPORTED),
        (&|| upload(place, &raw const byte, 1, captured), UNSUPPORTED),
        // SAFETY: the byte is there.
        (&|| told(unsafe { cuMemsetD8Async(place, 0, 1, captured) }), UNSUPPORTED),
        (&|| record(event, captured), UNSUPPORTED),
        (&|| wait(captured, event), ISOLATION),
        (&|| replay(replayed, captured), UNSUPPORTED),
        (&synchronise_all, UNSUPPORTED),
    ];
    // Whatever the mode.
    for (mode, (spoil, status_then)) in
        [THREAD_LOCAL, RELAXED].into_iter().flat_map(|mode| spoil.map(|spoil| (mode, spoil)))
    {
        begin(captured, mode).unwrap();
        assert_eq!((spoil(), status(captured)), (Err(status_then), Ok(2)));
        assert_eq!((advance(kernel, place, 1, captured), end(captured)), (Err(INVALIDATED), Err(INVALIDATED)));
        assert_eq!(status(captured), Ok(0));
    }
    assert_eq!(number(place), 1);
}

#[test]
fn a_capture_is_begun_once_and_ended_by_its_thread() {
    let driver = Driver::new();
    let captured = stream(NON_BLOCKING).unwrap();
    assert_eq!((begin(0, RELAXED), begin(captured, 3)), (Err(UNSUPPORTED), Err(INVALID_VALUE)));
    assert_eq!(end(captured), Err(ILLEGAL_STATE));
    assert_eq!((begin(captured, THREAD_LOCAL), begin(captured, THREAD_LOCAL)), (Ok(()), Err(ILLEGAL_STATE)));
    assert_eq!(elsewhere(driver.contexts[0], || end(captured)), Err(WRONG_THREAD));
    assert!(end(captured).is_ok());
    begin(captured, RELAXED).unwrap();
    assert!(elsewhere(driver.contexts[0], || end(captured)).is_ok());
}

/// Calls that no stream shows: whom they are forbidden to is the mode's to say.
#[test]
fn what_might_be_unsafe_is_refused_as_the_mode_says() {
    let driver = Driver::new();
    let (captured, other, recorded) = (stream(NON_BLOCKING).unwrap(), stream(NON_BLOCKING).unwrap(), event(0).unwrap());
    record(recorded, other).unwrap();
    // SAFETY: the call takes a handle.
    let wait_for = || told(unsafe { cuEventSynchronize(recorded) });
    let module_before = module().unwrap();
    let pinned_before = pinned(4).unwrap();
    let calls: [Call<'_>; 6] = [
        &|| pinned(4).map(drop),
        &|| free_pinned(pinned_before),
        &|| module().map(drop),
        &|| unload(module_before),
        &|| synchronise(other),
        &wait_for,
    ];
    for call in calls {
        for (mode, here, there) in [(GLOBAL, true, true), (THREAD_LOCAL, true, false), (RELAXED, false, false)] {
            for (forbidden, is_here) in [(here, true), (there, false)] {
                begin(captured, mode).unwrap();
                let result = if is_here { call() } else { elsewhere(driver.contexts[0], call) };
                assert_eq!((result == Err(UNSUPPORTED), end(captured).is_err()), (forbidden, forbidden), "{mode}");
            }
        }
    }
    // What is enqueued elsewhere concerns nobody.
    begin(captured, GLOBAL).unwrap();
    assert_eq!((allocate(4, other).is_ok(), record(recorded, other), end(captured).is_ok()), (true, Ok(()), true));
}

/// Whoever waits for all of a device waits for the stream that is captured, which cannot be.
#[test]
fn waiting_for_a_whole_device_spoils_the_captures_of_all_threads() {
    let driver = Driver::new();
    let captured = stream(NON_BLOCKING).unwrap();
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        begin(captured, mode).unwrap();
        assert_eq!(elsewhere(driver.contexts[1], synchronise_all), Ok(()));
        assert_eq!(elsewhere(driver.contexts[0], synchronise_all), Err(UNSUPPORTED));
        assert_eq!(end(captured), Err(INVALIDATED));
    }
}

#[test]
fn the_default_stream_may_not_wait_for_a_captured_one() {
    let _driver = Driver::new();
    let kernel = advancing();
    for (flags, expected) in [(NON_BLOCKING, Ok(())), (0, Err(IMPLICIT))] {
        let captured = stream(flags).unwrap();
        let (place, event) = (numbers(1, captured), event(0).unwrap());
        let calls: [&dyn Fn() -> Result<(), c_int>; 4] =
            [&|| advance(kernel, place, 1, 0), &|| allocate(4, 0).map(drop), &|| record(event, 0), &|| {
                status(0).map(drop)
            }];
        for call in calls {
            begin(captured, THREAD_LOCAL).unwrap();
            assert_eq!((call(), end(captured).is_ok()), (expected, expected.is_ok()));
        }
    }
}

#[test]
fn graphs_are_no_more_once_destroyed() {
    let driver = Driver::new();
    let (captured, kernel) = (stream(NON_BLOCKING).unwrap(), advancing());
    let place = numbers(1, captured);
    begin(captured, THREAD_LOCAL).unwrap();
    advance(kernel, place, 1, captured).unwrap();
    let graph = end(captured).unwrap();
    let made = instance(graph).unwrap();
    // SAFETY: the calls take handles.
    let (destroy, forget) =
        (|graph| told(unsafe { cuGraphDestroy(graph) }), |made| told(unsafe { cuGraphExecDestroy(made) }));
    assert_eq!(
        (replay(graph, captured), destroy(made), forget(graph)),
        (Err(INVALID_HANDLE), Err(INVALID_HANDLE), Err(INVALID_HANDLE))
    );
    // SAFETY: the handle may be written.
    assert_eq!(given(|made: *mut usize| unsafe { cuGraphInstantiateWithFlags(made, graph, 1) }), Err(INVALID_VALUE));
    turn_to(driver.contexts[1]).unwrap();
    assert_eq!(replay(made, stream(NON_BLOCKING).unwrap()), Err(INVALID_VALUE));
    turn_to(driver.contexts[0]).unwrap();
    assert_eq!((destroy(graph), destroy(graph), instance(graph)), (Ok(()), Err(INVALID_HANDLE), Err(INVALID_HANDLE)));
    assert_eq!(
        (forget(made), forget(made), replay(made, captured)),
        (Ok(()), Err(INVALID_HANDLE), Err(INVALID_HANDLE))
    );
    assert_eq!(number(place), 1);
}

/// A graph keeps addresses, not memory; even memory that comes to lie at the same address is another's.
#[test]
fn a_graph_whose_memory_has_been_given_back_is_noticed() {
    let _driver = Driver::new();
    let (captured, kernel) = (stream(NON_BLOCKING).unwrap(), advancing());
    let place = numbers(1, captured);
    begin(captured, THREAD_LOCAL).unwrap();
    advance(kernel, place, 1, captured).unwrap();
    let made = instance(end(captured).unwrap()).unwrap();
    assert_eq!((replay(made, captured), number(place), free(place, captured)), (Ok(()), 2, Ok(())));
    assert_eq!((replay(made, captured), synchronise(captured)), (Ok(()), Err(ILLEGAL_ADDRESS)));
}

#[test]
fn a_destroyed_stream_captures_no_longer() {
    let _driver = Driver::new();
    let captured = stream(0).unwrap();
    begin(captured, GLOBAL).unwrap();
    // SAFETY: the call takes a handle.
    assert_eq!(told(unsafe { cuStreamDestroy_v2(captured) }), Ok(()));
    assert_eq!((end(captured), pinned(4).is_ok(), synchronise_all()), (Err(INVALID_HANDLE), true, Ok(())));
}
