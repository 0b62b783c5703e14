//! Panels and sums on a GPU.

use std::fmt;
use std::sync::Arc;

use gramscope_cuda::{Device, DeviceComparison, RowSummary, Settings, Uploaded};

use crate::activation::{Activation, Values};
use crate::cpu;
use crate::error::Error;
use crate::options::{Estimator, Gram, Kernel, Options};
use crate::sums::{LayerSum, Row};
use crate::totals::{Totals, packed_length};

/// The panel of the batch that is open and the sums over those before, on a GPU.
pub(crate) struct OnDevice {
    options: Options,
    layers: Vec<usize>,
    sums: DeviceComparison,
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
            sums: DeviceComparison::new(device, layers, pairs, settings)?,
            workspace: cpu::Workspace::default(),
            row: Vec::new(),
        })
    }

    pub(crate) fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        let length = packed_length(examples, self.options.estimator);
        let total: usize = self.layers.iter().sum();
        if length.and_then(|length| length.checked_mul(total)).is_none() {
            return Err(Error::TooManyExamples { examples });
        }
        self.row.resize(length.unwrap_or(0), 0.0);
        Ok(self.sums.begin_batch(examples)?)
    }

    /// Uploads an activation and enqueues the way to its row.
    pub(crate) fn observe(
        &mut self,
        model: usize,
        layer: usize,
        activation: Activation<'_>,
    ) -> Result<Result<(), cpu::Unusable>, Error> {
        let device = self.sums.device().clone();
        let what = "an activation";
        let values = match activation.values() {
            Some(Values::F16(values)) => Some(device.upload(what, values).map(Uploaded::F16)?),
            Some(Values::Bf16(values)) => Some(device.upload(what, values).map(Uploaded::Bf16)?),
            Some(Values::F32(values)) => Some(device.upload(what, values).map(Uploaded::F32)?),
            Some(Values::F64(_)) | None => None,
        };
        match values {
            Some(values) => self.observe_values(model, layer, &values.view()).map(Ok),
            None => self.observe_on_host(model, layer, activation),
        }
    }

    /// Enqueues the way from an activation that is on the device to its row.
    pub(crate) fn observe_values(
        &mut self,
        model: usize,
        layer: usize,
        values: &gramscope_cuda::Values<'_>,
    ) -> Result<(), Error> {
        Ok(self.sums.observe(model, layer, values)?)
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
        self.sums.observe_row(model, layer, &self.row, summary(row))?;
        Ok(Ok(()))
    }

    pub(crate) fn end_batch(&mut self) -> Result<(), Error> {
        Ok(self.sums.end_batch()?)
    }

    /// Waits for everything and fetches the sums.
    pub(crate) fn finish(self) -> Result<Totals, Error> {
        let gramscope_cuda::Sums { layers, pairs } = self.sums.finish()?;
        let mut layers = layers.into_iter().map(layer_sum);
        let layers = self.layers.iter().map(|&count| layers.by_ref().take(count).collect()).collect();
        Ok(Totals { layers, pairs })
    }
}

impl fmt::Debug for OnDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OnDevice").field("options", &self.options).field("layers", &self.layers).finish()
    }
}

fn summary(row: Row) -> RowSummary {
    match row {
        Row::Centred { exponent, norm } => RowSummary { norm, kappa: 0.0, exponent, state: RowSummary::CENTRED },
        Row::Zero => RowSummary { state: RowSummary::ZERO, ..RowSummary::default() },
        Row::Undefined => RowSummary { state: RowSummary::UNDEFINED, ..RowSummary::default() },
    }
}

fn layer_sum(sum: gramscope_cuda::LayerSum) -> LayerSum {
    match sum.state {
        gramscope_cuda::LayerSum::EMPTY => LayerSum::default(),
        state => LayerSum::from_parts(sum.unit, sum.own, state == gramscope_cuda::LayerSum::UNDEFINED),
    }
}
