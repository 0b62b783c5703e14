//! A network as a list of steps over numbered values: what the CPU (`host`) and a GPU (`device`) carry out, step after step, without
//! deciding anything.
//!
//! [`Program`] is made from a network's [`Topology`], in one of three forms: evaluation (`forward`), with what follows a batch norm
//! fused into it, whole or without some blocks (`ablation`); observation, where every layer of [`Topology::layers`] exists for a while
//! and is handed out, alone or several together (`waiting`); and training, whose backward steps are derived from the forward ones, last first
//! (`backward`). A value is `[images, side, side, channels]`. Values that are never there at the same time share a slot of memory
//! (`slots`).

mod ablation;
mod backward;
mod counts;
mod forward;
#[cfg(any(feature = "cuda", test))]
mod slots;
mod waiting;

use gramscope_cuda::plan::Convolution;

use crate::FirstComponentPenalty;
use crate::topology::{ConvolutionPlan, Topology};
pub(crate) use ablation::check_variants;
use forward::Builder;
#[cfg(feature = "cuda")]
pub(crate) use slots::Slots;
pub(crate) use waiting::HandOut;

/// The place of a value among a program's.
pub(crate) type ValueId = usize;

/// The value that the images are.
pub(crate) const IMAGES: ValueId = 0;

/// What a value is for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    /// Height and width.
    pub(crate) side: usize,
    pub(crate) channels: usize,
}

impl Value {
    pub(crate) fn pixels(self) -> usize {
        self.side * self.side
    }

    /// Numbers an image.
    pub(crate) fn length(self) -> usize {
        self.pixels() * self.channels
    }
}

/// What is computed next. Convolutions and batch norms are numbered in the order of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// y = convolution(x).
    Convolution { convolution: usize, x: ValueId, y: ValueId },
    /// y = batch norm(x), then + addend, then ReLU, as far as there are such. In training the batch's statistics are taken
    /// first, and kept.
    Normalise { norm: usize, x: ValueId, addend: Option<ValueId>, relu: bool, y: ValueId, seen: Seen },
    /// Negative values of x become 0.
    Relu { x: ValueId },
    /// y = ReLU(a share of a + the rest of b + addend). In training the shares of the block of number `block`, from 0, are drawn
    /// for each image; in evaluation they are one half.
    Mix { block: usize, branches: [ValueId; 2], addend: ValueId, y: ValueId, seen: Seen },
    /// y = max pooling(x).
    MaxPool { x: ValueId, y: ValueId },
    /// The pooled features are the means of x over its pixels.
    AveragePool { x: ValueId },
    /// The logits, from the pooled features.
    Logits,
    /// The Gram matrix over the batch of x, the output of the block of this number, in a network whose training is penalised.
    Gram { block: usize, x: ValueId },
    /// The first principal components of all blocks' outputs, from their Gram matrices.
    FirstComponents,
    /// The loss, and its gradient by the logits.
    Loss,
    /// The gradients of the logits' weights and biases, and of the pooled features.
    LogitsBackward,
    /// dx, from the gradient of the pooled features.
    AveragePoolBackward { dx: ValueId },
    /// dx, from that of the max pooling's result y.
    MaxPoolBackward { x: ValueId, y: ValueId, dy: ValueId, dx: ValueId },
    /// dx, the gradient of a block's output x, has that of the penalty on x's first component added to it.
    GramBackward { block: usize, x: ValueId, dx: ValueId },
    /// The gradients of gamma and beta, of x, and of the addend where there was one.
    NormaliseBackward { norm: usize, x: ValueId, dy: ValueId, dx: ValueId, added: Option<Added>, relu: bool },
    /// From the gradient of the result y of a mixture, dmixed, those of its parts; dmixed becomes the first branch's.
    MixBackward { block: usize, y: ValueId, dmixed: ValueId, dother: ValueId, daddend: ValueId },
    /// The gradients of weights and biases.
    WeightGradient { convolution: usize, x: ValueId, dy: ValueId },
    /// dx, or what is added to it.
    InputGradient { convolution: usize, dy: ValueId, dx: ValueId, adds: bool },
    /// The layer of this number, or without blocks the choice of this number, is what `of` says, now. Those of a group follow each
    /// other, and are handed out together.
    Tap { layer: usize, of: Tapped, group: usize },
}

/// What is on the way to a step's result and is kept beside it, to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What the batch norm or the mixture gives alone.
    pub(crate) alone: Option<ValueId>,
    /// The sum of that and the addend.
    pub(crate) sum: Option<ValueId>,
}

impl Seen {
    fn values(self) -> [Option<ValueId>; 2] {
        [self.alone, self.sum]
    }
}

/// What the backward pass of a batch norm with an addition has to do beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    /// What the ReLU gave: with an addend, x does not tell where it let through.
    pub(crate) y: ValueId,
    /// The gradient of the addend.
    pub(crate) daddend: ValueId,
}

/// Which statistics batch norms take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// The running ones.
    Running,
    /// The batch's.
    Batch,
    /// The batch's, and the running ones move towards them.
    Moving,
}

/// What a layer's output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tapped {
    Value(ValueId),
    Pooled,
    Logits,
}

