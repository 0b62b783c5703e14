//! Training a family of runs from a plan.

mod plan;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gramscope_nn::Processor;

pub use plan::Plan;

use crate::data::{self, DataConfig, Dataset};
use crate::directory::Start;
use crate::error::{Error, Result};
use crate::metrics::EpochMetrics;
use crate::run::Run;
use crate::trainer::{Event, train};

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
    /// Something happened in it.
    Training(Event<'a>),
    /// It failed; the others go on.
    Failed {
        /// Its name.
        name: &'a str,
        /// Why.
        reason: &'a str,
    },
}

/// How a run of the family ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Trained, now or earlier: its last epoch.
    Done(EpochMetrics),
    /// Not trained to its end, and why.
    Failed(String),
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
    pub fn first_failure(&self) -> Option<(&str, &str)> {
        self.runs.iter().find_map(|(name, outcome)| match outcome {
            Outcome::Failed(reason) => Some((name.as_str(), reason.as_str())),
            Outcome::Done(_) | Outcome::Elsewhere => None,
        })
    }

    /// The first run that another process is training.
    pub fn first_elsewhere(&self) -> Option<&str> {
        self.runs.iter().find_map(|(name, outcome)| matches!(outcome, Outcome::Elsewhere).then_some(name.as_str()))
    }
}

/// Trains every run of `plan` that is not finished, each in a directory of its own below `dir`. A run that fails is
/// reported, and the others are trained all the same.
///
/// Several processes may work on one directory: each takes the runs that no other is training. One that finds nothing left
/// to take ends, and says which runs are still trained elsewhere.
///
/// # Errors
/// A directory that is itself a run's, or data that cannot be read: what no run could do without.
/// [`Error::Interrupted`] once `stop` is set.
pub fn sweep(
    plan: &Plan,
    dir: &Path,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(SweepEvent<'_>),
) -> Result<SweepSummary> {
    if dir.join(crate::directory::CONFIG).exists() {
        return Err(Error::SweepInRun { dir: dir.to_path_buf() });
    }
    let mut family = Family { plan, dir, processor, stop, loaded: None };
    let mut outcomes = vec![Outcome::Elsewhere; plan.runs().len()];
    loop {
        let mut taken = 0;
        for (index, outcome) in outcomes.iter_mut().enumerate() {
            if matches!(outcome, Outcome::Elsewhere) {
                *outcome = family.train(index, progress)?;
                taken += usize::from(!matches!(outcome, Outcome::Elsewhere));
            }
        }
        // While this process trained, another may have been killed and have left a run.
        if taken == 0 || !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Elsewhere)) {
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
    processor: &'a Processor,
    stop: &'a AtomicBool,
    /// The data of the run before, which are most likely those of the next.
    loaded: Option<(DataConfig, Dataset)>,
}

impl Family<'_> {
    /// Trains the plan's run `index`, unless another process is at it.
    fn train(&mut self, index: usize, progress: &mut dyn FnMut(SweepEvent<'_>)) -> Result<Outcome> {
        let (name, config) = &self.plan.runs()[index];
        progress(SweepEvent::Run { name, number: index + 1, of: self.plan.runs().len() });
        let dataset = match self.loaded.take() {
            Some((data, dataset)) if data == config.data => dataset,
            _ => data::load(&config.data)?,
        };
        let training = &mut |event: Event<'_>| progress(SweepEvent::Training(event));
        let run = train(config, &dataset, &self.dir.join(name), self.processor, Start::Resume, self.stop, training);
        self.loaded = Some((config.data.clone(), dataset));
        match run.and_then(last_epoch) {
            Ok(metrics) => Ok(Outcome::Done(metrics)),
            Err(Error::Busy { .. }) => Ok(Outcome::Elsewhere),
            Err(interrupted @ Error::Interrupted { .. }) => Err(interrupted),
            Err(error) => {
                let reason = error.to_string();
                progress(SweepEvent::Failed { name, reason: &reason });
                Ok(Outcome::Failed(reason))
            }
        }
    }
}

fn last_epoch(run: Run) -> Result<EpochMetrics> {
    run.metrics()?.pop().ok_or_else(|| Error::NotARun {
        dir: run.dir().to_path_buf(),
        missing: "its metrics.jsonl is empty".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PLAN: &str = "[data]\nname = \"builtin\"\ntrain_images = 40\ntest_images = 20\nimage_side = 8\n\
        [train]\nepochs = 1\nbatch_size = 16\ndepth = 8\n[family]\nwidth = [0.25]\nseed = [0, 1]\nlearning_rate = [0.01, 1e30]\n";

    #[test]
    fn a_run_that_diverges_does_not_stop_the_others_and_nothing_is_trained_twice() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::parse(PLAN).unwrap();
        let family = dir.path().join("family");
        let summary = sweep(&plan, &family, &Processor::Cpu, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let failed: Vec<bool> = summary.runs.iter().map(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect();
        assert_eq!(failed, [false, true, false, true]);
        assert!(summary.first_failure().unwrap().1.contains("learning_rate"));
        let mut steps = 0;
        sweep(&plan, &family, &Processor::Cpu, &AtomicBool::new(false), &mut |event| {
            steps += usize::from(matches!(event, SweepEvent::Training(Event::Epoch(_))));
        })
        .unwrap();
        assert_eq!(steps, 0, "a finished run was trained again");
        let inside =
            sweep(&plan, &family.join(&plan.runs()[0].0), &Processor::Cpu, &AtomicBool::new(false), &mut |_| {});
        assert!(matches!(inside, Err(Error::SweepInRun { .. })));
    }
}
