//! The training loop.

mod on_device;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Device;
use candle_nn::Optimizer;
use gramscope_nn::device::Totals;
use gramscope_nn::random::{Philox, Stream};
use gramscope_nn::{Processor, ResNet, Sgd, SgdConfig, Shake, StepOptions};
use md5::{Digest, Md5};

use crate::augment::{self, Augmentation};
use crate::checkpoint::{Partial, Position};
use crate::data::{Dataset, Split};
use crate::digest::hexadecimal;
use crate::directory::{self, Contents, RunDirectory, Start};
use crate::error::{Error, Result};
use crate::evaluate::{Evaluation, evaluate};
use crate::metrics::{self, EpochMetrics};
use crate::run::Run;
use crate::settings::{RunConfig, TrainSettings};
use crate::{batches, checkpoint, fault, predictions, schedule};
use on_device::OnDevice;

/// Where tensors are: those of a network on a GPU too, whenever it is written down.
const HOST: Device = Device::Cpu;
/// Steps on a GPU between one look at their losses and the next: each look waits for the device.
const STEPS_UNSEEN: usize = 32;

/// What happens while a run is trained.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The run begins, or goes on.
    Started {
        /// Its name.
        name: &'a str,
        /// Epochs in all.
        epochs: usize,
        /// Steps an epoch.
        steps_per_epoch: usize,
        /// The epoch it begins with, from 1.
        first_epoch: usize,
        /// Trainable numbers in the network.
        parameters: usize,
    },
    /// A step was made; on a GPU, some were.
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// The step in it, from 1.
        step: usize,
        /// Mean loss of the epoch so far.
        loss: f64,
        /// Accuracy of the epoch so far, on augmented images.
        accuracy: f64,
        /// Training images a second, of the epoch so far.
        images_per_second: f64,
    },
    /// An epoch ended, and its checkpoint is written.
    Epoch(&'a EpochMetrics),
    /// The run is finished.
    Finished,
}

/// Trains a run into `dir` (or goes on with the one that is there), with the recipe of the module documentation of
/// [`crate::settings`], where `processor` says; the run records its backend, whatever that of `config`. A run that is finished
/// is returned at once when it is to be resumed, on any processor.
///
/// After every epoch its line is appended to metrics.jsonl and checkpoints/latest.safetensors is replaced; a run that is
/// killed and resumed where it was trained goes on from there and ends with the same bits. When `stop` is set, the step at work, or the
/// batch that is being evaluated, is finished, a checkpoint is written, and the run goes on from there when it is resumed.
///
/// # Errors
/// Settings that make no run, a directory that is not the run's, [`Error::OtherBackend`] for a run that was begun on another
/// kind of processor or in another arithmetic, a loss that is not finite, what the disk may say, and
/// [`Error::Interrupted`] once `stop` is set.
pub fn train(
    config: &RunConfig,
    dataset: &Dataset,
    dir: &Path,
    processor: &Processor,
    start: Start,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Run> {
    if start == Start::Resume
        && let Some(run) = finished(config, dir)?
    {
        return Ok(run);
    }
    let config = config.resolved()?.with_backend(processor.backend());
    let indices = training_images(&config.train, dataset)?;
    let shape = config.train.network(dataset.classes.len(), dataset.image_side);
    shape.check_training_memory(processor.images_on_host(config.train.batch_size))?;
    let network = ResNet::new(&shape, config.train.seed, &HOST)?;
    // What there is a checkpoint of no longer asks where it began.
    if !RunDirectory::new(dir).every_checkpoint()?.iter().any(|path| path.is_file()) {
        initialise(&network, &config.train)?;
    }
    let claim = directory::claim(dir, &config, start)?;
    let mut trainer = Trainer::new(&config.train, dataset, indices, network, &claim.directory)?;
    trainer.resume()?;
    trainer.move_to(processor)?;
    trainer.run(stop, progress)?;
    Run::open(dir)
}

/// The run in `dir`, if it has these settings and is finished: what [`train`] has nothing to do for, and needs neither data nor a GPU.
///
/// # Errors
/// Settings that make no run, or are not those of the run in `dir`, and what the disk may say.
pub fn finished(config: &RunConfig, dir: &Path) -> Result<Option<Run>> {
    let Contents::Run = directory::contents(dir)? else { return Ok(None) };
    let run = Run::open(dir)?;
    directory::check_same(dir, run.config(), &config.resolved()?)?;
    Ok(Some(run).filter(Run::is_finished))
}

/// The images a run trains on.
fn training_images(settings: &TrainSettings, dataset: &Dataset) -> Result<Vec<usize>> {
    if dataset.test.is_empty() {
        return Err(Error::NoTestImages);
    }
    let indices = dataset.train.fraction(settings.fraction, dataset.classes.len())?;
    if indices.len() < settings.batch_size {
        return Err(Error::TooFewImages { images: indices.len(), batch_size: settings.batch_size });
    }
    Ok(indices)
}

/// Takes over what the run starts with of another, where its settings name one.
fn initialise(network: &ResNet, settings: &TrainSettings) -> Result<()> {
    let Some(dir) = &settings.init_from else { return Ok(()) };
    let unusable = |problem: String| Error::InitialRun { dir: dir.clone(), problem };
    let run = Run::open(dir).map_err(|reason| unusable(reason.to_string()))?;
    if !run.is_trained() {
        return Err(Error::UnfinishedInitialRun { dir: dir.clone() });
    }
    network
        .load_stages(&run.checkpoint()?.state(), settings.init_stages)
        .map_err(|problem| unusable(problem.to_string()))
}

/// The labels that `settings` train with: those of the training split, or else one drawn for each image, uniformly, from
/// [`Stream::Labels`] at minor = index. A class's probability is off uniform by less than 2^-32.
fn training_labels(settings: &TrainSettings, dataset: &Dataset) -> Vec<u32> {
    if !settings.random_labels {
        return dataset.train.labels().to_vec();
    }
    let generator = Philox::new(settings.seed, Stream::Labels);
    let classes = dataset.classes.len() as u64;
    let label = |image| ((u64::from(generator.words(0, image as u64)[0]) * classes) >> 32) as u32;
    (0..dataset.train.len()).map(label).collect()
}

impl Partial {
    fn images(&self, batch_size: usize) -> f64 {
        (self.steps * batch_size) as f64
    }

    fn mean_loss(&self) -> f64 {
        self.loss_sum / self.steps as f64
    }

    fn accuracy(&self, batch_size: usize) -> f64 {
        self.correct / self.images(batch_size)
    }

    fn images_per_second(&self, batch_size: usize) -> f64 {
        self.images(batch_size) / self.seconds
    }

    fn event(&self, epoch: usize, batch_size: usize) -> Event<'static> {
        Event::Step {
            epoch,
            step: self.steps,
            loss: self.mean_loss(),
            accuracy: self.accuracy(batch_size),
            images_per_second: self.images_per_second(batch_size),
        }
    }
}

