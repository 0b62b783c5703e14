//! The forward pass of evaluation with every layer's output handed out.

use candle_core::Tensor;

use super::ResNet;
use super::modules::{Block, Branch, Branches, Convolution, Shortcut, Unit};
use super::workspace::Workspace;
use crate::Result;
use crate::ops::{elementwise, mixing, pooling};

impl ResNet {
    /// As [`Self::forward`], with every intermediate result computed on its own and handed to `observe` as it is made,
    /// with its index in [`Self::layers`]. Its memory is used again by later layers, so an observer copies what it
    /// wants to keep. The logits are the same to the last bit.
    ///
    /// # Errors
    /// Those of `observe`; and [`crate::Error::Shape`] for images of another size, wrapped in candle's.
    pub fn forward_observed<E: From<candle_core::Error>>(
        &self,
        images: &Tensor,
        observe: &mut dyn FnMut(usize, &mut Output) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        self.check_images(images).map_err(candle_core::Error::from)?;
        self.workspace.clear();
        let mut pass = Pass { workspace: Workspace::default(), observe, next: 0 };
        let x = pass.unit(&self.stem.unit, &images.clone().into())?;
        let mut x = pass.tap(Output::of_relu(x))?;
        if self.stem.pools {
            let pooled = self.pool_stem(x.into_values()?, &pass.workspace).map_err(candle_core::Error::from)?;
            x = pass.tap(pooled.into())?;
        }
        for block in &self.blocks {
            x = pass.block(block, x)?;
        }
        let pooled = pass.tap(pooling::forward(&x.into_values()?)?.into())?;
        let logits = self.logits.forward(&pooled.into_values()?)?;
        Ok(pass.tap(logits.into())?.into_values()?)
    }
}

/// A layer's output, as a pass that is observed has it. That of a ReLU is its input, to which whoever reads it applies the ReLU, so that
/// it takes no pass over memory of its own.
#[derive(Debug)]
pub struct Output {
    values: Tensor,
    /// Whether there is a ReLU to be applied to the values.
    relu: bool,
}

impl Output {
    /// The values `[n, ...]`, contiguous, f32: a ReLU is applied here and now, in place.
    ///
    /// # Errors
    /// [`candle_core::Error`].
    pub fn values(&mut self) -> candle_core::Result<&Tensor> {
        if self.relu {
            self.values = elementwise::relu(self.values.clone())?;
            self.relu = false;
        }
        Ok(&self.values)
    }

    /// What is there `[n, ...]`, contiguous, f32, and whether the output is the ReLU of it.
    pub fn as_stored(&self) -> (&Tensor, bool) {
        (&self.values, self.relu)
    }

    fn of_relu(values: Tensor) -> Self {
        Self { values, relu: true }
    }

    /// `sum` plus this.
    fn add_to(&self, sum: Tensor) -> candle_core::Result<Tensor> {
        match self.relu {
            true => elementwise::add_relu(sum, &self.values),
            false => elementwise::add(sum, &self.values),
        }
    }

    fn into_values(mut self) -> candle_core::Result<Tensor> {
        self.values()?;
        Ok(self.values)
    }
}

impl From<Tensor> for Output {
    fn from(values: Tensor) -> Self {
        Self { values, relu: false }
    }
}

/// A forward pass whose layers are handed out, and counted.
struct Pass<'a, E> {
    workspace: Workspace,
    observe: &'a mut dyn FnMut(usize, &mut Output) -> Result<(), E>,
    next: usize,
}

impl<E: From<candle_core::Error>> Pass<'_, E> {
    fn tap(&mut self, mut output: Output) -> Result<Output, E> {
        (self.observe)(self.next, &mut output)?;
        self.next += 1;
        Ok(output)
    }

    /// As [`Self::tap`], of what is no ReLU's output.
    fn tap_values(&mut self, values: Tensor) -> Result<Tensor, E> {
        Ok(self.tap(values.into())?.into_values()?)
    }

    /// The output of `block`; the memory of `x` goes back to the workspace.
    fn block(&mut self, block: &Block, x: Output) -> Result<Output, E> {
        let y = match &block.branches {
            Branches::Single(branch) => self.branch(branch, &x)?,
            Branches::Mixed(branches) => {
                let a = self.branch(&branches[0], &x)?;
                let b = self.branch(&branches[1], &x)?;
                let mixed = self.tap_values(mixing::mix_evenly(a, &b)?)?;
                self.workspace.give(b);
                mixed
            }
        };
        let sum = match &block.shortcut {
            Shortcut::None => y,
            Shortcut::Identity => self.tap_values(x.add_to(y)?)?,
            Shortcut::Projection(projection) => {
                let projected = self.convolution(projection, &x)?;
                self.add(y, projected)?
            }
            Shortcut::NormalisedProjection(unit) => {
                let projected = self.unit(unit, &x)?;
                self.add(y, projected)?
            }
        };
        self.workspace.give(x.values);
        self.workspace.keep_shape(sum.dims());
        self.tap(Output::of_relu(sum))
    }

    /// The sum of a block's branches and the projection of its input.
    fn add(&mut self, y: Tensor, projected: Tensor) -> Result<Tensor, E> {
        let sum = self.tap_values(elementwise::add(y, &projected)?)?;
        self.workspace.give(projected);
        Ok(sum)
    }

    fn branch(&mut self, branch: &Branch, x: &Output) -> Result<Tensor, E> {
        let mut hidden: Option<Output> = None;
        for unit in &branch.hidden {
            let y = self.unit(unit, hidden.as_ref().unwrap_or(x))?;
            hidden.into_iter().for_each(|hidden| self.workspace.give(hidden.values));
            hidden = Some(self.tap(Output::of_relu(y))?);
        }
        let y = self.unit(&branch.last, hidden.as_ref().unwrap_or(x))?;
        hidden.into_iter().for_each(|hidden| self.workspace.give(hidden.values));
        Ok(y)
    }

    fn unit(&mut self, unit: &Unit, x: &Output) -> Result<Tensor, E> {
        let y = self.convolution(&unit.convolution, x)?;
        let y = unit.batch_norm.evaluate_in(&self.workspace, y, None, false)?;
        self.tap_values(y)
    }

    fn convolution(&mut self, convolution: &Convolution, x: &Output) -> Result<Tensor, E> {
        let y = match x.as_stored() {
            (x, false) => convolution.forward_in(&self.workspace, x)?,
            (x, true) => convolution.forward_relu_in(&self.workspace, x)?,
        };
        self.tap_values(y)
    }
}
