//! What can go wrong in this crate.

use crate::options::Estimator;

/// What can go wrong in a comparison. Models, layers, batches and examples are counted from 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model without layers.
    #[error("model {model} has no layers; give it at least one")]
    NoLayers {
        /// The model.
        model: usize,
    },
    /// Nothing to compare.
    #[error("no pair of models to compare; give at least one")]
    NoPairs,
    /// A pair or an observation names a model that does not exist.
    #[error("there is no model {model}; there are {models}, counted from 0")]
    UnknownModel {
        /// The model named.
        model: usize,
        /// How many there are.
        models: usize,
    },
    /// An observation names a layer that does not exist.
    #[error("model {model} has no layer {layer}; it has {layers}, counted from 0")]
    UnknownLayer {
        /// The model.
        model: usize,
        /// The layer named.
        layer: usize,
        /// How many the model has.
        layers: usize,
    },
    /// The bandwidth of the RBF kernel is not a positive finite number.
    #[error("the RBF kernel's bandwidth is {bandwidth}; give a positive number, such as 0.5")]
    Bandwidth {
        /// The bandwidth given.
        bandwidth: f64,
    },
    /// The batch is too small for the estimator.
    #[error("a batch of {examples} examples is too small for the {estimator} estimator; give at least {minimum}")]
    TooFewExamples {
        /// How many examples the batch has.
        examples: usize,
        /// How many it needs.
        minimum: usize,
        /// The estimator.
        estimator: Estimator,
    },
    /// The batch is too large for its panel to be addressed.
    #[error("a batch of {examples} examples is too large to be addressed; give smaller batches")]
    TooManyExamples {
        /// How many examples the batch has.
        examples: usize,
    },
    /// The number of values is not a multiple of the number of examples.
    #[error("{values} values cannot be shared out evenly among {examples} examples")]
    Uneven {
        /// The number of values.
        values: usize,
        /// The number of examples.
        examples: usize,
    },
    /// An activation without examples or without features.
    #[error("an activation of {examples} examples with {values} values has no features; leave the layer out")]
    NoFeatures {
        /// The number of values.
        values: usize,
        /// The number of examples.
        examples: usize,
    },
    /// A batch was begun before the one before it was ended.
    #[error("batch {batch} has not been ended; end it before the next is begun")]
    BatchOpen {
        /// The batch that is open.
        batch: usize,
    },
    /// Something was observed, or ended, outside a batch.
    #[error("no batch has been begun; begin one first")]
    NoBatchOpen,
    /// The activation has another number of examples than the batch.
    #[error(
        "layer {layer} of model {model} has {found} examples in batch {batch}, the batch has {expected}; give every layer \
         the same examples"
    )]
    WrongExamples {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
        /// The batch.
        batch: usize,
        /// How many examples the batch has.
        expected: usize,
        /// How many the activation has.
        found: usize,
    },
    /// A layer was observed a second time in one batch.
    #[error("layer {layer} of model {model} was observed twice in batch {batch}; observe each layer once a batch")]
    ObservedTwice {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
        /// The batch.
        batch: usize,
    },
    /// A layer was not observed before the batch was ended.
    #[error("layer {layer} of model {model} was not observed in batch {batch}; observe each layer once a batch")]
    NotObserved {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
        /// The batch.
        batch: usize,
    },
    /// An activation holds NaN or an infinity.
    #[error(
        "layer {layer} of model {model} holds NaN or infinity in batch {batch}, example {example} of the batch; mend the \
         activation, or leave the layer out"
    )]
    NonFinite {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
        /// The batch.
        batch: usize,
        /// The first example of the batch that holds such a value.
        example: usize,
    },
    /// An activation that is not in memory could not be read.
    #[error("layer {layer} of model {model} cannot be read in batch {batch}: {reason}")]
    Unread {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
        /// The batch.
        batch: usize,
        /// What kind of failure it was.
        kind: std::io::ErrorKind,
        /// What the system said.
        reason: String,
    },
    /// An observation out of turn: where a batch takes several rounds, layers come in order.
    #[error(
        "layer {layer} of model {model} is not the next that this round of the batch wants; observe layers in order"
    )]
    OutOfTurn {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
    },
    /// A batch was ended before its last round.
    #[error("batch {batch} takes more rounds; observe its layers again")]
    MoreRounds {
        /// The batch.
        batch: usize,
    },
    /// Not even two layers' panel rows fit into what panels may take.
    #[error("panels need at least {needed} bytes and may take {limit}; allow more, or give smaller batches")]
    PanelLimit {
        /// The bytes of two rows.
        needed: u64,
        /// The bytes that panels may take.
        limit: u64,
    },
    /// The system has no memory for the panels.
    #[error("there is no memory for panels of {bytes} bytes; allow panels less, or give smaller batches")]
    NoMemory {
        /// The bytes asked for.
        bytes: u64,
    },
    /// The GPU, or its driver, refused.
    #[error(transparent)]
    Device(gramscope_cuda::Error),
    /// An activation on a GPU was handed to a comparison on the host.
    #[error("the activation is on a GPU and the comparison is not; compare on the device it is on")]
    NotOnDevice,
    /// An activation on a GPU was handed to a comparison that normalises.
    #[error("activations on a GPU cannot be normalised; copy them to the host, or compare without")]
    NormalisedOnHost,
    /// An activation that is read some features at a time was handed to a comparison that normalises.
    #[error(
        "layer {layer} of model {model} does not fit into memory, and normalising takes whole examples; use smaller batches, or \
         allow more memory"
    )]
    NormalisedInMemory {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
    },
    /// The eigenvalues of a layer's Gram matrix could not be found.
    #[error("layer {layer}: the eigenvalues of its Gram matrix could not be found; leave the layer out")]
    NoEigenvalues {
        /// The layer.
        layer: usize,
    },
    /// The comparison was finished before a batch had been ended.
    #[error("no batch has been observed; a similarity needs at least one")]
    NoBatches,
    /// A comparison was to go on from the sums of another.
    #[error("the sums to go on from are those of other layers or pairs; compare the same ones in the same order")]
    OtherTotals,
}

impl From<gramscope_cuda::Error> for Error {
    fn from(error: gramscope_cuda::Error) -> Self {
        match error {
            gramscope_cuda::Error::NonFinite { model, layer, batch, example } => {
                Self::NonFinite { model, layer, batch, example }
            }
            error => Self::Device(error),
        }
    }
}

/// A text that is not the value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseOptionError {
    /// Not an estimator.
    #[error("{0:?} is not an estimator; give unbiased or biased")]
    Estimator(String),
    /// Not a kernel.
    #[error("{0:?} is not a kernel; give linear, or rbf:T with a positive T, such as rbf:0.5")]
    Kernel(String),
    /// Not a way to compute Gram matrices.
    #[error("{0:?} is not a way to compute Gram matrices; give exact or fast")]
    Gram(String),
}
