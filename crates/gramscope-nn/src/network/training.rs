//! One forward and backward pass in training mode.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::ResNet;
use crate::host::{Pass, Plan, Targets};
use crate::program::Program;
use crate::{Error, Result, threads};

/// What one training step needs to know of a batch.
#[derive(Debug)]
pub struct Gradients {
    /// The mean cross-entropy, without the weight penalty: a scalar, f32.
    pub loss: Tensor,
    /// How many images were classified correctly: a scalar, f32.
    pub correct: Tensor,
    /// What the penalty adds to it; 0 without one.
    pub penalty: f64,
    /// The gradients of the sum of both by the parameters; the optimiser adds the weight decay.
    pub grads: GradStore,
}

/// A penalty on dominant first principal components: `weight` times the sum over all blocks of what the first component
/// of the block's output ([`crate::ResNetConfig::block_end`]) explains of its variance over the batch beyond `threshold`; see
/// [`first_component`](crate::ops::first_component).
///
/// Nguyen, Raghu and Kornblith penalise so to train networks without a block structure (*On the origins of the block
/// structure phenomenon in neural network representations*, TMLR 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstComponentPenalty {
    /// The factor, at least 0.
    pub weight: f64,
    /// The fraction of the variance that costs nothing, 0 to 1.
    pub threshold: f64,
}

/// Where the random shares of a Shake-Shake network's branches are drawn: they depend on these and on the block alone.
#[derive(Clone, Copy, Debug)]
pub struct Shake<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The epoch.
    pub epoch: u32,
    /// The images of the batch, as they are numbered in the data set.
    pub images: &'a [usize],
}

/// What makes a training step more than the plain one.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepOptions<'a> {
    /// A penalty that is added to the loss.
    pub penalty: Option<FirstComponentPenalty>,
    /// The random shares of the branches, where there are two; without, both have one half, forward and backward.
    pub shake: Option<Shake<'a>>,
}

impl ResNet {
    /// The loss on a batch and its gradients, with the batch's own statistics in the batch norms; the running
    /// statistics move towards them. `images` `[n, side, side, 3]` f32 in `[0, 1]`, `labels` `[n]` u32.
    ///
    /// The memory of the activations is kept for the next step, until an evaluation frees it.
    ///
    /// # Errors
    /// [`Error::SingleValue`] for a batch so small that a batch norm sees one value a channel, [`Error::Shape`] for
    /// images of another size; [`Error::Label`] and [`Error::DType`], wrapped in candle's.
    pub fn loss_and_gradients(&self, images: &Tensor, labels: &Tensor) -> Result<Gradients> {
        self.loss_and_gradients_with(images, labels, StepOptions::default())
    }

    /// The same with a penalty, or with random shares of the branches.
    ///
    /// # Errors
    /// Those of [`Self::loss_and_gradients`]; [`Error::Shape`] too where the shares are of another number of images.
    pub fn loss_and_gradients_with(
        &self,
        images: &Tensor,
        labels: &Tensor,
        options: StepOptions<'_>,
    ) -> Result<Gradients> {
        self.check_images(images)?;
        self.check_batch(images.dims()[0])?;
        check_shake(images.dims()[0], options.shake)?;
        self.workspace.keep_batches_of(images.dims()[0]);
        threads::enter(|| self.step(images, labels, options))
    }

    /// [`Self::loss_and_gradients_with`] for arguments that fit.
    fn step(&self, images: &Tensor, labels: &Tensor, options: StepOptions<'_>) -> Result<Gradients> {
        let plan = self.training_plan(options.penalty);
        let targets = Targets::new(&plan, labels, options.shake);
        let mut pass = Pass::training(&plan, &self.parts, images, targets, &self.workspace);
        pass.run(&mut |_, _| Ok::<(), Error>(()))?;
        pass.into_gradients()
    }

    /// What trains with this penalty.
    fn training_plan(&self, penalty: Option<FirstComponentPenalty>) -> Arc<Plan> {
        let (topology, side) = (&self.topology, self.config.image_side);
        self.training.get(&penalty, || match penalty {
            None => Program::training(topology, side),
            Some(penalty) => Program::penalised(topology, side, penalty),
        })
    }

    /// Fails if a batch norm would see one value a channel.
    fn check_batch(&self, images: usize) -> Result<()> {
        let single = |layer: &&crate::Layer| layer.name.contains(".bn") && images * layer.shape[0] * layer.shape[1] < 2;
        match self.layers.iter().find(single) {
            Some(layer) => Err(Error::SingleValue { layer: layer.name.clone() }),
            None => Ok(()),
        }
    }
}

/// Fails unless the shares are of as many images as there are.
fn check_shake(images: usize, shake: Option<Shake<'_>>) -> Result<()> {
    match shake {
        Some(shake) if shake.images.len() != images => {
            let expected = format!("one number for each of the {images} images");
            Err(Error::Shape { what: "the batch's image numbers", expected, got: vec![shake.images.len()] })
        }
        _ => Ok(()),
    }
}
