//! What networks do with batches that follow each other: they are evaluated, or learn.

use gramscope_cuda::{Launcher, Regions, Slice};

use super::executor::AnyExecutor;
use super::pass::{State, Targets};
use super::replay::Task;
use super::{Images, Observed};
use crate::program::Statistics;
use crate::{Error, Result, SgdConfig};

/// What training adds to a network.
pub(super) struct Learning {
    pub(super) targets: Targets,
    pub(super) velocities: Slice<f32>,
    /// On the device, where a step reads it when it runs.
    pub(super) rate: Slice<f32>,
    pub(super) config: SgdConfig,
}

/// The logits of a batch.
pub(super) struct Evaluation<'n> {
    pub(super) executor: &'n mut AnyExecutor,
    pub(super) state: &'n mut State,
    pub(super) statistics: Statistics,
}

/// A step on a batch.
pub(super) struct TrainingStep<'n> {
    pub(super) launcher: Launcher<'n>,
    pub(super) executor: &'n mut AnyExecutor,
    pub(super) state: &'n mut State,
    pub(super) learning: &'n mut Learning,
}

/// Takes no layers.
fn unobserved(_: &[Observed<'_>]) -> Result<()> {
    Ok(())
}

impl State {
    fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        memory.writes(&mut self.parameters);
        self.narrow.iter_mut().for_each(|narrow| memory.writes(narrow));
        memory.writes(&mut self.running);
    }
}

impl Task for Evaluation<'_> {
    fn count(&self, images: &Images<'_>) -> Result<usize> {
        images.count(self.executor.image_length(), false)
    }

    fn reserved(&self) -> Option<usize> {
        self.executor.reserved()
    }

    fn enqueue(&mut self, images: &mut Images<'_>) -> Result<()> {
        self.executor.run(images, self.state, self.statistics, None, &mut unobserved).map(drop)
    }

    fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        self.executor.show(memory);
        self.state.show(memory);
    }
}

impl Task for TrainingStep<'_> {
    fn count(&self, images: &Images<'_>) -> Result<usize> {
        images.count(self.executor.image_length(), true)
    }

    fn reserved(&self) -> Option<usize> {
        self.executor.reserved()
    }

    fn enqueue(&mut self, images: &mut Images<'_>) -> Result<()> {
        let Learning { targets, velocities, rate, config: SgdConfig { momentum, weight_decay, .. } } = self.learning;
        self.executor.run::<Error>(images, self.state, Statistics::Moving, Some(targets), &mut unobserved)?;
        let _range = gramscope_cuda::range("SGD");
        Ok(self.launcher.sgd(
            &mut self.state.parameters.as_view_mut(),
            &mut velocities.as_view_mut(),
            &targets.gradients.as_view(),
            &rate.as_view(),
            *momentum,
            *weight_decay,
            self.state.layout.decaying,
        )?)
    }

    fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        self.executor.show(memory);
        self.state.show(memory);
        let Learning { targets: Targets { gradients, totals }, velocities, rate, .. } = self.learning;
        memory.writes(gradients);
        memory.writes(totals);
        memory.writes(velocities);
        memory.reads(rate);
    }
}
