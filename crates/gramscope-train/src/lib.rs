//! Data sets, augmentation, the recipe, the training loop, checkpoints and run directories.
//!
//! [`train`] trains one network into a run directory, [`sweep`] a family of them; [`Run`] reads what they left.

pub mod atomic;
pub mod augment;
pub mod batches;
pub mod choices;
pub mod colour;
pub mod data;
pub mod digest;
pub mod disk;
pub mod evaluate;
pub mod reading;
pub mod schedule;
pub mod sealed;
pub mod settings;
pub mod sweep;

mod checkpoint;
mod directory;
mod error;
mod fault;
mod metrics;
mod nearest;
mod predictions;
mod run;
mod trainer;
mod verify;

pub use directory::Start;
pub use error::{Error, Result};
pub use metrics::EpochMetrics;
pub use predictions::Predictions;
pub use run::Run;
pub use settings::{RunConfig, TrainSettings};
pub use trainer::{Event, finished, train};
pub use verify::{Verified, verify};
