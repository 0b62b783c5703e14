//! The CIFAR residual family: which networks there are, and what layers each has.

use crate::{Error, Result};

/// Channels of the images.
pub(crate) const IMAGE_CHANNELS: usize = 3;
/// Number of stages; each after the first halves the side and doubles the channels.
pub const STAGES: usize = 3;
/// Channels of the first stage at width 1.
const BASE_CHANNELS: f64 = 16.0;
/// Weighted layers that are not in a block: the stem and the linear layer.
const DEPTH_OUTSIDE: usize = 2;
/// Weighted layers that one more block a stage adds.
const DEPTH_PER_BLOCK: usize = 2 * STAGES;
/// Beyond this no layer's size fits the arithmetic (and no machine's memory).
const LARGEST_WIDTH: f64 = 1024.0;

/// One network of the CIFAR residual family (He et al. 2016, *Deep residual learning for image recognition*, section
/// 4.2; widened as in Nguyen et al. 2021, *Do wide and deep networks learn the same things?*).
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Number of weighted layers on the longest path, 6m + 2 with m blocks a stage.
    pub depth: usize,
    /// Factor on all channel counts; 1 has 16, 32 and 64 channels. Need not be a whole number.
    pub width: f64,
    /// With additions and shortcuts; without them the network is a plain chain.
    pub residual: bool,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of the square images, in pixels.
    pub image_side: usize,
}

/// A layer whose output can be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name, such as `stage1.block1.conv1`.
    pub name: String,
    /// Shape of its output for one image: `[height, width, channels]`, or `[features]` after the pooling.
    pub shape: Vec<usize>,
    /// 0 for the stem, 1 to 3 for the stages, 4 for what follows them.
    pub stage: usize,
}

impl ResNetConfig {
    /// Checks that this network exists.
    ///
    /// # Errors
    /// [`Error::Depth`] (naming the nearest depths), [`Error::Width`], [`Error::Classes`], [`Error::ImageSide`].
    pub fn validate(&self) -> Result<()> {
        if self.depth < DEPTH_OUTSIDE + DEPTH_PER_BLOCK || !(self.depth - DEPTH_OUTSIDE).is_multiple_of(DEPTH_PER_BLOCK)
        {
            return Err(Error::Depth { depth: self.depth, nearest: nearest_depths(self.depth) });
        }
        if !(self.width > 0.0 && self.width <= LARGEST_WIDTH) {
            return Err(Error::Width { width: self.width, largest: LARGEST_WIDTH });
        }
        if self.classes < 2 {
            return Err(Error::Classes { classes: self.classes });
        }
        if self.image_side == 0 {
            return Err(Error::ImageSide);
        }
        Ok(())
    }

    /// m, the number of blocks in each of the three stages.
    pub fn blocks_per_stage(&self) -> usize {
        self.depth.saturating_sub(DEPTH_OUTSIDE) / DEPTH_PER_BLOCK
    }

    /// Channels of `stage`, 1 to 3: 16 · width · 2^(stage - 1), rounded, at least 1. The stem (0) has those of stage 1.
    pub fn channels(&self, stage: usize) -> usize {
        let doublings = stage.clamp(1, STAGES) - 1;
        // The conversion saturates, and validate() has bounded the width.
        ((BASE_CHANNELS * self.width * f64::from(1u32 << doublings)).round() as usize).max(1)
    }

    /// Height and width of the activations of `stage`, 1 to 3: each stage after the first halves them, rounding up.
    pub fn side(&self, stage: usize) -> usize {
        (1..stage.clamp(1, STAGES)).fold(self.image_side, |side, _| side.div_ceil(2))
    }

