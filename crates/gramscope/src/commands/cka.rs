//! `gramscope cka`: layers against layers, of runs or of stored activations.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use gramscope_cka::Options;
use gramscope_study::compare::{self, CompareOptions, Pairs, Progress, RunOptions};
use gramscope_study::output;
use gramscope_study::results::PairResult;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;

use crate::arguments::{CkaArguments, InputArgument, PairsArgument};
use crate::console::{self, Console, Unit};
use crate::device;

/// Compares what the arguments name and writes a result a pair.
pub(crate) fn run(arguments: &CkaArguments, console: &Console) -> anyhow::Result<()> {
    let options = CompareOptions {
        cka: Options {
            estimator: arguments.estimator,
            kernel: arguments.kernel,
            gram: arguments.gram,
            normalise_examples: arguments.normalise_examples,
        },
        batch_size: arguments.batch_size,
        keep_partial: arguments.keep_partial,
        layers: arguments.layers.clone(),
        // Runs go through their networks where candle is, which is the CPU; see `device::open`.
        device: if arguments.runs.is_empty() { device::gpu(arguments.device.device, console)? } else { None },
    };
    output::check(&arguments.out)?;
    let mut bar = console.progress(Unit::Passes, 0);
    let mut progress = |progress: Progress<'_>| show_progress(&mut bar, "comparing", progress);
    let results = match arguments.activations.as_slice() {
        [] => compare_runs(arguments, &options, &mut progress)?,
        [x, others @ ..] => {
            let y = others.first().map(PathBuf::as_path);
            vec![compare::compare_files(x, y, &options, &mut progress)?]
        }
    };
    drop(bar);
    for (result, dir) in results.iter().zip(output::write(&arguments.out, &results)?) {
        report(result, &dir, console);
    }
    Ok(())
}

fn compare_runs(
    arguments: &CkaArguments,
    options: &CompareOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> anyhow::Result<Vec<PairResult>> {
    let device = device::open(arguments.device.device, arguments.device.precision)?;
    let runs = arguments.runs.iter().map(|dir| Run::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let pairs = match arguments.pairs {
        Some(PairsArgument::Within) => Pairs::Within,
        Some(PairsArgument::Across) => Pairs::Across,
        Some(PairsArgument::All) => Pairs::All,
        None if runs.len() == 1 => Pairs::Within,
        None => Pairs::All,
    };
    let data = arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?;
    let run_options = RunOptions {
        pairs,
        passes: arguments.passes,
        seed: arguments.seed,
        examples: arguments.examples,
        drop_dominant: arguments.drop_dominant,
        data,
        noise: arguments.input == InputArgument::Noise,
    };
    Ok(compare::compare_runs(&runs, options, &run_options, &device, &AtomicBool::new(false), progress)?)
}

/// Moves the bar of a pass over examples.
pub(super) fn show_progress(bar: &mut console::Progress<'_>, what: &str, progress: Progress<'_>) {
    bar.set_total(progress.total as u64);
    let message = format!("batch {} of {}, {}", progress.batch, progress.batches, progress.subject);
    bar.update(progress.done as u64, what, &message);
}

/// A line a pair, and a warning for layers without a value.
fn report(result: &PairResult, dir: &Path, console: &Console) {
    let info = &result.info;
    let undefined = [(&info.model_x, &info.undefined.x), (&info.model_y, &info.undefined.y)];
    let models = if info.model_x == info.model_y { 1 } else { 2 };
    for (model, layers) in undefined.into_iter().take(models).filter(|(_, layers)| !layers.is_empty()) {
        tracing::warn!(
            "{model}: undefined (NaN), because constant or alive in a single example: {}",
            layers.join(", ")
        );
    }
    let subject = if models == 1 { info.model_x.clone() } else { format!("{} x {}", info.model_x, info.model_y) };
    console.result(&format!(
        "{subject}: {} x {} layers, {} batches of {} -> {}",
        info.layers_x.len(),
        info.layers_y.len(),
        info.batches,
        info.batch_size,
        dir.display()
    ));
}
