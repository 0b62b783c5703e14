//! From partial sums of Gram matrices to rows of panels.

use gramscope_cuda::{Gram, GramMut, RowSummary};

use super::operands::{Layers, Sums};
use crate::bench::Rows;
use crate::bench::kernels::{KernelBench, Subject, Times, WHAT, time, time_naive};

impl KernelBench<'_> {
    /// From partial sums of Gram matrices to rows of the panel.
    pub(super) fn ucenter(&self, rows: &mut Rows<'_>, shape: [usize; 3]) -> anyhow::Result<()> {
        if self.wanted("ucenter", &["reduce", "rows and pack"], "f32", &shape).is_empty() {
            return Ok(());
        }
        let ([layers, n, features], device, launcher) = (shape, self.device, self.device.launcher());
        let mut together = Layers::new(device, "f32", 4, [layers, features])?;
        let Some(mut sums) = Sums::new(device, [layers, features], true)? else { return Ok(()) };
        together.products(&mut sums, true, 0)?;
        let mut k = device.zeros::<f64>(WHAT, layers * n * n)?;
        let mut reach = device.zeros::<f64>(WHAT, layers * n)?;
        let matrices = layers * n * n * size_of::<f64>();
        let subject = Subject {
            kernel: "ucenter",
            variant: "reduce",
            stored: "f32",
            shape: &shape,
            // Partial sums are what it is given.
            bytes: sums.bytes() + matrices as f64,
            partial_bytes: 0.0,
            flops: 0.0,
            products: None,
        };
        let mut reduce = |_: usize| {
            let mut gram = GramMut { k: k.as_view_mut(), reach: reach.as_view_mut() };
            launcher.ucenter_reduce(&mut gram, &sums.partials(), None, n, &sums.split.splits)
        };
        reduce(0)?;
        self.alone(rows, &subject, &mut reduce)?;
        if !self.wants("ucenter", "rows and pack", "f32", &shape) {
            return Ok(());
        }

        let length = layers * (n * (n - 1) / 2);
        let (mut row, mut summaries) = (device.zeros::<f32>(WHAT, length)?, device.zeros::<RowSummary>(WHAT, layers)?);
        let mut of_rows = device.zeros::<f64>(WHAT, layers * 3 * n)?;
        let mut norms = device.zeros::<f64>(WHAT, layers * n)?;
        let (mut arrivals, flags) = (device.zeros::<u32>(WHAT, layers)?, device.zeros::<i32>(WHAT, layers)?);
        let gram = Gram { k: k.as_view(), reach: reach.as_view() };
        // K is read twice.
        let bytes = (2 * matrices + length * size_of::<f32>()) as f64;
        let subject = Subject { variant: "rows and pack", bytes, ..subject };
        let flags = &flags.as_view();
        let us = time(device, &mut |_| {
            let (sums, arrivals) = (&mut of_rows.as_view_mut(), &mut arrivals.as_view_mut());
            launcher.ucenter_rows(sums, None, arrivals, &gram, layers, n, false)?;
            let (row, summaries) = (&mut row.as_view_mut(), &mut summaries.as_view_mut());
            let (norms, sums) = (&mut norms.as_view_mut(), &of_rows.as_view());
            launcher.ucenter_pack(row, summaries, norms, arrivals, &gram, sums, flags, None, layers, n, false)
        })?;
        let naive_us = time_naive(device, (layers * n * n) as f64, &mut |_| {
            let (row, summaries) = (&mut row.as_view_mut(), &mut summaries.as_view_mut());
            launcher.ucenter_naive(row, summaries, &mut of_rows.as_view_mut(), &gram, flags, layers, n, false)
        })?;
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }
}
