//! `gramscope study`: a figure of the paper, from nothing.

use std::path::PathBuf;

use gramscope_study::studies::{self, Scale, StudyEvent, StudyOptions, StudyPlan};

use super::sweep::SweepProgress;
use super::{other_data, show_progress};
use crate::arguments::StudyArguments;
use crate::console::{Console, Unit};
use crate::interrupt::Interrupt;
use crate::{device, memory};

/// Carries out the study that is named, or lists those there are.
pub(crate) fn run(arguments: &StudyArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let Some(name) = &arguments.name else {
        console.result(&list());
        return Ok(());
    };
    let plan = StudyPlan::named(name)?;
    let processors = device::processors(&arguments.devices, console)?;
    let options = StudyOptions {
        scale: Scale::new(arguments.scale)?,
        data: other_data(arguments.data.as_deref())?,
        memory: memory::limits(
            arguments.memory.memory_limit,
            processors.iter().any(|processor| processor.gpu().is_some()),
        ),
    };
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(&plan.name));
    let mut training = SweepProgress::new(console);
    let mut measuring = None;
    let outcome =
        studies::study(&plan, &options, &out, &processors, interrupt.requested(), &mut |event| match event {
            StudyEvent::Training(event) => training.show(event),
            StudyEvent::Measuring { what, progress } => {
                let bar = measuring.get_or_insert_with(|| console.progress(Unit::Passes, progress.total as u64));
                show_progress(bar, what, progress);
            }
        })?;
    drop(measuring);
    console.result(&format!("{} ({})", outcome.info.title, outcome.info.size));
    if let Some(reported) = &outcome.info.reported {
        console.result(&format!("The paper reports: {reported}"));
    }
    for finding in &outcome.info.findings {
        console.result(finding);
    }
    if let Some(figure) = outcome.figure {
        console.result(&format!("The figure: {}", figure.display()));
    }
    console.result(&format!("Every map, curve and number: {}", outcome.report.display()));
    Ok(())
}

/// A line a shipped study.
fn list() -> String {
    let plans: Vec<StudyPlan> = StudyPlan::shipped().collect();
    let width = plans.iter().map(|plan| plan.name.len()).max().unwrap_or(0);
    let line = |plan: &StudyPlan| {
        let figure = plan.figure.as_ref().map_or_else(String::new, |figure| format!(" (figure {figure})"));
        format!("{:<width$}  {}{figure}", plan.name, plan.title)
    };
    plans.iter().map(line).collect::<Vec<_>>().join("\n")
}
