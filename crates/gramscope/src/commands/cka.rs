//! `gramscope cka`: layers against layers, of runs or of stored activations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gramscope_cka::Options;
use gramscope_nn::Processor;
use gramscope_study::compare::{self, CompareOptions, Pairs, Progress, RunOptions};
use gramscope_study::pair::PairResult;
use gramscope_study::provenance::ShuffledPasses;
use gramscope_study::{Saved, Unfinished, mean, pair};
use gramscope_train::Run;

use super::{other_data, with_bar};
use crate::arguments::{CkaArguments, InputArgument, PairsArgument};
use crate::console::Console;
use crate::interrupt::Interrupt;
use crate::words::counted;
use crate::{device, memory};

/// Passes over test images unless told otherwise.
const IMAGE_PASSES: usize = 10;

/// Compares what the arguments name and writes a result a pair.
pub(crate) fn run(arguments: &CkaArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    // Activations are compared on any GPU, networks where they run.
    let processor = match arguments.runs.as_slice() {
        [] => Processor::Cpu,
        _ => device::processor(&arguments.machine.device, console)?,
    };
    let gpu = match arguments.runs.as_slice() {
        [] => device::gpu(arguments.machine.device.device, console)?,
        _ => processor.gpu().cloned(),
    };
    let unfinished = Unfinished::within(&arguments.out);
    let options = options(arguments, gpu, &unfinished);
    let runs = super::opened(&arguments.runs, arguments.batch_statistics)?;
    let pairs = pairs(arguments.pairs);
    check_place(arguments, &runs, &pairs)?;
    let shuffled = shuffled(arguments);
    let results = with_bar(console, "comparing", |progress| match arguments.activations.as_slice() {
        [] => compare_runs(&runs, pairs, arguments, &options, &processor, interrupt, progress),
        [x] => Ok(vec![compare::compare_files(x, None, &options, shuffled, interrupt.requested(), progress)?]),
        [x, y] => Ok(vec![compare::compare_files(x, Some(y), &options, shuffled, interrupt.requested(), progress)?]),
        files => {
            anyhow::bail!("--activations: {} files; one is compared with itself, or two with each other", files.len())
        }
    })?;
    let directories = pair::write_all(&arguments.out, &results)?;
    for (result, dir) in results.iter().zip(&directories) {
        report(result, dir, console);
    }
    if arguments.mean {
        write_means(&runs, &results, &directories, &arguments.out, console)?;
    }
    unfinished.remove();
    Ok(())
}

/// How batches of stored activations are chosen: in the file's order unless passes or their seed are named.
fn shuffled(&CkaArguments { passes, seed, .. }: &CkaArguments) -> Option<ShuffledPasses> {
    let named = passes.is_some() || seed.is_some();
    named.then(|| ShuffledPasses { passes: passes.unwrap_or(1), seed: seed.unwrap_or_default() })
}

fn options(
    arguments: &CkaArguments,
    gpu: Option<Arc<gramscope_cuda::Device>>,
    unfinished: &Unfinished,
) -> CompareOptions {
    CompareOptions {
        cka: Options {
            estimator: arguments.estimator,
            kernel: arguments.kernel,
            gram: arguments.gram,
            normalise_examples: arguments.normalise_examples,
        },
        batch_size: arguments.batch_size,
        keep_partial: arguments.keep_partial,
        examples: arguments.examples,
        layers: arguments.layers.clone(),
        memory: memory::limits(arguments.machine.memory.memory_limit, gpu.is_some()),
        device: gpu,
        unfinished: Some(unfinished.clone()),
    }
}

/// Fails where the results cannot go where they are to go, before anything is computed.
fn check_place(arguments: &CkaArguments, runs: &[Run], pairs: &Pairs) -> anyhow::Result<()> {
    if runs.is_empty() {
        return Ok(PairResult::check(&arguments.out)?);
    }
    let names = compare::pair_names(runs, pairs)?;
    pair::check_all(&arguments.out, names.iter().map(|(x, y)| (x.as_str(), y.as_str())))?;
    if arguments.mean {
        gramscope_study::check_distinct(runs)?;
    }
    Ok(())
}

/// Writes the means over the pairs of each two architectures, a line each.
fn write_means(
    runs: &[Run],
    results: &[PairResult],
    directories: &[PathBuf],
    out: &Path,
    console: &Console,
) -> anyhow::Result<()> {
    let means = mean::over_pairs(runs, results, directories)?;
    if means.is_empty() {
        tracing::warn!(
            "--mean: no two of the results are of the same two architectures, so there is nothing to average"
        );
    }
    for (name, mean) in means {
        let dir = out.join(mean::PAIRS).join(&name);
        mean.write(&dir)?;
        console.result(&format!("{name}: mean of {} maps -> {}", mean.info.maps.len(), dir.display()));
    }
    Ok(())
}

/// The pairs that are asked for: unless told otherwise all, of which a run alone has one.
fn pairs(asked: Option<PairsArgument>) -> Pairs {
    match asked {
        Some(PairsArgument::Within) => Pairs::Within,
        Some(PairsArgument::Across) => Pairs::Across,
        Some(PairsArgument::All) | None => Pairs::All,
        Some(PairsArgument::SameArchitecture) => Pairs::SameArchitecture,
        Some(PairsArgument::SameSeed) => Pairs::SameSeed,
    }
}

fn compare_runs(
    runs: &[Run],
    pairs: Pairs,
    arguments: &CkaArguments,
    options: &CompareOptions,
    processor: &Processor,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(Progress<'_>),
) -> anyhow::Result<Vec<PairResult>> {
    let data = other_data(arguments.data.as_deref())?;
    let run_options = RunOptions {
        pairs,
        passes: arguments.passes.unwrap_or(IMAGE_PASSES),
        seed: arguments.seed.unwrap_or_default(),
        drop_dominant: arguments.drop_dominant,
        dominant_layer: arguments.dominant_layer.clone(),
        data,
        noise: arguments.input == InputArgument::Noise,
    };
    Ok(compare::compare_runs(runs, options, &run_options, processor, interrupt.requested(), progress)?)
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
    let left_over = match info.dropped {
        0 => String::new(),
        dropped => format!(", {} left over", counted(dropped, "example", "examples")),
    };
    let subject = if models == 1 { info.model_x.clone() } else { format!("{} x {}", info.model_x, info.model_y) };
    console.result(&format!(
        "{subject}: {} x {} layers, {} of {}{left_over} -> {}",
        info.layers_x.len(),
        info.layers_y.len(),
        counted(info.batches, "batch", "batches"),
        info.batch_size,
        dir.display()
    ));
}
