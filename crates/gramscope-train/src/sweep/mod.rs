//! Training a family of runs from a plan.

mod plan;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use gramscope_nn::Processor;

pub use plan::Plan;

use crate::data::{self, DataConfig, Dataset};
use crate::directory::Start;
use crate::error::{Error, Result};
use crate::metrics::EpochMetrics;
use crate::run::Run;
use crate::trainer::{Event, finished, train};

/// What happens while a family is trained.
#[derive(Debug)]
pub enum SweepEvent<'a> {
    /// A run's turn has come.
    Run {
        /// Its name.
        name: &'a str,
        /// Which of the plan's runs, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// Something happened in a run whose turn had come.
    Training {
        /// Its name.
        name: &'a str,
        /// What.
        event: Event<'a>,
    },
    /// One failed; the others go on.
    Failed {
        /// Its name.
        name: &'a str,
        /// Why.
        reason: &'a Error,
    },
}

/// How a run of the family ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Trained, now or earlier: its last epoch.
    Done(EpochMetrics),
    /// Not trained to its end, and why.
    Failed(Arc<Error>),
    /// Another process is training it.
    Elsewhere,
}

/// The family, a run each, in the plan's order.
#[derive(Clone, Debug, Default)]
pub struct SweepSummary {
    /// Names and outcomes.
    pub runs: Vec<(String, Outcome)>,
}

impl SweepSummary {
    /// The first run that failed, and why.
    pub fn first_failure(&self) -> Option<(&str, &Arc<Error>)> {
        self.runs.iter().find_map(|(name, outcome)| match outcome {
            Outcome::Failed(reason) => Some((name.as_str(), reason)),
            Outcome::Done(_) | Outcome::Elsewhere => None,
        })
    }

    /// The first run that another process is training.
    pub fn first_elsewhere(&self) -> Option<&str> {
        self.runs.iter().find_map(|(name, outcome)| matches!(outcome, Outcome::Elsewhere).then_some(name.as_str()))
    }
}

/// Hears what happens while a family is trained, a thing at a time, from whichever thread.
pub type Progress<'a> = dyn FnMut(SweepEvent<'_>) + Send + 'a;

/// Trains every run of `plan` that is not finished, each in a directory of its own below `dir`. A run that fails is
/// reported, and the others are trained all the same; but for one that fails of a disk that takes nothing, after which none is begun.
///
/// Each of `processors` trains one run after the other, at the same time as the others, on a thread of its own; a run has the
/// same bits whichever trains it. On a GPU that is to train several at once each needs a stream of its own
/// ([`gramscope_cuda::Device::fork`]).
///
/// Several processes may work on one directory: each takes the runs that no other is training. One that finds nothing left
/// to take ends, and says which runs are still trained elsewhere.
///
/// # Errors
/// A directory that is itself a run's, or data that cannot be read: what no run could do without.
/// [`Error::Io`] of a disk that is full, or cannot be written, once the runs at work have ended;
/// [`Error::Interrupted`] once `stop` is set, and every run that was being trained has written its checkpoint.
///
/// # Panics
/// Without a processor.
pub fn sweep(
    plan: &Plan,
    dir: &Path,
    processors: &[Processor],
    stop: &AtomicBool,
    progress: &mut Progress<'_>,
) -> Result<SweepSummary> {
    if dir.join(crate::directory::CONFIG).exists() {
        return Err(Error::SweepInRun { dir: dir.to_path_buf() });
    }
    let family = Family { plan, dir, stop, loaded: Mutex::new(None), progress: Mutex::new(progress) };
    let mut outcomes = vec![Outcome::Elsewhere; plan.runs().len()];
    loop {
        let left: Vec<usize> =
            (0..outcomes.len()).filter(|&index| matches!(outcomes[index], Outcome::Elsewhere)).collect();
        let taken = family.train_all(&left, processors)?;
        let count = taken.len();
        for (index, outcome) in taken {
            outcomes[index] = outcome;
        }
        // While this process trained, another may have been killed and have left a run.
        if count == 0 || count == left.len() {
            break;
        }
    }
    let names = plan.runs().iter().map(|(name, _)| name.clone());
    Ok(SweepSummary { runs: names.zip(outcomes).collect() })
}

/// A family being trained.
struct Family<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    stop: &'a AtomicBool,
    /// The data of the run before, which are most likely those of the next.
    loaded: Mutex<Option<(DataConfig, Arc<Dataset>)>>,
    progress: Mutex<&'a mut Progress<'a>>,
}

impl Family<'_> {
    /// Trains the plan's runs with these indices, but those that other processes are at; returns what came of which.
    fn train_all(&self, runs: &[usize], processors: &[Processor]) -> Result<Vec<(usize, Outcome)>> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = |processor: &Processor| {
            let mut taken = Vec::new();
            while !failed.load(Ordering::Relaxed)
                && let Some(&index) = runs.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let outcome = self.train(index, processor);
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                match outcome? {
                    Outcome::Elsewhere => {}
                    outcome => taken.push((index, outcome)),
                }
            }
            Ok(taken)
        };
        let (first, others) = processors.split_first().expect("a sweep without a processor");
        thread::scope(|scope| {
            let others: Vec<_> = others.iter().map(|processor| scope.spawn(|| work(processor))).collect();
            let first = work(first);
            let others = others.into_iter().map(|other| other.join().expect("a run's thread panicked"));
            // Wait for all, whatever came of the first.
            let all: Vec<Result<_>> = [first].into_iter().chain(others).collect();
            Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
        })
    }

    /// Trains the plan's run `index`, unless another process is at it.
    fn train(&self, index: usize, processor: &Processor) -> Result<Outcome> {
        let (name, config) = &self.plan.runs()[index];
        self.tell(SweepEvent::Run { name, number: index + 1, of: self.plan.runs().len() });
        let dir = self.dir.join(name);
        let run = match finished(config, &dir) {
            Ok(Some(run)) => Ok(run),
            Ok(None) => {
                let dataset = self.data(&config.data)?;
                let training = &mut |event: Event<'_>| self.tell(SweepEvent::Training { name, event });
                train(config, &dataset, &dir, processor, Start::Resume, self.stop, training)
            }
            Err(problem) => Err(problem),
        };
        match run.and_then(last_epoch) {
            Ok(metrics) => Ok(Outcome::Done(metrics)),
            Err(Error::Busy { .. }) => Ok(Outcome::Elsewhere),
            Err(reason) if matches!(reason, Error::Interrupted { .. }) || reason.befalls_all() => Err(reason),
            Err(error) => {
                self.tell(SweepEvent::Failed { name, reason: &error });
                Ok(Outcome::Failed(Arc::new(error)))
            }
        }
    }

    /// The data that `config` describes; once for all runs that share them.
    fn data(&self, config: &DataConfig) -> Result<Arc<Dataset>> {
        let mut loaded = locked(&self.loaded);
        if let Some((data, dataset)) = &*loaded
            && data == config
        {
            return Ok(dataset.clone());
        }
        // Give back the others first.
        *loaded = None;
        let dataset = Arc::new(data::load(config)?);
        *loaded = Some((config.clone(), dataset.clone()));
        Ok(dataset)
    }

    fn tell(&self, event: SweepEvent<'_>) {
        locked(&self.progress)(event);
    }
}

/// What a thread that panicked has left is as good as before.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn last_epoch(run: Run) -> Result<EpochMetrics> {
    run.metrics()?.pop().ok_or_else(|| Error::NotARun {
        dir: run.dir().to_path_buf(),
        missing: "its metrics.jsonl is empty".to_owned(),
    })
}

#[cfg(test)]
mod tests;
