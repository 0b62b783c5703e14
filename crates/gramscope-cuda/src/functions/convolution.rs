//! The kernels of kernels/convolution/convolution.cu.

use super::{Family, Kernel, Typed};
use crate::error::Error;
use crate::plan::Arithmetic;

/// The convolution kernels of one type of activations.
pub(crate) struct ConvolutionFunctions {
    pub(crate) forward_naive: Kernel,
    pub(crate) input_gradient_naive: Kernel,
    pub(crate) weight_gradient_naive: Kernel,
    pub(crate) reduce: Kernel,
    tiles: Vec<(Arithmetic, TileFunctions)>,
}

/// The kernels of one arithmetic.
pub(crate) struct TileFunctions {
    pub(crate) forward: ByColumns,
    pub(crate) input_gradient: ByColumns,
    pub(crate) weight_gradient: ByColumns,
}

/// A kernel for tiles of 16, of 32 and of 64 columns.
pub(crate) struct ByColumns([Kernel; 3]);

impl ConvolutionFunctions {
    /// The kernels that compute products so; none where they take other activations.
    pub(crate) fn tiles(&self, arithmetic: Arithmetic) -> Option<&TileFunctions> {
        self.tiles.iter().find(|(own, _)| *own == arithmetic).map(|(_, functions)| functions)
    }
}

impl ByColumns {
    /// The kernel whose tiles have `columns` columns, which [`crate::plan::convolution::tile_columns`] has chosen.
    pub(crate) fn of(&self, columns: usize) -> &Kernel {
        let [narrow, middle, wide] = &self.0;
        match columns {
            16 => narrow,
            32 => middle,
            _ => wide,
        }
    }
}

/// The names of a product's kernels.
macro_rules! by_columns {
    ($family:ident, $product:literal, $suffix:literal) => {
        ByColumns([
            $family.kernel(concat!("gs_convolution_", $product, "_tile16_", $suffix))?,
            $family.kernel(concat!("gs_convolution_", $product, "_tile32_", $suffix))?,
            $family.kernel(concat!("gs_convolution_", $product, "_tile64_", $suffix))?,
        ])
    };
}

/// The kernels of one arithmetic.
macro_rules! tiles {
    ($family:ident, $suffix:literal) => {
        TileFunctions {
            forward: by_columns!($family, "forward", $suffix),
            input_gradient: by_columns!($family, "input_gradient", $suffix),
            weight_gradient: by_columns!($family, "weight_gradient", $suffix),
        }
    };
}

pub(super) fn load(family: &Family) -> Result<Typed<ConvolutionFunctions>, Error> {
    Ok(Typed {
        f32: ConvolutionFunctions {
            forward_naive: family.kernel("gs_convolution_forward_naive_f32")?,
            input_gradient_naive: family.kernel("gs_convolution_input_gradient_naive_f32")?,
            weight_gradient_naive: family.kernel("gs_convolution_weight_gradient_naive_f32")?,
            reduce: family.kernel("gs_convolution_reduce")?,
            tiles: vec![(Arithmetic::Float32, tiles!(family, "f32")), (Arithmetic::Tf32, tiles!(family, "tf32"))],
        },
        bf16: ConvolutionFunctions {
            forward_naive: family.kernel("gs_convolution_forward_naive_bf16")?,
            input_gradient_naive: family.kernel("gs_convolution_input_gradient_naive_bf16")?,
            weight_gradient_naive: family.kernel("gs_convolution_weight_gradient_naive_bf16")?,
            reduce: family.kernel("gs_convolution_reduce")?,
            tiles: vec![(Arithmetic::Bf16, tiles!(family, "bf16"))],
        },
    })
}
