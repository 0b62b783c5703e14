//! `gramscope cosine`: cosine similarity of a run's layers of one shape, or of stored activations.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use gramscope_nn::Processor;
use gramscope_study::compare::Progress;
use gramscope_study::cosine::{self, CosineOptions, CosineResult};
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use regex::Regex;

use super::cka::show_progress;
use crate::arguments::{DeviceArguments, MemoryArguments, NETWORK_FLAGS};
use crate::console::{Console, Unit};
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
#[command(group = clap::ArgGroup::new("source").required(true).args(["run", "activations"]))]
pub(crate) struct CosineArguments {
    /// Run directory, or RUN@EPOCH for a run as it was kept after an epoch
    run: Option<PathBuf>,
    /// Stored activations instead of a run, as safetensors: a tensor a layer, examples first
    #[arg(long, value_name = "FILE", conflicts_with_all = NETWORK_FLAGS)]
    activations: Option<PathBuf>,
    /// Where the results go
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
    cosine::check(&arguments.out)?;
    let processor = match arguments.run {
        Some(_) => device::processor(&arguments.device, console)?,
        None => Processor::Cpu,
    };
    let options = CosineOptions {
        examples: arguments.examples,
        layers: arguments.layers.clone(),
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
        memory: memory::limits(arguments.memory.memory_limit, processor.gpu().is_some()),
    };
    let mut bar = console.progress(Unit::Passes, 0);
    let mut progress = |progress: Progress<'_>| show_progress(&mut bar, "comparing", progress);
    let result = match (&arguments.run, &arguments.activations) {
        (Some(name), _) => cosine::cosine_of_run(&Run::named(name)?, &options, &processor, &mut progress)?,
        (None, Some(file)) => cosine::cosine_of_file(file, &options, &mut progress)?,
        (None, None) => anyhow::bail!("name a run, or a file with --activations"),
    };
    drop(bar);
    cosine::write(&arguments.out, &result)?;
    report(&result, arguments, console);
    Ok(())
}

/// A line of result, and a warning for layers without a value or with fewer examples than the others.
fn report(result: &CosineResult, arguments: &CosineArguments, console: &Console) {
    let model = &result.info.model;
    let undefined = &result.info.undefined;
    if !undefined.is_empty() {
        tracing::warn!("{model}: undefined (NaN), because zero for every example: {}", undefined.join(", "));
    }
    let partly: Vec<&str> = result.partly_undefined().collect();
    if !partly.is_empty() {
        tracing::warn!("{model}: zero for some of the examples, which are left out: {}", partly.join(", "));
    }
    console.result(&format!("{model}: {} -> {}", result.summary(), arguments.out.display()));
}
