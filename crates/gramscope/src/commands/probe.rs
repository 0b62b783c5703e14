//! `gramscope probe`: linear probes on the layers of a run.

use anyhow::Context;
use gramscope_study::probe::{self, ProbeOptions, ProbeResult};
use gramscope_train::Run;
use gramscope_train::data::DataConfig;

use super::cka::show_progress;
use crate::arguments::ProbeArguments;
use crate::console::{Console, Unit};
use crate::device;
use crate::interrupt::Interrupt;

/// Trains the probes and writes what they reach.
pub(crate) fn run(arguments: &ProbeArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    probe::check(&arguments.out)?;
    let processor = device::processor(&arguments.device, console)?;
    let options = ProbeOptions {
        layers: arguments.layers.clone(),
        epochs: arguments.epochs,
        batch_size: arguments.batch_size,
        learning_rate: arguments.learning_rate,
        momentum: arguments.momentum,
        pool: arguments.pool,
        examples: arguments.examples,
        seed: arguments.seed,
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
    };
    let mut bar = console.progress(Unit::Passes, 0);
    let run = Run::named(&arguments.run)?;
    let result = probe::probe(&run, &options, &processor, interrupt.requested(), &mut |progress| {
        show_progress(&mut bar, "probing", progress);
    })?;
    drop(bar);
    probe::write(&arguments.out, &result)?;
    report(&result, arguments, console);
    Ok(())
}

/// A line of result, and a warning for probes that diverged.
fn report(result: &ProbeResult, arguments: &ProbeArguments, console: &Console) {
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
    let (layers, epochs) = (result.layers.len(), info.epochs);
    let dir = arguments.out.display();
    console.result(&format!("{}: {layers} layers probed for {epochs} epochs{best} -> {dir}", info.model));
}
