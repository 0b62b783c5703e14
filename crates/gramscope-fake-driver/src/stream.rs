//! Streams that copy late. What a stream other than the default one is to copy, to the device or to the host, waits until somebody
//! waits for it: for an event recorded after it, for the stream, or for what that stream is told next. So a program that reads what
//! it has not waited for finds what was there before, and one that fills memory again too early copies the wrong bytes. The default
//! stream does everything at once.

use std::collections::VecDeque;

use crate::context::{self, Context};
use crate::status::{Answer, INVALID_HANDLE};
use crate::table::Table;

/// A copy that has not been made yet.
#[derive(Clone, Copy, Debug)]
struct Copy {
    to: usize,
    from: usize,
    bytes: usize,
}

/// A stream beside the default one.
#[derive(Debug)]
struct Stream {
    context: Context,
    /// What the default stream does waits for it, and it for that.
    blocking: bool,
    waiting: VecDeque<Copy>,
    /// Copies made so far.
    made: u64,
}

static STREAMS: Table<Stream> = Table::new();

/// Whether a handle is a name of the default stream.
pub(crate) fn is_default(handle: usize) -> bool {
    handle <= 1
}

/// A new stream's handle.
pub(crate) fn create(context: Context, blocking: bool) -> usize {
    STREAMS.add(Stream { context, blocking, waiting: VecDeque::new(), made: 0 })
}

/// Does what is left and forgets the stream.
pub(crate) fn destroy(handle: usize) -> Answer {
    STREAMS.remove(handle).map(|mut stream| stream.make_until(u64::MAX))
}

/// The context of a stream. The default one is that of whoever speaks of it.
pub(crate) fn context(handle: usize) -> Answer<Context> {
    if is_default(handle) {
        return context::here();
    }
    let context = STREAMS.with(handle, |stream| stream.context)?;
    context::usable(context).map(|()| context)
}

/// The same, where this thread is to have turned to it.
pub(crate) fn context_here(handle: usize) -> Answer<Context> {
    let here = context::here()?;
    if context(handle)? == here { Ok(here) } else { Err(INVALID_HANDLE) }
}

/// Whether the default stream waits for a stream, and it for that.
pub(crate) fn is_blocking(handle: usize) -> bool {
    STREAMS.with(handle, |stream| stream.blocking).unwrap_or(false)
}

/// Copies: at once, or when it is waited for.
///
/// # Safety
/// The target may be written and the source read, now or until the copy is waited for.
pub(crate) unsafe fn copy(handle: usize, to: usize, from: usize, bytes: usize) {
    let copy = Copy { to, from, bytes };
    if STREAMS.with(handle, |stream| stream.waiting.push_back(copy)).is_err() {
        copy.make();
    }
}

/// How many copies a stream has been told to make.
pub(crate) fn copies(handle: usize) -> u64 {
    STREAMS.with(handle, |stream| stream.made + stream.waiting.len() as u64).unwrap_or(0)
}

/// Whether a stream has made so many. One that is gone has made all.
pub(crate) fn has_made(handle: usize, copies: u64) -> bool {
    STREAMS.with(handle, |stream| stream.made >= copies).unwrap_or(true)
}

/// Waits until a stream has made so many.
pub(crate) fn make_until(handle: usize, copies: u64) {
    // One that is gone, and the default one, have made all.
    let _ = STREAMS.with(handle, |stream| stream.make_until(copies));
}

/// Waits for all that a stream has been told.
pub(crate) fn synchronise(handle: usize) {
    make_until(handle, u64::MAX);
}

/// Waits for all that all streams of a context have been told.
pub(crate) fn synchronise_all(context: Context) {
    STREAMS.for_each(|stream| {
        if stream.context == context {
            stream.make_until(u64::MAX);
        }
    });
}

/// Whether a copy that has not been made yet would read or write a range.
pub(crate) fn uses(address: usize, bytes: usize) -> bool {
    let within = |start: usize, length: usize| start < address + bytes && address < start + length;
    let waiting = |copy: &Copy| within(copy.to, copy.bytes) || within(copy.from, copy.bytes);
    STREAMS.find(|stream| stream.waiting.iter().any(waiting)).is_some()
}

impl Stream {
    fn make_until(&mut self, copies: u64) {
        while self.made < copies {
            let Some(copy) = self.waiting.pop_front() else { return };
            copy.make();
            self.made += 1;
        }
    }
}

impl Copy {
    fn make(self) {
        // SAFETY: by the caller's promise. Memory that this library has given out is not taken back while a copy uses it.
        unsafe { std::ptr::copy(self.from as *const u8, self.to as *mut u8, self.bytes) };
    }
}
