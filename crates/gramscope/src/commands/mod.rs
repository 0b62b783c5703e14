//! One module a command: from its arguments to calls of the crates and a few lines of result.

pub(crate) mod ablate;
pub(crate) mod activations;
pub(crate) mod bench;
pub(crate) mod blocks;
pub(crate) mod cka;
pub(crate) mod cosine;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod dominant;
pub(crate) mod epochs;
pub(crate) mod mean;
pub(crate) mod pcs;
pub(crate) mod predict;
pub(crate) mod probe;
pub(crate) mod quickstart;
pub(crate) mod report;
pub(crate) mod sparsity;
pub(crate) mod study;
pub(crate) mod sweep;
pub(crate) mod train;
mod training_progress;
pub(crate) mod verify;

use std::path::Path;

use gramscope_train::Run;

/// The run that `name` stands for, a directory or `DIR@EPOCH`, with its network's batch norms as asked for.
fn opened(name: &Path, batch_statistics: bool) -> anyhow::Result<Run> {
    let run = Run::named(name)?;
    Ok(if batch_statistics { run.with_batch_statistics() } else { run })
}
