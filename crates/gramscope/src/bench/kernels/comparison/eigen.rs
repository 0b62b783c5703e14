//! Leading eigenpairs.

use gramscope_cuda::{EigenSummary, Gram, Grams, plan};
use gramscope_nn::random::{Philox, Stream};
use gramscope_reference::{Matrix, gram};

use crate::bench::Rows;
use crate::bench::kernels::{KernelBench, Subject, Times, WHAT, time, time_naive};

/// Operations of the naive twin: each of twelve sweeps turns every pair of rows, of columns and of eigenvectors once, a turn of two values
/// being six operations.
const JACOBI_OPERATIONS: usize = 12 * 3 * 6;

impl KernelBench<'_> {
    /// The two leading eigenpairs of many Gram matrices at once, of features whose sizes fall like 1/j.
    pub(super) fn eigen(&self, rows: &mut Rows<'_>, shape: [usize; 2]) -> anyhow::Result<()> {
        if !self.wants("eigen", "subspace", "f64", &shape) {
            return Ok(());
        }
        let ([layers, n], device, launcher) = (shape, self.device, self.device.launcher());
        let features = 2 * n;
        let mut random = Philox::new(0, Stream::Evaluation).sequence(u32::MAX);
        let x = Matrix::from_fn(n, features, |_, feature| random.normal() / (feature + 1) as f64);
        let one = gram::linear(&x).data;
        let k = device.upload(WHAT, &one.repeat(layers))?;
        let mut sums = device.zeros::<f64>(WHAT, layers * 3 * n)?;
        let (mut arrivals, reach) = (device.zeros::<u32>(WHAT, 1)?, device.zeros::<f64>(WHAT, n)?);
        for layer in 0..layers {
            let gram = Gram { k: k.slice(layer * n * n..(layer + 1) * n * n), reach: reach.as_view() };
            let (sums, arrivals) =
                (&mut sums.slice_mut(layer * 3 * n..(layer + 1) * 3 * n), &mut arrivals.as_view_mut());
            launcher.ucenter_rows(sums, None, arrivals, &gram, 1, n, true)?;
        }
        let grams = Grams { k: k.as_view(), sums: sums.as_view(), layers, examples: n };
        let length = layers * plan::EIGEN_VECTORS * n;
        let (mut vectors, mut scratch) = (device.zeros::<f64>(WHAT, length)?, device.zeros::<f64>(WHAT, length)?);
        let mut summaries = device.zeros::<EigenSummary>(WHAT, layers)?;
        let mut decompose = |_: usize| {
            let (vectors, summaries) = (&mut vectors.as_view_mut(), &mut summaries.as_view_mut());
            launcher.eigen_subspace(vectors, summaries, &mut scratch.as_view_mut(), &grams, plan::PRINCIPAL_COMPONENTS)
        };
        decompose(0)?;
        let us = time(device, &mut decompose)?;
        let [summary, ..] = device.download(&summaries)?[..] else { return Ok(()) };
        let steps = f64::from(summary.iterations);
        let pairs = layers * (n * (n - 1) / 2);
        let (mut values, mut work) =
            (device.zeros::<f64>(WHAT, layers * n)?, device.zeros::<f64>(WHAT, layers * 2 * n * n)?);
        let naive_us = time_naive(device, (JACOBI_OPERATIONS * n * pairs) as f64, &mut |_| {
            let (values, work) = (&mut values.as_view_mut(), &mut work.as_view_mut());
            launcher.eigen_naive(values, work, &grams, 1, 0.0)
        })?;
        let subject = Subject {
            kernel: "eigen",
            variant: "subspace",
            stored: "f64",
            shape: &shape,
            // K at every step.
            bytes: steps * (layers * n * n * size_of::<f64>()) as f64,
            partial_bytes: 0.0,
            flops: steps * (layers * 2 * n * n * plan::EIGEN_VECTORS) as f64,
            products: None,
        };
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }
}
