//! The experiments: comparisons of runs and of stored activations, their results on disk, pictures and the report.

pub mod ablate;
pub mod activations;
pub mod blocks;
pub mod compare;
pub mod cosine;
pub mod dominant;
pub mod epochs;
pub mod mean;
pub mod pair;
pub mod pcs;
pub mod plot;
pub mod predict;
pub mod probe;
pub mod provenance;
pub mod quickstart;
pub mod report;
pub mod sparsity;
pub mod statistics;
pub mod studies;
pub mod verify;

mod error;
mod family;
mod names;
mod saved;
#[cfg(test)]
mod testing;
mod tree;
mod unfinished;

/// Where tensors are that are on their way into a network, wherever that is.
pub(crate) const HOST: candle_core::Device = candle_core::Device::Cpu;

pub use error::{Error, Fewer, Result, Setting, Within};
pub use names::run_names;
pub use saved::{Saved, Staged};
pub use tree::{check_distinct, runs};
pub use unfinished::Unfinished;
