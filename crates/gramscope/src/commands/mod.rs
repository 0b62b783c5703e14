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

use std::mem;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gramscope_study::compare::Progress;
use gramscope_study::run_names;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use serde_json::json;

use crate::arguments::RunsArguments;
use crate::console::{self, Console, Unit};

/// What `work`, a pass over examples, comes to; a bar shows `what` it does.
fn with_bar<R>(console: &Console, what: &str, work: impl FnOnce(&mut dyn FnMut(Progress<'_>)) -> R) -> R {
    let mut bar = console.progress(Unit::Passes, 0);
    // Each thing that is done in turn has a number of batches, and begins with the first of them or goes on.
    let mut last = 0;
    work(&mut |progress| {
        let Progress { batch, batches, .. } = progress;
        if mem::replace(&mut last, batches) != batches && batch > 1 {
            let text = format!("{what} goes on with batch {batch} of {batches}");
            console.note("resumed", &text, json!({ "what": what, "batch": batch, "batches": batches }));
            bar.begin_at(progress.done as u64);
        }
        show_progress(&mut bar, what, progress);
    })
}

/// Moves the bar of a pass over examples.
fn show_progress(bar: &mut console::Progress<'_>, what: &str, progress: Progress<'_>) {
    let Progress { done, total, batch, batches, subject } = progress;
    bar.set_total(total as u64);
    bar.update(done as u64, what, &format!("batch {batch} of {batches}, {subject}"));
}

/// The data that `--data` names, where it does.
fn other_data(named: Option<&str>) -> anyhow::Result<Option<DataConfig>> {
    named.map(DataConfig::resolve_argument).transpose().context("--data")
}

/// The runs that `names` stand for, with their networks' batch norms as asked for.
fn opened(names: &[PathBuf], batch_statistics: bool) -> anyhow::Result<Vec<Run>> {
    let with = |run: Run| if batch_statistics { run.with_batch_statistics() } else { run };
    Ok(gramscope_study::runs(names)?.into_iter().map(with).collect())
}

/// The runs that are named, each with the directory of its result, as [`placed`] has it.
fn placed_runs(
    RunsArguments { runs, out }: &RunsArguments,
    check: impl Fn(&Path) -> gramscope_study::Result<()>,
) -> anyhow::Result<Vec<(Run, PathBuf)>> {
    placed(opened(runs, false)?, out, check)
}

/// Each of `runs` with the directory of its result: `out` itself for one run, one of the run's name below it for each of several
/// (equal names get a number).
///
/// # Errors
/// What `check` says of a directory that no result can go to, so that this is known before anything is computed.
fn placed(
    runs: Vec<Run>,
    out: &Path,
    check: impl Fn(&Path) -> gramscope_study::Result<()>,
) -> anyhow::Result<Vec<(Run, PathBuf)>> {
    let (alone, names) = (runs.len() == 1, run_names(&runs));
    let place = |name: String| if alone { out.to_owned() } else { out.join(name) };
    let placed: Vec<_> = runs.into_iter().zip(names.into_iter().map(place)).collect();
    placed.iter().try_for_each(|(_, dir)| check(dir))?;
    Ok(placed)
}
