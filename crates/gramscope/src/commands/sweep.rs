//! `gramscope sweep`: a family from a plan.

use gramscope_train::sweep::{self, Plan, RunOutcome, SweepEvent, SweepSummary};
use serde_json::json;

use super::training_progress::TrainingProgress;
use crate::arguments::SweepArguments;
use crate::console::Console;
use crate::device;

/// Trains what the plan lists and is not finished yet, then prints the family as a table.
///
/// # Errors
/// One run that failed makes the command fail, after the others have been trained.
pub(crate) fn run(arguments: &SweepArguments, console: &Console) -> anyhow::Result<()> {
    let device = device::open(arguments.device.device, arguments.device.precision)?;
    let plan = Plan::read(&arguments.plan)?;
    let mut progress = SweepProgress::new(console);
    let summary = sweep::sweep(&plan, &arguments.out, &device, &mut |event| progress.show(event))?;
    console.result(&table(&summary));
    Ok(())
}
