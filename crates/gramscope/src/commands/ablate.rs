//! `gramscope ablate`: test accuracy without some of a run's blocks.

use gramscope_study::Saved;
use gramscope_study::ablate::{self, AblateOptions, AblateResult};

use super::{other_data, placed_runs, with_bar};
use crate::arguments::AblateArguments;
use crate::console::Console;
use crate::device;
use crate::interrupt::Interrupt;

/// Deletes blocks of every run the arguments name and writes what accuracy is left.
pub(crate) fn run(arguments: &AblateArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let runs = placed_runs(&arguments.runs, AblateResult::check)?;
    let (processor, memory) = device::machine(&arguments.machine, console)?;
    let options = AblateOptions {
        blocks: arguments.block.clone(),
        each: arguments.each,
        examples: arguments.examples,
        data: other_data(arguments.data.as_deref())?,
        memory,
    };
    for (run, dir) in &runs {
        let result = with_bar(console, "ablating", |progress| {
            ablate::ablate(run, &options, &processor, interrupt.requested(), progress)
        })?;
        result.write(dir)?;
        console.result(&format!("{} -> {}", describe(&result), dir.display()));
    }
    Ok(())
}

fn describe(result: &AblateResult) -> String {
    let whole_stages = result.by_stage().filter_map(<[_]>::last);
    let ends: Vec<String> = whole_stages
        .map(|entry| format!("{:.1}% without stage {}'s blocks", 100.0 * entry.accuracy, entry.stage))
        .collect();
    let whole = result.baseline().map_or(f64::NAN, |accuracy| 100.0 * accuracy);
    format!("{}: {whole:.1}% of {} test images right; {}", result.info.model, result.info.examples, ends.join(", "))
}
