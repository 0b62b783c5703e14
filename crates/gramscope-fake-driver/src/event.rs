//! Points in the work of streams.

use std::ffi::c_uint;
use std::time::Instant;

use crate::context::{self, Context};
use crate::status::{Answer, INVALID_HANDLE, INVALID_VALUE, NOT_READY};
use crate::stream;
use crate::table::Table;

/// Flags of events: whoever waits sleeps; time is not taken.
const BLOCKING: c_uint = 1;
const UNTIMED: c_uint = 2;

#[derive(Clone, Copy)]
struct Event {
    context: Context,
    timed: bool,
    /// Where it was recorded last.
    point: Option<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    at: Instant,
    stream: usize,
    /// Copies that the stream had been told to make by then.
    copies: u64,
}

static EVENTS: Table<Event> = Table::new();

/// A new event's handle.
pub(crate) fn create(flags: c_uint) -> Answer<usize> {
    let context = context::here()?;
    if flags & !(BLOCKING | UNTIMED) != 0 {
        return Err(INVALID_VALUE);
    }
    Ok(EVENTS.add(Event { context, timed: flags & UNTIMED == 0, point: None }))
}

/// Forgets an event. Who waits for it already is not concerned.
pub(crate) fn destroy(handle: usize) -> Answer {
    EVENTS.remove(handle).map(drop)
}

/// The event is the point that a stream of its context has come to.
pub(crate) fn record(handle: usize, stream: usize) -> Answer {
    let context = stream::context_here(stream)?;
    let point = Point { at: Instant::now(), stream, copies: stream::copies(stream) };
    EVENTS.with(handle, |event| {
        if event.context != context {
            return Err(INVALID_HANDLE);
        }
        event.point = Some(point);
        Ok(())
    })?
}

/// The context of an event that can be used.
pub(crate) fn context(handle: usize) -> Answer<Context> {
    let context = EVENTS.with(handle, |event| event.context)?;
    context::usable(context).map(|()| context)
}

/// Waits for what the stream had been told by then; for nothing where it has not been recorded.
pub(crate) fn wait(handle: usize) -> Answer {
    context(handle)?;
    if let Some(Point { stream, copies, .. }) = EVENTS.with(handle, |event| event.point)? {
        stream::make_until(stream, copies);
    }
    Ok(())
}

/// Milliseconds between two points that streams have come to.
pub(crate) fn milliseconds(start: usize, end: usize) -> Answer<f32> {
    let at = |handle: usize| {
        context(handle)?;
        let event = EVENTS.with(handle, |event| *event)?;
        let point = event.point.filter(|_| event.timed).ok_or(INVALID_HANDLE)?;
        if stream::has_made(point.stream, point.copies) { Ok(point.at) } else { Err(NOT_READY) }
    };
    let (start, end) = (at(start)?, at(end)?);
    Ok(end.saturating_duration_since(start).as_secs_f32() * 1e3)
}
