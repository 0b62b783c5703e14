//! The kernels of kernels/convolution/convolution.cu.

use crate::error::Error;
use crate::family::{Family, Kernel, Typed, kernels};
use crate::plan::convolution::{Arithmetic, Variant};

kernels! {
    /// The kernels of one type of activations that have no tiles.
    TypedConvolutionKernels of an element {
        pub(super) forward_naive: "gs_convolution_forward_naive",
        pub(super) input_gradient_naive: "gs_convolution_input_gradient_naive",
        pub(super) weight_gradient_naive: "gs_convolution_weight_gradient_naive",
        pub(super) bias_gradient: "gs_convolution_bias_gradient",
    }
}

/// The kernels of this family.
pub(crate) struct ConvolutionKernels {
    pub(super) of_type: Typed<TypedConvolutionKernels>,
    pub(super) tiles: Typed<Vec<(Arithmetic, TileKernels)>>,
    pub(super) reduce: Kernel,
}

/// The kernels of one arithmetic.
pub(crate) struct TileKernels {
    pub(super) forward: ByVariant,
    pub(super) input_gradient: ByVariant,
    pub(super) weight_gradient: ByVariant,
}

/// A product's kernels.
pub(crate) struct ByVariant(Vec<(Variant, Kernel)>);

impl ByVariant {
    /// The kernel of this variant; none where the product has no such variant.
    pub(super) fn of(&self, variant: Variant) -> Option<&Kernel> {
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
        TileKernels {
            forward: of_pixels!($family, "forward", $suffix),
            input_gradient: of_pixels!($family, "input_gradient", $suffix),
            weight_gradient: by_variant!($family, "weight_gradient", $suffix, Tile16: "tile16", Tile32: "tile32",
                Tile64: "tile64"),
        }
    };
}

impl ConvolutionKernels {
    pub(in crate::launchers) fn load(family: &Family) -> Result<Self, Error> {
        Ok(Self {
            of_type: Typed::load(family, TypedConvolutionKernels::load)?,
            tiles: Typed {
                f32: vec![(Arithmetic::Float32, tiles!(family, "f32")), (Arithmetic::Tf32, tiles!(family, "tf32"))],
                bf16: vec![(Arithmetic::Bf16, tiles!(family, "bf16"))],
            },
            reduce: family.kernel("gs_convolution_reduce")?,
        })
    }
}
