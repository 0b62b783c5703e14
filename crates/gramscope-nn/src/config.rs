//! The residual families: which networks there are.

use serde::{Deserialize, Serialize};

use crate::program::Program;
use crate::topology::{BlockPlan, ConvolutionPlan, IMAGE_CHANNELS, ShortcutPlan, StemPlan, Topology};
use crate::{Error, Result, memory};

/// Weighted layers that are not in a block: the stem and the linear layer.
const DEPTH_OUTSIDE: usize = 2;
/// Deeper than anyone trains: what a network is made of is listed, and a slip would fill the memory with the list.
const LARGEST_DEPTH: usize = 100_000;
/// Beyond this no layer's size fits the arithmetic (and no machine's memory).
const LARGEST_WIDTH: f64 = 1024.0;

/// A family of residual networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Three stages of m blocks of two 3 x 3 convolutions, with 16, 32 and 64 channels: depth 6m + 2 (He et al. 2016, *Deep
    /// residual learning for image recognition*, section 4.2). The width is a factor on all channels.
    #[default]
    Cifar,
    /// Four stages of 3, 4, b and 3 bottleneck blocks (1 x 1, 3 x 3 and 1 x 1 convolutions) behind a 7 x 7 convolution of
    /// stride 2 and a max pooling: depth 3b + 32, so that ResNet-50 has b = 6 and ResNet-101 b = 23 (He et al. 2016, table
    /// 1). Depth and width are those of the third stage alone, as in the ImageNet experiments of Nguyen et al. 2021: the
    /// width is a factor on its 256 inner and 1024 outer channels. A block's stride is its 3 x 3 convolution's; projections
    /// are followed by a batch norm.
    ImageNet,
}

impl Family {
    /// Number of stages; each after the first halves the side and doubles the channels.
    pub fn stages(self) -> usize {
        match self {
            Self::Cifar => 3,
            Self::ImageNet => 4,
        }
    }

    /// Weighted layers of the smallest network.
    fn smallest_depth(self) -> usize {
        match self {
            Self::Cifar => DEPTH_OUTSIDE + self.depth_step(),
            Self::ImageNet => DEPTH_OUTSIDE + 3 * (3 + 4 + 1 + 3),
        }
    }

    /// Weighted layers between one network and the next: a block a stage, or one in the third stage.
    fn depth_step(self) -> usize {
        match self {
            Self::Cifar => 2 * self.stages(),
            Self::ImageNet => 3,
        }
    }

    /// The depths, in words.
    fn depths(self) -> &'static str {
        match self {
            Self::Cifar => "6m + 2 from 8 on",
            Self::ImageNet => "3b + 32 from 35 on",
        }
    }

    /// The depth of the network with so many blocks in its third stage, at least 1.
    pub fn depth_with(self, blocks: usize) -> usize {
        self.smallest_depth() + self.depth_step() * (blocks - 1)
    }

    fn has_depth(self, depth: usize) -> bool {
        (self.smallest_depth()..=LARGEST_DEPTH).contains(&depth)
            && (depth - self.smallest_depth()).is_multiple_of(self.depth_step())
    }

    /// The depths next to one that there is not, in words.
    fn nearest_depths(self, depth: usize) -> String {
        let smallest = self.smallest_depth();
        if depth < smallest {
            return smallest.to_string();
        }
        let nearest = depth.min(LARGEST_DEPTH);
        let below = nearest - (nearest - smallest) % self.depth_step();
        match below + self.depth_step() {
            above if above <= LARGEST_DEPTH => format!("{below} or {above}"),
            _ => below.to_string(),
        }
    }
}

/// One network of a residual family, widened as in Nguyen et al. 2021, *Do wide and deep networks learn the same things?*
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Which family.
    pub family: Family,
    /// Number of weighted layers on the longest path; see [`Family`] for those there are.
    pub depth: usize,
    /// Factor on channel counts; need not be a whole number.
    pub width: f64,
    /// With additions and shortcuts; without them the network is a plain chain.
    pub residual: bool,
    /// With two residual branches in every block, mixed at random in training and evenly in evaluation (Gastaldi 2017,
    /// *Shake-Shake regularization*; see [`crate::ops::mixing`]).
    pub shake_shake: bool,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of the square images, in pixels.
    pub image_side: usize,
}

