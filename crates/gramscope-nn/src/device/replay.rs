//! Work on batches that is the same from one to the next: launched kernel by kernel at first, then captured, and from then on
//! launched as a whole.
//!
//! What captured kernels depend on, and what changes, lies in device memory: parameters, learning rate, sums, the order of
//! the images and the place in it. So batches that are [`Images::Next`] in an order can be replayed, and others are not.

use gramscope_cuda::plan::Placing;
use gramscope_cuda::{Device, Graph, Regions};

use super::Images;
use crate::Result;

/// What is done with a batch.
pub(super) trait Task {
    /// How many images there are, if they can be worked on.
    fn count(&self, images: &Images<'_>) -> Result<usize>;

    /// Images a batch that there is memory for; none before the first.
    fn reserved(&self) -> Option<usize>;

    /// Enqueues it, kernel by kernel.
    fn enqueue(&mut self, images: &mut Images<'_>) -> Result<()>;

    /// Shows `memory` what device memory it uses, beside that of the images.
    fn show<'a>(&'a mut self, memory: &mut Regions<'a>);
}

/// What has been captured of a task.
#[derive(Default)]
pub(super) struct Replay {
    captured: Option<(Constants, Graph)>,
}

/// What captured kernels have in their arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Constants {
    images: usize,
    placing: Placing,
}

impl Replay {
    /// Enqueues `task` on `images`; returns how many they are.
    ///
    /// The first batch takes memory, and the kernels may have to be loaded, so it runs plainly. So do batches that are smaller
    /// than those that there is memory for: the last of an evaluation.
    pub(super) fn enqueue(&mut self, device: &Device, task: &mut impl Task, mut images: Images<'_>) -> Result<usize> {
        let count = task.count(&images)?;
        match images.placing() {
            Some(placing) if task.reserved() == Some(count) => {
                self.launch(device, task, &mut images, Constants { images: count, placing })?;
            }
            _ => task.enqueue(&mut images)?,
        }
        images.are_taken(count);
        Ok(count)
    }

    /// Launches what was captured; captures it first where that was of other batches, or in other memory.
    fn launch(
        &mut self,
        device: &Device,
        task: &mut impl Task,
        images: &mut Images<'_>,
        constants: Constants,
    ) -> Result<()> {
        if let Some((captured, graph)) = &self.captured
            && *captured == constants
            && graph.launch(&memory(task, images))?
        {
            return Ok(());
        }
        self.captured = None;
        let captured = device.capture(|| task.enqueue(images))?;
        let memory = memory(task, images);
        let graph = captured.over(&memory)?;
        graph.launch(&memory)?;
        self.captured = Some((constants, graph));
        Ok(())
    }
}

/// All device memory that `task` on `images` uses.
fn memory<'a>(task: &'a mut impl Task, images: &'a mut Images<'_>) -> Regions<'a> {
    let mut memory = Regions::default();
    task.show(&mut memory);
    images.show(&mut memory);
    memory
}
