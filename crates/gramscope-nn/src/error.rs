//! What can go wrong in this crate.

use gramscope_cuda::{Bytes, BytesNeeded};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in this crate.
///
/// The operations in [`crate::ops`] run inside candle and return [`candle_core::Error`]; where one of these errors
/// occurs there, it is wrapped in candle's and reads the same.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The family has no network of this depth.
    #[error("depth {depth} is not one of the family, whose depths are {depths}; the nearest is {nearest}")]
    Depth {
        /// The depth asked for.
        depth: usize,
        /// The family's depths, as text.
        depths: &'static str,
        /// The valid depth or depths next to it, as text.
        nearest: String,
    },
    /// The width factor is not a positive number of a sensible size.
    #[error("width {width} is not a width factor; give a positive number up to {largest}, such as 1 or 0.5")]
    Width {
        /// The width asked for.
        width: f64,
        /// The largest width that is accepted.
        largest: f64,
    },
    /// Shake-Shake is asked for without residual connections.
    #[error("shake_shake mixes residual branches, and without residual connections there are none")]
    ShakeWithoutShortcuts,
    /// There are fewer than two classes.
    #[error("a network with {classes} classes has nothing to tell apart; give at least 2")]
    Classes {
        /// The number of classes asked for.
        classes: usize,
    },
    /// The images have no pixels.
    #[error("the image side is 0; give at least 1 pixel")]
    ImageSide,
    /// The machine has less memory than a network takes.
    #[error(
        "{what} takes at least {} of memory, and this machine has {}; lower {}",
        BytesNeeded(*.needed), Bytes(*.total),
        if *.images > 0 { "width, depth or the batch size" } else { "width or depth" }
    )]
    Memory {
        /// What does not fit.
        what: String,
        /// The bytes that it takes at least.
        needed: u64,
        /// The bytes that the machine has, or lets this process have.
        total: u64,
        /// The images of a batch that are counted in; with none a smaller batch is no help.
        images: usize,
    },
    /// A tensor of a state to be loaded is missing.
    #[error("the state has no tensor {name}; it is not one of this network (depth, width and residual must agree)")]
    MissingState {
        /// The tensor's name.
        name: String,
    },
    /// A state to be loaded has tensors that the network does not know.
    #[error("the state has tensors that are not of this network: {}; depth, width and residual must agree", names.join(", "))]
    SurplusState {
        /// The tensors' names, sorted.
        names: Vec<String>,
    },
    /// A tensor of a state to be loaded has another shape than the network's.
    #[error(
        "the state's tensor {name} has the shape {got:?}, this network needs {expected:?}; their configurations differ"
    )]
    StateShape {
        /// The tensor's name.
        name: String,
        /// The network's shape.
        expected: Vec<usize>,
        /// The state's shape.
        got: Vec<usize>,
    },
    /// An operation or the network was given a tensor of another shape than it needs.
    #[error("{what} has the shape {got:?}; {expected} is needed")]
    Shape {
        /// The operation and its argument.
        what: &'static str,
        /// The shape that is needed, as text.
        expected: String,
        /// The shape it got.
        got: Vec<usize>,
    },
    /// An operation or the network was given a tensor of another element type than it needs.
    #[error("{what} holds {got:?} values; convert it to {expected:?}")]
    DType {
        /// The operation and its argument.
        what: &'static str,
        /// The type that is needed.
        expected: candle_core::DType,
        /// The type it got.
        got: candle_core::DType,
    },
    /// Training batch norm would divide by zero: it sees one value a channel.
    #[error("{layer} sees one value a channel, whose variance is undefined; train with a larger batch")]
    SingleValue {
        /// The layer's name.
        layer: String,
    },
    /// A block is to be deleted of a network without residual connections.
    #[error("the network has no residual connections: without its convolutions nothing would be left of a block")]
    NoShortcuts,
    /// A label is not a class.
    #[error("the label of image {image} is {label}, but there are {classes} classes, counted from 0")]
    Label {
        /// The image's place in the batch.
        image: usize,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A network on a device was asked for a training step before it was made ready for training.
    #[error("the network on the device was not made ready to be trained")]
    NotTraining,
    /// A pass of training ran without a place for the loss and the gradients.
    #[error("a training step has no place for its gradients; this is a defect of Gramscope, please report it")]
    NoTargets,
    /// A penalised training step ran with a program or memory of one that is not.
    #[error(
        "a training step has a penalty and nothing to compute it with; this is a defect of Gramscope, please report it"
    )]
    NoPenalty,
    /// A program ran over a batch that no memory was taken for.
    #[error("a batch has no memory to run in; this is a defect of Gramscope, please report it")]
    NotReserved,
    /// Two values of a program that are needed at once share memory.
    #[error(
        "the values {values:?} of a network's program share memory; this is a defect of Gramscope, please report it"
    )]
    SharedSlot {
        /// Their numbers.
        values: Vec<usize>,
    },
    /// The GPU.
    #[error(transparent)]
    Device(#[from] gramscope_cuda::Error),
    /// candle failed, or one of the above occurred inside a candle operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => candle_core::Error::wrap(error),
        }
    }
}
