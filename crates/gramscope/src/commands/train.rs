//! `gramscope train`: one network.

use anyhow::Context;
use gramscope_study::plot;
use gramscope_train::data::{self, DataConfig};
use gramscope_train::{Event, Run, RunConfig, Start, TrainSettings};

use super::training_progress::TrainingProgress;
use crate::arguments::{DataArguments, SettingArguments, TrainArguments};
use crate::console::Console;
use crate::device;
use crate::interrupt::Interrupt;

/// Trains the network the arguments describe.
pub(crate) fn run(arguments: &TrainArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let config = config(arguments)?;
    let done = if arguments.resume { gramscope_train::finished(&config, &arguments.out)? } else { None };
    let run = match done {
        Some(run) => run,
        None => train(&config, arguments, interrupt, console)?,
    };
    let metrics = run.metrics()?;
    plot::run_pictures(&run);
    let last = metrics.last().context("the finished run has no metrics")?;
    console.result(&format!(
        "{}: test accuracy {:.4} after {} epochs, {:.1} s in all",
        arguments.out.display(),
        last.test_accuracy,
        last.epoch,
        metrics.iter().map(|epoch| epoch.seconds).sum::<f64>()
    ));
    Ok(())
}

/// What is to be trained: what the arguments describe, or, where they say that a run is to go on and nothing of it, that run.
fn config(arguments: &TrainArguments) -> anyhow::Result<RunConfig> {
    let TrainArguments { out, resume, data, settings, .. } = arguments;
    if *resume && data.is_none() && settings.is_none() {
        let run = Run::open(out).context("a run that is to go on without its settings being given (--depth)")?;
        return Ok(run.config().clone());
    }
    let depth = settings.as_ref().and_then(|settings| settings.depth);
    let (Some(settings), Some(depth)) = (settings, depth) else {
        anyhow::bail!("--depth is missing: give the run's data and settings whole, or, with --resume, none of them");
    };
    let data = data.as_ref().map_or_else(|| Ok(DataConfig::default()), data_config)?;
    Ok(RunConfig::new(data, train_settings(settings, depth)))
}

fn train(
    config: &RunConfig,
    arguments: &TrainArguments,
    interrupt: &Interrupt,
    console: &Console,
) -> anyhow::Result<Run> {
    let processor = device::processor(&arguments.device, console)?;
    let dataset = data::load(&config.data)?;
    let start = if arguments.resume { Start::Resume } else { Start::Fresh };
    let mut progress = TrainingProgress::new(console);
    let mut show = |event: Event<'_>| progress.show(event);
    let stop = interrupt.requested();
    Ok(gramscope_train::train(config, &dataset, &arguments.out, &processor, start, stop, &mut show)?)
}

fn data_config(arguments: &DataArguments) -> anyhow::Result<DataConfig> {
    let named = DataConfig::resolve_argument(&arguments.data).context("--data")?;
    Ok(DataConfig {
        train_images: arguments.train_images.or(named.train_images),
        test_images: arguments.test_images.or(named.test_images),
        image_side: arguments.image_side.or(named.image_side),
        ..named
    })
}

fn train_settings(arguments: &SettingArguments, depth: usize) -> TrainSettings {
    let default = TrainSettings::default();
    TrainSettings {
        family: arguments.family,
        depth,
        width: arguments.width,
        residual: !arguments.no_residual,
        shake_shake: arguments.shake_shake,
        seed: arguments.seed,
        epochs: arguments.epochs.unwrap_or(default.epochs),
        batch_size: arguments.batch_size.unwrap_or(default.batch_size),
        learning_rate: arguments.learning_rate.unwrap_or(default.learning_rate),
        momentum: arguments.momentum.unwrap_or(default.momentum),
        weight_decay: arguments.weight_decay.unwrap_or(default.weight_decay),
        fraction: arguments.fraction.unwrap_or(default.fraction),
        crop_padding: arguments.crop_padding.unwrap_or(default.crop_padding),
        flip: !arguments.no_flip,
        colour_distortion: arguments.colour_distortion.unwrap_or(default.colour_distortion),
        random_labels: arguments.random_labels,
        init_from: arguments.init_from.clone(),
        init_stages: arguments.init_stages,
        first_pc_penalty: arguments.first_pc_penalty.unwrap_or(default.first_pc_penalty),
        first_pc_threshold: arguments.first_pc_threshold.unwrap_or(default.first_pc_threshold),
        checkpoint_every: arguments.checkpoint_every,
    }
}
