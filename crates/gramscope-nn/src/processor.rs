//! Where networks run.

use std::sync::Arc;

use gramscope_cuda::plan::Arithmetic;

/// Where networks run, and in which arithmetic.
#[derive(Clone, Debug, Default)]
pub enum Processor {
    /// The CPU, in float32.
    #[default]
    Cpu,
    /// A GPU.
    Gpu {
        /// Which.
        device: Arc<gramscope_cuda::Device>,
        /// How it computes products, and what it stores activations as.
        arithmetic: Arithmetic,
        /// Whether it was asked for by name: what cannot run there is then an error, and otherwise the CPU's.
        named: bool,
    },
}

impl Processor {
    /// The GPU, where it is one.
    pub fn gpu(&self) -> Option<&Arc<gramscope_cuda::Device>> {
        match self {
            Self::Cpu => None,
            Self::Gpu { device, .. } => Some(device),
        }
    }
}
