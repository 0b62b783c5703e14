//! The training loop.

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use candle_nn::Optimizer;
use gramscope_nn::{ResNet, Sgd, SgdConfig};
use md5::{Digest, Md5};
use safetensors::Dtype;

use crate::augment::{self, Augmentation};
use crate::data::{Dataset, Split};
use crate::directory::{self, Contents, RunDirectory, Start};
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::metrics::{self, EpochMetrics};
use crate::run::Run;
use crate::settings::{RunConfig, TrainSettings};
use crate::{atomic, batches, checkpoint, schedule};

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
    /// A step was made.
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
/// [`crate::settings`]. A run that is finished is returned at once when it is to be resumed.
///
/// After every epoch its line is appended to metrics.jsonl and checkpoints/latest.safetensors is replaced; a run that is
/// killed and resumed goes on from there and ends with the same bits.
///
/// # Errors
/// Settings that make no run, a directory that is not the run's, a loss that is not finite, and what the disk may say.
pub fn train(
    config: &RunConfig,
    dataset: &Dataset,
    dir: &Path,
    device: &Device,
    start: Start,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Run> {
    let config = config.resolved()?;
    if start == Start::Resume
        && let Contents::Run(stored) = directory::contents(dir)?
    {
        directory::check_same(dir, &stored, &config)?;
        let run = Run::open(dir)?;
        if run.is_finished() {
            return Ok(run);
        }
    }
    let indices = training_images(&config.train, dataset)?;
    let network =
        ResNet::new(&config.train.network(dataset.classes.len(), dataset.image_side), config.train.seed, device)?;
    let claim = directory::claim(dir, &config, start)?;
    let mut trainer = Trainer::new(&config.train, dataset, indices, network, &claim.directory, device)?;
    trainer.resume()?;
    trainer.run(progress)?;
    Run::open(dir)
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

struct Trainer<'a> {
    settings: &'a TrainSettings,
    dataset: &'a Dataset,
    indices: Vec<usize>,
    network: ResNet,
    sgd: Sgd,
    augmentation: Augmentation,
    directory: &'a RunDirectory,
    device: &'a Device,
    /// Tells the training images from others.
    data: String,
    /// Epochs that are done.
    done: usize,
}

impl<'a> Trainer<'a> {
    fn new(
        settings: &'a TrainSettings,
        dataset: &'a Dataset,
        indices: Vec<usize>,
        network: ResNet,
        directory: &'a RunDirectory,
        device: &'a Device,
    ) -> Result<Self> {
        let TrainSettings { learning_rate, momentum, weight_decay, .. } = *settings;
        let sgd = Sgd::for_network(&network, SgdConfig { learning_rate, momentum, weight_decay })?;
        let data = fingerprint(&dataset.train, &indices);
        let augmentation = Augmentation::new(settings);
        Ok(Self { settings, dataset, indices, network, sgd, augmentation, directory, device, data, done: 0 })
    }

    /// Takes up the last checkpoint, if there is one.
    fn resume(&mut self) -> Result<()> {
        let path = self.directory.latest();
        if path.is_file() {
            let checkpoint = checkpoint::load(&path, self.device)?;
            if checkpoint.data != self.data {
                return Err(Error::OtherData { checkpoint: path });
            }
            let unusable =
                |problem: gramscope_nn::Error| Error::Checkpoint { path: path.clone(), problem: problem.to_string() };
            self.network.load_state(&checkpoint.state).map_err(unusable)?;
            self.sgd.load_velocities(&checkpoint.velocities).map_err(unusable)?;
            self.done = checkpoint.epoch;
        }
        metrics::rewind(&self.directory.metrics(), self.done)
    }

    fn run(&mut self, progress: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        progress(Event::Started {
            name: &self.directory.name(),
            epochs: self.settings.epochs,
            steps_per_epoch: self.steps(),
            first_epoch: self.done + 1,
            parameters: self.network.config().parameter_count(),
        });
        while self.done < self.settings.epochs {
            let metrics = self.epoch(self.done + 1, progress)?;
            metrics::append(&self.directory.metrics(), &metrics)?;
            self.save(metrics.epoch)?;
            self.done = metrics.epoch;
            progress(Event::Epoch(&metrics));
        }
        self.predict()?;
        progress(Event::Finished);
        Ok(())
    }

    /// Steps an epoch; a last short batch is dropped.
    fn steps(&self) -> usize {
        self.indices.len() / self.settings.batch_size
    }

    fn epoch(&mut self, epoch: usize, progress: &mut dyn FnMut(Event<'_>)) -> Result<EpochMetrics> {
        let started = Instant::now();
        let number = u32::try_from(epoch).expect("settings allow no more than 2^32 - 1 epochs");
        let learning_rate = schedule::learning_rate(self.settings.learning_rate, epoch, self.settings.epochs);
        self.sgd.set_learning_rate(learning_rate);
        let order = augment::order(self.settings.seed, number, self.indices.len());
        let order: Vec<usize> = order.into_iter().map(|position| self.indices[position]).collect();
        let (mut loss_sum, mut correct, mut images) = (0.0, 0.0, 0.0);
        for (step, indices) in order.chunks_exact(self.settings.batch_size).enumerate() {
            let (loss, right) = self.step(indices, number)?;
            if !loss.is_finite() {
                return Err(Error::Diverged { epoch, step: step + 1, loss });
            }
            loss_sum += f64::from(loss);
            correct += f64::from(right);
            images += indices.len() as f64;
            progress(Event::Step {
                epoch,
                step: step + 1,
                loss: loss_sum / (step + 1) as f64,
                accuracy: correct / images,
                images_per_second: images / started.elapsed().as_secs_f64(),
            });
        }
        let training_seconds = started.elapsed().as_secs_f64();
        let test = evaluate(&self.network, &self.dataset.test, self.device)?;
        if !test.loss.is_finite() {
            return Err(Error::DivergedInTest { epoch, loss: test.loss });
        }
        Ok(EpochMetrics {
            epoch,
            learning_rate,
            train_loss: loss_sum / self.steps() as f64,
            train_accuracy: correct / images,
            test_loss: test.loss,
            test_accuracy: test.accuracy,
            images_per_second: images / training_seconds,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// One step on these images: the loss before it, and how many were right.
    fn step(&mut self, indices: &[usize], epoch: u32) -> Result<(f32, f32)> {
        let images = self.augmentation.batch(&self.dataset.train, indices, epoch, self.device)?;
        let labels = batches::labels(&self.dataset.train, indices, self.device)?;
        let gradients = self.network.loss_and_gradients(&images, &labels)?;
        self.sgd.step(&gradients.grads)?;
        Ok((gradients.loss.to_scalar()?, gradients.correct.to_scalar()?))
    }

    /// Writes the epoch's checkpoints; the latest last, because resuming relies on it.
    fn save(&self, epoch: usize) -> Result<()> {
        let (state, velocities) = (self.network.state(), self.sgd.velocities());
        let write = |path: &Path| checkpoint::save(path, epoch, &self.data, &state, &velocities);
        if self.settings.checkpoint_every.is_some_and(|every| epoch.is_multiple_of(every)) {
            write(&self.directory.kept(epoch))?;
        }
        write(&self.directory.latest())
    }

    /// Writes the test images' logits and labels.
    fn predict(&self) -> Result<()> {
        let split = &self.dataset.test;
        let logits = evaluate(&self.network, split, self.device)?.logits;
        let logits: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
        let labels: Vec<u8> = split.labels().iter().flat_map(|value| value.to_le_bytes()).collect();
        let path = self.directory.predictions();
        let tensors = [
            ("logits", Dtype::F32, vec![split.len(), self.dataset.classes.len()], logits.as_slice()),
            ("labels", Dtype::U32, vec![split.len()], labels.as_slice()),
        ];
        atomic::write(&path, &checkpoint::container(&path, tensors.into_iter(), None)?)
            .map_err(Error::io("write", &path))
    }
}

/// The MD5 of the labels and pixels of the images at `indices`, in hexadecimal digits.
fn fingerprint(split: &Split, indices: &[usize]) -> String {
    let mut hash = Md5::new();
    for &index in indices {
        hash.update(split.label(index).to_le_bytes());
        hash.update(split.image(index));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
