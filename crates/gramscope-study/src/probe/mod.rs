//! Linear probes: what can be read off a layer's activations by a linear classifier (Alain and Bengio 2016; Nguyen, Raghu
//! and Kornblith 2021, figure 4: probes right before and right after each residual connection).
//!
//! The probes of all layers are trained together while the training images stream through the frozen network: each batch
//! makes one forward pass in evaluation mode, without augmentation, and every activation is used by its probe as soon as
//! it exists and dropped after that. The order of an epoch depends on the seed and the epoch alone; a last short batch is
//! a step like the others. A probe sees nothing of the others: together or alone, it ends with the same bits.
//!
//! Two numbers come out for every layer. The accuracy on the training images is that of the last epoch as it runs: each
//! image counts with the weights before the step it is used in. The accuracy on the test images is that of the final
//! weights. (The paper's authors augmented the training images and kept the best test accuracy of all epochs.)
//!
//! A probe whose loss is no finite number is left as it is, without accuracies, and named; the others go on.

mod files;
pub mod linear_probe;
mod pooling;

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use gramscope_cka::{Activation, Values};
use gramscope_nn::Processor;
use gramscope_nn::random::{Philox, Stream};
use gramscope_train::data::{self, DataConfig, Dataset, Split, balanced_prefix};
use gramscope_train::{Run, batches, evaluate};
use regex::Regex;

pub(crate) use files::FILES;
pub use files::{Diverged, INFO, PICTURE, PROBES, ProbeInfo, ProbeResult, ProbedLayer, check, load, save, write};

use crate::compare::{Batch, Model, Progress, check_side, in_layer};
use crate::pcs::PcsData;
use crate::results::Versions;
use crate::{Error, HOST, Result};
use linear_probe::{LinearProbe, Outcome, Step};
use pooling::Pooling;

/// What is probed, and how.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Only the layers whose name matches; unless told otherwise those right before and right after each addition, or, in a
    /// network without, the last two of each block.
    pub layers: Option<Regex>,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images a step.
    pub batch_size: usize,
    /// Learning rate, constant.
    pub learning_rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Take the maximum over 2 x 2 pixels before the probe.
    pub pool: bool,
    /// Train on the first so many of the training images, class-balanced.
    pub examples: Option<usize>,
    /// Seed of the orders.
    pub seed: u64,
    /// Train and test on this data instead of the images that the run was trained and tested on.
    pub data: Option<DataConfig>,
}

impl Default for ProbeOptions {
    /// The paper's.
    fn default() -> Self {
        Self {
            layers: None,
            epochs: 300,
            batch_size: 128,
            learning_rate: 0.01,
            momentum: 0.9,
            pool: false,
            examples: None,
            seed: 0,
            data: None,
        }
    }
}

impl ProbeOptions {
    fn check(&self) -> Result<()> {
        let Self { epochs, batch_size, learning_rate, momentum, .. } = *self;
        let most = u32::MAX as usize;
        let problem = if !(1..=most).contains(&epochs) {
            format!("--epochs {epochs}: must be from 1 to {most}")
        } else if batch_size == 0 {
            "--batch-size 0: must be at least 1".to_owned()
        } else if !(learning_rate > 0.0 && learning_rate.is_finite()) {
            format!("--learning-rate {learning_rate}: must be a positive number")
        } else if !(0.0..1.0).contains(&momentum) {
            format!("--momentum {momentum}: must be from 0 to below 1")
        } else {
            return Ok(());
        };
        Err(Error::Incomparable(problem))
    }

    fn step(&self) -> Step {
        Step { learning_rate: self.learning_rate, momentum: self.momentum }
    }
}

