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
//! Probes are where the network is. Where that is a GPU nothing but their counts leaves it, once an epoch.

mod files;
pub mod linear_probe;
#[cfg(feature = "cuda")]
mod on_device;
mod on_host;
mod pooling;

use std::mem;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_nn::Processor;
use gramscope_nn::random::{Philox, Stream};
use gramscope_train::data::{self, DataConfig, Dataset, balanced_prefix};
use gramscope_train::{Run, evaluate};
use regex::Regex;

pub use files::{Diverged, INFO, PICTURE, PROBES, ProbeInfo, ProbeResult, ProbedLayer};

use crate::compare::{Batch, Feed, MemoryLimits, Model, Progress, check_memory, check_side, forward_bytes};
use crate::provenance::{ExampleSource, Versions};
use crate::{Error, Fewer, HOST, Result, Setting};
use linear_probe::Step;
use on_host::OnHost;

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
/// [`Error::Interrupted`] once `stop` is set; too little memory; and what the run or its data may say.
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

    let courses = train_and_test(&model, &images, options, stop, progress)?;

    let (dataset, train_images, test_images) = (&images.dataset, images.train.len(), images.dataset.test.len());
    let layers = courses.iter().zip(&model.info.layers).map(|(course, layer)| ProbedLayer {
        layer: layer.clone(),
        accuracy_train: course.accuracy(course.begun, course.trained, train_images),
        accuracy_test: course.accuracy(course.trained, course.tested, test_images),
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
        diverged: diverged(&courses, &model.info.layers, options.epochs, options.steps(train_images)),
        data: ExampleSource::Images { name: dataset.name.clone(), dir: images.dir.clone() },
        versions: Versions::on(model.processor()),
    };
    Ok(ProbeResult { layers: layers.collect(), info })
}

/// Trains a probe on every layer of `model` and tests it.
fn train_and_test(
    model: &Model,
    images: &Images,
    options: &ProbeOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Course>> {
    let Images { dataset, train, .. } = images;
    let test: Vec<usize> = (0..dataset.test.len()).collect();
    // What there is memory for when probes learn there is for the test images.
    let size_of_test = options.batch_size.min(evaluate::BATCH);
    let steps = options.epochs * options.steps(train.len()) + test.len().div_ceil(size_of_test);
    let mut done = 0;
    let mut go_on = || -> Result<()> {
        done += 1;
        progress(Progress { done, total: steps, batch: done, batches: steps, subject: &model.info.name });
        if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    };
    check_memory_of_host(model, images, options)?;
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
    let orders = Philox::new(options.seed, Stream::Probes);
    let (mut begun, mut trained) = (Vec::new(), probes.standings()?);
    for epoch in 0..options.epochs {
        let place = u32::try_from(epoch).expect("checked above");
        let order: Vec<usize> = orders.sequence(place).permutation(train.len()).into_iter().map(|i| train[i]).collect();
        for indices in order.chunks(options.batch_size) {
            probes.take(model, &feed.batch(indices)?, &feed.labels(indices), true)?;
            go_on()?;
        }
        begun = mem::replace(&mut trained, probes.standings()?);
    }
    for indices in test.chunks(size_of_test) {
        probes.take(model, &test_feed.batch(indices)?, &test_feed.labels(indices), false)?;
        go_on()?;
    }
    let all = begun.into_iter().zip(trained).zip(probes.standings()?);
    Ok(all.map(|((begun, trained), tested)| Course { begun, trained, tested }).collect())
}

/// Fails where network, probes and a batch of images need more of the host's memory than they may take.
fn check_memory_of_host(model: &Model, images: &Images, options: &ProbeOptions) -> Result<()> {
    let (classes, batch, on_gpu) = (images.dataset.classes.len(), images.most_at_once(options), model.gpu().is_some());
    let probes = if on_gpu { 0 } else { OnHost::bytes(model.shapes(), options.pool, classes, batch) };
    let what = format!("probes of {} layers and batches of {batch} images", model.info.layers.len());
    let network = model.bytes() + forward_bytes(slice::from_ref(model), batch, on_gpu);
    let bytes = [network, probes].into_iter().fold(images.bytes(on_gpu), u64::saturating_add);
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

/// Those of `courses` that ended early, of the probes of `layers`, first ones first; an epoch has so many steps.
fn diverged(courses: &[Course], layers: &[String], epochs: usize, steps: usize) -> Vec<Diverged> {
    let found = courses.iter().zip(layers).filter_map(|(course, layer)| Some((course.tested.diverged?, layer)));
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
struct Course {
    begun: Standing,
    trained: Standing,
    tested: Standing,
}

impl Course {
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
