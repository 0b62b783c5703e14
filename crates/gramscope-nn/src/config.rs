//! The CIFAR residual family: which networks there are, and what layers each has.

use crate::{Error, Result};

/// Channels of the images.
pub(crate) const IMAGE_CHANNELS: usize = 3;
/// Number of stages; each after the first halves the side and doubles the channels.
pub(crate) const STAGES: usize = 3;
/// Channels of the first stage at width 1.
const BASE_CHANNELS: f64 = 16.0;
/// Weighted layers that are not in a block: the stem and the linear layer.
const DEPTH_OUTSIDE: usize = 2;
/// Weighted layers that one more block a stage adds.
const DEPTH_PER_BLOCK: usize = 2 * STAGES;
/// Beyond this no layer's size fits the arithmetic (and no machine's memory).
const LARGEST_WIDTH: f64 = 1024.0;

/// One network of the CIFAR residual family (He et al. 2016, *Deep residual learning for image recognition*, section 4.2;
/// widened as in Nguyen et al. 2021, *Do wide and deep networks learn the same things?*).
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
    /// Shape of its output for one image: [height, width, channels], or [features] after the pooling.
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
