//! kernels/probe.

use super::{Family, Kernel, Typed};
use crate::error::Error;

/// The kernels of one type of activations.
pub(crate) struct TypedProbeFunctions {
    pub(crate) products: Kernel,
    pub(crate) update: Kernel,
    pub(crate) naive_products: Kernel,
    pub(crate) naive_update: Kernel,
}

/// All of them.
pub(crate) struct ProbeFunctions {
    pub(crate) of_type: Typed<TypedProbeFunctions>,
    pub(crate) outcome: Kernel,
}

/// The kernels for one suffix.
macro_rules! of_type {
    ($family:ident, $suffix:literal) => {
        TypedProbeFunctions {
            products: $family.kernel(concat!("gs_probe_products_", $suffix))?,
            update: $family.kernel(concat!("gs_probe_update_", $suffix))?,
            naive_products: $family.kernel(concat!("gs_probe_naive_products_", $suffix))?,
            naive_update: $family.kernel(concat!("gs_probe_naive_update_", $suffix))?,
        }
    };
}

pub(super) fn load(family: &Family) -> Result<ProbeFunctions, Error> {
    Ok(ProbeFunctions {
        of_type: Typed { f32: of_type!(family, "f32"), bf16: of_type!(family, "bf16") },
        outcome: family.kernel("gs_probe_outcome")?,
    })
}