impl Default for ResNetConfig {
    /// The deepest network of the paper's grid of widths, at width 1, for CIFAR-10.
    fn default() -> Self {
        Self {
            family: Family::Cifar,
            depth: 38,
            width: 1.0,
            residual: true,
            shake_shake: false,
            classes: 10,
            image_side: 32,
        }
    }
}

/// A layer whose output can be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name, such as `stage1.block1.conv1`.
    pub name: String,
    /// Shape of its output for one image: `[height, width, channels]`, or `[features]` after the pooling.
    pub shape: Vec<usize>,
    /// 0 for the stem, then the stages, counted from 1; one more for what follows them.
    pub stage: usize,
}

impl ResNetConfig {
    /// Checks that this network exists.
    ///
    /// # Errors
    /// [`Error::Depth`] (naming the nearest depths), [`Error::Width`], [`Error::ShakeWithoutShortcuts`], [`Error::Classes`],
    /// [`Error::ImageSide`].
    pub fn validate(&self) -> Result<()> {
        let (family, depth) = (self.family, self.depth);
        if !family.has_depth(depth) {
            return Err(Error::Depth { depth, depths: family.depths(), nearest: family.nearest_depths(depth) });
        }
        if !(self.width > 0.0 && self.width <= LARGEST_WIDTH) {
            return Err(Error::Width { width: self.width, largest: LARGEST_WIDTH });
        }
        if self.shake_shake && !self.residual {
            return Err(Error::ShakeWithoutShortcuts);
        }
        if self.classes < 2 {
            return Err(Error::Classes { classes: self.classes });
        }
        if self.image_side == 0 {
            return Err(Error::ImageSide);
        }
        Ok(())
    }

    /// The number of blocks in `stage`, counted from 1. m in every stage of the CIFAR family; 3, 4, b and 3 of ImageNet's.
    pub fn blocks_in(&self, stage: usize) -> usize {
        let steps = self.depth.saturating_sub(self.family.smallest_depth()) / self.family.depth_step();
        match (self.family, stage) {
            (Family::Cifar, _) | (Family::ImageNet, 3) => 1 + steps,
            (Family::ImageNet, 2) => 4,
            (Family::ImageNet, _) => 3,
        }
    }

    /// Channels that the blocks of `stage` give, counted from 1, at least 1; those of stage 0 are the stem's.
    ///
    /// The CIFAR family's are 16 · width · 2^(stage - 1), rounded, and the stem's those of stage 1. ImageNet's are 64 for the
    /// stem and then 256 · 2^(stage - 1), those of stage 3 times the width.
    pub fn channels(&self, stage: usize) -> usize {
        match (self.family, stage) {
            (Family::ImageNet, 0) => self.inner_channels(1),
            (Family::ImageNet, _) => 4 * self.inner_channels(stage),
            (Family::Cifar, _) => self.inner_channels(stage.max(1)),
        }
    }

    /// Channels within the blocks of `stage`, counted from 1.
    fn inner_channels(&self, stage: usize) -> usize {
        let (base, width) = match (self.family, stage) {
            (Family::Cifar, _) => (16.0, self.width),
            (Family::ImageNet, 3) => (64.0, self.width),
            (Family::ImageNet, _) => (64.0, 1.0),
        };
        let doublings = stage.clamp(1, self.family.stages()) - 1;
        // The conversion saturates, and validate() has bounded the width.
        ((base * width * f64::from(1u32 << doublings)).round() as usize).max(1)
    }

    /// Height and width of the activations that the blocks of `stage` give, counted from 1; those of stage 0 are the stem's
    /// before a pooling. Every halving rounds up.
    pub fn side(&self, stage: usize) -> usize {
        let halvings = match self.family {
            Family::Cifar => stage.clamp(1, self.family.stages()) - 1,
            Family::ImageNet => stage.min(self.family.stages()) + 1,
        };
        (0..halvings).fold(self.image_side, |side, _| side.div_ceil(2))
    }