    /// Every layer in the order of the computation: 21m + 7 of them, or 18m + 5 without residual connections.
    pub fn layers(&self) -> Vec<Layer> {
        let mut layers = Vec::new();
        let mut add = |stage: usize, prefix: &str, name: &str| {
            let shape = vec![self.side(stage), self.side(stage), self.channels(stage)];
            layers.push(Layer { name: format!("{prefix}.{name}"), shape, stage });
        };
        for name in ["conv", "bn", "relu"] {
            add(0, "stem", name);
        }
        for block in self.blocks() {
            let prefix = block.prefix();
            for name in ["conv1", "bn1", "relu1", "conv2", "bn2"] {
                add(block.stage, &prefix, name);
            }
            if block.has_shortcut(self.residual) {
                add(block.stage, &prefix, "shortcut");
            }
            if self.residual {
                add(block.stage, &prefix, "add");
            }
            add(block.stage, &prefix, "relu2");
        }
        let head = STAGES + 1;
        layers.push(Layer { name: "pool".to_owned(), shape: vec![self.channels(STAGES)], stage: head });
        layers.push(Layer { name: "logits".to_owned(), shape: vec![self.classes], stage: head });
        layers
    }

    /// Number of trained values: weights, biases, gammas and betas.
    pub fn parameter_count(&self) -> usize {
        let convolution = |side: usize, from: usize, to: usize| side * side * from * to + to;
        let batch_norm = |channels: usize| 2 * channels;
        let stem = convolution(3, IMAGE_CHANNELS, self.channels(1)) + batch_norm(self.channels(1));
        let blocks: usize = self
            .blocks()
            .map(|block| {
                let (from, to) = (block.channels_in(self), self.channels(block.stage));
                let shortcut = if block.has_shortcut(self.residual) { convolution(1, from, to) } else { 0 };
                convolution(3, from, to) + convolution(3, to, to) + 2 * batch_norm(to) + shortcut
            })
            .sum();
        stem + blocks + self.channels(STAGES) * self.classes + self.classes
    }

    /// The names of the blocks in order, such as `stage2.block1`: the same number in each of the three stages.
    pub fn block_names(&self) -> Vec<String> {
        self.blocks().map(BlockPlace::prefix).collect()
    }

    /// The blocks in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockPlace> {
        let blocks = self.blocks_per_stage();
        (1..=STAGES).flat_map(move |stage| (1..=blocks).map(move |block| BlockPlace { stage, block }))
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockPlace {
    /// 1 to 3.
    pub(crate) stage: usize,
    /// Counted from 1 in its stage.
    block: usize,
}

impl BlockPlace {
    /// The first part of the names of its layers and parameters.
    pub(crate) fn prefix(self) -> String {
        format!("stage{}.block{}", self.stage, self.block)
    }

    /// Whether it halves the side.
    fn reduces(self) -> bool {
        self.stage > 1 && self.block == 1
    }

    /// Stride of its first convolution and of its shortcut.
    pub(crate) fn stride(self) -> usize {
        if self.reduces() { 2 } else { 1 }
    }

    /// Channels of its input.
    pub(crate) fn channels_in(self, config: &ResNetConfig) -> usize {
        config.channels(if self.reduces() { self.stage - 1 } else { self.stage })
    }

