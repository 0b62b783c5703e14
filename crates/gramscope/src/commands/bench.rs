//! `gramscope bench`: how fast kernels, comparisons and training are here.

use regex::Regex;

use crate::arguments::{BenchArguments, BenchCommand};
use crate::bench::ceilings::Ceilings;
use crate::bench::{Rows, cka, probe, train};
use crate::console::Console;
use crate::device;

/// Measures what the arguments name.
pub(crate) fn run(command: &BenchCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        BenchCommand::Kernels { only, arguments } => kernels(only.as_ref(), arguments, console),
        BenchCommand::Cka { depth, width, arguments } => {
            let gpu = device::gpu(arguments.device, console)?;
            cka::run(*depth, *width, gpu.as_ref(), &mut Rows::new(console, arguments.file.as_deref())?)
        }
        BenchCommand::Train { depth, width, all, batch_size, arguments } => {
            device::on_cpu(arguments.device, device::Precision::F32, "bench train")?;
            let mut rows = Rows::new(console, arguments.file.as_deref())?;
            let ceilings = Ceilings::measure()?;
            for (depth, width) in networks(*depth, *width, *all) {
                train::run(train::Subject { depth, width, batch_size: *batch_size }, ceilings, &mut rows)?;
            }
            Ok(())
        }
        BenchCommand::Probe { depth, width, batch_size, arguments } => {
            device::on_cpu(arguments.device, device::Precision::F32, "bench probe")?;
            probe::run(*depth, *width, *batch_size, &mut Rows::new(console, arguments.file.as_deref())?)
        }
    }
}

/// Depths and widths of the networks to train: the one that is named, all of them, or a few small ones.
fn networks(depth: Option<usize>, width: Option<f64>, all: bool) -> Vec<(usize, f64)> {
    match (depth, width) {
        _ if all => [14, 20, 38, 110].into_iter().flat_map(|d| [1.0, 2.0, 4.0, 10.0].map(|w| (d, w))).collect(),
        (None, None) => vec![(14, 1.0), (20, 1.0), (14, 2.0)],
        (depth, width) => vec![(depth.unwrap_or(20), width.unwrap_or(1.0))],
    }
}

#[cfg(feature = "cuda")]
fn kernels(only: Option<&Regex>, arguments: &BenchArguments, console: &Console) -> anyhow::Result<()> {
    let Some(gpu) = device::gpu(arguments.device, console)? else {
        anyhow::bail!("bench kernels measures a GPU's kernels, and there is none to use");
    };
    crate::bench::kernels::run(&gpu, only, &mut Rows::new(console, arguments.file.as_deref())?)
}

#[cfg(not(feature = "cuda"))]
fn kernels(_: Option<&Regex>, _: &BenchArguments, _: &Console) -> anyhow::Result<()> {
    anyhow::bail!("bench kernels measures a GPU's kernels, and {}", gramscope_cuda::Error::NotBuilt)
}
