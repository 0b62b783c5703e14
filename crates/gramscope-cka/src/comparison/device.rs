//! Panels and sums on a GPU.

use std::fmt;
use std::sync::Arc;

use gramscope_cuda::{Device, DeviceComparison, Settings, Uploads};

use crate::activation::Activation;
use crate::cpu;
use crate::device::{STRIP, blocks_held, blocks_with, host_values, most_rows, panel_row, summary};
use crate::error::Error;
use crate::options::{DeviceMemory, Estimator, Gram, Kernel, Options};
use crate::rounds::Rounds;
use crate::sums::LayerSum;
use crate::totals::{Totals, packed_length};

/// The panel of the batch that is open and the sums over those before, on a GPU.
pub(crate) struct OnDevice {
    options: Options,
    layers: Vec<usize>,
    sums: DeviceComparison,
    /// Of the batch that is open, or the one before.
    rounds: Rounds,
    memory: DeviceMemory,
    /// Bytes that were free before anything was allocated.
    free: u64,
    uploads: Option<Uploads>,
    two_uploads: bool,
    /// For what the kernels do not take: float64 values, and those that are not in memory.
    workspace: cpu::Workspace,
    row: Vec<f32>,
}

impl OnDevice {
    pub(crate) fn new(
        device: Arc<Device>,
        layers: &[usize],
        pairs: &[(usize, usize)],
        options: Options,
    ) -> Result<Self, Error> {
        let settings = Settings {
            biased: options.estimator == Estimator::Biased,
            exact: options.gram == Gram::Exact,
            rbf: match options.kernel {
                Kernel::Linear => None,
                Kernel::Rbf { bandwidth } => Some(bandwidth),
            },
        };
        Ok(Self {
            options,
            layers: layers.to_vec(),
            free: device.memory()?.0,
            sums: DeviceComparison::new(device, layers, pairs, settings)?,
            rounds: Rounds::all_at_once(layers, pairs, STRIP),
            memory: DeviceMemory::default(),
            uploads: None,
            two_uploads: true,
            workspace: cpu::Workspace::default(),
            row: Vec::new(),
        })
    }

    /// Says what memory there is, from the next batch on.
    pub(crate) fn plan_memory(&mut self, memory: DeviceMemory) {
        self.memory = memory;
    }

