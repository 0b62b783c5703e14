//! `gramscope epochs`: a network over its training.

use gramscope_cka::Options;
use gramscope_study::compare::{CompareOptions, RunOptions};
use gramscope_study::epochs::{self, EpochsResult};
use gramscope_study::{Saved, Unfinished};

use super::{opened, other_data, placed, with_bar};
use crate::arguments::EpochsArguments;
use crate::console::Console;
use crate::device;
use crate::interrupt::Interrupt;
use crate::words::counted;

/// Compares the run's kept epochs with its end and writes the result.
pub(crate) fn run(arguments: &EpochsArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let runs = placed(opened(&arguments.runs, arguments.batch_statistics)?, &arguments.out, EpochsResult::check)?;
    let (processor, memory) = device::machine(&arguments.machine, console)?;
    let options = CompareOptions {
        cka: Options { estimator: arguments.estimator, ..Options::default() },
        batch_size: arguments.batch_size,
        examples: arguments.examples,
        layers: arguments.layers.clone(),
        memory,
        ..CompareOptions::default()
    };
    let run_options = RunOptions {
        passes: arguments.passes,
        seed: arguments.seed,
        data: other_data(arguments.data.as_deref())?,
        ..RunOptions::default()
    };
    // The sums of those that are done are there until all are.
    let mut compared = Vec::new();
    for (run, dir) in &runs {
        let unfinished = Unfinished::within(dir);
        let options = CompareOptions { unfinished: Some(unfinished.clone()), ..options.clone() };
        let result = with_bar(console, "comparing", |progress| {
            epochs::over_epochs(run, &options, &run_options, &processor, interrupt.requested(), progress)
        })?;
        result.write(dir)?;
        compared.push(unfinished);
        let info = &result.info;
        console.result(&format!(
            "{}: {} layers after each of {} against the end -> {}",
            info.model,
            info.layers.len(),
            counted(info.epochs.len(), "epoch", "epochs"),
            dir.display()
        ));
    }
    compared.iter().for_each(Unfinished::remove);
    Ok(())
}
