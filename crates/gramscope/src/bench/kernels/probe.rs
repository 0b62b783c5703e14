//! A linear probe: the three launches of a step, and the two of an evaluation.

use gramscope_cuda::{DeviceProbes, Error, ProbeBatch, ProbeInput, ProbeOutcome, ProbeRecord, ProbeStep, plan};
use half::bf16;

use super::comparison::{EXAMPLES, features};
use super::{KernelBench, Rotating, Subject, Times, WHAT, time, time_naive};
use crate::bench::Rows;
use crate::stored::Stored;

/// Classes that probes tell apart.
const CLASSES: usize = 10;
const STEP: ProbeStep = ProbeStep { learning_rate: 1e-3, momentum: 0.9 };

impl KernelBench<'_> {
    /// Probes on activations of both types.
    pub(super) fn probes(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        for features in features() {
            let measured = self.probe::<f32>(rows, features);
            self.unless_too_large(measured, rows, "probe", f32::NAME, &[EXAMPLES, features])?;
            let measured = self.probe::<bf16>(rows, features);
            self.unless_too_large(measured, rows, "probe", bf16::NAME, &[EXAMPLES, features])?;
        }
        Ok(())
    }

    fn probe<T: Stored>(&self, rows: &mut Rows<'_>, features: usize) -> anyhow::Result<()> {
        let shape = [EXAMPLES, features];
        // A step reads x twice, W twice and V, and writes W and V; an evaluation reads x and W.
        for (variant, learns, passes, weights) in [("step", true, 2, 5), ("evaluation", false, 1, 1)] {
            if !self.wants("probe", variant, T::NAME, &shape) {
                continue;
            }
            let inputs = Rotating::<T>::new(self.device, EXAMPLES * features)?;
            let mut probes = DeviceProbes::new(self.device.clone(), &[ProbeInput::Whole(features)], CLASSES, STEP)?;
            probes.begin_batch(&labels())?;
            let us = time(self.device, &mut |round| {
                let x = T::layer(inputs.view(round));
                if learns { probes.learn(0, &x) } else { probes.evaluate(0, &x) }
            })?;
            let flops = (passes * 2 * EXAMPLES * features * CLASSES) as f64;
            let naive_us = self.naive_probe(&inputs, features, learns, flops)?;
            let subject = Subject {
                kernel: "probe",
                variant,
                stored: T::NAME,
                shape: &shape,
                bytes: (passes * EXAMPLES * features * size_of::<T>() + weights * CLASSES * features * 4) as f64,
                partial_bytes: (plan::probe::probe(EXAMPLES, features, CLASSES).partials * 4) as f64,
                flops,
                products: None,
            };
            self.write(rows, &subject, Times { us, naive_us, ..Times::default() })?;
        }
        Ok(())
    }

    /// What the naive twins of products and update take, with the outcome between them.
    fn naive_probe<T: Stored>(
        &self,
        inputs: &Rotating<T>,
        features: usize,
        learns: bool,
        flops: f64,
    ) -> Result<Option<f64>, Error> {
        let (device, launcher) = (self.device, self.device.launcher());
        let (lengths, parameters) = (plan::probe::probe(EXAMPLES, features, CLASSES), (features + 1) * CLASSES);
        let floats = |length| device.zeros::<f32>(WHAT, length);
        let (mut weights, mut velocities) = (floats(parameters)?, floats(parameters)?);
        // The naive products are of one part.
        let (mut partials, mut logits) = (floats(EXAMPLES * CLASSES)?, floats(EXAMPLES * CLASSES)?);
        let mut dlogits = floats(EXAMPLES * lengths.row)?;
        let (mut totals, mut arrivals) = (device.zeros::<f64>(WHAT, lengths.totals)?, device.zeros::<u32>(WHAT, 1)?);
        let (mut record, labels) = (device.zeros::<ProbeRecord>(WHAT, 1)?, device.upload(WHAT, &labels())?);
        time_naive(device, flops, &mut |round| {
            let batch = ProbeBatch { x: inputs.view(round), examples: EXAMPLES, features, classes: CLASSES };
            let sums = &mut partials.as_view_mut();
            let splits = launcher.probe_products_naive(sums, &batch, &weights.as_view(), &record.as_view())?;
            let outcome = &mut ProbeOutcome {
                dlogits: learns.then(|| dlogits.as_view_mut()),
                logits: logits.as_view_mut(),
                totals: totals.as_view_mut(),
                arrivals: arrivals.as_view_mut(),
            };
            let (of_weights, of_labels, sums) = (&weights.as_view(), &labels.as_view(), &partials.as_view());
            launcher.probe_outcome(outcome, &mut record.as_view_mut(), sums, splits, &batch, of_weights, of_labels)?;
            if !learns {
                return Ok(());
            }
            let (weights, velocities) = (&mut weights.as_view_mut(), &mut velocities.as_view_mut());
            launcher.probe_update_naive(weights, velocities, &batch, &dlogits.as_view(), &record.as_view(), STEP)
        })
    }
}

/// A label an example.
fn labels() -> Vec<u32> {
    (0..EXAMPLES).map(|example| (example % CLASSES) as u32).collect()
}
