//! What a comparison launches, a file a family: Gram matrices, their centring and kernels, their leading eigenpairs, and the products of
//! panels.

mod eigen;
mod gram;
mod hsic;
mod operands;
mod rbf;
mod ucenter;

use std::collections::BTreeSet;

use gramscope_cuda::{Error, Values, plan};
use gramscope_nn::{Family, ResNetConfig};

use super::{KernelBench, WHAT, time};
use crate::bench::Rows;

/// Examples a batch.
pub(super) const EXAMPLES: usize = 256;
/// Networks of whose layers the features are: their depths and widths.
const NETWORKS: [(usize, f64); 4] = [(20, 1.0), (110, 1.0), (164, 1.0), (38, 10.0)];
/// Features of the layer that the Gram kernels are judged by, which is none of those networks'.
const JUDGED: usize = 65_536;
/// Layers that a ResNet-110 hands over together, examples, and features of each: from its three stages.
const TOGETHER: [[usize; 3]; 3] = [[32, EXAMPLES, 16_384], [64, EXAMPLES, 8_192], [128, EXAMPLES, 4_096]];
/// What is centred: a layer, and as many as there may be.
const CENTRED: [[usize; 3]; 2] = [[1, EXAMPLES, 16_384], TOGETHER[2]];
/// What distances are taken of.
const DISTANCES: [usize; 2] = [EXAMPLES, 65_536];
/// Layers of a panel.
const LAYERS: [usize; 5] = [60, 385, 574, 1500, 6000];
/// Layers that are decomposed together, as when principal components are compared, and examples of each: those of a batch, and fewer,
/// for which the naive twin, Jacobi's method, does not take long.
const DECOMPOSED: [[usize; 2]; 2] = [[132, EXAMPLES], [132, 64]];

/// Features of the layers of ResNet-20, -110 and -164 (width 1), of ResNet-38 x10 and of an ImageNet ResNet-50, and those of the judged
/// layer: once each, ascending.
pub(super) fn features() -> BTreeSet<usize> {
    let cifar = NETWORKS.map(|(depth, width)| ResNetConfig { depth, width, ..ResNetConfig::default() });
    let (depth, image_side, classes) = (50, 224, 1000);
    let imagenet = ResNetConfig { family: Family::ImageNet, depth, image_side, classes, ..ResNetConfig::default() };
    let layers = cifar.iter().chain([&imagenet]).flat_map(ResNetConfig::layers);
    layers.map(|layer| layer.shape.iter().product()).chain([JUDGED]).collect()
}

impl KernelBench<'_> {
    /// Every kernel.
    pub(super) fn comparison(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        for features in features() {
            for (name, element) in [("f32", 4), ("bf16", 2), ("f16", 2)] {
                let measured = self.gram(rows, name, element, features);
                self.unless_too_large(measured, rows, "gram", name, &[EXAMPLES, features])?;
            }
        }
        for shape in TOGETHER {
            let measured = self.gram_together(rows, shape);
            self.unless_too_large(measured, rows, "gram", "f32", &shape)?;
        }
        for shape in CENTRED {
            let measured = self.ucenter(rows, shape);
            self.unless_too_large(measured, rows, "ucenter", "f32", &shape)?;
        }
        let measured = self.rbf(rows);
        self.unless_too_large(measured, rows, "rbf", "f32", &DISTANCES)?;
        for shape in DECOMPOSED {
            let measured = self.eigen(rows, shape);
            self.unless_too_large(measured, rows, "eigen", "f64", &shape)?;
        }
        for layers in LAYERS {
            let shape = [layers, EXAMPLES * (EXAMPLES - 1) / 2];
            let measured = self.hsic(rows, shape);
            self.unless_too_large(measured, rows, "hsic", "f32", &shape)?;
        }
        Ok(())
    }

    /// What cuBLAS takes for the Gram matrix of what `x` hands out, a round each.
    fn cublas_us<'x>(
        &self,
        x: impl Fn(usize) -> Values<'x>,
        shape: [usize; 2],
        tf32: bool,
    ) -> Result<Option<f64>, Error> {
        let Some(cublas) = &self.cublas else { return Ok(None) };
        let mut product = self.device.zeros::<f32>(WHAT, shape[0] * shape[0])?;
        time(self.device, &mut |round| cublas.gram(&mut product.as_view_mut(), &x(round), shape, tf32)).map(Some)
    }
}

/// Entries that are computed of a symmetric matrix of so many rows, in tiles of `tile` a side.
fn triangle(rows: usize, tile: usize) -> f64 {
    (plan::triangle(rows.div_ceil(tile)) * tile * tile) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer of each kind by hand: stem, stages, transitions and what follows them, of every network.
    #[test]
    fn every_layer_s_features_are_measured() {
        let expected = [
            10, 64, 640, 1000, 2048, 4096, 8192, 16_384, 25_088, 40_960, 50_176, 65_536, 81_920, 100_352, 163_840,
            200_704, 401_408, 802_816,
        ];
        assert_eq!(features().into_iter().collect::<Vec<_>>(), expected);
    }
}
