//! How a study shrinks.
//!
//! What decides whether a block appears is how large a network is beside the data it learns (Nguyen, Raghu and Kornblith
//! 2021, section 4). A study at scale s therefore keeps the ratio of parameters to images: it has s times the training
//! images, and networks with s times the parameters. These go as blocks times width squared, so that blocks a stage and
//! width both shrink by the cube root of s. (Of the ImageNet family they are those of the third stage, and the rest stays:
//! its parameters shrink by less.) Epochs shrink by s too. Of the seeds, the first s of them are trained, and of
//! the passes over the test images s of them are made. The minibatch shrinks by the root of s, so that few images still make
//! steps.

use gramscope_nn::{Family, ResNetConfig};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Setting};

/// Widths are multiples of this, and at least this.
const WIDTH_STEP: f64 = 0.25;
/// Minibatches of training are multiples of this ...
const BATCH_STEP: f64 = 8.0;
/// ... and at least this, if they were before.
const LEAST_BATCH: usize = 32;
/// Test images that are always used, where there are so many: four minibatches of CKA, and what first components take.
const LEAST_TEST_IMAGES: usize = 1024;

/// A share of a study's full size, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scale(f64);

impl Scale {
    /// The full size.
    pub const FULL: Self = Self(1.0);

    /// The share `scale`.
    ///
    /// # Errors
    /// [`Error::Incomparable`] unless it is above 0 and at most 1.
    pub fn new(scale: f64) -> Result<Self> {
        if scale > 0.0 && scale <= 1.0 {
            return Ok(Self(scale));
        }
        let problem = format!("a scale of {scale}: must be above 0 and at most 1, the paper's size");
        Err(Error::incomparable(problem).mended_by(&[Setting::Scale]))
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }

    /// The factor on blocks a stage and on widths.
    pub(super) fn side(self) -> f64 {
        self.0.cbrt()
    }

    /// `count` things of which a share is used: at least 1, if there are any.
    pub(super) fn share_of(self, count: usize) -> usize {
        ((count as f64 * self.0).round() as usize).max(1).min(count)
    }

    pub(super) fn test_images(self, count: usize) -> usize {
        self.share_of(count).max(LEAST_TEST_IMAGES).min(count)
    }

    /// How many of `count` seeds are trained: at least `least`, if there are so many.
    pub(super) fn seeds(self, count: usize, least: usize) -> usize {
        ((count as f64 * self.0).ceil() as usize).max(least).min(count)
    }

    pub(super) fn batch_size(self, images: usize) -> usize {
        let steps = (images as f64 * self.0.sqrt() / BATCH_STEP).round() * BATCH_STEP;
        (steps as usize).max(LEAST_BATCH).min(images)
    }

    /// The nearest depth with this share of the blocks; a depth that is none of the family's stays, to be refused by name.
    pub(super) fn depth(self, family: Family, depth: usize) -> usize {
        let network = ResNetConfig { family, depth, ..ResNetConfig::default() };
        if network.validate().is_err() {
            return depth;
        }
        let blocks = (network.blocks_in(3) as f64 * self.side()).round() as usize;
        family.depth_with(blocks.max(1))
    }

    pub(super) fn width(self, width: f64) -> f64 {
        if self == Self::FULL {
            return width;
        }
        ((width * self.side() / WIDTH_STEP).round() * WIDTH_STEP).max(WIDTH_STEP)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parameters(depth: usize, width: f64) -> f64 {
        ResNetConfig { depth, width, ..ResNetConfig::default() }.parameter_count() as f64
    }

    #[test]
    fn the_full_size_is_the_papers() {
        let full = Scale::FULL;
        for depth in [8, 14, 38, 164] {
            assert_eq!(full.depth(Family::Cifar, depth), depth);
        }
        assert_eq!(
            (full.width(10.0), full.width(0.3), full.batch_size(128), full.batch_size(20)),
            (10.0, 0.3, 128, 20)
        );
        assert_eq!((full.share_of(300), full.test_images(10_000), full.seeds(10, 2)), (300, 10_000, 10));
    }

    #[test]
    fn parameters_shrink_as_images_do() {
        for scale in [0.5, 0.1, 0.05, 0.02] {
            let scale = Scale::new(scale).unwrap();
            for (depth, width) in [(164, 4.0), (110, 8.0), (38, 10.0)] {
                let share =
                    parameters(scale.depth(Family::Cifar, depth), scale.width(width)) / parameters(depth, width);
                // Blocks are rounded by at most half of one, widths by an eighth.
                let blocks = scale.side() * (depth - 2) as f64 / 6.0;
                let rounding = (1.0 + 0.5 / blocks) * (1.0 + 0.125 / (scale.side() * width)).powi(2);
                let ratio = share / scale.value();
                // The stem and the first blocks of stages have a share of their own: an eighth of the parameters at most.
                assert!(
                    ratio < 1.125 * rounding && ratio > 1.0 / (1.125 * rounding),
                    "{scale:?} {depth} {width}: {ratio}"
                );
            }
        }
    }

    #[test]
    fn nothing_shrinks_to_nothing() {
        let tiny = Scale::new(1e-6).unwrap();
        assert_eq!((tiny.share_of(300), tiny.depth(Family::Cifar, 164), tiny.width(10.0)), (1, 8, 0.25));
        assert_eq!((tiny.seeds(10, 2), tiny.seeds(1, 2), tiny.seeds(100, 6)), (2, 1, 6));
        assert_eq!((tiny.batch_size(128), tiny.test_images(10_000), tiny.test_images(300)), (32, 1024, 300));
        assert_eq!(tiny.depth(Family::Cifar, 15), 15);
        assert_eq!(Scale::new(0.125).unwrap().depth(Family::ImageNet, 50), 41, "3 of 6 blocks in the third stage");
        for wrong in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
            assert!(Scale::new(wrong).unwrap_err().to_string().contains("a scale of"), "{wrong}");
        }
    }
}
