//! Points in the work of streams.

use std::ffi::c_uint;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::context::{self, Context};
use crate::queue::Point;
use crate::status::{Answer, INVALID_HANDLE, INVALID_VALUE, NOT_READY};
use crate::stream;
use crate::table::Table;
use crate::work::Work;

/// Flags of events: whoever waits sleeps; time is not taken.
const BLOCKING: c_uint = 1;
const UNTIMED: c_uint = 2;

struct Event {
    context: Context,
    timed: bool,
    recorded: Option<Recorded>,
}

/// Where an event was recorded last.
#[derive(Clone)]
struct Recorded {
    /// When the stream came to it.
    at: Arc<OnceLock<Instant>>,
    /// Where that is, unless it is on the default stream, which has come to it already.
    point: Option<Point>,
}

static EVENTS: Table<Event> = Table::new();

/// A new event's handle.
pub(crate) fn create(flags: c_uint) -> Answer<usize> {
    let context = context::here()?;
    if flags & !(BLOCKING | UNTIMED) != 0 {
        return Err(INVALID_VALUE);
    }
    Ok(EVENTS.add(Event { context, timed: flags & UNTIMED == 0, recorded: None }))
}

/// Forgets an event. Who waits for it already is not concerned.
pub(crate) fn destroy(handle: usize) -> Answer {
    EVENTS.remove(handle).map(drop)
}

/// The event is where a stream of its context will come to next.
pub(crate) fn record(handle: usize, stream: usize) -> Answer {
    let here = stream::context_here(stream)?;
    if context(handle)? != here {
        return Err(INVALID_HANDLE);
    }
    let at = Arc::default();
    let point = stream::tell(stream, here, Work::Record(Arc::clone(&at)))?;
    EVENTS.with(handle, |event| event.recorded = Some(Recorded { at, point }))
}

/// The context of an event that can be used.
pub(crate) fn context(handle: usize) -> Answer<Context> {
    let context = EVENTS.with(handle, |event| event.context)?;
    context::usable(context).map(|()| context)
}

/// Where it was recorded, if there is anything to wait for.
fn point(handle: usize) -> Answer<Option<Point>> {
    EVENTS.with(handle, |event| event.recorded.as_ref()?.point.clone())
}

/// Waits for what the stream had been told by then; for nothing where it has not been recorded.
pub(crate) fn synchronise(handle: usize) -> Answer {
    if let Some(point) = point(handle)? {
        point.reach();
    }
    Ok(())
}

/// What a stream is told next waits for the event, wherever that was recorded by now.
pub(crate) fn wait(handle: usize, stream: usize) -> Answer {
    context(handle)?;
    if let Some(point) = point(handle)? {
        stream::tell(stream, stream::context_here(stream)?, Work::Wait(point))?;
    }
    Ok(())
}

/// Milliseconds between two points that streams have come to.
pub(crate) fn milliseconds(start: usize, end: usize) -> Answer<f32> {
    let recorded = |handle: usize| {
        context(handle)?;
        EVENTS.with(handle, |event| event.recorded.clone().filter(|_| event.timed))?.ok_or(INVALID_HANDLE)
    };
    let at = |recorded: &Recorded| recorded.at.get().copied().ok_or(NOT_READY);
    let [start, end] = [recorded(start)?, recorded(end)?];
    let (start, end) = (at(&start)?, at(&end)?);
    Ok(end.saturating_duration_since(start).as_secs_f32() * 1e3)
}