struct Trainer<'a> {
    settings: &'a TrainSettings,
    dataset: &'a Dataset,
    indices: Vec<usize>,
    /// Of every image of the training split, whether it is used or not.
    labels: Vec<u32>,
    network: ResNet,
    sgd: Sgd,
    augmentation: Augmentation,
    directory: &'a RunDirectory,
    /// The network and the data where a GPU trains; `network` and `sgd` are then what they were when it last wrote back.
    on_device: Option<OnDevice>,
    /// Tells the training images from others.
    data: String,
    position: Position,
    /// How the network did on the test images after the last epoch that was trained here.
    test: Option<Evaluation>,
}

impl<'a> Trainer<'a> {
    fn new(
        settings: &'a TrainSettings,
        dataset: &'a Dataset,
        indices: Vec<usize>,
        network: ResNet,
        directory: &'a RunDirectory,
    ) -> Result<Self> {
        let TrainSettings { learning_rate, momentum, weight_decay, .. } = *settings;
        let sgd = Sgd::for_network(&network, SgdConfig { learning_rate, momentum, weight_decay })?;
        let data = fingerprint(&dataset.train, &indices);
        let augmentation = Augmentation::new(settings);
        Ok(Self {
            settings,
            dataset,
            indices,
            labels: training_labels(settings, dataset),
            network,
            sgd,
            augmentation,
            directory,
            on_device: None,
            data,
            position: Position::default(),
            test: None,
        })
    }

    /// Takes up the newest good checkpoint, if there is one.
    fn resume(&mut self) -> Result<()> {
        let found = checkpoint::newest(&self.directory.every_checkpoint()?)?;
        let interrupted = self.directory.interrupted();
        if let Some(checkpoint) = found {
            let path = checkpoint.path();
            if checkpoint.data != self.data {
                return Err(Error::OtherData { checkpoint: path.to_owned() });
            }
            let unusable = |problem: gramscope_nn::Error| Error::Checkpoint {
                path: path.to_owned(),
                problem: problem.to_string(),
            };
            self.network.load_state(&checkpoint.state()).map_err(unusable)?;
            self.sgd.load_velocities(&checkpoint.velocities()).map_err(unusable)?;
            self.position = checkpoint.position;
            if path != interrupted {
                remove(&interrupted)?;
                let latest = self.directory.latest();
                if path != latest {
                    // A good one is older only if an epoch's end was cut short between the one it keeps and the latest. Where
                    // the latest was damaged or lost, an older one takes its place.
                    if checkpoint::load(&latest).is_ok() {
                        self.set_latest_aside()?;
                    }
                    self.write(&latest)?;
                }
            }
        }
        metrics::rewind(&self.directory.metrics(), self.position.epochs)
    }

