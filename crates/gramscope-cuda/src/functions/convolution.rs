//! The kernels of kernels/convolution/convolution.cu.

use super::{Family, Kernel, Typed};
use crate::error::Error;

/// The convolution kernels of one type of activations.
pub(crate) struct ConvolutionFunctions {
    pub(crate) forward_naive: Kernel,
    pub(crate) input_gradient_naive: Kernel,
    pub(crate) weight_gradient_naive: Kernel,
}

pub(super) fn load(family: &Family) -> Result<Typed<ConvolutionFunctions>, Error> {
    Ok(Typed {
        f32: ConvolutionFunctions {
            forward_naive: family.kernel("gs_convolution_forward_naive_f32")?,
            input_gradient_naive: family.kernel("gs_convolution_input_gradient_naive_f32")?,
            weight_gradient_naive: family.kernel("gs_convolution_weight_gradient_naive_f32")?,
        },
        bf16: ConvolutionFunctions {
            forward_naive: family.kernel("gs_convolution_forward_naive_bf16")?,
            input_gradient_naive: family.kernel("gs_convolution_input_gradient_naive_bf16")?,
            weight_gradient_naive: family.kernel("gs_convolution_weight_gradient_naive_bf16")?,
        },
    })
}
