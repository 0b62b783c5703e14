//! The steps of a backward pass.

use gramscope_cuda::plan::Arithmetic;

use super::Pass;
use crate::device::layout::Weights;
use crate::device::memory::{Head, Held};
use crate::device::stored::Stored;
use crate::program::{Added, Value, ValueId};
use crate::{Error, Result};

impl<T: Stored> Pass<'_, T> {
    pub(super) fn logits_backward(&mut self) -> Result<()> {
        let shape = self.linear();
        let Weights { weight, bias } = self.state.layout.logits.clone();
        let Head { pooled, dpooled, dlogits, .. } = &mut self.memory.head;
        let (x, dy) = (pooled.as_view(), dlogits.as_view());
        let gradients = &mut self.targets.as_mut().ok_or(Error::NoTargets)?.gradients;
        let (mut before, mut behind) = gradients.split_at_mut(bias.start);
        let dweight = &mut before.slice_mut(weight.clone());
        let dbias = &mut behind.slice_mut(..bias.len());
        let partials = &mut self.memory.scratch.partials.as_view_mut();
        self.launcher.convolution_weight_gradient(dweight, dbias, partials, &x, &dy, &shape, Arithmetic::Float32)?;
        let (weight, dx) = (self.state.parameters.slice(weight), &mut dpooled.as_view_mut());
        Ok(self.launcher.convolution_input_gradient(dx, &dy, &weight, &shape, Arithmetic::Float32, false)?)
    }

    pub(super) fn average_pool_backward(&mut self, dx: ValueId) -> Result<()> {
        let value = self.places.program.values[dx];
        let [mut dx] = self.places.of(&mut self.memory.values, [dx])?;
        let (images, pixels) = (self.places.images, value.pixels());
        let dpooled = self.memory.head.dpooled.as_view();
        Ok(self.launcher.average_pool_backward(&mut dx.view_mut(), &dpooled, images, pixels, value.channels)?)
    }

    pub(super) fn max_pool_backward(&mut self, x: ValueId, y: ValueId, dy: ValueId, dx: ValueId) -> Result<()> {
        let Value { side, channels } = self.places.program.values[x];
        let [x, y, dy, mut dx] = self.places.of(&mut self.memory.values, [x, y, dy, dx])?;
        let (x, y, dy, dx) = (x.view(), y.view(), dy.view(), &mut dx.view_mut());
        Ok(self.launcher.max_pool_backward(dx, &x, &y, &dy, self.places.images, side, side, channels)?)
    }

    pub(super) fn normalise_backward(
        &mut self,
        norm: usize,
        [x, dy, dx]: [ValueId; 3],
        added: Option<Added>,
        relu: bool,
    ) -> Result<()> {
        let (rows, channels) = self.places.rows(x);
        let norm = &self.state.layout.norms[norm];
        let parameters = &self.state.parameters;
        let (gamma, beta) = (parameters.slice(norm.gamma.clone()), parameters.slice(norm.beta.clone()));
        let statistics = self.memory.statistics.slice(norm.statistics.clone());
        let gradients = &mut self.targets.as_mut().ok_or(Error::NoTargets)?.gradients;
        let (mut before, mut behind) = gradients.split_at_mut(norm.beta.start);
        let added = [added.map(|added| added.y), added.map(|added| added.daddend)];
        let ([x, dy, mut dx], [y, mut daddend]) = self.places.of_those(&mut self.memory.values, [x, dy, dx], added)?;
        let (y, mut daddend) = (y.as_ref().map(Held::view), daddend.as_mut().map(Held::view_mut));
        self.launcher.batch_norm_backward(
            &mut dx.view_mut(),
            daddend.as_mut(),
            &mut before.slice_mut(norm.gamma.clone()),
            &mut behind.slice_mut(..norm.beta.len()),
            &mut self.memory.sums.as_view_mut(),
            &x.view(),
            y.as_ref(),
            &dy.view(),
            &statistics,
            &gamma,
            &beta,
            relu,
            rows,
            channels,
        )?;
        Ok(())
    }

    pub(super) fn mix_backward(
        &mut self,
        block: usize,
        y: ValueId,
        [dmixed, dother, daddend]: [ValueId; 3],
    ) -> Result<()> {
        let (images, length) = (self.places.images, self.places.program.values[y].length());
        let [_, backward] = self.places.shares(block);
        let shares = self.memory.shares.slice(backward);
        let [y, mut dmixed, mut dother, mut daddend] =
            self.places.of(&mut self.memory.values, [y, dmixed, dother, daddend])?;
        let [dmixed, dother, daddend] = [&mut dmixed.view_mut(), &mut dother.view_mut(), &mut daddend.view_mut()];
        Ok(self.launcher.mix_backward(dmixed, dother, daddend, &y.view(), &shares, images, length)?)
    }

    pub(super) fn weight_gradient(&mut self, convolution: usize, x: ValueId, dy: ValueId) -> Result<()> {
        let shape = self.shape(convolution);
        let Weights { weight, bias } = self.state.layout.convolutions[convolution].clone();
        let [x, dy] = self.places.of(&mut self.memory.values, [x, dy])?;
        let gradients = &mut self.targets.as_mut().ok_or(Error::NoTargets)?.gradients;
        let (mut before, mut behind) = gradients.split_at_mut(bias.start);
        let dweight = &mut before.slice_mut(weight);
        let dbias = &mut behind.slice_mut(..bias.len());
        let scratch = &mut self.memory.scratch.view_mut();
        let (x, dy) = (x.view(), dy.view());
        Ok(self.launcher.convolve_weight_gradient(dweight, dbias, scratch, &x, &dy, &shape, self.arithmetic)?)
    }

    pub(super) fn input_gradient(&mut self, convolution: usize, dy: ValueId, dx: ValueId, adds: bool) -> Result<()> {
        let shape = self.shape(convolution);
        let factors = self.state.factors(self.state.layout.convolutions[convolution].weight.clone());
        let [dy, mut dx] = self.places.of(&mut self.memory.values, [dy, dx])?;
        let (dx, scratch) = (&mut dx.view_mut(), &mut self.memory.scratch.view_mut());
        Ok(self.launcher.convolve_input_gradient(dx, &dy.view(), &factors, scratch, &shape, self.arithmetic, adds)?)
    }
}
