//! Distances, their median, and kernel values.

use gramscope_cuda::{GramMut, Selection, Slice, plan};

use super::operands::Layers;
use super::{DISTANCES, triangle};
use crate::bench::Rows;
use crate::bench::kernels::{KernelBench, Subject, Times, WHAT, time, time_naive};

impl KernelBench<'_> {
    /// Squared distances in float64, and kernel values from them, their median found on the way.
    pub(super) fn rbf(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        if self.wanted("rbf", &["distances", "median and values"], "f32", &DISTANCES).is_empty() {
            return Ok(());
        }
        let ([n, features], device, launcher) = (DISTANCES, self.device, self.device.launcher());
        let layer = Layers::new(device, "f32", 4, [1, features])?;
        let split = plan::gram_double(n, features, device.plan());
        let mut partials = device.zeros::<f64>(WHAT, split.partials)?;
        let (mut distances, mut reach) = (device.zeros::<f64>(WHAT, n * n)?, device.zeros::<f64>(WHAT, n)?);
        let matrix = n * n * size_of::<f64>();
        let subject = Subject {
            kernel: "rbf",
            variant: "distances",
            stored: "f32",
            shape: &DISTANCES,
            bytes: (n * features * 4 + matrix) as f64,
            partial_bytes: (split.partials * size_of::<f64>()) as f64,
            flops: 3.0 * triangle(n, plan::DOUBLE_TILE) * features as f64,
            products: None,
        };
        let mut measure = |round: usize| {
            let split = layer.with(round, |x| launcher.gram_distances(&mut partials.as_view_mut(), x))?;
            let mut squares = GramMut { k: distances.as_view_mut(), reach: reach.as_view_mut() };
            launcher.ucenter_reduce_double(&mut squares, &partials.as_view(), None, n, &split.splits)
        };
        measure(0)?;
        self.alone(rows, &subject, &mut measure)?;

        let mut values = device.zeros::<f64>(WHAT, n * n)?;
        let (mut selection, mut histogram) =
            (device.zeros::<Selection>(WHAT, 1)?, device.zeros::<u32>(WHAT, plan::RADIX_BINS)?);
        let (mut arrivals, mut undefined) = (device.zeros::<u32>(WHAT, 1)?, device.zeros::<i32>(WHAT, 1)?);
        // The distances are read in every pass, and for the values.
        let bytes = ((plan::RADIX_PASSES + 2) * matrix + matrix) as f64;
        let subject = Subject { variant: "median and values", bytes, partial_bytes: 0.0, flops: 0.0, ..subject };
        if !self.wants("rbf", "median and values", "f32", &DISTANCES) {
            return Ok(());
        }
        let distances = &distances.as_view();
        let mut apply = |chosen: &Slice<Selection>| {
            let (values, undefined) = (&mut values.as_view_mut(), &mut undefined.as_view_mut());
            launcher.rbf_apply(values, undefined, distances, &chosen.as_view(), n, 0.5)
        };
        let us = time(device, &mut |_| {
            let (chosen, counts) = (&mut selection.as_view_mut(), &mut histogram.as_view_mut());
            launcher.rbf_median(chosen, counts, &mut arrivals.as_view_mut(), distances, n)?;
            apply(&selection)
        })?;
        // Each distance is compared with all of them, twice.
        let naive_us = time_naive(device, 2.0 * (n as f64).powi(4), &mut |_| {
            launcher.rbf_naive(&mut selection.as_view_mut(), distances, n)?;
            apply(&selection)
        })?;
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }
}