    /// Puts the network where it is to be trained.
    fn move_to(&mut self, processor: &Processor) -> Result<()> {
        let Self { settings, dataset, labels, indices, network, sgd, .. } = self;
        self.on_device = OnDevice::new(processor, settings, dataset, labels, indices, network, sgd)?;
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        progress(Event::Started {
            name: &self.directory.name(),
            epochs: self.settings.epochs,
            steps_per_epoch: self.steps(),
            first_epoch: self.position.epochs + 1,
            parameters: self.network.config().parameter_count(),
        });
        while self.position.epochs < self.settings.epochs {
            let metrics = self.epoch(stop, progress)?;
            metrics::append(&self.directory.metrics(), &metrics)?;
            self.position = Position { epochs: metrics.epoch, partial: Partial::default() };
            self.write_back()?;
            self.save()?;
            progress(Event::Epoch(&metrics));
            if stop.load(Ordering::Relaxed) && self.position.epochs < self.settings.epochs {
                return Err(self.interrupted());
            }
        }
        self.predict(stop)?;
        progress(Event::Finished);
        Ok(())
    }

    /// Steps an epoch; a last short batch is dropped.
    fn steps(&self) -> usize {
        self.indices.len() / self.settings.batch_size
    }

    /// Trains what is left of the next epoch, and evaluates.
    fn epoch(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(Event<'_>)) -> Result<EpochMetrics> {
        let started = Instant::now();
        let epoch = self.position.epochs + 1;
        let _range = gramscope_cuda::range(&format!("epoch {epoch}"));
        let earlier = self.position.partial.seconds;
        let number = u32::try_from(epoch).expect("settings allow no more than 2^32 - 1 epochs");
        let learning_rate = schedule::learning_rate(self.settings.learning_rate, epoch, self.settings.epochs);
        let order = augment::order(self.settings.seed, number, self.indices.len());
        let order: Vec<usize> = order.into_iter().map(|position| self.indices[position]).collect();
        self.begin_epoch(number, learning_rate, &order)?;
        let batch_size = self.settings.batch_size;
        for indices in order.chunks_exact(batch_size).skip(self.position.partial.steps) {
            self.step(indices, number)?;
            self.position.partial.steps += 1;
            let stops = stop.load(Ordering::Relaxed);
            if stops || self.looks_at_losses() {
                self.look_at_losses(epoch)?;
                let partial = &mut self.position.partial;
                partial.seconds = earlier + started.elapsed().as_secs_f64();
                progress(partial.event(epoch, batch_size));
            }
            if stops {
                return self.interrupt();
            }
        }
        let Some(test) = self.evaluate(stop)? else { return self.interrupt() };
        if !test.loss.is_finite() {
            return Err(Error::DivergedInTest { epoch, loss: test.loss });
        }
        let partial = self.position.partial;
        let (test_loss, test_accuracy) = (test.loss, test.accuracy);
        self.test = Some(test);
        Ok(EpochMetrics {
            epoch,
            learning_rate,
            train_loss: partial.mean_loss(),
            train_accuracy: partial.accuracy(batch_size),
            test_loss,
            test_accuracy,
            images_per_second: partial.images_per_second(batch_size),
            seconds: earlier + started.elapsed().as_secs_f64(),
            gpu: self.on_device.as_ref().map(OnDevice::gpu),
        })
    }

    /// Writes down where the epoch was left.
    fn interrupt<T>(&mut self) -> Result<T> {
        self.write_back()?;
        self.write(&self.directory.interrupted())?;
        Err(self.interrupted())
    }

    fn interrupted(&self) -> Error {
        let Position { epochs, partial } = self.position;
        Error::Interrupted { dir: self.directory.root().to_path_buf(), epoch: epochs + 1, steps: partial.steps }
    }

    /// Begins an epoch, or goes on with the one that was left.
    fn begin_epoch(&mut self, epoch: u32, learning_rate: f64, order: &[usize]) -> Result<()> {
        self.sgd.set_learning_rate(learning_rate);
        let Partial { steps, loss_sum: loss, correct, .. } = self.position.partial;
        let taken = steps * self.settings.batch_size;
        match &mut self.on_device {
            Some(on_device) => on_device.begin_epoch(epoch, learning_rate, order, taken, Totals { loss, correct }),
            None => Ok(()),
        }
    }

    /// One step on these images.
    fn step(&mut self, indices: &[usize], epoch: u32) -> Result<()> {
        let shake = self.settings.shake_shake.then_some(Shake { seed: self.settings.seed, epoch, images: indices });
        if let Some(on_device) = &mut self.on_device {
            return on_device.step(&self.augmentation, &self.dataset.train, &self.labels, indices, epoch, shake);
        }
        let images = self.augmentation.batch(&self.dataset.train, indices, epoch, &HOST)?;
        let labels = batches::labels(&self.labels, indices, &HOST)?;
        let options = StepOptions { penalty: self.settings.penalty(), shake };
        let gradients = self.network.loss_and_gradients_with(&images, &labels, options)?;
        self.sgd.step(&gradients.grads)?;
        let partial = &mut self.position.partial;
        partial.loss_sum += f64::from(gradients.loss.to_scalar::<f32>()?);
        partial.correct += f64::from(gradients.correct.to_scalar::<f32>()?);
        Ok(())
    }

    /// Whether the losses are looked at after the step that was just made: on the CPU after each.
    fn looks_at_losses(&self) -> bool {
        let steps = self.position.partial.steps;
        self.on_device.is_none() || steps.is_multiple_of(STEPS_UNSEEN) || steps == self.steps()
    }

    /// Brings the epoch's sums up to date, and fails where a loss was not finite.
    fn look_at_losses(&mut self, epoch: usize) -> Result<()> {
        let partial = &mut self.position.partial;
        if let Some(on_device) = &self.on_device {
            let Totals { loss, correct } = on_device.totals()?;
            (partial.loss_sum, partial.correct) = (loss, correct);
        }
        match partial.loss_sum.is_finite() {
            true => Ok(()),
            false => Err(Error::Diverged { epoch, step: partial.steps, loss: partial.loss_sum }),
        }
    }

    /// How the network does on the test images; nothing once `stop` is set.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<Evaluation>> {
        let test = &self.dataset.test;
        match &mut self.on_device {
            Some(on_device) => on_device.evaluate(test, self.dataset.classes.len(), stop),
            None => evaluate(&self.network, test, &HOST, stop),
        }
    }

