//! How many numbers a network has.

use std::collections::BTreeSet;

use super::{IMAGES, NamedConvolution, Program, Step, ValueId};
use crate::topology::ConvolutionPlan;

impl Program {
    /// Trained values: weights, biases, gammas and betas.
    pub(crate) fn parameter_count(&self) -> usize {
        let convolution = |NamedConvolution { plan, .. }: &NamedConvolution| {
            let ConvolutionPlan { kernel, from, to, .. } = *plan;
            kernel * kernel * from * to + to
        };
        let convolutions: usize = self.convolutions.iter().map(convolution).sum();
        let norms: usize = self.norms.iter().map(|norm| 2 * norm.channels).sum();
        convolutions + norms + self.features * self.classes + self.classes
    }

    /// Numbers of the largest value of an image.
    pub(crate) fn largest_output(&self) -> usize {
        self.values[IMAGES + 1..].iter().map(|value| value.length()).max().unwrap_or(0)
    }

    /// Numbers of an image that the backward pass needs of the forward pass.
    pub(crate) fn kept_in_training(&self) -> usize {
        let Some(loss) = self.steps.iter().position(|step| matches!(step, Step::Loss)) else { return 0 };
        let last_uses = self.last_uses();
        let made: BTreeSet<ValueId> = self.steps[..loss].iter().flat_map(Step::values).collect();
        let kept = made.into_iter().filter(|&value| value != IMAGES && last_uses[value] > loss);
        kept.map(|value| self.values[value].length()).sum()
    }
}
