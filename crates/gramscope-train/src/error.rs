//! What can go wrong with a run.

use std::io;
use std::path::{Path, PathBuf};

use gramscope_nn::Backend;

use crate::data::DataError;
use crate::disk;
use crate::settings::{ConfigError, Difference};

/// The result of this crate's functions, but for those of [`crate::data`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a run. Every message names the file, setting or run at fault and what would mend it.
///
/// Messages are complete: where another error is the reason, its text is part of the message, and `source()` does not
/// repeat it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to read or write.
    #[error("cannot {action} {}: {reason}{}", .path.display(), disk::remedy(.reason))]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A setting, or a text of settings, that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The same, in a file.
    #[error("{}: {problem}", .path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ConfigError,
    },
    /// The directory of a fresh run holds a run.
    #[error("{} already holds a run; go on with it, or choose another directory", .dir.display())]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory of a run holds something else.
    #[error(
        "{} is not empty and holds no run (no {}); choose another directory",
        .dir.display(), crate::directory::CONFIG
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory of a sweep is a run's.
    #[error("{} holds a run, so no family can be put there; choose another directory", .dir.display())]
    SweepInRun {
        /// The directory.
        dir: PathBuf,
    },
    /// Another process is training the run.
    #[error("another process is training {}; wait until it ends, or stop it", .dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
    /// The run in the directory was started with other settings.
    #[error(
        "{} holds a run with other settings: {difference}; give the same settings, {}or choose another directory",
        .dir.display(), if .difference.key == "dir" { "say in its config.toml where the data have gone, " } else { "" }
    )]
    OtherSettings {
        /// The directory.
        dir: PathBuf,
        /// The first setting that differs.
        difference: Difference,
    },
    /// The run in the directory was begun on another kind of processor, or in another arithmetic.
    #[error(
        "{} was begun with {begun}, and going on with {asked} would mix the two in one run; go on with {begun}, or \
         choose another directory",
        .dir.display()
    )]
    OtherBackend {
        /// The directory.
        dir: PathBuf,
        /// What it was begun with.
        begun: Backend,
        /// What it was to go on with.
        asked: Backend,
    },
    /// The images are not those that the run was started with.
    #[error(
        "the images are not those that {} was written with, so going on would mix two data sets; restore the data, or \
         train into another directory",
        .checkpoint.display()
    )]
    OtherData {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// A directory that is not a run's.
    #[error("{} is not a run directory: {missing}; give the directory of a run that was trained", .dir.display())]
    NotARun {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        missing: String,
    },
    /// A run without the checkpoint that is needed.
    #[error("there is no checkpoint {}; {advice}", .path.display())]
    NoCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What would mend it.
        advice: String,
    },
    /// A run that was trained to its end, and has lost the network that it ended with.
    #[error(
        "{}: all {epochs} epochs were trained, but the last one's checkpoint is missing or damaged, and the newest good one is of epoch \
         {found}; what is lost can be trained again, to the same bits",
        .dir.display()
    )]
    LostWeights {
        /// The run.
        dir: PathBuf,
        /// Epochs that it was trained for.
        epochs: usize,
        /// The last of which there is a good checkpoint.
        found: usize,
    },
    /// A run that has not come to its end.
    #[error(
        "there are no predictions {}; they are written when the run ends, so finish its training first",
        .path.display()
    )]
    NoPredictions {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not what was written.
    #[error("the {kind} {} cannot be used: {problem}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint that cannot be used.
    #[error("the checkpoint {} cannot be used: {problem}", .path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it and what would mend it.
        problem: String,
    },
    /// A metrics file that does not fit its run.
    #[error("{}: {problem}", .path.display())]
    Metrics {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what would mend it.
        problem: String,
    },
    /// The run that another is to start from cannot be used for that.
    #[error("init_from {}: {problem}", .dir.display())]
    InitialRun {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The run that another is to start from has not come to its end.
    #[error("init_from {}: it is not finished; go on with it first", .dir.display())]
    UnfinishedInitialRun {
        /// Its directory.
        dir: PathBuf,
    },
    /// There are fewer training images than one batch has.
    #[error(
        "{images} training images are fewer than one batch of {batch_size}, and a short batch is dropped; lower \
         batch_size to at most {images}, or train on more images"
    )]
    TooFewImages {
        /// Training images.
        images: usize,
        /// Images a batch.
        batch_size: usize,
    },
    /// The data set has no test images.
    #[error("the data set has no test images; a run is evaluated on them after every epoch")]
    NoTestImages,
    /// Images of another size than what takes them.
    #[error("the images are {found} x {found} pixels, but {expected} x {expected} are needed")]
    ImageSide {
        /// Height and width that are needed, in pixels.
        expected: usize,
        /// Height and width of the images, in pixels.
        found: usize,
    },
    /// The run was asked to stop, and has stopped where it can go on.
    #[error(
        "{} was stopped after {steps} steps of epoch {epoch}, and nothing is lost: begun again, it goes on from there",
        .dir.display()
    )]
    Interrupted {
        /// The run's directory.
        dir: PathBuf,
        /// The epoch, from 1.
        epoch: usize,
        /// Steps of it that were made.
        steps: usize,
    },
    /// The loss of a training step is NaN or infinite.
    #[error(
        "the loss became {loss} in epoch {epoch}, by step {step}{}; train again with a smaller learning_rate, into \
         another directory",
        kept(*.epoch)
    )]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The step in it, from 1, at which it was seen: on a GPU some steps later.
        step: usize,
        /// The sum of the epoch's losses.
        loss: f64,
    },
    /// The network's outputs for the test images are NaN or infinite.
    #[error(
        "the test loss became {loss} after epoch {epoch}{}; train again with a smaller learning_rate, into another \
         directory",
        kept(*.epoch)
    )]
    DivergedInTest {
        /// The epoch, from 1.
        epoch: usize,
        /// The loss.
        loss: f64,
    },
    /// Something is wrong with the data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Something is wrong with the network.
    #[error(transparent)]
    Network(#[from] gramscope_nn::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What is left of a run whose epoch `epoch` came to nothing.
fn kept(epoch: usize) -> &'static str {
    if epoch > 1 { ", and the network is kept as it was before that epoch" } else { "" }
}

impl Error {
    /// Turns a system error into [`Error::Io`].
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |reason| Self::Io { action, path: path.to_path_buf(), reason }
    }

    /// Whether every other run of a family would fail of it too.
    pub(crate) fn befalls_all(&self) -> bool {
        matches!(self, Self::Io { reason, .. } if disk::takes_nothing(reason))
    }
}
