//! `gramscope cosine`: cosine similarity of a run's layers of one shape, or of stored activations.

use std::path::Path;

use anyhow::bail;
use gramscope_nn::Processor;
use gramscope_study::Saved;
use gramscope_study::cosine::{self, CosineOptions, CosineResult};

use super::{opened, other_data, placed, with_bar};
use crate::arguments::CosineArguments;
use crate::console::Console;
use crate::device::DeviceChoice;
use crate::{device, memory};

/// Compares what the arguments name and writes the result.
pub(crate) fn run(arguments: &CosineArguments, console: &Console) -> anyhow::Result<()> {
    let processor = match &arguments.source.activations {
        None => device::processor(&arguments.machine.device, console)?,
        Some(_) if matches!(arguments.machine.device.device, DeviceChoice::Cuda(_)) => {
            bail!("--device: cosines of stored activations are computed on the CPU; leave the flag out")
        }
        Some(_) => Processor::Cpu,
    };
    let options = CosineOptions {
        examples: arguments.source.examples,
        layers: arguments.source.layers.clone(),
        data: other_data(arguments.source.data.as_deref())?,
        memory: memory::limits(arguments.machine.memory.memory_limit, processor.gpu().is_some()),
    };
    let write = |dir: &Path, result: &CosineResult| -> anyhow::Result<()> {
        result.write(dir)?;
        report(result, dir, console);
        Ok(())
    };
    if let Some(file) = &arguments.source.activations {
        CosineResult::check(&arguments.source.out)?;
        let result = with_bar(console, "comparing", |progress| cosine::cosine_of_file(file, &options, progress))?;
        return write(&arguments.source.out, &result);
    }
    for (run, dir) in placed(opened(&arguments.source.runs, false)?, &arguments.source.out, CosineResult::check)? {
        let result =
            with_bar(console, "comparing", |progress| cosine::cosine_of_run(&run, &options, &processor, progress))?;
        write(&dir, &result)?;
    }
    Ok(())
}

/// A line of result, and a warning for layers without a value or with fewer examples than the others.
fn report(result: &CosineResult, dir: &Path, console: &Console) {
    let model = &result.info.model;
    let undefined = &result.info.undefined;
    if !undefined.is_empty() {
        tracing::warn!("{model}: undefined (NaN), because zero for every example: {}", undefined.join(", "));
    }
    let partly: Vec<&str> = result.partly_undefined().collect();
    if !partly.is_empty() {
        tracing::warn!("{model}: zero for some of the examples, which are left out: {}", partly.join(", "));
    }
    console.result(&format!("{model}: {} -> {}", result.summary(), dir.display()));
}
