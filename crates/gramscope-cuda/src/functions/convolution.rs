//! The kernels of kernels/convolution/convolution.cu.

use super::{Family, Kernel, Typed};
use crate::error::Error;
use crate::plan::Arithmetic;
use crate::plan::convolution::Variant;

/// The convolution kernels of one type of activations.
pub(crate) struct ConvolutionFunctions {
    pub(crate) forward_naive: Kernel,
    pub(crate) input_gradient_naive: Kernel,
    pub(crate) weight_gradient_naive: Kernel,
    pub(crate) reduce: Kernel,
    pub(crate) bias_gradient: Kernel,
    tiles: Vec<(Arithmetic, TileFunctions)>,
}

/// The kernels of one arithmetic.
pub(crate) struct TileFunctions {
    pub(crate) forward: ByVariant,
    pub(crate) input_gradient: ByVariant,
    pub(crate) weight_gradient: ByVariant,
}

/// A product's kernels.
pub(crate) struct ByVariant(Vec<(Variant, Kernel)>);

impl ConvolutionFunctions {
    /// The kernels that compute products so; none where they take other activations.
    pub(crate) fn tiles(&self, arithmetic: Arithmetic) -> Option<&TileFunctions> {
        self.tiles.iter().find(|(own, _)| *own == arithmetic).map(|(_, functions)| functions)
    }
}

impl ByVariant {
    /// The kernel of this variant; none where the product has no such variant.
    pub(crate) fn of(&self, variant: Variant) -> Option<&Kernel> {
        self.0.iter().find(|(own, _)| *own == variant).map(|(_, kernel)| kernel)
    }
}

/// A product's kernels: variants and what they are called.
macro_rules! by_variant {
    ($family:ident, $product:literal, $suffix:literal, $($variant:ident: $name:literal),*) => {
        ByVariant(vec![
            $((Variant::$variant, $family.kernel(concat!("gs_convolution_", $product, "_", $name, "_", $suffix))?)),*
        ])
    };
}

/// The same for products whose rows are pixels.
macro_rules! of_pixels {
    ($family:ident, $product:literal, $suffix:literal) => {
        by_variant!($family, $product, $suffix, Tile16: "tile16", Tile32: "tile32", Tile64: "tile64", Patch16: "patch16",
            Patch32: "patch32")
    };
}

/// The kernels of one arithmetic.
macro_rules! tiles {
    ($family:ident, $suffix:literal) => {
        TileFunctions {
            forward: of_pixels!($family, "forward", $suffix),
            input_gradient: of_pixels!($family, "input_gradient", $suffix),
            weight_gradient: by_variant!($family, "weight_gradient", $suffix, Tile16: "tile16", Tile32: "tile32",
                Tile64: "tile64"),
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
            bias_gradient: family.kernel("gs_convolution_bias_gradient_f32")?,
            tiles: vec![(Arithmetic::Float32, tiles!(family, "f32")), (Arithmetic::Tf32, tiles!(family, "tf32"))],
        },
        bf16: ConvolutionFunctions {
            forward_naive: family.kernel("gs_convolution_forward_naive_bf16")?,
            input_gradient_naive: family.kernel("gs_convolution_input_gradient_naive_bf16")?,
            weight_gradient_naive: family.kernel("gs_convolution_weight_gradient_naive_bf16")?,
            reduce: family.kernel("gs_convolution_reduce")?,
            bias_gradient: family.kernel("gs_convolution_bias_gradient_bf16")?,
            tiles: vec![(Arithmetic::Bf16, tiles!(family, "bf16"))],
        },
    })
}
