//! Where networks run.

use std::fmt;
use std::sync::Arc;

use gramscope_cuda::plan::Arithmetic;
use serde::{Deserialize, Serialize};

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

    /// Of `images` in a batch, those whose activations take the host's memory: all, or none where a GPU has them.
    pub fn images_on_host(&self, images: usize) -> usize {
        match self {
            Self::Cpu => images,
            Self::Gpu { .. } => 0,
        }
    }

    /// Its kind, and its arithmetic.
    pub fn backend(&self) -> Backend {
        match self {
            Self::Cpu => Backend::Cpu,
            Self::Gpu { device, arithmetic } => match (arithmetic, device.has_cudnn()) {
                (Arithmetic::Float32, false) => Backend::CudaF32,
                (Arithmetic::Tf32, false) => Backend::CudaTf32,
                (Arithmetic::Bf16, false) => Backend::CudaBf16,
                (Arithmetic::Float32, true) => Backend::CudaF32Cudnn,
                (Arithmetic::Tf32, true) => Backend::CudaTf32Cudnn,
                (Arithmetic::Bf16, true) => Backend::CudaBf16Cudnn,
            },
        }
    }
}

/// A kind of processor, its arithmetic and whose convolutions it runs: what, beside seed and settings, the bits of a trained network depend on.
///
/// It is what files record of a [`Processor`], whose number is nobody's concern later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A CPU, in float32.
    #[default]
    Cpu,
    /// An NVIDIA GPU, in float32.
    CudaF32,
    /// The same with TF32 products.
    CudaTf32,
    /// The same with activations and products in bfloat16.
    CudaBf16,
    /// [`Backend::CudaF32`] with cuDNN's convolutions.
    CudaF32Cudnn,
    /// [`Backend::CudaTf32`] with cuDNN's convolutions.
    CudaTf32Cudnn,
    /// [`Backend::CudaBf16`] with cuDNN's convolutions.
    CudaBf16Cudnn,
}

impl Backend {
    /// Whether it is the CPU, which files leave out.
    pub fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

impl fmt::Display for Backend {
    /// As files have it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}
