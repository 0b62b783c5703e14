//! Streams that are late. What a stream other than the default one is told waits until somebody waits for it: for an event recorded
//! after it, for the stream, or in a stream that is waited for itself. So a program that reads what it has not waited for finds what
//! was there before, one that fills memory again too early has the wrong bytes read, and a stream that should have waited for
//! another comes first. That is one order of the many that a device may choose; where the machine says so, others are drawn. The
//! default stream does everything at once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::context::{self, Context};
use crate::machine::machine;
use crate::queue::{Point, Queue};
use crate::status::{Answer, INVALID_HANDLE};
use crate::table::Table;
use crate::work::Work;

/// A stream beside the default one.
struct Stream {
    /// What the default stream does waits for it, and it for that.
    blocking: bool,
    queue: Arc<Queue>,
}

static STREAMS: Table<Stream> = Table::new();

/// Whether a handle is a name of the default stream.
pub(crate) fn is_default(handle: usize) -> bool {
    handle <= 1
}

/// A new stream's handle.
pub(crate) fn create(context: Context, blocking: bool) -> usize {
    STREAMS.add(Stream { blocking, queue: Queue::new(context) })
}

/// Does what is left and forgets the stream.
pub(crate) fn destroy(handle: usize) -> Answer {
    let stream = STREAMS.remove(handle)?;
    stream.queue.do_all();
    Ok(())
}

/// The context of a stream. The default one is that of whoever speaks of it.
pub(crate) fn context(handle: usize) -> Answer<Context> {
    if is_default(handle) {
        return context::here();
    }
    let context = STREAMS.with(handle, |stream| stream.queue.context)?;
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

/// The streams of a context that `is_meant`.
fn queues(context: Context, is_meant: impl Fn(&Stream) -> bool) -> Vec<Arc<Queue>> {
    let mut queues = Vec::new();
    STREAMS.for_each(|stream| {
        if stream.queue.context == context && is_meant(stream) {
            queues.push(Arc::clone(&stream.queue));
        }
    });
    queues
}

/// Tells a stream of a context something, which it comes to later: where that is, for others to wait for. The default stream has
/// done it already, after what all streams were told that it waits for; they need not wait for it then.
pub(crate) fn tell(handle: usize, context: Context, work: impl Into<Arc<Work>>) -> Option<Point> {
    let work = work.into();
    let Ok(queue) = STREAMS.with(handle, |stream| Arc::clone(&stream.queue)) else {
        queues(context, |stream| stream.blocking).iter().for_each(|queue| queue.do_all());
        work.run(context);
        return None;
    };
    let point = queue.tell(work);
    get_on(context);
    Some(point)
}

/// Waits for all that a stream has been told.
pub(crate) fn synchronise(handle: usize) {
    // The default one has done it all.
    if let Ok(queue) = STREAMS.with(handle, |stream| Arc::clone(&stream.queue)) {
        queue.do_all();
    }
}

/// Waits for all that all streams of a context have been told.
pub(crate) fn synchronise_all(context: Context) {
    queues(context, |_| true).iter().for_each(|queue| queue.do_all());
}

/// Whether anything that waits in any stream is as it is asked for.
pub(crate) fn any_work(is_it: impl Fn(&Work) -> bool) -> bool {
    STREAMS.find(|stream| stream.queue.any(&is_it)).is_some()
}

/// Has some of the streams do some of what is waiting, where the machine's order is a drawn one.
fn get_on(context: Context) {
    static DRAWN: Mutex<u64> = Mutex::new(0);
    let Some(seed) = machine().order else { return };
    let draw = || {
        let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
        *drawn += 1;
        mixed(seed, *drawn)
    };
    for queue in queues(context, |_| draw().is_multiple_of(4)) {
        queue.do_some(draw() % 8);
    }
}

/// The `index`th of the numbers that a seed gives: SplitMix64 (Steele, Lea and Flood 2014).
fn mixed(seed: u64, index: u64) -> u64 {
    let mut number = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}