    /// The rounds of the batch that is open.
    pub(crate) fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    pub(crate) fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        let length = packed_length(examples, self.options.estimator);
        let total: usize = self.layers.iter().sum();
        if length.and_then(|length| length.checked_mul(total)).is_none() {
            return Err(Error::TooManyExamples { examples });
        }
        let together = self.fitting_together(examples, total);
        let rows = self.fitting_rows(examples, total, together)?;
        let too_many = Error::TooManyExamples { examples };
        self.rounds = self.rounds.with_rows(rows).ok_or(too_many)?;
        self.row.resize(length.unwrap_or(0), 0.0);
        Ok(self.sums.begin_batch(examples, self.rounds.held_rows() + self.rounds.passing_rows(), together)?)
    }

    /// Bytes that everything takes beside the panel and a second upload, where so many layers are taken together.
    fn fixed_bytes(&self, examples: usize, together: usize) -> u64 {
        let DeviceMemory { features, largest_upload, other, taken, .. } = self.memory;
        let workspace = self.sums.workspace_bytes(examples, features, together);
        [workspace, largest_upload, other, taken].into_iter().fold(self.sums.sums_bytes(), u64::saturating_add)
    }

    /// How many layers are taken together: as many as cost no more than a small part of the memory that is left beyond the least, for
    /// rounds cost more than launches do. Those that are uploaded come one by one.
    fn fitting_together(&self, examples: usize, total: usize) -> usize {
        if self.memory.largest_upload > 0 {
            return 1;
        }
        let fixed = |together| self.fixed_bytes(examples, together);
        let least = fixed(1).saturating_add(self.sums.panel_bytes(examples, total.min(2)));
        let left = self.memory.allowance(self.free).saturating_sub(least);
        let halves = std::iter::successors(Some(self.sums.most_together(examples)), |&most| Some(most / 2));
        halves.take_while(|&most| most > 1).find(|&most| fixed(most) - fixed(1) <= left / 8).unwrap_or(1)
    }

    /// How many of the panel's `total` rows fit into what memory may be taken, at least two; also decides whether there is room
    /// for two uploads at once.
    fn fitting_rows(&mut self, examples: usize, total: usize, together: usize) -> Result<usize, Error> {
        let (largest_upload, limit) = (self.memory.largest_upload, self.memory.allowance(self.free));
        let fixed = self.fixed_bytes(examples, together);
        let needed = fixed.saturating_add(self.sums.panel_bytes(examples, total.min(2)));
        let left = limit.saturating_sub(fixed);
        if needed > limit {
            let what = format!("comparisons of batches of {examples} examples");
            return Err(gramscope_cuda::Error::MemoryLimit { what, needed, limit, free: self.free }.into());
        }
        // Two cost memory, and rounds cost more than waiting for uploads does.
        self.two_uploads = largest_upload <= left / 8 && largest_upload <= limit - needed;
        let left = if self.two_uploads { left - largest_upload } else { left };
        Ok(most_rows(total, left, |rows| self.sums.panel_bytes(examples, rows)))
    }

    /// Uploads an activation and enqueues the way to its row.
    pub(crate) fn observe(
        &mut self,
        model: usize,
        layer: usize,
        activation: Activation<'_>,
    ) -> Result<Result<(), cpu::Unusable>, Error> {
        let Some(values) = host_values(activation) else { return self.observe_on_host(model, layer, activation) };
        let uploads = match self.uploads.take() {
            Some(uploads) => uploads,
            None => Uploads::new(self.sums.device().clone(), self.two_uploads)?,
        };
        let row = panel_row(&self.rounds, model, layer);
        let values = self.uploads.insert(uploads).upload(values)?;
        self.sums.observe(model, layer, row, &[&values], activation.features())?;
        self.sums.add(&blocks_with(&self.rounds, model, layer))?;
        Ok(Ok(()))
    }

    /// Enqueues the way from activations that are on the device, of layers in ascending order, to their rows.
    pub(crate) fn observe_values(
        &mut self,
        model: usize,
        layers: &[(usize, &gramscope_cuda::Values<'_>)],
        sharing: usize,
    ) -> Result<(), Error> {
        let mut waiting = Vec::with_capacity(layers.len());
        for (index, &(layer, values)) in layers.iter().enumerate() {
            waiting.push(values);
            let blocks = blocks_with(&self.rounds, model, layer);
            let row = panel_row(&self.rounds, model, layer);
            let next = layers.get(index + 1).map(|&(next, _)| (next, panel_row(&self.rounds, model, next)));
            // Rows that pass by make room for others once they have been multiplied.
            if blocks.is_empty() && next == Some((layer + 1, row + 1)) {
                continue;
            }
            let before = waiting.len() - 1;
            self.sums.observe(model, layer - before, row - before, &waiting, sharing)?;
            self.sums.add(&blocks)?;
            waiting.clear();
        }
        Ok(())
    }

    /// Computes a row on the host and uploads it.
    fn observe_on_host(
        &mut self,
        model: usize,
        layer: usize,
        activation: Activation<'_>,
    ) -> Result<Result<(), cpu::Unusable>, Error> {
        let row = match cpu::centred_row(activation, self.options, &mut self.workspace, &mut self.row) {
            Ok(row) => row,
            Err(unusable) => return Ok(Err(unusable)),
        };
        self.sums.observe_row(model, layer, panel_row(&self.rounds, model, layer), &self.row, summary(row))?;
        self.sums.add(&blocks_with(&self.rounds, model, layer))?;
        Ok(Ok(()))
    }

    /// Ends a round; false if it was the last of the batch.
    pub(crate) fn next_round(&mut self) -> Result<bool, Error> {
        let _range = gramscope_cuda::range("panel products");
        self.sums.add(&blocks_held(&self.rounds))?;
        Ok(self.rounds.advance())
    }

    /// Ends the batch, whose last round it is.
    pub(crate) fn end_batch(&mut self) -> Result<(), Error> {
        self.next_round()?;
        Ok(self.sums.end_batch()?)
    }

    /// Waits for everything and fetches the sums over so many `batches`, of which none is open.
    pub(crate) fn totals(&mut self, batches: usize) -> Result<Totals, Error> {
        let gramscope_cuda::Sums { layers, pairs } = self.sums.sums()?;
        let mut layers = layers.into_iter().map(layer_sum);
        let layers = self.layers.iter().map(|&count| layers.by_ref().take(count).collect()).collect();
        Ok(Totals { batches, layers, pairs })
    }

    /// Goes on from `totals` of the same layers and pairs.
    pub(crate) fn go_on_from(&mut self, totals: Totals) -> Result<(), Error> {
        let layers = totals.layers.iter().flatten().map(device_sum).collect();
        Ok(self.sums.go_on_from(&gramscope_cuda::Sums { layers, pairs: totals.pairs }, totals.batches)?)
    }
}

impl fmt::Debug for OnDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OnDevice").field("options", &self.options).field("layers", &self.layers).finish()
    }
}

fn layer_sum(sum: gramscope_cuda::LayerSum) -> LayerSum {
    match sum.state {
        gramscope_cuda::LayerSum::EMPTY => LayerSum::default(),
        state => {
            let undefined = state == gramscope_cuda::LayerSum::UNDEFINED;
            LayerSum { unit: Some(sum.unit), own: sum.own, undefined }
        }
    }
}

/// What [`layer_sum`] made.
fn device_sum(&LayerSum { unit, own, undefined }: &LayerSum) -> gramscope_cuda::LayerSum {
    let state = match (unit, undefined) {
        (_, true) => gramscope_cuda::LayerSum::UNDEFINED,
        (None, false) => gramscope_cuda::LayerSum::EMPTY,
        (Some(_), false) => gramscope_cuda::LayerSum::SUMMED,
    };
    gramscope_cuda::LayerSum { own, unit: unit.unwrap_or(0), state }
}
