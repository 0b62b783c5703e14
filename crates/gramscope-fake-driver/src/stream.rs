//! Streams that copy late. What a stream other than the default one is to copy, to the device or to the host, waits until somebody
//! waits for it: for an event recorded after it, for the stream, or for what that stream is told next. So a program that reads what
//! it has not waited for finds what was there before, and one that fills memory again too early copies the wrong bytes. The default
//! stream does everything at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A copy that has not been made yet.
#[derive(Clone, Copy, Debug)]
struct Copy {
    to: usize,
    from: usize,
    bytes: usize,
}

/// The copies of one stream.
#[derive(Debug, Default)]
struct Stream {
    waiting: VecDeque<Copy>,
    /// Copies made so far.
    made: u64,
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event {
    pub(crate) at: Instant,
    stream: usize,
    /// Copies that the stream had been told to make by then.
    copies: u64,
}

/// Streams by their handles; the default stream's is 0, and cudarc knows some below 16.
static STREAMS: Mutex<BTreeMap<usize, Stream>> = Mutex::new(BTreeMap::new());
const FIRST_HANDLE: usize = 16;

fn streams() -> std::sync::MutexGuard<'static, BTreeMap<usize, Stream>> {
    STREAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new stream's handle.
pub(crate) fn create() -> usize {
    let mut streams = streams();
    let handle = streams.last_key_value().map_or(FIRST_HANDLE, |(last, _)| last + 1);
    streams.insert(handle, Stream::default());
    handle
}

/// Does what is left and forgets the stream; false if there is none.
pub(crate) fn destroy(handle: usize) -> bool {
    synchronise(handle);
    streams().remove(&handle).is_some()
}

/// Copies: at once, or when it is waited for.
///
/// # Safety
/// The target may be written and the source read, now or until the copy is waited for.
pub(crate) unsafe fn copy(handle: usize, to: usize, from: usize, bytes: usize) {
    let copy = Copy { to, from, bytes };
    match streams().get_mut(&handle) {
        Some(stream) => stream.waiting.push_back(copy),
        None => copy.make(),
    }
}

/// Waits for all that a stream has been told.
pub(crate) fn synchronise(handle: usize) {
    if let Some(stream) = streams().get_mut(&handle) {
        stream.make_until(u64::MAX);
    }
}

/// Waits for all that all streams have been told.
pub(crate) fn synchronise_all() {
    streams().values_mut().for_each(|stream| stream.make_until(u64::MAX));
}

/// Whether a copy that has not been made yet would read or write a range.
pub(crate) fn uses(address: usize, bytes: usize) -> bool {
    let within = |start: usize, length: usize| start < address + bytes && address < start + length;
    let waiting = |copy: &Copy| within(copy.to, copy.bytes) || within(copy.from, copy.bytes);
    streams().values().any(|stream| stream.waiting.iter().any(waiting))
}

impl Event {
    /// The point that a stream has come to.
    pub(crate) fn in_stream(handle: usize) -> Self {
        let copies = streams().get(&handle).map_or(0, |stream| stream.made + stream.waiting.len() as u64);
        Self { at: Instant::now(), stream: handle, copies }
    }

    /// Waits for what the stream had been told by then.
    pub(crate) fn wait(&self) {
        if let Some(stream) = streams().get_mut(&self.stream) {
            stream.make_until(self.copies);
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory;

    #[test]
    fn copies_are_made_when_they_are_waited_for() {
        let to = memory::allocate(8, usize::MAX, memory::Kind::Device).unwrap();
        // SAFETY: eight bytes were allocated.
        let found = || unsafe { (to as *const u64).read() };
        let stream = create();
        let values = [1_u64, 2, 3];
        // SAFETY: the target has eight bytes, and the sources outlive the copies.
        let send = |index: usize| unsafe { copy(stream, to, &raw const values[index] as usize, 8) };
        send(0);
        let first = Event::in_stream(stream);
        send(1);
        let before = Event::in_stream(0);
        before.wait();
        assert_eq!(found(), u64::MAX);
        first.wait();
        first.wait();
        assert_eq!(found(), 1);
        assert!(uses(to + 7, 1) && !uses(to + 8, 1));
        synchronise(stream);
        assert!(found() == 2 && !uses(to, 8));
        send(2);
        assert!(destroy(stream) && !destroy(stream));
        assert_eq!(found(), 3);

        let (back, host) = (create(), memory::allocate(8, usize::MAX, memory::Kind::Host).unwrap());
        // SAFETY: both have eight bytes, and are not given back before the copy is made.
        unsafe { copy(back, host, to, 8) };
        // SAFETY: eight bytes were allocated.
        let returned = || unsafe { (host as *const u64).read() };
        assert!(returned() == u64::MAX && !memory::free(host));
        synchronise(back);
        assert_eq!(returned(), 3);
        assert!(memory::free(host) && memory::free(to));
    }
}
