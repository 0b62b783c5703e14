//! The values that a pass has, and whose memory they lie in.

use candle_core::{DType, Device, Result, Tensor};

use super::{Output, Plan, Workspace};
use crate::program::{IMAGES, Step, ValueId};

/// The values of a program, as far as they are there.
///
/// A value whose last use has come gives its memory to what comes next: by [`Self::take`] to a result of the same step, else by way of
/// the workspace.
pub(super) struct Values<'p> {
    plan: &'p Plan,
    workspace: &'p Workspace,
    /// Whether the workspace keeps memory for the next pass; otherwise what this one makes no more use of is freed.
    outlives: bool,
    held: Vec<Option<Held>>,
    /// Images of the batch.
    pub(super) images: usize,
    /// Of the step that is carried out.
    place: usize,
    device: Device,
    /// The most numbers that lay in memory behind a step.
    #[cfg(test)]
    pub(super) most: usize,
}

/// A value that is there.
struct Held {
    output: Output,
    /// Whether its memory is its own, and not that of a value which is there for longer.
    owns: bool,
}

impl<'p> Values<'p> {
    /// Before the first step.
    pub(super) fn new(plan: &'p Plan, images: &Tensor, workspace: &'p Workspace, outlives: bool) -> Self {
        let mut held: Vec<Option<Held>> = plan.program.values.iter().map(|_| None).collect();
        // They are the caller's.
        held[IMAGES] = Some(Held { output: images.clone().into(), owns: false });
        let (images, device) = (images.dims()[0], images.device().clone());
        Self {
            plan,
            workspace,
            outlives,
            held,
            images,
            place: 0,
            device,
            #[cfg(test)]
            most: 0,
        }
    }

    /// `[images, side, side, channels]` of the value.
    fn dims(&self, value: ValueId) -> [usize; 4] {
        let shape = self.plan.program.values[value];
        [self.images, shape.side, shape.side, shape.channels]
    }

    /// The value as it is stored.
    pub(super) fn output(&mut self, value: ValueId) -> &mut Output {
        &mut there(self.held[value].as_mut()).output
    }

    /// The value. What changes in its memory changes it.
    pub(super) fn get(&mut self, value: ValueId) -> Result<Tensor> {
        self.output(value).values().cloned()
    }

    /// Memory for the value, which may hold anything.
    pub(super) fn fresh(&self, value: ValueId) -> Result<Tensor> {
        match self.workspace.take(&self.dims(value)) {
            Some(tensor) => Ok(tensor),
            None => Tensor::zeros(&self.dims(value), DType::F32, &self.device),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Whether this step is the last to use the value, so that [`Self::take`] copies nothing.
    pub(super) fn is_done(&self, value: ValueId) -> bool {
        self.plan.is_done(value, self.place)
    }

    /// The value, in memory that becomes the caller's: a copy where later steps use it.
    pub(super) fn take(&mut self, value: ValueId) -> Result<Tensor> {
        match self.is_done(value) {
            true => there(self.held[value].take()).output.into_values(),
            false => self.get(value)?.copy(),
        }
    }

    /// The value is there, in memory of its own.
    pub(super) fn set(&mut self, value: ValueId, output: impl Into<Output>) {
        self.held[value] = Some(Held { output: output.into(), owns: true });
    }

    /// The value is there, in the memory of another that is there for longer, and is not looked at again once that is.
    pub(super) fn lend(&mut self, value: ValueId, values: Tensor) {
        self.held[value] = Some(Held { output: values.into(), owns: false });
    }

    /// The step has been carried out: what it was the last to use is let go.
    pub(super) fn finish(&mut self, step: &Step) {
        #[cfg(test)]
        self.count();
        for value in step.values() {
            if self.is_done(value)
                && let Some(Held { output, owns: true }) = self.held[value].take()
            {
                self.workspace.give(output.into_stored());
            }
        }
        if !self.outlives {
            let wanted = |value: &ValueId| self.plan.makes_soon(self.plan.program.values[*value], self.place);
            step.values().filter(|value| !wanted(value)).for_each(|value| self.workspace.free(&self.dims(value)));
        }
        self.place += 1;
    }
}

#[cfg(test)]
impl Values<'_> {
    /// Counts what lies in memory, the images among it.
    fn count(&mut self) {
        let images = self.dims(IMAGES).iter().product::<usize>();
        let owned = self.held.iter().flatten().filter(|held| held.owns);
        let held: usize = owned.map(|held| held.output.as_stored().0.elem_count()).sum();
        self.most = self.most.max(images + held + self.workspace.numbers());
    }
}

/// What a step finds.
pub(super) fn there<T>(found: Option<T>) -> T {
    found.expect("a program makes whatever it uses before it uses it")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ResNetConfig;
    use crate::program::Program;

    /// Of a stem: its convolution, and its batch norm.
    fn check(outlives: bool) {
        let config = ResNetConfig { depth: 8, width: 0.25, image_side: 3, ..ResNetConfig::default() };
        let plan = Plan::new(config.program(Program::evaluation));
        let (workspace, images) = (Workspace::default(), Tensor::ones((2, 3, 3, 3), DType::F32, &Device::Cpu).unwrap());
        let mut values = Values::new(&plan, &images, &workspace, outlives);
        let [Step::Convolution { x: IMAGES, y: convolved, .. }, Step::Normalise { y, .. }, ..] = plan.program.steps[..]
        else {
            panic!("{:?}", plan.program.steps)
        };
        let convolved_dims = [2, 3, 3, 4];
        let memory = values.fresh(convolved).unwrap();
        assert_eq!(memory.dims(), convolved_dims);
        values.set(convolved, memory.clone());
        values.finish(&plan.program.steps[0]);
        assert!(!workspace.keeps(&convolved_dims), "the value is there for the next step");
        assert_eq!(values.take(convolved).unwrap().id(), memory.id(), "whose it is from then on");
        values.set(y, memory);
        values.finish(&plan.program.steps[1]);
        let kept = values.take(y).unwrap();
        assert_ne!(kept.id(), values.get(y).unwrap().id(), "the block adds it later on");
        for step in &plan.program.steps[2..] {
            values.finish(step);
        }
        assert_eq!(workspace.keeps(&convolved_dims), outlives);
        assert!(!workspace.keeps(&[2, 3, 3, 3]), "the images are the caller's");
    }

    #[test]
    fn memory_is_given_on_by_the_last_to_use_it() {
        check(true);
        check(false);
    }
}