    /// Whether its shortcut is a projection.
    pub(crate) fn has_shortcut(self, residual: bool) -> bool {
        residual && self.reduces()
    }
}

fn nearest_depths(depth: usize) -> String {
    let smallest = DEPTH_OUTSIDE + DEPTH_PER_BLOCK;
    if depth < smallest {
        return smallest.to_string();
    }
    let below = depth - (depth - DEPTH_OUTSIDE) % DEPTH_PER_BLOCK;
    match below.checked_add(DEPTH_PER_BLOCK) {
        Some(above) => format!("{below} or {above}"),
        None => below.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(depth: usize, residual: bool) -> ResNetConfig {
        ResNetConfig { depth, width: 1.0, residual, classes: 10, image_side: 32 }
    }

    #[test]
    fn layer_counts() {
        for (depth, count) in [(8, 28), (14, 49), (20, 70), (38, 133), (164, 574)] {
            assert_eq!(config(depth, true).layers().len(), count, "depth {depth}");
        }
        for depth in [8, 14, 20, 38, 164] {
            let blocks = (depth - 2) / 6;
            assert_eq!(config(depth, true).layers().len(), 21 * blocks + 7, "depth {depth}");
            assert_eq!(config(depth, false).layers().len(), 18 * blocks + 5, "depth {depth}");
        }
    }

    #[test]
    fn layer_names_shapes_and_order() {
        let layers = config(8, true).layers();
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let block = |stage: usize, projection: bool| {
            let mut names = vec!["conv1", "bn1", "relu1", "conv2", "bn2"];
            names.extend(projection.then_some("shortcut"));
            names.extend(["add", "relu2"]);
            names.into_iter().map(move |name| format!("stage{stage}.block1.{name}"))
        };
        let expected: Vec<String> = ["stem.conv", "stem.bn", "stem.relu"]
            .map(str::to_owned)
            .into_iter()
            .chain(block(1, false))
            .chain(block(2, true))
            .chain(block(3, true))
            .chain(["pool", "logits"].map(str::to_owned))
            .collect();
        assert_eq!(names, expected);
        let layer = |name: &str| layers.iter().find(|layer| layer.name == name).unwrap();
        assert_eq!((&layer("stem.conv").shape[..], layer("stem.conv").stage), (&[32, 32, 16][..], 0));
        assert_eq!((&layer("stage1.block1.add").shape[..], layer("stage1.block1.add").stage), (&[32, 32, 16][..], 1));
        assert_eq!(layer("stage2.block1.conv1").shape, [16, 16, 32]);
        assert_eq!(layer("stage2.block1.shortcut").shape, [16, 16, 32]);
        assert_eq!((&layer("stage3.block1.relu2").shape[..], layer("stage3.block1.relu2").stage), (&[8, 8, 64][..], 3));
        assert_eq!((&layer("pool").shape[..], layer("pool").stage), (&[64][..], 4));
        assert_eq!((&layer("logits").shape[..], layer("logits").stage), (&[10][..], 4));
    }

    #[test]
    fn second_blocks_have_no_projection() {
        let layers = config(14, true).layers();
        let projections: Vec<&str> =
            layers.iter().filter(|l| l.name.ends_with("shortcut")).map(|l| l.name.as_str()).collect();
        assert_eq!(projections, ["stage2.block1.shortcut", "stage3.block1.shortcut"]);
    }

    #[test]
    fn widths_and_sides_round() {
        let config = ResNetConfig { depth: 8, width: 0.3, residual: true, classes: 2, image_side: 7 };
        config.validate().unwrap();
        assert_eq!([1, 2, 3].map(|stage| config.channels(stage)), [5, 10, 19]);
        assert_eq!([1, 2, 3].map(|stage| config.side(stage)), [7, 4, 2]);
        let thin = ResNetConfig { width: 1e-9, ..config };
        assert_eq!([1, 2, 3].map(|stage| thin.channels(stage)), [1, 1, 1]);
    }

    /// 0.27 million for depth 20 (He et al. 2016, table 6); with our biases and projections by hand:
    /// stem 3·3·3·16 + 16 + 32 = 480; stage 1: 6 (3·3·16·16 + 16 + 32) = 14112; stage 2: 3·3·16·32 + 32 + 64, five of
    /// 3·3·32·32 + 32 + 64, projection 16·32 + 32 = 4704 + 46560 + 544; stage 3 likewise 18624 + 185280 + 2112; 650.
    #[test]
    fn parameter_count() {
        assert_eq!(config(20, true).parameter_count(), 480 + 14112 + 4704 + 46560 + 544 + 18624 + 185_280 + 2112 + 650);
        assert_eq!(config(20, false).parameter_count(), config(20, true).parameter_count() - 544 - 2112);
    }

    #[test]
    fn wrong_configurations_say_what_would_be_right() {
        let error = |config: ResNetConfig| config.validate().unwrap_err().to_string();
        assert!(error(config(15, true)).ends_with("the nearest is 14 or 20"), "{}", error(config(15, true)));
        assert!(error(config(0, true)).ends_with("the nearest is 8"));
        assert!(error(config(2, true)).ends_with("the nearest is 8"));
        assert!(config(usize::MAX, true).validate().is_err());
        for width in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(error(ResNetConfig { width, ..config(8, true) }).contains("width"), "{width}");
        }
        assert!(error(ResNetConfig { classes: 1, ..config(8, true) }).contains("classes"));
        assert!(error(ResNetConfig { image_side: 0, ..config(8, true) }).contains("side"));
        for depth in [8, 14, 20, 26, 32, 38, 44, 56, 110, 164] {
            config(depth, true).validate().unwrap();
        }
    }
}
