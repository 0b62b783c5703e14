//! Every kernel, family by family, as the launchers declare them.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::augment::AugmentKernels;
use super::batch_norm::BatchNormKernels;
use super::convolution::ConvolutionKernels;
use super::eigen::EigenKernels;
use super::elementwise::ElementwiseKernels;
use super::first_component::FirstComponentKernels;
use super::gram::GramKernels;
use super::hsic::HsicKernels;
use super::loss::LossKernels;
use super::mixing::MixingKernels;
use super::pooling::PoolingKernels;
use super::probe::ProbeKernels;
use super::rbf::RbfKernels;
use super::sgd::SgdKernels;
use super::ucenter::UcenterKernels;
use crate::error::Error;
use crate::family::{Family, Typed};
use crate::images;

/// Every kernel of a device, by family.
pub(crate) struct Kernels {
    pub(super) gram: GramKernels,
    pub(super) ucenter: UcenterKernels,
    pub(super) hsic: HsicKernels,
    pub(super) rbf: RbfKernels,
    pub(super) eigen: EigenKernels,
    pub(super) convolution: ConvolutionKernels,
    pub(super) batch_norm: BatchNormKernels,
    pub(super) elementwise: ElementwiseKernels,
    pub(super) mixing: MixingKernels,
    pub(super) pooling: Typed<PoolingKernels>,
    pub(super) loss: LossKernels,
    pub(super) first_component: Typed<FirstComponentKernels>,
    pub(super) sgd: SgdKernels,
    pub(super) augment: AugmentKernels,
    pub(super) probe: ProbeKernels,
}

impl Kernels {
    /// Loads them into the context of `stream`; each may use up to `shared_bytes` of shared memory.
    pub(crate) fn load(stream: &Arc<CudaStream>, shared_bytes: u32) -> Result<Self, Error> {
        let family = |image| Family::load(stream, image, shared_bytes);
        Ok(Self {
            gram: GramKernels::load(&family(&images::GRAM)?)?,
            ucenter: UcenterKernels::load(&family(&images::UCENTER)?)?,
            hsic: HsicKernels::load(&family(&images::HSIC)?)?,
            rbf: RbfKernels::load(&family(&images::RBF)?)?,
            eigen: EigenKernels::load(&family(&images::EIGEN)?)?,
            convolution: ConvolutionKernels::load(&family(&images::CONVOLUTION)?)?,
            batch_norm: BatchNormKernels::load(&family(&images::BATCH_NORM)?)?,
            elementwise: ElementwiseKernels::load(&family(&images::ELEMENTWISE)?)?,
            mixing: MixingKernels::load(&family(&images::MIXING)?)?,
            pooling: Typed::load(&family(&images::POOLING)?, PoolingKernels::load)?,
            loss: LossKernels::load(&family(&images::LOSS)?)?,
            first_component: Typed::load(&family(&images::FIRST_COMPONENT)?, FirstComponentKernels::load)?,
            sgd: SgdKernels::load(&family(&images::SGD)?)?,
            augment: AugmentKernels::load(&family(&images::AUGMENT)?)?,
            probe: ProbeKernels::load(&family(&images::PROBE)?)?,
        })
    }
}
