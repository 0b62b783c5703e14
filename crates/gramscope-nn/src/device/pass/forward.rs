//! The steps of a forward pass.

use gramscope_cuda::plan::Arithmetic;

use super::Pass;
use crate::Result;
use crate::device::layout::Weights;
use crate::device::memory::{Head, Held};
use crate::device::stored::Stored;
use crate::program::{Seen, Statistics, Value, ValueId};

/// Where a launcher writes what is on the way and is looked at.
fn shown<'m, T>(alone: &'m mut Option<Held<'_, T>>, sum: &'m mut Option<Held<'_, T>>) -> gramscope_cuda::Seen<'m, T> {
    gramscope_cuda::Seen { alone: alone.as_mut().map(Held::view_mut), sum: sum.as_mut().map(Held::view_mut) }
}

impl<T: Stored> Pass<'_, T> {
    pub(super) fn convolution(&mut self, convolution: usize, x: ValueId, y: ValueId) -> Result<()> {
        let shape = self.shape(convolution);
        let Weights { weight, bias } = self.state.layout.convolutions[convolution].clone();
        let (factors, bias) = (self.state.factors(weight), self.state.parameters.slice(bias));
        let [x, mut y] = self.places.of(&mut self.memory.values, [x, y])?;
        let (y, scratch) = (&mut y.view_mut(), &mut self.memory.scratch.view_mut());
        Ok(self.launcher.convolve(y, &x.view(), &factors, &bias, scratch, &shape, self.arithmetic)?)
    }

    /// The statistics of the batch.
    pub(super) fn take_statistics(&mut self, norm: usize, x: ValueId) -> Result<()> {
        let (rows, channels) = self.places.rows(x);
        let place = self.state.layout.norms[norm].statistics.clone();
        let [x] = self.places.of(&mut self.memory.values, [x])?;
        let mut moved = match self.statistics {
            Statistics::Moving => self.state.running.slice_mut(place.clone()),
            _ => self.memory.unmoved.slice_mut(..2 * channels),
        };
        let to = &mut self.memory.statistics.slice_mut(place);
        let sums = &mut self.memory.sums.as_view_mut();
        Ok(self.launcher.batch_norm_statistics(to, &mut moved, sums, &x.view(), rows, channels)?)
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
        let (rows, channels) = self.places.rows(x);
        let norm = &self.state.layout.norms[norm];
        let parameters = &self.state.parameters;
        let (gamma, beta) = (parameters.slice(norm.gamma.clone()), parameters.slice(norm.beta.clone()));
        let statistics = match self.statistics {
            Statistics::Running => self.state.running.slice(norm.statistics.clone()),
            _ => self.memory.statistics.slice(norm.statistics.clone()),
        };
        let ([x, mut y], [addend, mut alone, mut sum]) =
            self.places.of_those(&mut self.memory.values, [x, y], [addend, seen.alone, seen.sum])?;
        let seen = shown(&mut alone, &mut sum);
        let addend = addend.as_ref().map(|addend| addend.view());
        self.launcher.batch_norm_normalise(
            &mut y.view_mut(),
            seen,
            &x.view(),
            &statistics,
            &gamma,
            &beta,
            addend.as_ref(),
            relu,
            rows,
            channels,
        )?;
        Ok(())
    }

    pub(super) fn relu(&mut self, x: ValueId) -> Result<()> {
        let [mut x] = self.places.of(&mut self.memory.values, [x])?;
        let length = x.length();
        Ok(self.launcher.relu(&mut x.view_mut(), length)?)
    }

    pub(super) fn mix(
        &mut self,
        block: usize,
        [a, b]: [ValueId; 2],
        addend: ValueId,
        y: ValueId,
        seen: Seen,
    ) -> Result<()> {
        let length = self.places.program.values[y].length();
        // Where nothing is learnt, no shares are drawn.
        let [forward, _] = self.places.shares(block);
        let shares = self.targets.is_some().then(|| self.memory.shares.slice(forward));
        let ([a, b, addend, mut y], [mut alone, mut sum]) =
            self.places.of_those(&mut self.memory.values, [a, b, addend, y], [seen.alone, seen.sum])?;
        let seen = shown(&mut alone, &mut sum);
        let (y, read) = (&mut y.view_mut(), [&a.view(), &b.view(), &addend.view()]);
        Ok(self.launcher.mix(y, seen, read, shares.as_ref(), self.places.images, length)?)
    }

    pub(super) fn max_pool(&mut self, x: ValueId, y: ValueId) -> Result<()> {
        let Value { side, channels } = self.places.program.values[x];
        let [x, mut y] = self.places.of(&mut self.memory.values, [x, y])?;
        Ok(self.launcher.max_pool(&mut y.view_mut(), &x.view(), self.places.images, side, side, channels)?)
    }

    pub(super) fn average_pool(&mut self, x: ValueId) -> Result<()> {
        let value = self.places.program.values[x];
        let [x] = self.places.of(&mut self.memory.values, [x])?;
        let pooled = &mut self.memory.head.pooled.as_view_mut();
        Ok(self.launcher.average_pool(pooled, &x.view(), self.places.images, value.pixels(), value.channels)?)
    }

    /// The linear layer is a convolution of images of one pixel.
    pub(super) fn logits(&mut self) -> Result<()> {
        let shape = self.linear();
        let Weights { weight, bias } = self.state.layout.logits.clone();
        let (weight, bias) = (self.state.parameters.slice(weight), self.state.parameters.slice(bias));
        let Head { pooled, logits, .. } = &mut self.memory.head;
        let (x, y) = (pooled.as_view(), &mut logits.as_view_mut());
        Ok(self.launcher.convolution_forward(y, &x, &weight, &bias, &shape, Arithmetic::Float32)?)
    }

    /// Adds the loss to the totals, and leaves its gradient.
    pub(super) fn loss(&mut self) -> Result<()> {
        let totals = &mut self.targets.as_mut().ok_or(crate::Error::NoTargets)?.totals.as_view_mut();
        let Head { logits, dlogits, .. } = &mut self.memory.head;
        let (logits, dlogits) = (logits.as_view(), &mut dlogits.as_view_mut());
        let labels = self.memory.labels.as_view();
        let (images, classes) = (self.places.images, self.places.program.classes);
        Ok(self.launcher.softmax_cross_entropy(dlogits, totals, &logits, &labels, images, classes)?)
    }
}
