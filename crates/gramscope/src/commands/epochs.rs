//! `gramscope epochs`: a network over its training.

use std::sync::atomic::AtomicBool;

use anyhow::Context;
use gramscope_cka::Options;
use gramscope_study::compare::{CompareOptions, Progress, RunOptions};
use gramscope_study::epochs;
use gramscope_train::data::DataConfig;

use super::cka::show_progress;
use crate::arguments::EpochsArguments;
use crate::console::{Console, Unit};
use crate::{device, memory};

/// Compares the run's kept epochs with its end and writes the result.
pub(crate) fn run(arguments: &EpochsArguments, console: &Console) -> anyhow::Result<()> {
    epochs::check(&arguments.out)?;
    let processor = device::processor(&arguments.device, console)?;
    let run = super::opened(&arguments.run, arguments.batch_statistics)?;
    let options = CompareOptions {
        cka: Options { estimator: arguments.estimator, ..Options::default() },
        batch_size: arguments.batch_size,
        examples: arguments.examples,
        layers: arguments.layers.clone(),
        memory: memory::limits(arguments.memory.memory_limit, processor.gpu().is_some()),
        ..CompareOptions::default()
    };
    let run_options = RunOptions {
        passes: arguments.passes,
        seed: arguments.seed,
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
        ..RunOptions::default()
    };
    let mut bar = console.progress(Unit::Passes, 0);
    let mut progress = |progress: Progress<'_>| show_progress(&mut bar, "comparing", progress);
    let result = epochs::over_epochs(&run, &options, &run_options, &processor, &AtomicBool::new(false), &mut progress)?;
    drop(bar);
    epochs::write(&arguments.out, &result)?;
    let info = &result.info;
    console.result(&format!(
        "{}: {} layers after each of {} epochs against the end -> {}",
        info.model,
        info.layers.len(),
        info.epochs.len(),
        arguments.out.display()
    ));
    Ok(())
}
