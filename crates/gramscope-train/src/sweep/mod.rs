//! Training a family of runs from a plan.

mod plan;

use std::path::Path;

use candle_core::Device;

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
            Outcome::Done(_) => None,
        })
    }
}

/// Trains every run of `plan` that is not finished, each in a directory of its own below `dir`. A run that fails is
/// reported, and the others are trained all the same.
///
/// # Errors
/// A directory that is itself a run's, or data that cannot be read: what no run could do without.
pub fn sweep(
    plan: &Plan,
    dir: &Path,
    device: &Device,
    progress: &mut dyn FnMut(SweepEvent<'_>),
) -> Result<SweepSummary> {
    if dir.join(crate::directory::CONFIG).exists() {
        return Err(Error::SweepInRun { dir: dir.to_path_buf() });
    }
    let mut loaded: Option<(DataConfig, Dataset)> = None;
    let mut summary = SweepSummary::default();
    let of = plan.runs().len();
    for (index, (name, config)) in plan.runs().iter().enumerate() {
        progress(SweepEvent::Run { name, number: index + 1, of });
        let dataset = match loaded.take() {
            Some((data, dataset)) if data == config.data => dataset,
            _ => data::load(&config.data)?,
        };
        let training = &mut |event: Event<'_>| progress(SweepEvent::Training(event));
        let outcome = train(config, &dataset, &dir.join(name), device, Start::Resume, training);
        let outcome = match outcome.and_then(last_epoch) {
            Ok(metrics) => Outcome::Done(metrics),
            Err(error) => {
                let reason = error.to_string();
                progress(SweepEvent::Failed { name, reason: &reason });
                Outcome::Failed(reason)
            }
        };
        summary.runs.push((name.clone(), outcome));
        loaded = Some((config.data.clone(), dataset));
    }
    Ok(summary)
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
        let summary = sweep(&plan, &family, &Device::Cpu, &mut |_| {}).unwrap();
        let failed: Vec<bool> = summary.runs.iter().map(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect();
        assert_eq!(failed, [false, true, false, true]);
        assert!(summary.first_failure().unwrap().1.contains("learning_rate"));
        let mut steps = 0;
        sweep(&plan, &family, &Device::Cpu, &mut |event| {
            steps += usize::from(matches!(event, SweepEvent::Training(Event::Epoch(_))));
        })
        .unwrap();
        assert_eq!(steps, 0, "a finished run was trained again");
        let inside = sweep(&plan, &family.join(&plan.runs()[0].0), &Device::Cpu, &mut |_| {});
        assert!(matches!(inside, Err(Error::SweepInRun { .. })));
    }
}
