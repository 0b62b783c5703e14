//! Networks on the CPU: programs ([`crate::program`]) whose steps are carried out one after the other, with candle's tensors as values.

mod output;
mod parts;
mod pass;
mod plan;
mod values;
mod workspace;

pub use output::Output;
pub(crate) use parts::{BatchNorm, Convolution, Linear, Parts};
pub(crate) use pass::{Observe, Pass, Targets};
pub(crate) use plan::{LastPlan, Plan};
pub(crate) use workspace::Workspace;
