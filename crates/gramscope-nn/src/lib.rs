//! The residual families on candle, with training operations as candle custom operations.
//!
//! [`ResNet`] is a network of one of the families ([`Family`], [`ResNetConfig`]): it evaluates, hands out every layer's
//! output as it is made, and computes the gradients of a training step. [`Sgd`] makes the step. The operations themselves
//! are in [`ops`], the random numbers of initial weights and of everything else that is random in [`random`].

pub mod device;
pub mod memory;
pub mod ops;
pub mod random;
pub mod threads;

mod config;
mod error;
mod host;
mod network;
mod processor;
mod program;
mod sgd;
mod topology;
mod work;

pub use config::{Family, Layer, ResNetConfig};
pub use error::{Error, Result};
pub use host::Output;
pub use network::{FirstComponentPenalty, Gradients, NamedTensors, Parameter, ResNet, Shake, StepOptions};
pub use processor::{Backend, Processor};
pub use sgd::{Sgd, SgdConfig};
pub use work::Work;

// What the tests share names the crate as those outside do.
#[cfg(test)]
extern crate self as gramscope_nn;
