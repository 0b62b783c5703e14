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
//!
//! Probes are where the network is. Where that is a GPU nothing but their counts leaves it, once an epoch, and what they have learned where
//! that is kept, once a minute.

mod files;
pub mod linear_probe;
#[cfg(feature = "cuda")]
mod on_device;
mod on_host;
mod pooling;
mod unfinished;

use std::slice;
use std::sync::atomic::AtomicBool;

use gramscope_nn::Processor;
use gramscope_nn::random::{Philox, Stream};
use gramscope_train::data::{self, DataConfig, Dataset, balanced_prefix};
use gramscope_train::{Run, evaluate};
use regex::Regex;

pub use files::{Diverged, INFO, PICTURE, PROBES, ProbeInfo, ProbeResult, ProbedLayer};

use crate::compare::{Batch, Feed, MemoryLimits, Model, Progress, check_memory, check_side, forward_bytes};
use crate::provenance::{ExampleSource, Versions};
use crate::unfinished::Keeper;
use crate::{Error, Fewer, HOST, Result, Setting, Unfinished};
use linear_probe::Step;
use on_host::OnHost;
use unfinished::{Learned, Learning, ProbeTask};

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
    /// The memory that may be taken.
    pub memory: MemoryLimits,
    /// Where what the probes have learned lies while they learn, from which the same ones go on; nowhere where that is not asked for.
    /// It is to be removed once the results are written.
    pub unfinished: Option<Unfinished>,
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
            memory: MemoryLimits::default(),
            unfinished: None,
        }
    }
}

impl ProbeOptions {
    fn check(&self) -> Result<()> {
        let Self { epochs, batch_size, learning_rate, momentum, .. } = *self;
        let most = u32::MAX as usize;
        let (problem, setting): (_, &[Setting]) = if !(1..=most).contains(&epochs) {
            (format!("{epochs} epochs: must be from 1 to {most}"), &[Setting::Epochs])
        } else if batch_size == 0 {
            ("a batch size of 0: must be at least 1".to_owned(), &[Setting::BatchSize])
        } else if !(learning_rate > 0.0 && learning_rate.is_finite()) {
            (format!("a learning rate of {learning_rate}: must be a positive number"), &[Setting::LearningRate])
        } else if !(0.0..1.0).contains(&momentum) {
            (format!("a momentum of {momentum}: must be from 0 to below 1"), &[Setting::Momentum])
        } else {
            return Ok(());
        };
        Err(Error::incomparable(problem).mended_by(setting))
    }

    fn step(&self) -> Step {
        Step { learning_rate: self.learning_rate, momentum: self.momentum }
    }

    /// Steps of an epoch of so many images.
    fn steps(&self, images: usize) -> usize {
        images.div_ceil(self.batch_size)
    }
}

/// Trains a linear probe on every chosen layer of `run`, on the images that the run was trained on or on other data, where
/// `processor` says.
///
/// # Errors
/// [`Error::Incomparable`] for settings out of range, for more images than there are, or where no layer matches;
/// [`Error::Interrupted`] once `stop` is set and a batch is over; too little memory; and what the run or its data may say.
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

    let marks = Course { model: &model, images: &images, options, stop, progress, done: 0 }.run()?;

    let (dataset, train_images, test_images) = (&images.dataset, images.train.len(), images.dataset.test.len());
    let layers = marks.iter().zip(&model.info.layers).map(|(marks, layer)| ProbedLayer {
        layer: layer.clone(),
        accuracy_train: marks.accuracy(marks.begun, marks.trained, train_images),
        accuracy_test: marks.accuracy(marks.trained, marks.tested, test_images),
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
        train_images,
        test_images,
        diverged: diverged(&marks, &model.info.layers, options.epochs, options.steps(train_images)),
        data: ExampleSource::Images { name: dataset.name.clone(), dir: images.dir.clone() },
        versions: Versions::on(model.processor()),
    };
    Ok(ProbeResult { layers: layers.collect(), info })
}

/// The course that the probes of a network take: learning, and a test.
struct Course<'a> {
    model: &'a Model,
    images: &'a Images,
    options: &'a ProbeOptions,
    stop: &'a AtomicBool,
    progress: &'a mut dyn FnMut(Progress<'_>),
    /// Batches that are over, those of the test behind those that are learned from.
    done: usize,
}

