//! The candle operations of batch norm: arguments to slices, and back.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor};

use super::super::values;
use super::cpu::{self, Channels};
use super::{EPSILON, MOMENTUM};

/// x to its mean and variance.
pub(super) struct Statistics;

impl CustomOp1 for Statistics {
    fn name(&self) -> &'static str {
        "batch norm statistics"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let channels = layout.dims()[3];
        let statistics = cpu::statistics(values::of("batch norm: x", x, layout)?, channels);
        Ok((CpuStorage::F32(statistics), Shape::from((2, channels))))
    }
}

/// x and its statistics, into the result.
pub(super) struct Normalise<'a> {
    pub(super) gamma: &'a Tensor,
    pub(super) beta: &'a Tensor,
    pub(super) addend: Option<&'a Tensor>,
    pub(super) relu: bool,
}

impl InplaceOp3 for Normalise<'_> {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<()> {
        let channels = channels(statistics, statistics_layout, self.gamma, self.beta)?;
        let y = values::of_mut("batch norm: y", y, y_layout)?;
        let x = values::of("batch norm: x", x, x_layout)?;
        match self.addend {
            None => cpu::normalise(y, x, &channels, self.relu),
            Some(addend) => {
                let (addend, layout) = addend.storage_and_layout();
                let addend = values::of("batch norm: addend", values::host("batch norm: addend", &addend)?, layout)?;
                cpu::normalise_and_add(y, x, &channels, addend, self.relu);
            }
        }
        Ok(())
    }
}

/// x, with its statistics, into the result.
pub(super) struct NormaliseInPlace<'a> {
    pub(super) gamma: &'a Tensor,
    pub(super) beta: &'a Tensor,
    pub(super) relu: bool,
}

impl InplaceOp2 for NormaliseInPlace<'_> {
    fn name(&self) -> &'static str {
        "batch norm in place"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<()> {
        let channels = channels(statistics, statistics_layout, self.gamma, self.beta)?;
        cpu::normalise_in_place(values::of_mut("batch norm: x", x, x_layout)?, &channels, self.relu);
        Ok(())
    }
}

/// One running statistic towards `factor` times the batch's.
pub(super) struct Track {
    pub(super) factor: f64,
}

impl InplaceOp2 for Track {
    fn name(&self) -> &'static str {
        "batch norm running statistics"
    }

    fn cpu_fwd(
        &self,
        running: &mut CpuStorage,
        running_layout: &Layout,
        batch: &CpuStorage,
        batch_layout: &Layout,
    ) -> Result<()> {
        let batch = values::of("batch norm: statistics", batch, batch_layout)?;
        for (running, batch) in values::of_mut("batch norm: running", running, running_layout)?.iter_mut().zip(batch) {
            let target = self.factor * f64::from(*batch);
            *running = (MOMENTUM * f64::from(*running) + (1.0 - MOMENTUM) * target) as f32;
        }
        Ok(())
    }
}

/// x, dy and the statistics to dbeta and dgamma `[2, c]`, behind a ReLU.
pub(super) struct ReluSums<'a> {
    pub(super) gamma: &'a Tensor,
    pub(super) beta: &'a Tensor,
}

impl CustomOp3 for ReluSums<'_> {
    fn name(&self) -> &'static str {
        "batch norm and ReLU, parameter gradients"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let channels = channels(statistics, statistics_layout, self.gamma, self.beta)?;
        let x = values::of("batch norm: x", x, x_layout)?;
        let sums = cpu::relu_sums(x, values::of("batch norm: dy", dy, dy_layout)?, &channels);
        Ok((CpuStorage::F32(sums), statistics_layout.shape().clone()))
    }
}

/// x, dy and the statistics to dbeta and dgamma `[2, c]`.
pub(super) struct Sums;

