//! `gramscope ablate`: test accuracy without some of a run's blocks.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Context;
use gramscope_study::ablate::{self, AblateOptions, AblateResult};
use gramscope_study::output::unused;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;

use super::cka::show_progress;
use crate::arguments::AblateArguments;
use crate::console::{Console, Unit};
use crate::device;
use crate::interrupt::Interrupt;

/// Deletes blocks of every run the arguments name and writes what accuracy is left.
pub(crate) fn run(arguments: &AblateArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let runs = arguments.runs.iter().map(|dir| Run::named(dir)).collect::<Result<Vec<_>, _>>()?;
    let directories = directories(&runs, arguments);
    directories.iter().try_for_each(|dir| ablate::check(dir))?;
    let processor = device::processor(&arguments.device, console)?;
    let options = AblateOptions {
        blocks: arguments.block.clone(),
        each: arguments.each,
        examples: arguments.examples,
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
    };
    for (run, dir) in runs.iter().zip(&directories) {
        let mut bar = console.progress(Unit::Passes, 0);
        let result = ablate::ablate(run, &options, &processor, interrupt.requested(), &mut |progress| {
            show_progress(&mut bar, "ablating", progress);
        })?;
        drop(bar);
        ablate::write(dir, &result)?;
        console.result(&format!("{} -> {}", describe(&result), dir.display()));
    }
    Ok(())
}

/// DIR itself for one run, DIR/RUN for each of several; equal names get a number.
fn directories(runs: &[Run], arguments: &AblateArguments) -> Vec<PathBuf> {
    match runs {
        [_] => vec![arguments.out.clone()],
        runs => {
            let mut taken = HashSet::new();
            runs.iter().map(|run| arguments.out.join(unused(&run.name(), &mut taken))).collect()
        }
    }
}

fn describe(result: &AblateResult) -> String {
    let whole_stages = result.by_stage().filter_map(<[_]>::last);
    let ends: Vec<String> = whole_stages
        .map(|entry| format!("{:.1}% without stage {}'s blocks", 100.0 * entry.accuracy, entry.stage))
        .collect();
    let whole = result.baseline().map_or(f64::NAN, |accuracy| 100.0 * accuracy);
    format!("{}: {whole:.1}% of {} test images right; {}", result.info.model, result.info.examples, ends.join(", "))
}
