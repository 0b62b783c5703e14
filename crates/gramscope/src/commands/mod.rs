//! One module a command: from its arguments to calls of the crates and a few lines of result.

pub(crate) mod ablate;
pub(crate) mod activations;
pub(crate) mod bench;
pub(crate) mod blocks;
pub(crate) mod cka;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod dominant;
pub(crate) mod mean;
pub(crate) mod pcs;
pub(crate) mod probe;
pub(crate) mod quickstart;
pub(crate) mod report;
pub(crate) mod sweep;
pub(crate) mod train;
mod training_progress;
pub(crate) mod verify;
