//! `gramscope probe`: linear probes on the layers of a run.

use std::path::Path;

use gramscope_study::probe::{self, ProbeOptions, ProbeResult};
use gramscope_study::{Saved, Unfinished};

use super::{other_data, placed_runs, with_bar};
use crate::arguments::ProbeArguments;
use crate::console::Console;
use crate::device;
use crate::interrupt::Interrupt;
use crate::words::counted;

/// Trains the probes and writes what they reach.
pub(crate) fn run(arguments: &ProbeArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let runs = placed_runs(&arguments.runs, ProbeResult::check)?;
    let (processor, memory) = device::machine(&arguments.machine, console)?;
    let options = ProbeOptions {
        layers: arguments.layers.clone(),
        epochs: arguments.epochs,
        batch_size: arguments.batch_size,
        learning_rate: arguments.learning_rate,
        momentum: arguments.momentum,
        pool: arguments.pool,
        examples: arguments.examples,
        seed: arguments.seed,
        data: other_data(arguments.data.as_deref())?,
        memory,
        unfinished: None,
    };
    // What was learned of those that are done is there until all are.
    let mut learned = Vec::new();
    for (run, dir) in &runs {
        let unfinished = Unfinished::within(dir);
        let options = ProbeOptions { unfinished: Some(unfinished.clone()), ..options.clone() };
        let result = with_bar(console, "probing", |progress| {
            probe::probe(run, &options, &processor, interrupt.requested(), progress)
        })?;
        result.write(dir)?;
        learned.push(unfinished);
        report(&result, dir, console);
    }
    learned.iter().for_each(Unfinished::remove);
    Ok(())
}

/// A line of result, and a warning for probes that diverged.
fn report(result: &ProbeResult, dir: &Path, console: &Console) {
    let info = &result.info;
    for diverged in &info.diverged {
        tracing::warn!(
            "{}: the probe of {} diverged in epoch {}, batch {}: its loss is no finite number; it has no accuracy",
            info.model,
            diverged.layer,
            diverged.epoch,
            diverged.batch
        );
    }
    let best = result.best().map_or_else(String::new, |(layer, accuracy)| {
        format!(", at best {:.1}% of the test images right ({layer})", 100.0 * accuracy)
    });
    let (layers, epochs) = (counted(result.layers.len(), "layer", "layers"), counted(info.epochs, "epoch", "epochs"));
    console.result(&format!("{}: {layers} probed for {epochs}{best} -> {}", info.model, dir.display()));
}
