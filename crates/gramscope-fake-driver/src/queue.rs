//! What a stream has been told and has not done, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::context::Context;
use crate::work::Work;

/// The most that may wait in a stream: whoever tells it more waits for the first of it, as on a device.
const DEPTH: usize = 1024;

/// Work in the order of a stream.
pub(crate) struct Queue {
    pub(crate) context: Context,
    waiting: Mutex<Waiting>,
    /// How much has been done.
    done: AtomicU64,
    /// Whose turn it is to do the first. Nobody waits for it in a circle: a stream waits only for what another was told before.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Arc<Work>>,
    /// How much the stream has been told so far.
    told: u64,
}

/// Something that a stream was told.
#[derive(Clone)]
pub(crate) struct Point {
    queue: Arc<Queue>,
    /// How much had been told with it.
    told: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let (waiting, done, turn) = (Mutex::default(), AtomicU64::new(0), Mutex::new(()));
        Arc::new(Self { context, waiting, done, turn })
    }

    /// Adds to what is waiting.
    pub(crate) fn tell(self: &Arc<Self>, work: Arc<Work>) -> Point {
        let mut waiting = lock(&self.waiting);
        waiting.work.push_back(work);
        waiting.told += 1;
        let (told, depth) = (waiting.told, waiting.work.len() as u64);
        drop(waiting);
        if depth > DEPTH as u64 {
            self.do_until(told - DEPTH as u64);
        }
        Point { queue: Arc::clone(self), told }
    }

    /// Does all that it has been told by now.
    pub(crate) fn do_all(&self) {
        let told = lock(&self.waiting).told;
        self.do_until(told);
    }

    /// Does the first few, unless somebody is at it.
    pub(crate) fn do_some(&self, count: u64) {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        for _ in 0..count {
            self.do_first();
        }
    }

    fn do_until(&self, told: u64) {
        while !self.has_done(told) {
            let _turn = lock(&self.turn);
            if !self.has_done(told) {
                self.do_first();
            }
        }
    }

    fn has_done(&self, told: u64) -> bool {
        self.done.load(Ordering::Acquire) >= told
    }

    /// Does what is first, which stays there until it is done. For whose turn it is.
    fn do_first(&self) {
        let Some(first) = lock(&self.waiting).work.front().cloned() else { return };
        first.run(self.context);
        lock(&self.waiting).work.pop_front();
        self.done.fetch_add(1, Ordering::Release);
    }

    /// Whether anything that is waiting is as it is asked for.
    pub(crate) fn any(&self, is_it: impl Fn(&Work) -> bool) -> bool {
        lock(&self.waiting).work.iter().any(|work| is_it(work))
    }
}

impl Point {
    /// Has the stream do all up to here.
    pub(crate) fn reach(&self) {
        self.queue.do_until(self.told);
    }
}
