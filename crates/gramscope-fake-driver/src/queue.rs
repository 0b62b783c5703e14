//! What a stream has been told and has not done, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::context::Context;
use crate::work::Work;

/// The most that may wait in a stream: whoever tells it more waits for the first of it, as on a device.
const DEPTH: usize = 1024;

/// Work in the order of a stream.
pub(crate) struct Queue {
    pub(crate) context: Context,
    state: Mutex<State>,
    /// Something has been done.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    /// The first stays until it is done.
    waiting: VecDeque<Arc<Work>>,
    /// How much has been done.
    done: u64,
    /// Somebody does the first.
    is_busy: bool,
}

/// Something that a stream was told.
#[derive(Clone)]
pub(crate) struct Point {
    queue: Arc<Queue>,
    /// How much had been told with it.
    told: u64,
}

impl State {
    /// How much the stream has been told so far.
    fn told(&self) -> u64 {
        self.done + self.waiting.len() as u64
    }
}

impl Queue {
    pub(crate) fn new(context: Context) -> Arc<Self> {
        Arc::new(Self { context, state: Mutex::default(), progress: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what is waiting.
    pub(crate) fn tell(self: &Arc<Self>, work: Arc<Work>) -> Point {
        let mut state = self.state();
        state.waiting.push_back(work);
        let told = state.told();
        drop(state);
        self.do_until(told.saturating_sub(DEPTH as u64));
        Point { queue: Arc::clone(self), told }
    }

    /// Does all that it has been told by now.
    pub(crate) fn do_all(&self) {
        let told = self.state().told();
        self.do_until(told);
    }

    /// Does the first few, unless somebody is at it.
    pub(crate) fn do_some(&self, count: u64) {
        for _ in 0..count {
            let state = self.state();
            if state.is_busy {
                return;
            }
            self.do_first(state);
        }
    }

    /// Does what it was told up to there, or waits for whoever is at it. Nobody waits in a circle: what is being done waits only for
    /// what another stream was told before it.
    fn do_until(&self, told: u64) {
        let mut state = self.state();
        while state.done < told {
            if state.is_busy {
                state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                self.do_first(state);
                state = self.state();
            }
        }
    }

    /// Does what is first. Nobody is at it.
    fn do_first(&self, mut state: MutexGuard<'_, State>) {
        let Some(first) = state.waiting.front().cloned() else { return };
        state.is_busy = true;
        drop(state);
        first.run(self.context);
        let mut state = self.state();
        state.waiting.pop_front();
        state.done += 1;
        state.is_busy = false;
        drop(state);
        self.progress.notify_all();
    }

    /// Whether anything that is waiting is as it is asked for.
    pub(crate) fn any(&self, is_it: impl Fn(&Work) -> bool) -> bool {
        self.state().waiting.iter().any(|work| is_it(work))
    }
}

impl Point {
    /// Has the stream do all up to here.
    pub(crate) fn reach(&self) {
        self.queue.do_until(self.told);
    }
}
