//! Training's kernels but the convolutions:
//! kernels/{batch_norm,elementwise,mixing,pooling,loss,first_component,sgd,augment}.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::{Family, Kernel, Typed};
use crate::error::Error;
use crate::images;

/// The batch norm kernels of one type of activations.
pub(crate) struct BatchNormFunctions {
    pub(crate) moments: Kernel,
    pub(crate) statistics: Kernel,
    pub(crate) normalise: Kernel,
    pub(crate) sums: Kernel,
    pub(crate) input_gradient: Kernel,
    pub(crate) naive_statistics: Kernel,
    pub(crate) naive_normalise: Kernel,
    pub(crate) naive_backward: Kernel,
}

/// The other kernels of one type of activations.
pub(crate) struct LayerFunctions {
    pub(crate) relu: Kernel,
    pub(crate) mix: Kernel,
    pub(crate) mix_backward: Kernel,
    pub(crate) average_pool: Kernel,
    pub(crate) average_pool_backward: Kernel,
    pub(crate) max_pool: Kernel,
    pub(crate) max_pool_backward: Kernel,
    pub(crate) square_pool: Kernel,
    pub(crate) augment: Kernel,
    pub(crate) first_component: Kernel,
    pub(crate) first_component_naive: Kernel,
}

/// All of them.
pub(crate) struct TrainingFunctions {
    pub(crate) batch_norm: Typed<BatchNormFunctions>,
    pub(crate) batch_norm_gradients: Kernel,
    pub(crate) layers: Typed<LayerFunctions>,
    pub(crate) narrow: Kernel,
    pub(crate) augment_advance: Kernel,
    pub(crate) mixing_shares: Kernel,
    pub(crate) loss: Kernel,
    pub(crate) sgd: Kernel,
}

/// The kernels of batch norm for one suffix.
macro_rules! batch_norm {
    ($family:ident, $suffix:literal) => {
        BatchNormFunctions {
            moments: $family.kernel(concat!("gs_batch_norm_moments_", $suffix))?,
            statistics: $family.kernel(concat!("gs_batch_norm_statistics_", $suffix))?,
            normalise: $family.kernel(concat!("gs_batch_norm_normalise_", $suffix))?,
            sums: $family.kernel(concat!("gs_batch_norm_sums_", $suffix))?,
            input_gradient: $family.kernel(concat!("gs_batch_norm_input_gradient_", $suffix))?,
            naive_statistics: $family.kernel(concat!("gs_batch_norm_naive_statistics_", $suffix))?,
            naive_normalise: $family.kernel(concat!("gs_batch_norm_naive_normalise_", $suffix))?,
            naive_backward: $family.kernel(concat!("gs_batch_norm_naive_backward_", $suffix))?,
        }
    };
}

/// The kernels of the other layers for one suffix.
macro_rules! layers {
    ($elementwise:ident, $mixing:ident, $pooling:ident, $augment:ident, $first_component:ident, $suffix:literal) => {
        LayerFunctions {
            relu: $elementwise.kernel(concat!("gs_elementwise_relu_", $suffix))?,
            mix: $mixing.kernel(concat!("gs_mixing_forward_", $suffix))?,
            mix_backward: $mixing.kernel(concat!("gs_mixing_backward_", $suffix))?,
            average_pool: $pooling.kernel(concat!("gs_pooling_average_", $suffix))?,
            average_pool_backward: $pooling.kernel(concat!("gs_pooling_average_backward_", $suffix))?,
            max_pool: $pooling.kernel(concat!("gs_pooling_max_", $suffix))?,
            max_pool_backward: $pooling.kernel(concat!("gs_pooling_max_backward_", $suffix))?,
            square_pool: $pooling.kernel(concat!("gs_pooling_squares_", $suffix))?,
            augment: $augment.kernel(concat!("gs_augment_crop_", $suffix))?,
            first_component: $first_component.kernel(concat!("gs_first_component_gradient_", $suffix))?,
            first_component_naive: $first_component.kernel(concat!("gs_first_component_naive_", $suffix))?,
        }
    };
}

impl TrainingFunctions {
    pub(super) fn load(stream: &Arc<CudaStream>, shared_bytes: u32) -> Result<Self, Error> {
        let load = |image| Family::load(stream, image, shared_bytes);
        let batch_norm = load(&images::BATCH_NORM)?;
        let (elementwise, mixing) = (load(&images::ELEMENTWISE)?, load(&images::MIXING)?);
        let (pooling, augment) = (load(&images::POOLING)?, load(&images::AUGMENT)?);
        let first_component = load(&images::FIRST_COMPONENT)?;
        Ok(Self {
            batch_norm: Typed { f32: batch_norm!(batch_norm, "f32"), bf16: batch_norm!(batch_norm, "bf16") },
            batch_norm_gradients: batch_norm.kernel("gs_batch_norm_gradients")?,
            layers: Typed {
                f32: layers!(elementwise, mixing, pooling, augment, first_component, "f32"),
                bf16: layers!(elementwise, mixing, pooling, augment, first_component, "bf16"),
            },
            narrow: elementwise.kernel("gs_elementwise_narrow")?,
            augment_advance: augment.kernel("gs_augment_advance")?,
            mixing_shares: mixing.kernel("gs_mixing_shares")?,
            loss: load(&images::LOSS)?.kernel("gs_loss_softmax_cross_entropy")?,
            sgd: load(&images::SGD)?.kernel("gs_sgd_step")?,
        })
    }
}
