//! One pass of a program over a batch: up to four launches a step.

mod backward;
mod forward;
mod penalty;

use std::ops::Range;

use gramscope_cuda::plan::{Arithmetic, Convolution};
use gramscope_cuda::{Factors, Launcher, Slice};
use half::bf16;

use super::layout::Layout;
use super::memory::{Memory, Places};
use super::stored::Stored;
use crate::Result;
use crate::program::{Statistics, Step};

/// A network's parameters and running statistics, where `layout` says.
pub(super) struct State {
    pub(super) layout: Layout,
    pub(super) parameters: Slice<f32>,
    /// The weights among them, which come first, as cuDNN multiplies them with bfloat16: as a pass finds them.
    pub(super) narrow: Option<Slice<bf16>>,
    pub(super) running: Slice<f32>,
}

impl State {
    /// Copies the weights to where cuDNN finds them, if it does.
    pub(super) fn narrow(&mut self, launcher: Launcher<'_>) -> Result<()> {
        let Some(narrow) = &mut self.narrow else { return Ok(()) };
        Ok(launcher.narrow(&mut narrow.as_view_mut(), &self.parameters.as_view(), self.layout.decaying)?)
    }

    /// The weights at this place among the parameters.
    fn factors(&self, weight: Range<usize>) -> Factors<'_> {
        let narrow = self.narrow.as_ref().map(|narrow| narrow.slice(weight.clone()));
        Factors { weight: self.parameters.slice(weight), narrow }
    }
}

/// What a backward pass gives.
pub(super) struct Targets {
    /// As the parameters.
    pub(super) gradients: Slice<f32>,
    /// The sum of the batches' losses, and of how many images were right.
    pub(super) totals: Slice<f64>,
}

/// A pass under way.
pub(super) struct Pass<'a, T> {
    pub(super) launcher: Launcher<'a>,
    pub(super) arithmetic: Arithmetic,
    pub(super) places: Places<'a>,
    pub(super) memory: &'a mut Memory<T>,
    pub(super) state: &'a mut State,
    pub(super) statistics: Statistics,
    /// There are some in training.
    pub(super) targets: Option<&'a mut Targets>,
}

impl<T: Stored> Pass<'_, T> {
    /// Enqueues a step.
    pub(super) fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Convolution { convolution, x, y } => self.convolution(convolution, x, y),
            Step::Normalise { norm, x, addend, relu, y, seen } => {
                if self.statistics != Statistics::Running {
                    self.take_statistics(norm, x)?;
                }
                self.normalise(norm, x, addend, relu, y, seen)
            }
            Step::Relu { x } => self.relu(x),
            Step::Mix { block, branches, addend, y, seen } => self.mix(block, branches, addend, y, seen),
            Step::MaxPool { x, y } => self.max_pool(x, y),
            Step::AveragePool { x } => self.average_pool(x),
            Step::Gram { block, x } => self.gram(block, x),
            Step::FirstComponents => self.first_components(),
            Step::Logits => self.logits(),
            Step::Loss => self.loss(),
            Step::LogitsBackward => self.logits_backward(),
            Step::AveragePoolBackward { dx } => self.average_pool_backward(dx),
            Step::MaxPoolBackward { x, y, dy, dx } => self.max_pool_backward(x, y, dy, dx),
            Step::NormaliseBackward { norm, x, dy, dx, added, relu } => {
                self.normalise_backward(norm, [x, dy, dx], added, relu)
            }
            Step::MixBackward { block, y, dmixed, dother, daddend } => {
                self.mix_backward(block, y, [dmixed, dother, daddend])
            }
            Step::GramBackward { block, x, dx } => self.gram_backward(block, x, dx),
            Step::WeightGradient { convolution, x, dy } => self.weight_gradient(convolution, x, dy),
            Step::InputGradient { convolution, dy, dx, adds } => self.input_gradient(convolution, dy, dx, adds),
            Step::Tap { .. } => Ok(()),
        }
    }

    fn shape(&self, convolution: usize) -> Convolution {
        self.places.program.convolution(convolution, self.places.images)
    }

    fn linear(&self) -> Convolution {
        self.places.program.linear(self.places.images)
    }
}
