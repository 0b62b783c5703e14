//! Probes on the GPU that runs the network.

use std::sync::Arc;

use gramscope_cuda::{Device, DeviceProbes, ProbeInput, ProbeRecord, ProbeStep};
use gramscope_nn::Error;

use super::linear_probe::Step;
use super::{Learned, Learning, Probes, Standing};
use crate::Result;
use crate::compare::{Batch, Model};

/// A probe for each chosen layer.
pub(super) struct OnDevice(DeviceProbes);

impl OnDevice {
    /// As [`OnHost::new`](super::on_host::OnHost::new).
    pub(super) fn new<'a>(
        device: &Arc<Device>,
        shapes: impl Iterator<Item = &'a [usize]>,
        pool: bool,
        classes: usize,
        Step { learning_rate, momentum }: Step,
    ) -> Result<Self> {
        let step = ProbeStep { learning_rate, momentum };
        Ok(Self(DeviceProbes::new(device.clone(), &inputs(shapes, pool), classes, step).map_err(Error::from)?))
    }

    /// As [`OnHost::bytes`](super::on_host::OnHost::bytes), of the GPU's memory.
    pub(super) fn bytes<'a>(
        shapes: impl Iterator<Item = &'a [usize]>,
        pool: bool,
        classes: usize,
        examples: usize,
    ) -> u64 {
        DeviceProbes::bytes(&inputs(shapes, pool), classes, examples)
    }
}

/// What probes on layers of these `shapes` see.
fn inputs<'a>(shapes: impl Iterator<Item = &'a [usize]>, pool: bool) -> Vec<ProbeInput> {
    let input = |shape: &[usize]| match *shape {
        [height, width, channels] if pool => ProbeInput::Squares([height, width, channels]),
        _ => ProbeInput::Whole(shape.iter().product()),
    };
    shapes.map(input).collect()
}

impl Probes for OnDevice {
    fn take(&mut self, model: &Model, images: &Batch, labels: &[u32], learn: bool) -> Result<()> {
        let probes = &mut self.0;
        probes.begin_batch(labels).map_err(Error::from)?;
        model.each_device_layer(images, 0..model.info.layers.len(), &mut |place, values| {
            let taken = if learn { probes.learn(place, values) } else { probes.evaluate(place, values) };
            Ok(taken.map_err(Error::from)?)
        })
    }

    fn standings(&self) -> Result<Vec<Standing>> {
        let standing = |record: ProbeRecord| Standing {
            correct: usize::try_from(record.correct).unwrap_or(0),
            diverged: record.diverged.checked_sub(1).map(|batch| batch as usize),
        };
        Ok(self.0.records().map_err(Error::from)?.into_iter().map(standing).collect())
    }

    fn parameters(&self) -> Vec<usize> {
        self.0.parameter_counts()
    }

    fn learned(&self) -> Result<Vec<Learned>> {
        let learned = |probe| -> Result<_, gramscope_cuda::Error> {
            Ok(Learned { parameters: self.0.parameters(probe)?, velocities: self.0.velocities(probe)? })
        };
        Ok((0..self.parameters().len()).map(learned).collect::<Result<_, _>>().map_err(Error::from)?)
    }

    fn go_on_from(&mut self, Learning { batches, standings, learned, .. }: &Learning) -> Result<()> {
        let record = |standing: &Standing| {
            let diverged = standing.diverged.map_or(0, |batch| batch as u32 + 1);
            ProbeRecord {
                loss: 0.0,
                correct: standing.correct as i64,
                batches: if diverged == 0 { *batches as u32 } else { diverged },
                diverged,
            }
        };
        let records: Vec<ProbeRecord> = standings.iter().map(record).collect();
        let learned: Vec<_> = learned.iter().map(|learned| [&learned.parameters[..], &learned.velocities]).collect();
        Ok(self.0.go_on_from(&records, &learned).map_err(Error::from)?)
    }
}