impl CustomOp3 for Sums {
    fn name(&self) -> &'static str {
        "batch norm, parameter gradients"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let channels = Channels::plain(values::of("batch norm: statistics", statistics, statistics_layout)?, EPSILON);
        let x = values::of("batch norm: x", x, x_layout)?;
        let sums = cpu::sums(x, values::of("batch norm: dy", dy, dy_layout)?, &channels);
        Ok((CpuStorage::F32(sums), statistics_layout.shape().clone()))
    }
}

/// dy, with x and the statistics, into dx, behind a ReLU.
pub(super) struct ReluInputGradient<'a> {
    pub(super) gamma: &'a Tensor,
    pub(super) beta: &'a Tensor,
    pub(super) sums: &'a Tensor,
}

impl InplaceOp3 for ReluInputGradient<'_> {
    fn name(&self) -> &'static str {
        "batch norm and ReLU, input gradient"
    }

    fn cpu_fwd(
        &self,
        dy: &mut CpuStorage,
        dy_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<()> {
        let channels = channels(statistics, statistics_layout, self.gamma, self.beta)?;
        let sums = values::small("batch norm: sums", self.sums)?;
        let x = values::of("batch norm: x", x, x_layout)?;
        cpu::relu_input_gradient(values::of_mut("batch norm: dy", dy, dy_layout)?, x, &channels, &sums);
        Ok(())
    }
}

/// dy, with the ReLU's result, into the gradient behind the ReLU; `sums` receives dbeta and dgamma `[2, c]`.
pub(super) struct MaskAndSum<'a> {
    pub(super) x: &'a Tensor,
    pub(super) statistics: &'a Tensor,
    pub(super) sums: OnceLock<Tensor>,
}

impl InplaceOp2 for MaskAndSum<'_> {
    fn name(&self) -> &'static str {
        "batch norm, addition and ReLU, parameter gradients"
    }

    fn cpu_fwd(&self, dy: &mut CpuStorage, dy_layout: &Layout, y: &CpuStorage, y_layout: &Layout) -> Result<()> {
        let channels = Channels::plain(&values::small("batch norm: statistics", self.statistics)?, EPSILON);
        let (x, x_layout) = self.x.storage_and_layout();
        let x = values::of("batch norm: x", values::host("batch norm: x", &x)?, x_layout)?;
        let y = values::of("batch norm: y", y, y_layout)?;
        let sums = cpu::mask_and_sum(values::of_mut("batch norm: dy", dy, dy_layout)?, x, y, &channels);
        // The operation is applied once, so the cell is empty.
        let _ = self.sums.set(Tensor::from_vec(sums, self.statistics.shape(), &Device::Cpu)?);
        Ok(())
    }
}

/// x, with the gradient behind the ReLU and the statistics, into dx.
pub(super) struct InputGradient<'a> {
    pub(super) gamma: &'a Tensor,
    pub(super) sums: &'a Tensor,
}

impl InplaceOp3 for InputGradient<'_> {
    fn name(&self) -> &'static str {
        "batch norm, input gradient"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<()> {
        let statistics = values::of("batch norm: statistics", statistics, statistics_layout)?;
        let gamma = values::small("batch norm: gamma", self.gamma)?;
        let channels = Channels::new(statistics, &gamma, &vec![0.0; gamma.len()], EPSILON);
        let sums = values::small("batch norm: sums", self.sums)?;
        let g = values::of("batch norm: dy", g, g_layout)?;
        cpu::input_gradient(values::of_mut("batch norm: x", x, x_layout)?, g, &channels, &sums);
        Ok(())
    }
}

/// What is known of each channel behind a batch norm with these statistics, gamma and beta.
fn channels(statistics: &CpuStorage, layout: &Layout, gamma: &Tensor, beta: &Tensor) -> Result<Channels> {
    let statistics = values::of("batch norm: statistics", statistics, layout)?;
    let (gamma, beta) = (values::small("batch norm: gamma", gamma)?, values::small("batch norm: beta", beta)?);
    Ok(Channels::new(statistics, &gamma, &beta, EPSILON))
}
