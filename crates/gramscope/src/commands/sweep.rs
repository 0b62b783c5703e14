//! `gramscope sweep`: a family from a plan.

use std::collections::BTreeMap;
use std::path::Path;

use gramscope_study::plot;
use gramscope_train::sweep::{self, Outcome, Plan, SweepEvent, SweepSummary};
use gramscope_train::{Event, Run};
use serde_json::json;

use super::training_progress::TrainingProgress;
use crate::arguments::SweepArguments;
use crate::console::Console;
use crate::device;
use crate::interrupt::Interrupt;

/// Trains what the plan lists and is not finished yet, then prints the family as a table.
///
/// # Errors
/// One run that failed makes the command fail, after the others have been trained, if there is room for what they leave.
pub(crate) fn run(arguments: &SweepArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let processors = device::processors(&arguments.devices, console)?;
    let plan = Plan::read(&arguments.plan)?;
    let mut progress = SweepProgress::new(console);
    let summary =
        sweep::sweep(&plan, &arguments.out, &processors, interrupt.requested(), &mut |event| progress.show(event))?;
    drop(progress);
    console.result(&table(&summary));
    if summary.first_elsewhere().is_none() {
        draw(&arguments.out, &summary)?;
    }
    if let Some((name, reason)) = summary.first_failure() {
        let run = arguments.out.join(name).display().to_string();
        return Err(anyhow::Error::new(reason.clone()).context(run));
    }
    Ok(())
}

/// Draws the runs that are done, if there are any: the whole family, for a process that leaves runs to others would draw a part of
/// it, perhaps after the last of them has drawn it all.
fn draw(dir: &Path, summary: &SweepSummary) -> anyhow::Result<()> {
    let done = summary.runs.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Done(_)));
    let runs = done.map(|(name, _)| Run::open(&dir.join(name))).collect::<Result<Vec<_>, _>>()?;
    if !runs.is_empty() {
        plot::family_pictures(dir, &runs);
    }
    Ok(())
}

/// Shows a family being trained.
pub(crate) struct SweepProgress<'a> {
    console: &'a Console,
    /// Of the runs that are being trained.
    training: BTreeMap<String, TrainingProgress<'a>>,
}

impl<'a> SweepProgress<'a> {
    pub(crate) fn new(console: &'a Console) -> Self {
        Self { console, training: BTreeMap::new() }
    }

    pub(crate) fn show(&mut self, event: SweepEvent<'_>) {
        match event {
            SweepEvent::Run { name, number, of } => {
                let fields = json!({ "run": name, "number": number, "of": of });
                self.console.note("run", &format!("run {number} of {of}: {name}"), fields);
            }
            SweepEvent::Training { name, event } => {
                let ends = matches!(event, Event::Finished);
                let training = self.training.entry(name.to_owned());
                training.or_insert_with(|| TrainingProgress::new(self.console)).show(event);
                if ends {
                    self.training.remove(name);
                }
            }
            SweepEvent::Failed { name, reason } => {
                self.training.remove(name);
                let fields = json!({ "run": name, "reason": reason.to_string() });
                self.console.note("failed", &format!("{name} failed: {reason}"), fields);
            }
        }
    }
}

/// A line a run.
fn table(summary: &SweepSummary) -> String {
    let width = summary.runs.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("run".len());
    let mut lines = vec![format!("{:<width$}  train loss  train acc.  test acc.", "run")];
    for (name, outcome) in &summary.runs {
        lines.push(match outcome {
            Outcome::Done(last) => format!(
                "{name:<width$}  {:>10.4}  {:>10.4}  {:>9.4}",
                last.train_loss, last.train_accuracy, last.test_accuracy
            ),
            Outcome::Failed(_) => format!("{name:<width$}  failed"),
            Outcome::Elsewhere => format!("{name:<width$}  in training by another process"),
        });
    }
    lines.join("\n")
}
