//! A linear probe: the three launches of a step, and the two of an evaluation.

use gramscope_cuda::{DeviceProbes, ProbeInput, ProbeStep};
use half::bf16;

use super::comparison::{EXAMPLES, FEATURES};
use super::{Bench, Rotating, Subject, Times, time};
use crate::bench::Rows;
use crate::stored::Stored;

/// Classes that probes tell apart.
const CLASSES: usize = 10;

impl Bench<'_> {
    /// Probes on activations of both types.
    pub(super) fn probes(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        for features in FEATURES {
            self.probe::<f32>(rows, features)?;
            self.probe::<bf16>(rows, features)?;
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
            let step = ProbeStep { learning_rate: 1e-3, momentum: 0.9 };
            let mut probes = DeviceProbes::new(self.device.clone(), &[ProbeInput::Whole(features)], CLASSES, step)?;
            let labels: Vec<u32> = (0..EXAMPLES).map(|example| (example % CLASSES) as u32).collect();
            probes.begin_batch(&labels)?;
            let us = time(self.device, &mut |round| {
                let x = T::layer(inputs.view(round));
                if learns { probes.learn(0, &x) } else { probes.evaluate(0, &x) }
            })?;
            let subject = Subject {
                kernel: "probe",
                variant,
                stored: T::NAME,
                shape: &shape,
                bytes: (passes * EXAMPLES * features * size_of::<T>() + weights * CLASSES * features * 4) as f64,
                flops: (passes * 2 * EXAMPLES * features * CLASSES) as f64,
                products: None,
            };
            self.write(rows, &subject, Times { us, ..Times::default() })?;
        }
        Ok(())
    }
}