impl Course<'_> {
    /// Trains a probe on every layer and tests it.
    fn run(mut self) -> Result<Vec<Marks>> {
        let (model, images, options) = (self.model, self.images, self.options);
        let Images { dataset, train, .. } = images;
        let test: Vec<usize> = (0..dataset.test.len()).collect();
        check_memory_of_host(model, images, options, 0)?;
        let (only, limit) = (slice::from_ref(model), options.memory.device);
        let test_feed = Feed::of_part(&dataset.test, &test, only, limit, None)?;
        let feed = Feed::of_part(&dataset.train, train, only, limit, Some(&test_feed))?;
        let classes = dataset.classes.len();
        let most = images.most_at_once(options);
        feed.most_at_once(&format!("{} and its probes", model.info.name), most..=most, &|images| {
            let probes = device_bytes(model.shapes(), options.pool, classes, images);
            Ok(model.device_bytes(images) + probes + test_feed.batch_bytes(images))
        })?;
        let mut probes = probes_of(model, classes, options)?;
        let place = options.unfinished.as_ref().filter(|_| keeps_within_memory(model, images, options));
        let mut keeper = Keeper::new(place, || ProbeTask::new(model, images, options));
        let begun = self.learn(probes.as_mut(), &feed, &mut keeper)?;
        let trained = probes.standings()?;
        let batches = options.epochs * options.steps(train.len());
        self.test(probes.as_mut(), &test_feed, &test, &mut keeper, &|probes| {
            let (begun, standings) = (begun.clone(), trained.clone());
            Ok(Learning { batches, begun, standings, learned: probes.learned()? })
        })?;
        drop(keeper);
        let all = begun.into_iter().zip(trained).zip(probes.standings()?);
        Ok(all.map(|((begun, trained), tested)| Marks { begun, trained, tested }).collect())
    }

    /// Trains the probes, or goes on with that where they were left; how they stood when the last epoch began.
    fn learn(
        &mut self,
        probes: &mut dyn Probes,
        feed: &Feed<'_>,
        keeper: &mut Keeper<'_, ProbeTask>,
    ) -> Result<Vec<Standing>> {
        let (model, options, train) = (self.model, self.options, &self.images.train);
        let mut begun = probes.standings()?;
        if let Some(kept) = keeper.take_up(|kept| unfinished::learning(kept, &probes.parameters()))? {
            probes.go_on_from(&kept)?;
            (self.done, begun) = (kept.batches, kept.begun);
        }
        let orders = Philox::new(options.seed, Stream::Probes);
        let steps = options.steps(train.len());
        for epoch in self.done / steps..options.epochs {
            let place = u32::try_from(epoch).expect("checked above");
            let order = orders.sequence(place).permutation(train.len());
            let order: Vec<usize> = order.into_iter().map(|image| train[image]).collect();
            let over = self.done - epoch * steps;
            if over == 0 {
                begun = probes.standings()?;
            }
            for indices in order.chunks(options.batch_size).skip(over) {
                probes.take(model, &feed.batch(indices)?, &feed.labels(indices), true)?;
                self.show_batch();
                keeper.batch_ended(self.stop, || {
                    let (standings, learned) = (probes.standings()?, probes.learned()?);
                    Ok(Learning { batches: self.done, begun: begun.clone(), standings, learned })
                })?;
            }
        }
        Ok(begun)
    }

    /// Shows the probes the test images, which changes nothing of what they have `learned`.
    fn test(
        &mut self,
        probes: &mut dyn Probes,
        feed: &Feed<'_>,
        test: &[usize],
        keeper: &mut Keeper<'_, ProbeTask>,
        learned: &dyn Fn(&dyn Probes) -> Result<Learning>,
    ) -> Result<()> {
        keeper.ended(|| learned(probes))?;
        for indices in test.chunks(self.size_of_test()) {
            probes.take(self.model, &feed.batch(indices)?, &feed.labels(indices), false)?;
            self.show_batch();
            keeper.batch_ended(self.stop, || learned(probes))?;
        }
        Ok(())
    }

    /// Images of a batch of the test: what there is memory for when probes learn there is for these.
    fn size_of_test(&self) -> usize {
        self.options.batch_size.min(evaluate::BATCH)
    }

    /// One more is over.
    fn show_batch(&mut self) {
        self.done += 1;
        let Images { dataset, train, .. } = self.images;
        let learning = self.options.epochs * self.options.steps(train.len());
        let (batch, batches) = (self.done, learning + dataset.test.len().div_ceil(self.size_of_test()));
        (self.progress)(Progress { done: batch, total: batches, batch, batches, subject: &self.model.info.name });
    }
}

/// Whether there is memory for what the probes have learned on its way to a file, once as numbers and once as the file, too; where there
/// is not, a warning says so.
fn keeps_within_memory(model: &Model, images: &Images, options: &ProbeOptions) -> bool {
    // On a GPU those of the last class are stored as well.
    let classes = images.dataset.classes.len() + usize::from(model.gpu().is_some());
    let copies = 2 * OnHost::bytes(model.shapes(), options.pool, classes, 0);
    let fits = options.unfinished.is_none() || check_memory_of_host(model, images, options, copies).is_ok();
    if !fits {
        tracing::warn!("an interruption would cost what probes learn: there is no memory for what would be kept of it");
    }
    fits
}

/// Fails where network, probes and a batch of images, and `more`, need more of the host's memory than they may take.
fn check_memory_of_host(model: &Model, images: &Images, options: &ProbeOptions, more: u64) -> Result<()> {
    let (classes, batch, on_gpu) = (images.dataset.classes.len(), images.most_at_once(options), model.gpu().is_some());
    let probes = if on_gpu { 0 } else { OnHost::bytes(model.shapes(), options.pool, classes, batch) };
    let what = format!("probes of {} layers and batches of {batch} images", model.info.layers.len());
    let network = model.bytes() + forward_bytes(slice::from_ref(model), batch, on_gpu);
    let bytes = [network, probes, more].into_iter().fold(images.bytes(on_gpu), u64::saturating_add);
    check_memory(what, bytes, options.memory.host, &[Fewer::Layers, Fewer::InBatch])
}