    /// Brings what a GPU has learnt to the host.
    fn write_back(&mut self) -> Result<()> {
        match &self.on_device {
            Some(on_device) => on_device.write_back(&self.network, &mut self.sgd),
            None => Ok(()),
        }
    }

    /// Writes the checkpoints of the epoch that has just ended; the latest last, because resuming relies on it.
    fn save(&self) -> Result<()> {
        let (directory, epoch) = (self.directory, self.position.epochs);
        if self.settings.checkpoint_every.is_some_and(|every| epoch.is_multiple_of(every)) {
            self.write(&directory.kept(epoch))?;
        }
        self.set_latest_aside()?;
        self.write(&directory.latest())?;
        remove(&directory.interrupted())
    }

    /// Makes the latest checkpoint, if there is one, the previous one.
    fn set_latest_aside(&self) -> Result<()> {
        let latest = self.directory.latest();
        if !latest.is_file() {
            return Ok(());
        }
        let rename = fault::point().and_then(|()| fs::rename(&latest, self.directory.previous()));
        rename.map_err(Error::io("rename", &latest))
    }

    fn write(&self, path: &Path) -> Result<()> {
        checkpoint::save(path, self.position, &self.data, &self.network.state(), &self.sgd.velocities())
    }

    /// Writes the test images' logits and labels. A run that was stopped behind its last epoch has not evaluated them.
    fn predict(&mut self, stop: &AtomicBool) -> Result<()> {
        let test = match self.test.take() {
            Some(test) => test,
            None => self.evaluate(stop)?.ok_or_else(|| self.interrupted())?,
        };
        predictions::save(&self.directory.predictions(), &test.logits, self.dataset)
    }
}

/// The MD5 of the labels and pixels of the images at `indices`, in hexadecimal digits.
fn fingerprint(split: &Split, indices: &[usize]) -> String {
    let mut hash = Md5::new();
    for &index in indices {
        hash.update(split.label(index).to_le_bytes());
        hash.update(split.image(index));
    }
    hexadecimal(hash)
}

/// Removes the file, if there is one.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
