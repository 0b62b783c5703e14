//! What can go wrong in an experiment.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gramscope_cuda::{Bytes, BytesNeeded};
use gramscope_train::disk;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// In what an example is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// In its batch.
    Batch,
    /// In the file of activations.
    File,
}

impl fmt::Display for Within {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Batch => "batch",
            Self::File => "file",
        })
    }
}

/// What can go wrong in an experiment. Every message names the file, run or layer at fault and what would mend it.
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
    /// A file or directory does not hold what it should.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would mend it.
        problem: String,
        /// Of that, what whoever asks has a say in.
        mend: &'static [Setting],
    },
    /// Things that cannot be compared, or not as it was asked for.
    #[error("{problem}")]
    Incomparable {
        /// What is wrong, and what would mend it.
        problem: String,
        /// Of that, what whoever asks has a say in.
        mend: &'static [Setting],
    },
    /// An activation holds NaN or an infinity.
    #[error(
        "layer {layer} of {model} holds NaN or infinity in batch {batch} (example {example} of the {within}); mend the \
         activation, or leave the layer out"
    )]
    NonFinite {
        /// The run or file.
        model: String,
        /// The layer's name.
        layer: String,
        /// The batch, from 1.
        batch: usize,
        /// The first such example that was met, from 1.
        example: usize,
        /// In what it is counted.
        within: Within,
    },
    /// What is wanted does not fit into the memory it may take.
    #[error(
        "{what} need {} of memory and may take {}; choose {}, or allow more",
        BytesNeeded(*.needed), Bytes(*.limit), .lower.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
    )]
    Memory {
        /// What does not fit.
        what: String,
        /// The bytes that it needs at least.
        needed: u64,
        /// The bytes that it may take.
        limit: u64,
        /// What there can be less of, so that less is needed.
        lower: &'static [Fewer],
    },
    /// Another error of the comparison itself, with the names of what it happened to.
    #[error("{subject}: {reason}")]
    Cka {
        /// The run or file, the layer and the batch.
        subject: String,
        /// What went wrong.
        reason: gramscope_cka::Error,
    },
    /// A network that was to be measured could not be trained.
    #[error("{run} could not be trained: {reason}")]
    Untrained {
        /// The run's name.
        run: String,
        /// Why.
        reason: Arc<gramscope_train::Error>,
    },
    /// The work was asked to stop.
    #[error("stopped before the work was complete; give the same command again")]
    Interrupted,
    /// An error of a run.
    #[error(transparent)]
    Train(#[from] gramscope_train::Error),
    /// An error of a data set.
    #[error(transparent)]
    Data(#[from] gramscope_train::data::DataError),
    /// An error of a network.
    #[error(transparent)]
    Network(#[from] gramscope_nn::Error),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What there can be less of where memory does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fewer {
    /// Examples in a batch.
    InBatch,
    /// Examples in all.
    Examples,
    /// Layers.
    Layers,
}

impl fmt::Display for Fewer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::InBatch => "smaller batches",
            Self::Examples => "fewer examples",
            Self::Layers => "fewer layers",
        })
    }
}

/// What whoever asks for a result has a say in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Where results go.
    Out,
    /// The data whose images are looked at.
    Data,
    /// Which layers.
    Layers,
    /// How many examples.
    Examples,
    /// How many test images a quickstart has.
    TestImages,
    /// Examples in a batch.
    BatchSize,
    /// Whether a batch that is not full is used.
    KeepPartial,
    /// Passes over the test images.
    Passes,
    /// Which runs are compared with which.
    Pairs,
    /// How long probes learn.
    Epochs,
    /// How fast they do.
    LearningRate,
    /// Their momentum.
    Momentum,
    /// How many dominant images are shown.
    Top,
    /// The share of images that are left out as dominant.
    DropDominant,
    /// Blocks that are deleted.
    Block,
    /// The groups that are compared.
    Between,
    /// A study's size beside the paper's.
    Scale,
}

impl Error {
    /// It is mended by other `settings`; for errors of files and of what cannot be compared.
    #[must_use]
    pub(crate) fn mended_by(self, settings: &'static [Setting]) -> Self {
        match self {
            Self::File { path, problem, .. } => Self::File { path, problem, mend: settings },
            Self::Incomparable { problem, .. } => Self::Incomparable { problem, mend: settings },
            other => other,
        }
    }

    /// The same, said of `subject`; for errors of what cannot be compared.
    pub(crate) fn of(self, subject: &str) -> Self {
        match self {
            Self::Incomparable { problem, mend } => {
                Self::Incomparable { problem: format!("{subject}: {problem}"), mend }
            }
            other => other,
        }
    }

    /// Things cannot be compared, or not as it was asked for.
    pub(crate) fn incomparable(problem: impl Into<String>) -> Self {
        Self::Incomparable { problem: problem.into(), mend: &[] }
    }

    /// For `map_err`: the system refused to `action` `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |reason| Self::Io { action, path: path.to_owned(), reason }
    }

    /// `path` does not hold what it should.
    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), problem: problem.into(), mend: &[] }
    }
}