/// The most bytes that probes on layers of these `shapes` take on a GPU, with batches of so many examples.
fn device_bytes<'a>(shapes: impl Iterator<Item = &'a [usize]>, pool: bool, classes: usize, examples: usize) -> u64 {
    #[cfg(feature = "cuda")]
    return on_device::OnDevice::bytes(shapes, pool, classes, examples);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (shapes, pool, classes, examples);
        0
    }
}

/// Those of the probes of `layers` that diverged, as their `marks` say, first ones first; an epoch has so many steps.
fn diverged(marks: &[Marks], layers: &[String], epochs: usize, steps: usize) -> Vec<Diverged> {
    let found = marks.iter().zip(layers).filter_map(|(marks, layer)| Some((marks.tested.diverged?, layer)));
    let mut found: Vec<(usize, &String)> = found.collect();
    found.sort_by_key(|&(batch, _)| batch);
    let place = |(batch, layer): (usize, &String)| {
        let epoch = (batch / steps).min(epochs);
        Diverged { layer: layer.clone(), epoch: epoch + 1, batch: batch - epoch * steps + 1 }
    };
    found.into_iter().map(place).collect()
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
            Some(other) => (other.at_side(run.config().data.side()), 1.0),
            None => (run.config().data.clone(), run.config().train.fraction),
        };
        let dataset = data::load(&config)?;
        if dataset.classes.len() < 2 {
            let problem = "the data have one class: there is nothing for a linear probe to tell apart".to_owned();
            return Err(Error::incomparable(problem));
        }
        let mut train = dataset.train.fraction(fraction, dataset.classes.len())?;
        if let Some(wanted) = options.examples {
            let found = train.len();
            if !(1..=found).contains(&wanted) {
                let problem = format!("{wanted} examples: there are {found} training images; ask for 1 to {found}");
                return Err(Error::incomparable(problem).mended_by(&[Setting::Examples]));
            }
            let labels: Vec<u32> = train.iter().map(|&index| dataset.train.label(index)).collect();
            train = balanced_prefix(&labels, wanted, "train_images")?.into_iter().map(|place| train[place]).collect();
        }
        Ok(Self { dataset, dir: config.dir, train })
    }

    /// The images of the largest batch, of those that probes learn from and those that they are tested on.
    fn most_at_once(&self, options: &ProbeOptions) -> usize {
        options.batch_size.min(self.train.len().max(self.dataset.test.len()))
    }

    /// The bytes of all that there are, and of a copy of a part, on its way to a GPU.
    fn bytes(&self, on_gpu: bool) -> u64 {
        let Dataset { train, test, .. } = &self.dataset;
        let is_copied = on_gpu && self.train.len() < train.len();
        let copied = if is_copied { train.pixels().len() / train.len() * self.train.len() } else { 0 };
        (train.pixels().len() + test.pixels().len() + copied) as u64
    }
}

/// The probes of a network's chosen layers, wherever they are.
trait Probes {
    /// Runs `model` over a batch and hands each layer to its probe, which learns from it or is evaluated.
    fn take(&mut self, model: &Model, images: &Batch, labels: &[u32], learn: bool) -> Result<()>;

    /// How they stand after the batches so far, for all of which this waits.
    fn standings(&self) -> Result<Vec<Standing>>;

    /// Weights and biases of each, together.
    fn parameters(&self) -> Vec<usize>;

    /// What each has learned from the batches so far, for all of which this waits.
    fn learned(&self) -> Result<Vec<Learned>>;

    /// Goes on from what probes like these had come to.
    fn go_on_from(&mut self, learning: &Learning) -> Result<()>;
}

/// What a probe's batches came to.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// Images that were right, of all batches together.
    correct: usize,
    /// The first batch, from 0, whose loss was no finite number.
    diverged: Option<usize>,
}

/// How a probe stood when its last epoch began, when that was over, and after the test images.
struct Marks {
    begun: Standing,
    trained: Standing,
    tested: Standing,
}

impl Marks {
    /// The share that was right of so many images from one standing to another; none where the probe has diverged, sooner or
    /// later.
    fn accuracy(&self, from: Standing, to: Standing, images: usize) -> Option<f64> {
        self.tested.diverged.is_none().then(|| (to.correct - from.correct) as f64 / images as f64)
    }
}

/// A probe for each chosen layer of `model`, where that runs.
fn probes_of(model: &Model, classes: usize, options: &ProbeOptions) -> Result<Box<dyn Probes>> {
    #[cfg(feature = "cuda")]
    if let Some(device) = model.gpu() {
        let probes = on_device::OnDevice::new(device, model.shapes(), options.pool, classes, options.step())?;
        return Ok(Box::new(probes));
    }
    Ok(Box::new(OnHost::new(model.shapes(), options.pool, classes, options.step())))
}

#[cfg(test)]
pub(crate) mod tests;