    /// Every layer in the order of the computation. Of the CIFAR family 21m + 7 of them, or 18m + 5 without residual
    /// connections.
    pub fn layers(&self) -> Vec<Layer> {
        self.topology().layers()
    }

    /// The last part of the names of what the blocks' additions are given by the residual branches: `bn2`, `bn3`, or `mix`.
    pub fn branch_end(&self) -> &'static str {
        match (self.shake_shake, self.family) {
            (true, _) => "mix",
            (false, Family::Cifar) => "bn2",
            (false, Family::ImageNet) => "bn3",
        }
    }

    /// The last part of the names of the blocks' results: `relu2` or `relu3`.
    pub fn block_end(&self) -> &'static str {
        match self.family {
            Family::Cifar => "relu2",
            Family::ImageNet => "relu3",
        }
    }

    /// Number of trained values: weights, biases, gammas and betas.
    pub fn parameter_count(&self) -> usize {
        self.program(Program::evaluation).parameter_count()
    }

    /// Fails where this machine has less memory than the network and the largest layer of a batch of so many images take.
    ///
    /// # Errors
    /// Those of [`Self::validate`]; [`Error::Memory`].
    pub fn check_evaluation_memory(&self, images: usize) -> Result<()> {
        // What does not exist may be too large to be listed, or to be counted.
        self.validate()?;
        let program = self.program(Program::evaluation);
        let needed = bytes(1, &program, images, program.largest_output());
        memory::check(|| self.in_words("evaluating", images), needed, images)
    }

    /// Fails where this machine has less memory than training with batches of so many images takes: the network and its
    /// velocities, and where there are images, its gradients and the activations that the backward pass needs.
    ///
    /// With none a GPU trains, whose memory is not looked at here: the host has the network and the velocities that go there
    /// and come back.
    ///
    /// # Errors
    /// Those of [`Self::validate`]; [`Error::Memory`].
    pub fn check_training_memory(&self, images: usize) -> Result<()> {
        self.validate()?;
        let (form, copies): (fn(&Topology, usize) -> Program, _) =
            if images > 0 { (Program::training, 3) } else { (Program::evaluation, 2) };
        let program = self.program(form);
        let needed = bytes(copies, &program, images, program.kept_in_training());
        memory::check(|| self.in_words("training", images), needed, images)
    }

    /// One of its forms.
    pub(crate) fn program(&self, form: fn(&Topology, usize) -> Program) -> Program {
        form(&self.topology(), self.image_side)
    }

    /// What is done with it, for a message.
    fn in_words(&self, done: &str, images: usize) -> String {
        let Self { depth, width, .. } = self;
        let batches = if images > 0 { format!(" in batches of {images} images") } else { String::new() };
        format!("{done} a network of depth {depth} and width {width}{batches}")
    }

    /// The names of the blocks in order, such as `stage2.block1`.
    pub fn block_names(&self) -> Vec<String> {
        self.topology().blocks.iter().map(BlockPlan::prefix).collect()
    }

    /// What the network is made of.
    pub(crate) fn topology(&self) -> Topology {
        let stem = match self.family {
            Family::Cifar => StemPlan {
                convolution: ConvolutionPlan { kernel: 3, from: IMAGE_CHANNELS, to: self.channels(0), stride: 1 },
                side: self.side(0),
                pooled_side: None,
            },
            Family::ImageNet => StemPlan {
                convolution: ConvolutionPlan { kernel: 7, from: IMAGE_CHANNELS, to: self.channels(0), stride: 2 },
                side: self.side(0),
                pooled_side: Some(self.side(1)),
            },
        };
        let places = (1..=self.family.stages()).flat_map(|stage| (1..=self.blocks_in(stage)).map(move |b| (stage, b)));
        let blocks = places.map(|(stage, block)| self.block(stage, block)).collect();
        Topology { stem, blocks, classes: self.classes }
    }

    fn block(&self, stage: usize, block: usize) -> BlockPlan {
        let first = block == 1;
        let stride = if first && stage > 1 { 2 } else { 1 };
        let from = self.channels(if first { stage - 1 } else { stage });
        let (inner, to) = (self.inner_channels(stage), self.channels(stage));
        let (before, after) = (if stride == 2 { self.side(stage - 1) } else { self.side(stage) }, self.side(stage));
        let convolution = |kernel, from, to, stride| ConvolutionPlan { kernel, from, to, stride };
        let (convolutions, sides) = match self.family {
            Family::Cifar => (vec![convolution(3, from, to, stride), convolution(3, to, to, 1)], vec![after; 2]),
            Family::ImageNet => (
                vec![
                    convolution(1, from, inner, 1),
                    convolution(3, inner, inner, stride),
                    convolution(1, inner, to, 1),
                ],
                vec![before, after, after],
            ),
        };
        // ImageNet's first stage widens without a stride.
        let projects = first && (stage > 1 || self.family == Family::ImageNet);
        let shortcut = match (self.residual, projects) {
            (false, _) => ShortcutPlan::None,
            (true, false) => ShortcutPlan::Identity,
            (true, true) => ShortcutPlan::Projection {
                convolution: convolution(1, from, to, stride),
                normalised: self.family == Family::ImageNet,
            },
        };
        let branches = if self.shake_shake { 2 } else { 1 };
        BlockPlan { stage, block, convolutions, branches, shortcut, sides }
    }
}

