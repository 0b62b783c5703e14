//! What a network is made of, as its programs and its list of layers read it.

use crate::Layer;

/// Channels of the images.
pub(crate) const IMAGE_CHANNELS: usize = 3;

/// The parts of a network, in the order of the computation.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(crate) stem: StemPlan,
    pub(crate) blocks: Vec<BlockPlan>,
    pub(crate) classes: usize,
}

/// What comes before the blocks: conv - batch norm - ReLU, and max pooling where there is one.
#[derive(Clone, Debug)]
pub(crate) struct StemPlan {
    pub(crate) convolution: ConvolutionPlan,
    /// Height and width of the convolution's result.
    pub(crate) side: usize,
    /// Height and width of the max pooling's result, where there is one.
    pub(crate) pooled_side: Option<usize>,
}

/// A convolution with as many zeros around the image as keep its size at stride 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvolutionPlan {
    /// Height and width of the kernel.
    pub(crate) kernel: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) stride: usize,
}

/// A block: residual branches of conv - batch norm pairs with ReLUs between them, their mixture where there are two, the
/// addition of the shortcut, and a ReLU.
#[derive(Clone, Debug)]
pub(crate) struct BlockPlan {
    /// Counted from 1.
    pub(crate) stage: usize,
    /// Counted from 1 in its stage.
    pub(crate) block: usize,
    /// Every branch has these.
    pub(crate) convolutions: Vec<ConvolutionPlan>,
    /// 1, or 2 that are mixed.
    pub(crate) branches: usize,
    pub(crate) shortcut: ShortcutPlan,
    /// Height and width of the result of each convolution.
    pub(crate) sides: Vec<usize>,
}

/// What is added before a block's last ReLU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShortcutPlan {
    /// Nothing: the network is a plain chain.
    None,
    /// The block's input.
    Identity,
    /// A convolution of the block's input, where the sizes change.
    Projection {
        convolution: ConvolutionPlan,
        /// Whether a batch norm follows it.
        normalised: bool,
    },
}

impl BlockPlan {
    /// The first part of the names of its layers and parameters.
    pub(crate) fn prefix(&self) -> String {
        format!("stage{}.block{}", self.stage, self.block)
    }

    /// The first part of the names in the branch of number `branch`, counted from 0.
    pub(crate) fn branch_prefix(&self, branch: usize) -> String {
        match self.branches {
            1 => self.prefix(),
            _ => format!("{}.branch{}", self.prefix(), branch + 1),
        }
    }

    /// Channels of its result.
    pub(crate) fn channels(&self) -> usize {
        self.convolutions.last().map_or(0, |convolution| convolution.to)
    }

    /// `[height, width, channels]` of its result.
    fn shape(&self) -> Vec<usize> {
        let side = self.sides.last().copied().unwrap_or(0);
        vec![side, side, self.channels()]
    }

    fn layers(&self, layers: &mut Vec<Layer>) {
        let mut add = |name: String, shape: Vec<usize>| layers.push(Layer { name, shape, stage: self.stage });
        for branch in 0..self.branches {
            let prefix = self.branch_prefix(branch);
            for (number, (convolution, &side)) in (1..).zip(self.convolutions.iter().zip(&self.sides)) {
                let shape = vec![side, side, convolution.to];
                add(format!("{prefix}.conv{number}"), shape.clone());
                add(format!("{prefix}.bn{number}"), shape.clone());
                if number < self.convolutions.len() {
                    add(format!("{prefix}.relu{number}"), shape);
                }
            }
        }
        let mut add = |name: &str| add(format!("{}.{name}", self.prefix()), self.shape());
        if self.branches > 1 {
            add("mix");
        }
        match self.shortcut {
            ShortcutPlan::None => (),
            ShortcutPlan::Identity => add("add"),
            ShortcutPlan::Projection { normalised, .. } => {
                add("shortcut");
                if normalised {
                    add("shortcut_bn");
                }
                add("add");
            }
        }
        add(&format!("relu{}", self.convolutions.len()));
    }
}

impl Topology {
    /// Channels of the last block's result.
    pub(crate) fn features(&self) -> usize {
        self.blocks.last().map_or(self.stem.convolution.to, BlockPlan::channels)
    }

    /// Every layer in the order of the computation.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let mut layers = Vec::new();
        let StemPlan { convolution, side, pooled_side } = self.stem;
        let mut add = |name: &str, side: usize| {
            layers.push(Layer { name: format!("stem.{name}"), shape: vec![side, side, convolution.to], stage: 0 });
        };
        ["conv", "bn", "relu"].into_iter().for_each(|name| add(name, side));
        if let Some(side) = pooled_side {
            add("pool", side);
        }
        self.blocks.iter().for_each(|block| block.layers(&mut layers));
        let head = 1 + self.blocks.last().map_or(0, |block| block.stage);
        layers.push(Layer { name: "pool".to_owned(), shape: vec![self.features()], stage: head });
        layers.push(Layer { name: "logits".to_owned(), shape: vec![self.classes], stage: head });
        layers
    }
}
