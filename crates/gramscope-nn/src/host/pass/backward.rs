//! The steps of a backward pass. Gradients take over the memory of what they replace.

use super::{Pass, Targets, there};
use crate::ops::{batch_norm, convolution, elementwise, first_component, linear, loss, max_pooling, mixing, pooling};
use crate::program::{Added, ValueId};
use crate::{Error, FirstComponentPenalty, Result};

impl<'p> Pass<'p> {
    fn targets(&mut self) -> Result<&mut Targets<'p>> {
        self.targets.as_mut().ok_or(Error::NoTargets)
    }

    pub(super) fn logits_backward(&mut self) -> Result<()> {
        let part = &self.parts.logits;
        let (pooled, logits) = (there(self.pooled.take()).into_values()?, there(self.logits.take()).into_values()?);
        let targets = self.targets()?;
        let gradients = linear::backward(pooled, &part.weight, &loss::backward(&logits, targets.labels)?)?;
        targets.grads.insert(&part.weight, gradients.dweight);
        targets.grads.insert(&part.bias, gradients.dbias);
        targets.dpooled = Some(gradients.dx);
        Ok(())
    }

    pub(super) fn average_pool_backward(&mut self, dx: ValueId) -> Result<()> {
        let result = self.values.fresh(dx)?;
        pooling::backward_into(&result, &there(self.targets()?.dpooled.take()))?;
        self.values.set(dx, result);
        Ok(())
    }

    pub(super) fn max_pool_backward(&mut self, x: ValueId, y: ValueId, dy: ValueId, dx: ValueId) -> Result<()> {
        let result = self.values.fresh(dx)?;
        let [x, y, dy] = [x, y, dy].map(|value| self.values.get(value));
        max_pooling::backward_into(&result, &x?, &y?, &dy?)?;
        self.values.set(dx, result);
        Ok(())
    }

    pub(super) fn normalise_backward(
        &mut self,
        norm: usize,
        [x, dy, dx]: [ValueId; 3],
        added: Option<Added>,
        relu: bool,
    ) -> Result<()> {
        let part = &self.parts.norms[norm];
        let statistics = there(self.targets()?.statistics[norm].take());
        let gradients = match (added, relu) {
            (None, false) => {
                let dy = self.values.get(dy)?;
                batch_norm::backward(self.values.take(x)?, &statistics, &part.gamma, &dy)?
            }
            (None, true) => {
                let dy = self.values.take(dy)?;
                batch_norm::backward_relu(&self.values.get(x)?, &statistics, &part.gamma, &part.beta, dy)?
            }
            (Some(Added { y, daddend }), true) => {
                let (x, dy, y) = (self.values.take(x)?, self.values.take(dy)?, self.values.get(y)?);
                let (gradients, result) = batch_norm::backward_add_relu(x, &statistics, &part.gamma, &y, dy)?;
                self.values.set(daddend, result);
                gradients
            }
            (Some(_), false) => unreachable!("no network adds without a ReLU behind it"),
        };
        self.values.set(dx, gradients.dx);
        let grads = &mut self.targets()?.grads;
        grads.insert(&part.gamma, gradients.dgamma);
        grads.insert(&part.beta, gradients.dbeta);
        Ok(())
    }

    pub(super) fn mix_backward(
        &mut self,
        block: usize,
        y: ValueId,
        [dmixed, dother, daddend]: [ValueId; 3],
    ) -> Result<()> {
        let [_, backward] = self.shares(block)?;
        let dsum = elementwise::relu_backward(self.values.get(dmixed)?, &self.values.get(y)?)?;
        // Nothing needs y any more, and it has the shape.
        let (first, second) = (self.values.take(y)?, self.values.fresh(dother)?);
        mixing::part_into(&first, &dsum, &backward, true)?;
        mixing::part_into(&second, &dsum, &backward, false)?;
        self.values.set(daddend, dsum);
        self.values.set(dmixed, first);
        self.values.set(dother, second);
        Ok(())
    }

    pub(super) fn penalise(&mut self, x: ValueId, dx: ValueId) -> Result<()> {
        let FirstComponentPenalty { weight, threshold } = self.plan.program.penalty.ok_or(Error::NoPenalty)?;
        let (x, dx) = (self.values.get(x)?, self.values.get(dx)?);
        self.targets()?.penalty += first_component::add_penalty_gradient(&dx, &x, weight, threshold)?;
        Ok(())
    }

    pub(super) fn weight_gradient(&mut self, convolution: usize, x: ValueId, dy: ValueId) -> Result<()> {
        let part = &self.parts.convolutions[convolution];
        let (x, dy) = (self.values.get(x)?, self.values.get(dy)?);
        let (dweight, dbias) = convolution::parameter_gradients(&x, &dy, part.geometry, (part.kernel, part.kernel))?;
        let grads = &mut self.targets()?.grads;
        grads.insert(&part.weight, dweight);
        grads.insert(&part.bias, dbias);
        Ok(())
    }

    pub(super) fn input_gradient(&mut self, convolution: usize, dy: ValueId, dx: ValueId, adds: bool) -> Result<()> {
        let part = &self.parts.convolutions[convolution];
        let dy = self.values.get(dy)?;
        if adds {
            convolution::add_input_gradient(&self.values.get(dx)?, &dy, &part.weight, part.geometry)?;
        } else {
            let result = self.values.fresh(dx)?;
            convolution::input_gradient_into(&result, &dy, &part.weight, part.geometry)?;
            self.values.set(dx, result);
        }
        Ok(())
    }
}
