//! `gramscope sparsity`: zeros in the outputs of a run's ReLUs.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use gramscope_study::sparsity::{self, SparsityOptions};
use gramscope_train::data::DataConfig;

use super::{opened, placed, with_bar};
use crate::arguments::{DeviceArguments, MemoryArguments};
use crate::console::Console;
use crate::{device, memory};

pub(crate) const SPARSITY_HELP: &str = "\
Examples:
  gramscope sparsity runs/r14 --out sparsity/r14
  gramscope sparsity runs/r14 --data cifar100 --examples 1000 --out sparsity/r14-elsewhere

Writes sparsity.npz (float64 arrays zeros, the fraction of each ReLU's values that are zero; dead, the number of its units,
that is channels, that are zero at every position of every image; unit_zeros, that fraction for each unit, layer after
layer), sparsity.json (layers, units of each, the data) and sparsity.png.";

#[derive(Args, Debug)]
pub(crate) struct SparsityArguments {
    /// Run directories, directories of runs, or RUN@EPOCH for a run as it was kept after an epoch
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Where the results go: straight into DIR for one run, into DIR/RUN for each of several
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Use only the first N test images, class-balanced [default: all]
    #[arg(long, value_name = "N")]
    examples: Option<usize>,
    /// Feed this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR")]
    data: Option<String>,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Counts and writes the result.
pub(crate) fn run(arguments: &SparsityArguments, console: &Console) -> anyhow::Result<()> {
    let runs = placed(opened(&arguments.runs, false)?, &arguments.out, sparsity::check)?;
    let processor = device::processor(&arguments.device, console)?;
    let options = SparsityOptions {
        examples: arguments.examples,
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
        memory: memory::limits(arguments.memory.memory_limit, processor.gpu().is_some()),
    };
    for (run, dir) in &runs {
        let result = with_bar(console, "counting", |progress| sparsity::sparsity(run, &options, &processor, progress))?;
        sparsity::write(dir, &result)?;
        console.result(&format!("{}: {} -> {}", result.info.model, result.summary(), dir.display()));
    }
    Ok(())
}