/// Trains a linear probe on every chosen layer of `run`, on the images that the run was trained on or on other data. The network
/// runs where `processor` says; the probes take their steps on the CPU, from copies of the layers.
///
/// # Errors
/// [`Error::Incomparable`] for settings out of range, for more images than there are, or where no layer matches;
/// [`Error::Interrupted`] once `stop` is set; and what the run or its data may say.
pub fn probe(
    run: &Run,
    options: &ProbeOptions,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ProbeResult> {
    options.check()?;
    let images = Images::of(run, options)?;
    let network = run.network(&HOST)?;
    check_side(&images.dataset, &run.name(), &network)?;
    let config = network.config();
    let (before, after) = (config.branch_end(), if config.residual { "add" } else { config.block_end() });
    let default = Regex::new(&format!(r"\.({before}|{after})$")).expect("names of layers are plain words");
    let stages = network.layers().iter().map(|layer| layer.stage).collect();
    let mut model = Model::open(run.name(), network, Some(options.layers.as_ref().unwrap_or(&default)))?;
    model.move_to(processor)?;

    let mut work = Work::new(&model, &images, options);
    let train_steps = options.epochs * images.train.len().div_ceil(options.batch_size);
    let test: Vec<usize> = (0..images.dataset.test.len()).collect();
    let steps = train_steps + test.len().div_ceil(evaluate::BATCH);
    let mut done = 0;
    let mut go_on = || -> Result<()> {
        done += 1;
        progress(Progress { done, total: steps, batch: done, batches: steps, subject: &model.info.name });
        if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    };
    let orders = Philox::new(options.seed, Stream::Probes);
    for epoch in 0..options.epochs {
        work.probes.iter_mut().for_each(|probe| probe.correct = 0);
        let place = u32::try_from(epoch).expect("checked above");
        let order: Vec<usize> =
            orders.sequence(place).permutation(images.train.len()).into_iter().map(|i| images.train[i]).collect();
        for (batch, indices) in order.chunks(options.batch_size).enumerate() {
            work.pass(&images.dataset.train, indices, (epoch, batch), Some(options.step()))?;
            go_on()?;
        }
    }
    let train = work.accuracies(images.train.len());
    work.probes.iter_mut().for_each(|probe| probe.correct = 0);
    for (batch, indices) in test.chunks(evaluate::BATCH).enumerate() {
        work.pass(&images.dataset.test, indices, (options.epochs, batch), None)?;
        go_on()?;
    }
    let tested = work.accuracies(test.len());

    let layers =
        model.info.layers.iter().zip(train.into_iter().zip(tested)).map(|(layer, (train, tested))| ProbedLayer {
            layer: layer.clone(),
            // A probe that diverged on the test images has no accuracies at all.
            accuracy_train: tested.and(train),
            accuracy_test: tested,
        });
    let info = ProbeInfo {
        indices: model.chosen().collect(),
        model: model.info.name.clone(),
        stages,
        epochs: options.epochs,
        batch_size: options.batch_size,
        learning_rate: options.learning_rate,
        momentum: options.momentum,
        pool: options.pool,
        seed: options.seed,
        train_images: images.train.len(),
        test_images: test.len(),
        diverged: work.diverged,
        data: PcsData::Images { name: images.dataset.name.clone(), dir: images.dir },
        versions: Versions::on(model.processor()),
    };
    Ok(ProbeResult { layers: layers.collect(), info })
}

/// The images that probes are trained and tested on.
struct Images {
    dataset: Dataset,
    dir: Option<std::path::PathBuf>,
    /// Those of the training images that are used.
    train: Vec<usize>,
}

impl Images {
    fn of(run: &Run, options: &ProbeOptions) -> Result<Self> {
        let (config, fraction) = match &options.data {
            Some(other) => (other, 1.0),
            None => (&run.config().data, run.config().train.fraction),
        };
        let dataset = data::load(config)?;
        let mut train = dataset.train.fraction(fraction, dataset.classes.len())?;
        if let Some(wanted) = options.examples {
            let found = train.len();
            if !(1..=found).contains(&wanted) {
                return Err(Error::Incomparable(format!(
                    "--examples {wanted}: there are {found} training images; ask for 1 to {found}"
                )));
            }
            let labels: Vec<u32> = train.iter().map(|&index| dataset.train.label(index)).collect();
            train = balanced_prefix(&labels, wanted, "train_images")?.into_iter().map(|place| train[place]).collect();
        }
        Ok(Self { dataset, dir: config.dir.clone(), train })
    }
}

/// The probes at work on a network.
struct Work<'a> {
    model: &'a Model,
    probes: Vec<Probing>,
    diverged: Vec<Diverged>,
}

/// A layer's probe.
struct Probing {
    probe: LinearProbe,
    pooling: Option<Pooling>,
    /// Images that were right in this pass.
    correct: usize,
    /// Its loss was no finite number.
    diverged: bool,
}

impl<'a> Work<'a> {
    fn new(model: &'a Model, images: &Images, options: &ProbeOptions) -> Self {
        let probing = |layer: usize| {
            let shape = &model.network.layers()[layer].shape;
            let pooling = if options.pool { Pooling::of(shape) } else { None };
            let features = pooling.as_ref().map_or_else(|| shape.iter().product(), Pooling::features);
            let probe = LinearProbe::new(features, images.dataset.classes.len());
            Probing { probe, pooling, correct: 0, diverged: false }
        };
        Self { model, probes: model.chosen().map(probing).collect(), diverged: Vec::new() }
    }

    /// Runs the network over the images at `indices` and hands each layer to its probe: with `step` it learns from them. The
    /// pass's number and the batch's are for messages.
    fn pass(
        &mut self,
        split: &Split,
        indices: &[usize],
        (epoch, batch): (usize, usize),
        step: Option<Step>,
    ) -> Result<()> {
        let images = batches::images(split, indices, self.model.network.config().image_side, &HOST)?;
        let labels = batches::labels(split.labels(), indices, &HOST)?;
        let info = &self.model.info;
        self.model.each_layer(&Batch::Host(images), 0..self.model.info.layers.len(), &mut |place, view| {
            let probing = &mut self.probes[place];
            if probing.diverged {
                return Ok(());
            }
            let activation = view.map_err(in_layer(&info.name, &info.layers[place], batch))?;
            if !probing.take(activation, &labels, step)?.loss.is_finite() {
                probing.diverged = true;
                let layer = info.layers[place].clone();
                self.diverged.push(Diverged { layer, epoch: epoch + 1, batch: batch + 1 });
            }
            Ok(())
        })
    }

    fn accuracies(&self, images: usize) -> Vec<Option<f64>> {
        let accuracy = |probe: &Probing| (!probe.diverged).then(|| probe.correct as f64 / images as f64);
        self.probes.iter().map(accuracy).collect()
    }
}

impl Probing {
    fn take(&mut self, activation: Activation<'_>, labels: &Tensor, step: Option<Step>) -> Result<Outcome> {
        let Some(Values::F32(values)) = activation.values() else {
            return Err(candle_core::Error::msg("a network's activations are float32 numbers").into());
        };
        let values = match &mut self.pooling {
            Some(pooling) => pooling.apply(values),
            None => values,
        };
        let outcome = match step {
            Some(step) => self.probe.step(values, labels, step)?,
            None => self.probe.evaluate(values, labels)?,
        };
        self.correct += outcome.correct;
        Ok(outcome)
    }
}

#[cfg(test)]
pub(crate) mod tests;
