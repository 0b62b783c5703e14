//! `gramscope pcs`: first principal components of a run's layers, or of stored activations.

use std::path::Path;

use gramscope_nn::Processor;
use gramscope_study::Saved;
use gramscope_study::pcs::{self, PcsOptions, PcsResult};

use super::{opened, other_data, placed, with_bar};
use crate::arguments::PcsArguments;
use crate::console::Console;
use crate::{device, memory};

/// Analyses what the arguments name and writes the result.
pub(crate) fn run(arguments: &PcsArguments, console: &Console) -> anyhow::Result<()> {
    // A run is analysed where its network runs.
    let (processor, gpu) = match &arguments.source.activations {
        None => (device::processor(&arguments.machine.device, console)?, None),
        Some(_) => (Processor::Cpu, device::gpu(arguments.machine.device.device, console)?),
    };
    let on_gpu = gpu.is_some() || processor.gpu().is_some();
    let options = PcsOptions {
        examples: arguments.source.examples,
        layers: arguments.source.layers.clone(),
        estimator: arguments.estimator,
        data: other_data(arguments.source.data.as_deref())?,
        memory: memory::limits(arguments.machine.memory.memory_limit, on_gpu),
        device: gpu,
    };
    let write = |dir: &Path, result: &PcsResult| -> anyhow::Result<()> {
        result.write(dir)?;
        report(result, dir, console);
        Ok(())
    };
    if let Some(file) = &arguments.source.activations {
        PcsResult::check(&arguments.source.out)?;
        let result = with_bar(console, "decomposing", |progress| pcs::pcs_of_file(file, &options, progress))?;
        return write(&arguments.source.out, &result);
    }
    for (run, dir) in
        placed(opened(&arguments.source.runs, arguments.batch_statistics)?, &arguments.source.out, PcsResult::check)?
    {
        let result =
            with_bar(console, "decomposing", |progress| pcs::pcs_of_run(&run, &options, &processor, progress))?;
        write(&dir, &result)?;
    }
    Ok(())
}

/// A line of result, and a warning for layers without a value or whose component means little.
fn report(result: &PcsResult, dir: &Path, console: &Console) {
    let info = &result.info;
    for (what, layers) in [
        ("undefined (NaN), because constant", &info.undefined),
        ("CKA undefined (NaN), because constant or alive in a single example", &info.undefined_cka),
        (
            "CKA without the first component undefined (NaN), because nothing else is left",
            &info.undefined_cka_without_first,
        ),
        ("first component not well defined, because the second explains nearly as much", &info.ill_defined),
    ] {
        if !layers.is_empty() {
            tracing::warn!("{}: {what}: {}", info.model, layers.join(", "));
        }
    }
    let largest = result.similarity.variance_explained.iter().zip(&info.layers).filter(|(share, _)| !share.is_nan());
    let largest = largest.max_by(|a, b| a.0.total_cmp(b.0));
    let largest = largest.map_or_else(String::new, |(share, layer)| {
        format!(", at most {:.1}% of the variance in one component ({layer})", 100.0 * share)
    });
    console.result(&format!(
        "{}: {} layers over {} examples{largest} -> {}",
        info.model,
        info.layers.len(),
        info.examples,
        dir.display()
    ));
}
