//! Streams that are late. What a stream other than the default one is told waits until somebody waits for it: for an event recorded
//! after it, for the stream, or in a stream that is waited for itself. So a program that reads what it has not waited for finds what
//! was there before, one that fills memory again too early has the wrong bytes read, and a stream that should have waited for
//! another comes first. That is one order of the many that a device may choose; where the machine says so, others are drawn. Only so
//! much waits (in a stream 1,024 times something, and memory to be given back), as on a device. The default stream does everything at
//! once.

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
    /// Nobody can tell it anything any longer; what it was told, it will do.
    is_destroyed: bool,
}

static STREAMS: Table<Stream> = Table::new();

/// Whether a handle is a name of the default stream.
pub(crate) fn is_default(handle: usize) -> bool {
    handle <= 1
}

/// A new stream's handle.
pub(crate) fn create(context: Context, blocking: bool) -> usize {
    STREAMS.add(Stream { blocking, queue: Queue::new(context), is_destroyed: false })
}

/// Takes a stream's handle away, and waits for nothing.
pub(crate) fn destroy(handle: usize) -> Answer {
    with(handle, |stream| stream.is_destroyed = true)
}

/// Does `work` with a stream that has not been destroyed.
fn with<R>(handle: usize, work: impl FnOnce(&mut Stream) -> R) -> Answer<R> {
    STREAMS.with(handle, |stream| (!stream.is_destroyed).then(|| work(stream)))?.ok_or(INVALID_HANDLE)
}

/// The context of a stream. The default one is that of whoever speaks of it.
pub(crate) fn context(handle: usize) -> Answer<Context> {
    if is_default(handle) {
        return context::here();
    }
    let context = with(handle, |stream| stream.queue.context)?;
    context::usable(context).map(|()| context)
}

/// The same, where this thread is to have turned to it.
pub(crate) fn context_here(handle: usize) -> Answer<Context> {
    let here = context::here()?;
    if context(handle)? == here { Ok(here) } else { Err(INVALID_HANDLE) }
}

/// Whether the default stream waits for a stream, and it for that.
pub(crate) fn is_blocking(handle: usize) -> bool {
    with(handle, |stream| stream.blocking).unwrap_or(false)
}

/// The streams of a context that `is_meant`, destroyed ones too.
fn queues(context: Context, is_meant: impl Fn(&Stream) -> bool) -> Vec<Arc<Queue>> {
    let mut queues = Vec::new();
    STREAMS.for_each(|stream| {
        if stream.queue.context == context && is_meant(stream) {
            queues.push(Arc::clone(&stream.queue));
        }
    });
    queues
}

/// Tells a stream of a context something, which it comes to later: where that is, for others to wait for. The default stream comes to
/// it at once, after all that the streams it waits for were told, so that there is nothing to wait for.
pub(crate) fn tell(handle: usize, context: Context, work: impl Into<Arc<Work>>) -> Answer<Option<Point>> {
    let work = work.into();
    if is_default(handle) {
        queues(context, |stream| stream.blocking).iter().for_each(|queue| queue.do_all());
        work.run(context);
        return Ok(None);
    }
    let point = with(handle, |stream| Arc::clone(&stream.queue))?.tell(work);
    get_on(context);
    Ok(Some(point))
}

/// Waits for all that a stream has been told.
pub(crate) fn synchronise(handle: usize) {
    // The default one has done it all.
    if let Ok(queue) = with(handle, |stream| Arc::clone(&stream.queue)) {
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