/// The bytes of so many copies of the parameters, and of so many values of each image.
fn bytes(copies: u64, program: &Program, images: usize, values: usize) -> u64 {
    let parameters = copies.saturating_mul(program.parameter_count() as u64);
    let activations = (images as u64).saturating_mul(values as u64);
    parameters.saturating_add(activations).saturating_mul(size_of::<f32>() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_no_machine_has_the_memory_for_is_refused() {
        let wide = ResNetConfig { width: 1024.0, ..config(8, true) };
        for (checked, lower) in [
            (wide.check_evaluation_memory(1 << 40), "lower width, depth or the batch size"),
            (config(8, true).check_training_memory(1 << 40), "lower width, depth or the batch size"),
            (ResNetConfig { depth: 99_998, ..wide }.check_training_memory(0), "lower width or depth"),
        ] {
            if memory::total().is_some() {
                let message = checked.unwrap_err().to_string();
                assert!(message.contains("a network of depth") && message.ends_with(lower), "{message}");
            }
        }
        config(8, true).check_evaluation_memory(1).unwrap();
        config(8, true).check_training_memory(1).unwrap();
    }

    /// Blocks are listed and sizes multiplied to count them.
    #[test]
    fn the_memory_of_what_does_not_exist_is_not_counted() {
        for (absurd, word) in
            [(config(100_000_000_004, true), "depth"), (ResNetConfig { width: 1e30, ..config(8, true) }, "width")]
        {
            for checked in [absurd.check_evaluation_memory(0), absurd.check_training_memory(1)] {
                let message = checked.unwrap_err().to_string();
                assert!(message.starts_with(word), "{message}");
            }
        }
    }

    fn config(depth: usize, residual: bool) -> ResNetConfig {
        ResNetConfig { depth, residual, ..ResNetConfig::default() }
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
        let config = ResNetConfig { depth: 8, width: 0.3, classes: 2, image_side: 7, ..ResNetConfig::default() };
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

    /// 25 557 032 are published for ResNet-50 with 1000 classes, whose convolutions have no biases; 44 549 160 for ResNet-101.
    #[test]
    fn bottleneck_parameter_counts_are_the_published_ones() {
        for (depth, published) in [(50, 25_557_032), (101, 44_549_160)] {
            let config = ResNetConfig { classes: 1000, image_side: 224, ..imagenet(depth, 1.0) };
            let convolutions = config.layers().into_iter().filter(|layer| {
                layer.name.rsplit('.').next().is_some_and(|part| part.starts_with("conv") || part == "shortcut")
            });
            let biases: usize = convolutions.map(|layer| layer.shape[2]).sum();
            assert_eq!(config.parameter_count() - biases, published, "depth {depth}");
        }
    }

    fn imagenet(depth: usize, width: f64) -> ResNetConfig {
        ResNetConfig { family: Family::ImageNet, depth, width, ..ResNetConfig::default() }
    }

    /// 224 pixels become 112, 56, 28, 14 and 7 (He et al. 2016, table 1).
    #[test]
    fn bottleneck_layers() {
        let config = ResNetConfig { image_side: 224, ..imagenet(50, 1.0) };
        let layers = config.layers();
        // Four for the stem, ten a block, two more for each of four projections, and the head.
        assert_eq!(layers.len(), 4 + 10 * 16 + 2 * 4 + 2);
        let shape = |name: &str| {
            let layer = layers.iter().find(|layer| layer.name == name);
            layer.unwrap_or_else(|| panic!("no layer {name}")).shape.clone()
        };
        for (name, expected) in [
            ("stem.relu", [112, 112, 64]),
            ("stem.pool", [56, 56, 64]),
            ("stage1.block1.conv1", [56, 56, 64]),
            ("stage1.block1.shortcut_bn", [56, 56, 256]),
            ("stage2.block1.conv1", [56, 56, 128]),
            ("stage2.block1.conv2", [28, 28, 128]),
            ("stage2.block1.shortcut", [28, 28, 512]),
            ("stage3.block6.add", [14, 14, 1024]),
            ("stage4.block3.relu3", [7, 7, 2048]),
        ] {
            assert_eq!(shape(name), expected, "{name}");
        }
        assert_eq!((shape("pool"), layers.last().map(|layer| layer.stage)), (vec![2048], Some(5)));
        let names: Vec<&str> = layers[4..16].iter().map(|layer| layer.name.rsplit('.').next().unwrap()).collect();
        let expected = "conv1 bn1 relu1 conv2 bn2 relu2 conv3 bn3 shortcut shortcut_bn add relu3";
        assert_eq!(names.join(" "), expected);

        let wide = imagenet(50, 1.5);
        assert_eq!([1, 2, 3, 4].map(|stage| wide.channels(stage)), [256, 512, 1536, 2048]);
        let deep = imagenet(101, 1.0);
        assert_eq!([1, 2, 3, 4].map(|stage| deep.blocks_in(stage)), [3, 4, 23, 3]);
        let error = imagenet(51, 1.0).validate().unwrap_err().to_string();
        assert!(error.ends_with("3b + 32 from 35 on; the nearest is 50 or 53"), "{error}");
    }

    #[test]
    fn two_branches_have_layers_of_their_own() {
        let config = ResNetConfig { depth: 8, shake_shake: true, ..ResNetConfig::default() };
        let layers = config.layers();
        let of_block: Vec<&str> = layers.iter().filter_map(|layer| layer.name.strip_prefix("stage2.block1.")).collect();
        let branch = |n: usize| ["conv1", "bn1", "relu1", "conv2", "bn2"].map(|part| format!("branch{n}.{part}"));
        let rest = ["mix", "shortcut", "add", "relu2"].map(str::to_owned);
        assert_eq!(of_block, [&branch(1)[..], &branch(2), &rest].concat());
        let chain = ResNetConfig { residual: false, ..config };
        assert!(chain.validate().unwrap_err().to_string().contains("shake_shake"));
    }

    #[test]
    fn wrong_configurations_say_what_would_be_right() {
        let error = |config: ResNetConfig| config.validate().unwrap_err().to_string();
        assert!(error(config(15, true)).ends_with("the nearest is 14 or 20"), "{}", error(config(15, true)));
        assert!(error(config(0, true)).ends_with("the nearest is 8"));
        assert!(error(config(2, true)).ends_with("the nearest is 8"));
        for depth in [usize::MAX, 600_000_002] {
            assert!(error(config(depth, true)).ends_with("the nearest is 99998"), "{}", error(config(depth, true)));
        }
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