/// A convolution of the network, and what it is given.
#[derive(Clone, Debug)]
pub(crate) struct NamedConvolution {
    /// The first part of its parameters' names.
    pub(crate) name: String,
    pub(crate) plan: ConvolutionPlan,
    /// Height and width of its input.
    pub(crate) side: usize,
}

/// A batch norm of the network.
#[derive(Clone, Debug)]
pub(crate) struct NamedNorm {
    /// The first part of its parameters' names.
    pub(crate) name: String,
    /// The number of the convolution whose result it takes.
    pub(crate) convolution: usize,
    pub(crate) channels: usize,
}

/// A network in one of its forms.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) values: Vec<Value>,
    pub(crate) convolutions: Vec<NamedConvolution>,
    pub(crate) norms: Vec<NamedNorm>,
    /// What is added to the loss that is trained by.
    pub(crate) penalty: Option<FirstComponentPenalty>,
    /// Pooled features.
    pub(crate) features: usize,
    pub(crate) classes: usize,
}

impl Program {
    /// What gives the logits, and nothing beside.
    pub(crate) fn evaluation(topology: &Topology, image_side: usize) -> Self {
        Builder::new(topology, image_side, None).network(topology).program
    }

    /// The same with a tap of every layer, in the order of [`Topology::layers`]. Layers that are handed out together are tapped one right
    /// behind the other, and lie there until then.
    pub(crate) fn observation(topology: &Topology, image_side: usize, how: HandOut) -> Self {
        Builder::new(topology, image_side, Some(how)).network(topology).program
    }

    /// What gives the loss and every parameter's gradient.
    pub(crate) fn training(topology: &Topology, image_side: usize) -> Self {
        Self::evaluation(topology, image_side).with_backward()
    }

    /// The same of the sum of the loss and of a penalty on the first components of the blocks' outputs.
    pub(crate) fn penalised(topology: &Topology, image_side: usize, penalty: FirstComponentPenalty) -> Self {
        let mut builder = Builder::new(topology, image_side, None);
        builder.program.penalty = Some(penalty);
        builder.network(topology).program.with_backward()
    }

    /// Of each value, the place of the last step that reads or writes it; of the images, which whoever runs the program may look at
    /// at any time, the end.
    pub(crate) fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.values.len()];
        for (place, step) in self.steps.iter().enumerate() {
            step.values().for_each(|value| last[value] = place);
        }
        last[IMAGES] = self.steps.len();
        last
    }

    /// Blocks whose branches' shares are drawn for each batch: in training, those that have two.
    #[cfg(feature = "cuda")]
    pub(crate) fn drawn_blocks(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::MixBackward { .. })).count()
    }

    /// The shape of convolution number `convolution` of so many images.
    pub(crate) fn convolution(&self, convolution: usize, images: usize) -> Convolution {
        let NamedConvolution { plan, side, .. } = &self.convolutions[convolution];
        let ConvolutionPlan { kernel, from, to, stride } = *plan;
        Convolution { images, height: *side, width: *side, from, to, kernel, stride, padding: kernel / 2 }
    }

    /// The linear layer, as a convolution of images of one pixel.
    #[cfg(feature = "cuda")]
    pub(crate) fn linear(&self, images: usize) -> Convolution {
        let (from, to) = (self.features, self.classes);
        Convolution { images, height: 1, width: 1, from, to, kernel: 1, stride: 1, padding: 0 }
    }
}

impl Step {
    /// Whether it and the next one are taps that are handed out together, or neither is a tap.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn goes_with(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Tap { group, .. }, Self::Tap { group: other, .. }) => group == other,
            (Self::Tap { .. }, _) | (_, Self::Tap { .. }) => false,
            _ => true,
        }
    }

    /// Every value it reads or writes.
    pub(crate) fn values(&self) -> impl Iterator<Item = ValueId> {
        let some = |values: [ValueId; 2]| values.map(Some).to_vec();
        let values = match *self {
            Self::Convolution { x, y, .. } | Self::MaxPool { x, y } => some([x, y]),
            Self::Normalise { x, addend, y, seen, .. } => [&[Some(x), addend, Some(y)][..], &seen.values()].concat(),
            Self::Mix { branches: [a, b], addend, y, seen, .. } => {
                [&[a, b, addend, y].map(Some)[..], &seen.values()].concat()
            }
            Self::MixBackward { y, dmixed, dother, daddend, .. } => [y, dmixed, dother, daddend].map(Some).to_vec(),
            Self::Relu { x }
            | Self::AveragePool { x }
            | Self::Gram { x, .. }
            | Self::Tap { of: Tapped::Value(x), .. } => vec![Some(x)],
            Self::GramBackward { x, dx, .. } => some([x, dx]),
            Self::AveragePoolBackward { dx } => vec![Some(dx)],
            Self::MaxPoolBackward { x, y, dy, dx } => vec![Some(x), Some(y), Some(dy), Some(dx)],
            Self::NormaliseBackward { x, dy, dx, added, .. } => {
                let (y, daddend) = (added.map(|added| added.y), added.map(|added| added.daddend));
                vec![Some(x), y, Some(dy), Some(dx), daddend]
            }
            Self::WeightGradient { x, dy, .. } => some([x, dy]),
            Self::InputGradient { dy, dx, .. } => some([dy, dx]),
            Self::FirstComponents | Self::Logits | Self::Loss | Self::LogitsBackward | Self::Tap { .. } => vec![],
        };
        values.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests;
