//! The steps of a forward pass.

use candle_core::Tensor;

use super::{Output, Pass, there};
use crate::ops::{batch_norm, convolution, elementwise, loss, max_pooling, mixing, pooling};
use crate::program::{Seen, Statistics, ValueId};
use crate::{Error, Result};

impl Pass<'_> {
    pub(super) fn convolution(&mut self, convolution: usize, x: ValueId, y: ValueId) -> Result<()> {
        let part = &self.parts.convolutions[convolution];
        let result = self.values.fresh(y)?;
        match self.values.output(x).as_stored() {
            (x, false) => convolution::forward_into(&result, x, &part.weight, &part.bias, part.geometry)?,
            (x, true) => convolution::forward_relu_into(&result, x, &part.weight, &part.bias, part.geometry)?,
        }
        self.values.set(y, result);
        Ok(())
    }

    pub(super) fn normalise(
        &mut self,
        norm: usize,
        x: ValueId,
        addend: Option<ValueId>,
        relu: bool,
        y: ValueId,
        seen: Seen,
    ) -> Result<()> {
        let Some(alone) = seen.alone else {
            let result = self.normalised(norm, x, addend, relu, y)?;
            self.values.set(y, result);
            return Ok(());
        };
        let result = self.normalised(norm, x, None, false, y)?;
        match addend {
            Some(addend) => {
                self.values.set(alone, result);
                self.add(alone, addend, relu, y, seen.sum)
            }
            None => {
                self.values.lend(alone, result.clone());
                self.values.set(y, Output::of_relu(result));
                Ok(())
            }
        }
    }

    /// The batch norm, the addition where there is one and, if `relu`, the ReLU, in memory for `y`.
    fn normalised(
        &mut self,
        norm: usize,
        x: ValueId,
        addend: Option<ValueId>,
        relu: bool,
        y: ValueId,
    ) -> Result<Tensor> {
        let statistics = self.statistics_of(norm, x)?;
        let part = &self.parts.norms[norm];
        if addend.is_none() && self.values.is_done(x) {
            let x = self.values.take(x)?;
            return Ok(batch_norm::normalise_in_place(x, &statistics, &part.gamma, &part.beta, relu)?);
        }
        let result = self.values.fresh(y)?;
        let x = self.values.get(x)?;
        let addend = addend.map(|addend| self.values.get(addend)).transpose()?;
        batch_norm::normalise_into(&result, &x, &statistics, &part.gamma, &part.beta, addend.as_ref(), relu)?;
        Ok(result)
    }

    /// The statistics `[2, channels]` with which the batch norm takes `x`.
    fn statistics_of(&mut self, norm: usize, x: ValueId) -> Result<Tensor> {
        let part = &self.parts.norms[norm];
        if self.statistics == Statistics::Running {
            return Ok(part.running()?);
        }
        let x = self.values.get(x)?;
        let statistics = batch_norm::statistics(&x)?;
        if self.statistics == Statistics::Moving {
            let (n, h, w, _) = x.dims4()?;
            part.track(&statistics, n * h * w)?;
            let targets = self.targets.as_mut().ok_or(Error::NoTargets)?;
            targets.statistics[norm] = Some(statistics.clone());
        }
        Ok(statistics)
    }

    /// `y` is a + b or, if `relu`, the ReLU of that; the sum lies in the same memory.
    fn add(&mut self, a: ValueId, b: ValueId, relu: bool, y: ValueId, sum: Option<ValueId>) -> Result<()> {
        let result = self.values.fresh(y)?;
        let a = self.values.get(a)?;
        match self.values.output(b).as_stored() {
            (b, false) => elementwise::add_into(&result, &a, b)?,
            (b, true) => elementwise::add_relu_into(&result, &a, b)?,
        }
        sum.into_iter().for_each(|sum| self.values.lend(sum, result.clone()));
        match relu {
            true => self.values.set(y, Output::of_relu(result)),
            false => self.values.set(y, result),
        }
        Ok(())
    }

    pub(super) fn mix(
        &mut self,
        block: usize,
        [a, b]: [ValueId; 2],
        addend: ValueId,
        y: ValueId,
        seen: Seen,
    ) -> Result<()> {
        let [forward, _] = self.shares(block)?;
        let b = self.values.get(b)?;
        let mixed = mixing::mix(self.values.take(a)?, &b, &forward)?;
        match seen.alone {
            Some(alone) => {
                self.values.set(alone, mixed);
                self.add(alone, addend, true, y, seen.sum)
            }
            None => {
                let sum = elementwise::add(mixed, &self.values.get(addend)?)?;
                self.values.set(y, elementwise::relu(sum)?);
                Ok(())
            }
        }
    }

    pub(super) fn max_pool(&mut self, x: ValueId, y: ValueId) -> Result<()> {
        let result = self.values.fresh(y)?;
        max_pooling::forward_into(&result, &self.values.get(x)?)?;
        self.values.set(y, result);
        Ok(())
    }

    pub(super) fn average_pool(&mut self, x: ValueId) -> Result<()> {
        self.pooled = Some(pooling::forward(&self.values.get(x)?)?.into());
        Ok(())
    }

    pub(super) fn logits(&mut self) -> Result<()> {
        let pooled = there(self.pooled.as_mut()).values()?;
        self.logits = Some(self.parts.logits.forward(pooled)?.into());
        Ok(())
    }

    pub(super) fn loss(&mut self) -> Result<()> {
        let targets = self.targets.as_mut().ok_or(Error::NoTargets)?;
        targets.loss = Some(loss::forward(there(self.logits.as_mut()).values()?, targets.labels)?);
        Ok(())
    }
}
