//! `gramscope cosine`: cosine similarity of a run's layers of one shape, or of stored activations.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use gramscope_nn::Processor;
use gramscope_study::cosine::{self, CosineOptions, CosineResult};
use gramscope_train::data::DataConfig;
use regex::Regex;

use super::{opened, placed, with_bar};
use crate::arguments::{DeviceArguments, MemoryArguments, NETWORK_FLAGS};
use crate::console::Console;
use crate::device::DeviceChoice;
use crate::{device, memory};

pub(crate) const HELP: &str = "\
Examples:
  gramscope cosine runs/r14 --out cosine/r14
  gramscope cosine runs/r14@5 --layers 'add|relu2' --out cosine/r14-early
  gramscope cosine --activations mine.safetensors --out cosine/mine

Writes cosine.npz (float64 arrays cosine [L,L], the mean over examples of <x,y> / (|x| |y|), not centred; and count [L,L], the
examples that it is the mean of: one that either layer turns into zeros has no cosine), cosine.json and cosine.png. Layers of
different shapes (of stored activations: different numbers of features) cannot be compared: NaN, and a count of 0.";

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["runs", "activations"]))]
pub(crate) struct CosineArguments {
    /// Run directories, directories of runs, or RUN@EPOCH for a run as it was kept after an epoch
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Stored activations instead of a run, as safetensors: a tensor a layer, examples first
    #[arg(long, value_name = "FILE", conflicts_with_all = NETWORK_FLAGS)]
    activations: Option<PathBuf>,
    /// Where the results go: straight into DIR for one run, into DIR/RUN for each of several
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many examples, the first in order (of test images, class-balanced) [default: 1024, or all where there are fewer]
    #[arg(long, value_name = "N")]
    examples: Option<usize>,
    /// Only the layers whose name matches
    #[arg(long, value_name = "REGEX")]
    layers: Option<Regex>,
    /// Feed this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "activations")]
    data: Option<String>,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Compares what the arguments name and writes the result.
pub(crate) fn run(arguments: &CosineArguments, console: &Console) -> anyhow::Result<()> {
    let processor = match &arguments.activations {
        None => device::processor(&arguments.device, console)?,
        Some(_) if matches!(arguments.device.device, DeviceChoice::Cuda(_)) => {
            bail!("--device: cosines of stored activations are computed on the CPU; leave the flag out")
        }
        Some(_) => Processor::Cpu,
    };
    let options = CosineOptions {
        examples: arguments.examples,
        layers: arguments.layers.clone(),
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
        memory: memory::limits(arguments.memory.memory_limit, processor.gpu().is_some()),
    };
    let write = |dir: &Path, result: &CosineResult| -> anyhow::Result<()> {
        cosine::write(dir, result)?;
        report(result, dir, console);
        Ok(())
    };
    if let Some(file) = &arguments.activations {
        cosine::check(&arguments.out)?;
        let result = with_bar(console, "comparing", |progress| cosine::cosine_of_file(file, &options, progress))?;
        return write(&arguments.out, &result);
    }
    for (run, dir) in placed(opened(&arguments.runs, false)?, &arguments.out, cosine::check)? {
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
