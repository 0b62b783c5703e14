//! One pass of a program over a batch.

mod backward;
mod forward;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::values::{Values, there};
use super::{Output, Parts, Plan, Workspace};
use crate::ops::mixing;
use crate::program::{Statistics, Step, Tapped};
use crate::{Error, Gradients, Result, Shake};

/// Takes in a layer's output, or without blocks the logits of a choice of them, given its number.
pub(crate) type Observe<'a, E> = dyn FnMut(usize, &mut Output) -> Result<(), E> + 'a;

/// What a training step is given, and what it gives.
pub(crate) struct Targets<'p> {
    /// `[n]` u32.
    labels: &'p Tensor,
    shake: Option<Shake<'p>>,
    /// Of each batch norm, those of the batch, `[2, channels]`.
    statistics: Vec<Option<Tensor>>,
    /// The loss, and how many images were right.
    loss: Option<(Tensor, Tensor)>,
    /// The gradient of the pooled features.
    dpooled: Option<Tensor>,
    penalty: f64,
    grads: GradStore,
}

impl<'p> Targets<'p> {
    /// Of a batch with these labels, whose branches are mixed as `shake` says.
    pub(crate) fn new(plan: &Plan, labels: &'p Tensor, shake: Option<Shake<'p>>) -> Self {
        let statistics = vec![None; plan.program.norms.len()];
        Self { labels, shake, statistics, loss: None, dpooled: None, penalty: 0.0, grads: GradStore::default() }
    }
}

/// A pass under way.
pub(crate) struct Pass<'p> {
    plan: &'p Plan,
    parts: &'p Parts,
    statistics: Statistics,
    values: Values<'p>,
    pooled: Option<Output>,
    logits: Option<Output>,
    /// There are some in training.
    targets: Option<Targets<'p>>,
}

impl<'p> Pass<'p> {
    /// Of `plan` over `images`, in whose batch norms the `statistics` are.
    pub(crate) fn evaluation(
        plan: &'p Plan,
        parts: &'p Parts,
        statistics: Statistics,
        images: &Tensor,
        workspace: &'p Workspace,
    ) -> Self {
        let values = Values::new(plan, images, workspace, false);
        Self { plan, parts, statistics, values, pooled: None, logits: None, targets: None }
    }

    /// The same of a training step, which leaves its memory in the workspace.
    pub(crate) fn training(
        plan: &'p Plan,
        parts: &'p Parts,
        images: &Tensor,
        targets: Targets<'p>,
        workspace: &'p Workspace,
    ) -> Self {
        let values = Values::new(plan, images, workspace, true);
        let statistics = Statistics::Moving;
        Self { plan, parts, statistics, values, pooled: None, logits: None, targets: Some(targets) }
    }

    /// Carries out every step, and hands what the program taps to `observe`.
    pub(crate) fn run<E: From<Error>>(&mut self, observe: &mut Observe<'_, E>) -> Result<(), E> {
        let plan = self.plan;
        for step in &plan.program.steps {
            match *step {
                Step::Tap { layer, of, .. } => observe(layer, self.tapped(of))?,
                step => self.step(step)?,
            }
            self.values.finish(step);
        }
        Ok(())
    }

    /// The logits `[n, classes]`.
    pub(crate) fn into_logits(self) -> Result<Tensor> {
        Ok(there(self.logits).into_values()?)
    }

    /// The most numbers that lay in memory at once.
    #[cfg(test)]
    pub(crate) fn most_numbers(&self) -> usize {
        self.values.most
    }

    /// What a training step gives.
    pub(crate) fn into_gradients(self) -> Result<Gradients> {
        let Targets { loss, penalty, grads, .. } = self.targets.ok_or(Error::NoTargets)?;
        let (loss, correct) = there(loss);
        Ok(Gradients { loss, correct, penalty, grads })
    }

    /// A layer's output, as it is now.
    fn tapped(&mut self, of: Tapped) -> &mut Output {
        match of {
            Tapped::Value(value) => self.values.output(value),
            Tapped::Pooled => there(self.pooled.as_mut()),
            Tapped::Logits => there(self.logits.as_mut()),
        }
    }

    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Convolution { convolution, x, y } => self.convolution(convolution, x, y),
            Step::Normalise { norm, x, addend, relu, y, seen } => self.normalise(norm, x, addend, relu, y, seen),
            Step::Relu { x } => {
                self.values.output(x).rectify();
                Ok(())
            }
            Step::Mix { block, branches, addend, y, seen } => self.mix(block, branches, addend, y, seen),
            Step::MaxPool { x, y } => self.max_pool(x, y),
            Step::AveragePool { x } => self.average_pool(x),
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
            Step::GramBackward { x, dx, .. } => self.penalise(x, dx),
            Step::WeightGradient { convolution, x, dy } => self.weight_gradient(convolution, x, dy),
            Step::InputGradient { convolution, dy, dx, adds } => self.input_gradient(convolution, dy, dx, adds),
            // A penalty's gradient is found at once, when that of the block's output is there; and taps change nothing.
            Step::Gram { .. } | Step::FirstComponents | Step::Tap { .. } => Ok(()),
        }
    }

    /// The shares of the first branch in the block of number `block` `[n]`, forward and backward: one half where none are drawn.
    fn shares(&self, block: usize) -> Result<[Tensor; 2]> {
        let count = self.values.images;
        let shares = match self.targets.as_ref().and_then(|targets| targets.shake) {
            None => [vec![0.5; count], vec![0.5; count]],
            Some(Shake { seed, epoch, images }) => mixing::shares(seed, epoch, block, images),
        };
        let device = self.values.device();
        let [forward, backward] = shares.map(|shares| Tensor::from_vec(shares, count, device));
        Ok([forward?, backward?])
    }
}
