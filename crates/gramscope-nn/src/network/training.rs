//! One forward and backward pass in training mode, written out.
//!
//! The forward pass keeps, for each convolution, its input and its result, and for each batch norm its statistics; the
//! backward pass takes them from the end. Gradients take over the memory of what they replace, and what is done with
//! goes back to the workspace, where what comes next finds it.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::evaluation::addend;
use super::modules::{BatchNorm, Block, Branch, Branches, Convolution, Shortcut, Unit};
use super::workspace::Workspace;
use super::{ResNet, Stem};
use crate::ops::{batch_norm, convolution, elementwise, first_component, linear, loss, max_pooling, mixing, pooling};
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
        let mut step = Step { workspace: &self.workspace, shake: options.shake, grads: GradStore::default() };

        let stem = step.forward_stem(&self.stem, images)?;
        let mut x = stem.output.clone();
        let mut saved = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            let block = step.forward(index, block, x)?;
            x = block.output.clone();
            saved.push(block);
        }
        let pooled = pooling::forward(&x)?;
        let logits = self.logits.forward(&pooled)?;
        let (loss, correct) = loss::forward(&logits, labels)?;

        let head = linear::backward(pooled, &self.logits.weight, &loss::backward(&logits, labels)?)?;
        step.grads.insert(&self.logits.weight, head.dweight);
        step.grads.insert(&self.logits.bias, head.dbias);
        let mut dx = step.like(&x)?;
        drop(x);
        pooling::backward_into(&dx, &head.dx)?;
        let mut added = 0.0;
        for saved in saved.into_iter().rev() {
            if let Some(FirstComponentPenalty { weight, threshold }) = options.penalty {
                added += first_component::add_penalty_gradient(&dx, &saved.output, weight, threshold)?;
            }
            dx = step.backward(saved, dx)?;
        }
        step.backward_stem(&self.stem, stem, images, dx)?;
        Ok(Gradients { loss, correct, penalty: added, grads: step.grads })
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

/// A convolution followed by a batch norm, as the backward pass needs it.
struct Normalised {
    /// The convolution's result.
    x: Tensor,
    /// Its statistics.
    statistics: Tensor,
}

/// The stem, as the backward pass needs it.
struct SavedStem {
    normalised: Normalised,
    /// The ReLU's result, where a max pooling follows it.
    pooled: Option<Tensor>,
    /// What the first block is given.
    output: Tensor,
}

/// A branch, as the backward pass needs it.
struct SavedBranch<'a> {
    branch: &'a Branch,
    /// Of each unit but the last, with the result of the ReLU behind it.
    hidden: Vec<(Normalised, Tensor)>,
    last: Normalised,
}

/// The branches of a block, as the backward pass needs them.
enum SavedBranches<'a> {
    Single(SavedBranch<'a>),
    /// With the first one's shares of the gradient `[n]`.
    Mixed([SavedBranch<'a>; 2], Tensor),
}

/// A block, as the backward pass needs it.
struct Saved<'a> {
    shortcut: &'a Shortcut,
    /// The output of what comes before it, which owns it.
    input: Tensor,
    branches: SavedBranches<'a>,
    /// The projection, where a batch norm follows it.
    projected: Option<Normalised>,
    /// The last ReLU's result.
    output: Tensor,
}

/// A branch whose backward pass has come to the result of its last convolution.
struct Pending<'a> {
    branch: &'a Branch,
    hidden: Vec<(Normalised, Tensor)>,
    /// The gradient of that result.
    dx: Tensor,
}

/// A step under way. Whatever it takes from the workspace it gives back, once.
struct Step<'a> {
    workspace: &'a Workspace,
    shake: Option<Shake<'a>>,
    grads: GradStore,
}

