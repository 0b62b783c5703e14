//! Products of panels.

use gramscope_cuda::ceilings::Products;
use gramscope_cuda::{LayerSum, PairSums, Panels, RowSummary, Slice, Values, Weight, plan};

use super::triangle;
use crate::bench::Rows;
use crate::bench::kernels::{KernelBench, Subject, Times, WHAT, pattern, time, time_naive};

/// Products of halves that hsic issues for one.
const HSIC_PRODUCTS: f64 = 4.0;

impl KernelBench<'_> {
    /// A panel times itself and the sums of all pairs.
    pub(super) fn hsic(&self, rows: &mut Rows<'_>, shape: [usize; 2]) -> anyhow::Result<()> {
        let ([layers, length], device) = (shape, self.device);
        if !self.wants("hsic", "mma", "f32", &shape) {
            return Ok(());
        }
        let panel = device.upload(WHAT, &(0..layers * length).map(pattern).collect::<Vec<_>>())?;
        let mut pair_sums = device.zeros::<f64>(WHAT, layers * layers)?;
        let mut own = device.zeros::<LayerSum>(WHAT, layers)?;
        let mut weights = device.zeros::<Weight>(WHAT, layers)?;
        let summaries = device.zeros::<RowSummary>(WHAT, layers)?;
        let launcher = device.launcher();
        launcher.hsic_units(&mut own.as_view_mut(), &mut weights.as_view_mut(), &summaries.as_view(), layers, 1.0)?;
        let panels = || Panels {
            x: panel.as_view(),
            y: panel.as_view(),
            layers_x: layers,
            layers_y: layers,
            length,
            symmetric: true,
            splits: None,
        };
        let lengths = launcher.hsic_lengths(&panels())?;
        let mut partials = device.zeros::<f32>(WHAT, lengths.partials)?;
        let mut exponents_x = device.zeros::<i32>(WHAT, lengths.exponents_x)?;
        let mut exponents_y = device.zeros::<i32>(WHAT, lengths.exponents_y.max(1))?;
        let us = time(device, &mut |_| {
            let split = launcher.hsic_mma(
                &mut partials.as_view_mut(),
                &mut exponents_x.as_view_mut(),
                &mut exponents_y.as_view_mut(),
                &panels(),
            )?;
            let (partials, x, y) = (partials.as_view(), exponents_x.as_view(), exponents_y.as_view());
            let sums = &mut sums_of(&mut pair_sums, &weights, layers);
            launcher.hsic_accumulate(sums, &partials, &x, &y, &panels(), split.splits)
        })?;
        let all = (layers * layers * length) as f64;
        let naive_us = time_naive(device, all, &mut |_| {
            launcher.hsic_naive(&mut sums_of(&mut pair_sums, &weights, layers), &panels())
        })?;
        let cublas_us = self.cublas_us(|_| Values::F32(panel.as_view()), shape, false)?;
        let subject = Subject {
            kernel: "hsic",
            variant: "mma",
            stored: "f32",
            shape: &shape,
            bytes: 4.0 * (layers * length) as f64 + 8.0 * (layers * layers) as f64,
            partial_bytes: (lengths.partials * size_of::<f32>()) as f64,
            flops: HSIC_PRODUCTS * 2.0 * triangle(layers, plan::STRIP) * length as f64,
            products: Some(Products::Bf16),
        };
        self.write(rows, &subject, Times { us, naive_us, cublas_us, ..Times::default() })
    }
}

fn sums_of<'a>(sums: &'a mut Slice<f64>, weights: &'a Slice<Weight>, layers: usize) -> PairSums<'a> {
    let (weights_x, weights_y) = (weights.as_view(), weights.as_view());
    PairSums { sums: sums.as_view_mut(), stride: layers, weights_x, weights_y, factor: 1.0 }
}
