//! `gramscope bench`: how fast kernels, comparisons and training are here.

use crate::arguments::{BenchArguments, BenchCommand};
use crate::bench::{Rows, cka, train};
use crate::console::Console;
use crate::device;

/// Measures what the arguments name.
pub(crate) fn run(command: &BenchCommand, console: &Console) -> anyhow::Result<()> {
    match command {
        BenchCommand::Kernels(arguments) => kernels(arguments, console),
        BenchCommand::Cka { depth, width, arguments } => {
            let gpu = device::gpu(arguments.device, console)?;
            cka::run(*depth, *width, gpu.as_ref(), &mut Rows::new(console, arguments.file.as_deref())?)
        }
        BenchCommand::Train { depth, width, batch_size, arguments } => {
            device::open(arguments.device, device::Precision::F32)?;
            let subject = train::Subject { depth: *depth, width: *width, batch_size: *batch_size };
            train::run(subject, &mut Rows::new(console, arguments.file.as_deref())?)
        }
    }
}

#[cfg(feature = "cuda")]
fn kernels(arguments: &BenchArguments, console: &Console) -> anyhow::Result<()> {
    let Some(gpu) = device::gpu(arguments.device, console)? else {
        anyhow::bail!("bench kernels measures a GPU's kernels, and there is none to use");
    };
    crate::bench::kernels::run(&gpu, &mut Rows::new(console, arguments.file.as_deref())?)
}

#[cfg(not(feature = "cuda"))]
fn kernels(_: &BenchArguments, _: &Console) -> anyhow::Result<()> {
    anyhow::bail!("bench kernels measures a GPU's kernels, and {}", gramscope_cuda::Error::NotBuilt)
}