impl Step<'_> {
    fn forward_stem(&self, stem: &Stem, images: &Tensor) -> Result<SavedStem> {
        let normalised = self.normalised(&stem.unit, images)?;
        let output = self.relu(&normalised, &stem.unit.batch_norm, None)?;
        if !stem.pools {
            return Ok(SavedStem { normalised, pooled: None, output });
        }
        let pooled = self.workspace.take(&max_pooling::result_dims(&output)?, output.device())?;
        max_pooling::forward_into(&pooled, &output)?;
        Ok(SavedStem { normalised, pooled: Some(output), output: pooled })
    }

    /// From `dy`, the gradient of what the first block is given.
    fn backward_stem(&mut self, stem: &Stem, saved: SavedStem, images: &Tensor, dy: Tensor) -> Result<()> {
        let SavedStem { normalised, pooled, output } = saved;
        let dy = match pooled {
            None => dy,
            Some(x) => {
                let dx = self.like(&x)?;
                max_pooling::backward_into(&dx, &x, &output, &dy)?;
                self.workspace.give(x);
                self.workspace.give(dy);
                dx
            }
        };
        self.workspace.give(output);
        let dx = self.backward_relu(normalised, &stem.unit.batch_norm, dy)?;
        self.parameter_gradients(&stem.unit.convolution, images, &dx)?;
        self.workspace.give(dx);
        Ok(())
    }

    /// The result of the block of number `index`, and what its backward pass needs.
    fn forward<'b>(&self, index: usize, block: &'b Block, input: Tensor) -> Result<Saved<'b>> {
        let (projection, projected) = self.project(&block.shortcut, &input)?;
        let addend = addend(&block.shortcut, &input, projection.as_ref());
        let (output, branches) = match &block.branches {
            Branches::Single(branch) => {
                let saved = self.forward_branch(branch, &input)?;
                let output = self.relu(&saved.last, &branch.last.batch_norm, addend)?;
                (output, SavedBranches::Single(saved))
            }
            Branches::Mixed([a, b]) => {
                let saved = [self.forward_branch(a, &input)?, self.forward_branch(b, &input)?];
                let [forward, backward] = self.shares(index, &input)?;
                let mixed = self.normalise(&saved[0].last, &a.last.batch_norm)?;
                let second = self.normalise(&saved[1].last, &b.last.batch_norm)?;
                let mut sum = mixing::mix(mixed, &second, &forward)?;
                self.workspace.give(second);
                if let Some(addend) = addend {
                    sum = elementwise::add(sum, addend)?;
                }
                (elementwise::relu(sum)?, SavedBranches::Mixed(saved, backward))
            }
        };
        projection.into_iter().for_each(|projection| self.workspace.give(projection));
        Ok(Saved { shortcut: &block.shortcut, input, branches, projected, output })
    }

    /// A branch up to the statistics of its last batch norm.
    fn forward_branch<'b>(&self, branch: &'b Branch, input: &Tensor) -> Result<SavedBranch<'b>> {
        let mut hidden: Vec<(Normalised, Tensor)> = Vec::with_capacity(branch.hidden.len());
        for unit in &branch.hidden {
            let normalised = self.normalised(unit, hidden.last().map_or(input, |(_, x)| x))?;
            let x = self.relu(&normalised, &unit.batch_norm, None)?;
            hidden.push((normalised, x));
        }
        let last = self.normalised(&branch.last, hidden.last().map_or(input, |(_, x)| x))?;
        Ok(SavedBranch { branch, hidden, last })
    }

    /// The projection of a block's input where there is one, and what its backward pass needs where that is more.
    fn project(&self, shortcut: &Shortcut, input: &Tensor) -> Result<(Option<Tensor>, Option<Normalised>)> {
        Ok(match shortcut {
            Shortcut::None | Shortcut::Identity => (None, None),
            Shortcut::Projection(projection) => (Some(projection.forward_in(self.workspace, input)?), None),
            Shortcut::NormalisedProjection(unit) => {
                let normalised = self.normalised(unit, input)?;
                (Some(self.normalise(&normalised, &unit.batch_norm)?), Some(normalised))
            }
        })
    }

    /// The shares of the first branch in block number `index`, forward and backward.
    fn shares(&self, index: usize, input: &Tensor) -> Result<[Tensor; 2]> {
        let (count, device) = (input.dims()[0], input.device());
        let shares = match self.shake {
            None => [vec![0.5; count], vec![0.5; count]],
            Some(Shake { seed, epoch, images }) => mixing::shares(seed, epoch, index, images),
        };
        let [forward, backward] = shares.map(|shares| Tensor::from_vec(shares, count, device));
        Ok([forward?, backward?])
    }

    /// The gradient of a block's input from `dy`, that of its result.
    fn backward(&mut self, saved: Saved<'_>, dy: Tensor) -> Result<Tensor> {
        let Saved { shortcut, input, branches, projected, output } = saved;
        let (pending, dsum) = match branches {
            SavedBranches::Single(saved) => {
                let SavedBranch { branch, hidden, last } = saved;
                let norm = &branch.last.batch_norm;
                let (dx, dsum) = match shortcut {
                    Shortcut::None => (self.backward_relu(last, norm, dy)?, None),
                    _ => {
                        let (dx, dsum) = self.backward_add_relu(last, norm, &output, dy)?;
                        (dx, Some(dsum))
                    }
                };
                (vec![Pending { branch, hidden, dx }], dsum)
            }
            SavedBranches::Mixed(saved, shares) => {
                let dsum = elementwise::relu_backward(dy, &output)?;
                (self.backward_mixture(saved, &shares, &dsum)?, Some(dsum))
            }
        };
        self.workspace.give(output);
        // What the identity hands back is there already, and the branches add to it.
        let (dinput, mut adds, dprojected) = match (shortcut, dsum) {
            (Shortcut::Identity, Some(dsum)) => (dsum, true, None),
            (_, dsum) => (self.like(&input)?, false, dsum),
        };
        for pending in pending {
            self.backward_branch(pending, &input, &dinput, adds)?;
            adds = true;
        }
        if let Some(dprojected) = dprojected {
            self.backward_projection(shortcut, projected, &input, &dinput, dprojected)?;
        }
        Ok(dinput)
    }

    /// The branches' parts of `dsum`, the gradient of their mixture, as far as their last convolutions.
    fn backward_mixture<'b>(
        &mut self,
        saved: [SavedBranch<'b>; 2],
        shares: &Tensor,
        dsum: &Tensor,
    ) -> Result<Vec<Pending<'b>>> {
        let part = self.like(dsum)?;
        let mut pending = Vec::with_capacity(saved.len());
        for (number, SavedBranch { branch, hidden, last }) in saved.into_iter().enumerate() {
            mixing::part_into(&part, dsum, shares, number == 0)?;
            let dx = self.backward_norm(last, &branch.last.batch_norm, &part)?;
            pending.push(Pending { branch, hidden, dx });
        }
        self.workspace.give(part);
        Ok(pending)
    }

    /// The branch's part of the gradient of its `input`, into `dinput` or added to it.
    fn backward_branch(&mut self, pending: Pending<'_>, input: &Tensor, dinput: &Tensor, adds: bool) -> Result<()> {
        let Pending { branch, mut hidden, mut dx } = pending;
        let mut unit = &branch.last;
        while let Some((normalised, x)) = hidden.pop() {
            self.parameter_gradients(&unit.convolution, &x, &dx)?;
            let dy = x;
            unit.convolution.input_gradient_into(&dy, &dx)?;
            self.workspace.give(dx);
            unit = &branch.hidden[hidden.len()];
            dx = self.backward_relu(normalised, &unit.batch_norm, dy)?;
        }
        self.parameter_gradients(&unit.convolution, input, &dx)?;
        match adds {
            true => unit.convolution.add_input_gradient(dinput, &dx)?,
            false => unit.convolution.input_gradient_into(dinput, &dx)?,
        }
        self.workspace.give(dx);
        Ok(())
    }

    /// Adds the projection's part of the gradient of its `input` to `dinput`.
    fn backward_projection(
        &mut self,
        shortcut: &Shortcut,
        projected: Option<Normalised>,
        input: &Tensor,
        dinput: &Tensor,
        dy: Tensor,
    ) -> Result<()> {
        let (projection, dy) = match (shortcut, projected) {
            (Shortcut::Projection(projection), _) => (projection, dy),
            (Shortcut::NormalisedProjection(unit), Some(projected)) => {
                let dx = self.backward_norm(projected, &unit.batch_norm, &dy)?;
                self.workspace.give(dy);
                (&unit.convolution, dx)
            }
            _ => return Ok(()),
        };
        self.parameter_gradients(projection, input, &dy)?;
        projection.add_input_gradient(dinput, &dy)?;
        self.workspace.give(dy);
        Ok(())
    }

    /// The convolution of `x` and its statistics, towards which the running ones of `norm` move.
    fn normalised(&self, unit: &Unit, x: &Tensor) -> Result<Normalised> {
        let norm = &unit.batch_norm;
        let x = unit.convolution.forward_in(self.workspace, x)?;
        let statistics = batch_norm::statistics(&x)?;
        let (n, h, w, _) = x.dims4()?;
        batch_norm::track(&norm.running_mean, &norm.running_variance, &statistics, n * h * w)?;
        Ok(Normalised { x, statistics })
    }

    /// The batch norm alone.
    fn normalise(&self, normalised: &Normalised, norm: &BatchNorm) -> Result<Tensor> {
        self.normalise_and(normalised, norm, None, false)
    }

    /// The batch norm, the addition where there is one, and the ReLU.
    fn relu(&self, normalised: &Normalised, norm: &BatchNorm, addend: Option<&Tensor>) -> Result<Tensor> {
        self.normalise_and(normalised, norm, addend, true)
    }

    fn normalise_and(
        &self,
        normalised: &Normalised,
        norm: &BatchNorm,
        addend: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        let Normalised { x, statistics } = normalised;
        let y = self.like(x)?;
        batch_norm::normalise_into(&y, x, statistics, &norm.gamma, &norm.beta, addend, relu)?;
        Ok(y)
    }

    /// The gradient of the convolution's result from that of the batch norm's.
    fn backward_norm(&mut self, normalised: Normalised, norm: &BatchNorm, dy: &Tensor) -> Result<Tensor> {
        let Normalised { x, statistics } = normalised;
        let gradients = batch_norm::backward(x, &statistics, &norm.gamma, dy)?;
        Ok(self.keep(gradients, norm))
    }

    /// The gradient of the convolution's result from that of the ReLU's.
    fn backward_relu(&mut self, normalised: Normalised, norm: &BatchNorm, dy: Tensor) -> Result<Tensor> {
        let Normalised { x, statistics } = normalised;
        let gradients = batch_norm::backward_relu(&x, &statistics, &norm.gamma, &norm.beta, dy)?;
        self.workspace.give(x);
        Ok(self.keep(gradients, norm))
    }

    /// The gradients of the convolution's result and of the addend, from that of `y`, the ReLU's result.
    fn backward_add_relu(
        &mut self,
        normalised: Normalised,
        norm: &BatchNorm,
        y: &Tensor,
        dy: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Normalised { x, statistics } = normalised;
        let (gradients, daddend) = batch_norm::backward_add_relu(x, &statistics, &norm.gamma, y, dy)?;
        Ok((self.keep(gradients, norm), daddend))
    }

    /// Stores the gradients of the parameters and returns that of the input.
    fn keep(&mut self, gradients: batch_norm::Gradients, norm: &BatchNorm) -> Tensor {
        self.grads.insert(&norm.gamma, gradients.dgamma);
        self.grads.insert(&norm.beta, gradients.dbeta);
        gradients.dx
    }

    fn parameter_gradients(&mut self, layer: &Convolution, x: &Tensor, dy: &Tensor) -> Result<()> {
        let (dw, db) = convolution::parameter_gradients(x, dy, layer.geometry, (layer.kernel, layer.kernel))?;
        self.grads.insert(&layer.weight, dw);
        self.grads.insert(&layer.bias, db);
        Ok(())
    }

    /// Memory of the size of `x`.
    fn like(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.workspace.take(x.dims(), x.device())?)
    }
}
