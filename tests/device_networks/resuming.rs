//! A comparison on a GPU that goes on from the sums of another.

use std::sync::Arc;

use gramscope_cka::{Activation, Comparison, Error, Estimator, Kernel, Options, Similarity, Values};
use gramscope_cuda::Device;

use crate::support::driver::{driver, on_fake_driver};

/// Layers of a first and a second model.
const LAYERS: [usize; 2] = [2, 1];
const PAIRS: [(usize, usize); 2] = [(0, 0), (0, 1)];
const FEATURES: usize = 5;

/// Values without a pattern, the same each time.
fn values(batch: usize, model: usize, layer: usize, examples: usize) -> Vec<f32> {
    let seed = (batch * 7 + model * 3 + layer) as f32;
    (0..examples * FEATURES).map(|at| ((at as f32 + 1.0) * (seed + 1.5)).sin()).collect()
}

/// Examples of each batch. The second layer is zero in the first one, and batches are of very different scales.
const BATCHES: [usize; 3] = [5, 33, 5];

fn observe(comparison: &mut Comparison, batch: usize, spoilt: bool) -> Result<(), Error> {
    let examples = BATCHES[batch];
    comparison.begin_batch(examples)?;
    for (model, layers) in LAYERS.into_iter().enumerate() {
        for layer in 0..layers {
            let scale = if batch == 0 && layer == 1 { 0.0 } else { [1.0, 1e15, 1e-15][batch] };
            let mut values: Vec<f32> =
                values(batch, model, layer, examples).iter().map(|value| value * scale).collect();
            if spoilt && model == 1 {
                values[FEATURES] = f32::NAN;
            }
            comparison.observe(model, layer, Activation::new(Values::F32(&values), examples)?)?;
        }
    }
    comparison.end_batch()
}

fn bits(similarities: Vec<Similarity>) -> Vec<u64> {
    let numbers = |found: Similarity| [found.cka, found.hsic_xy, found.hsic_xx, found.hsic_yy].concat();
    similarities.into_iter().flat_map(numbers).map(f64::to_bits).collect()
}

#[test]
fn a_comparison_on_a_gpu_goes_on_from_the_sums_of_another_to_the_same_bits() {
    let name = "resuming::a_comparison_on_a_gpu_goes_on_from_the_sums_of_another_to_the_same_bits";
    if let Some(trace) = on_fake_driver(&driver(), name) {
        assert!(trace.launches() > 0);
        return;
    }
    let device = Arc::new(Device::open(0).unwrap());
    for (estimator, kernel) in
        [(Estimator::Unbiased, Kernel::Linear), (Estimator::Biased, Kernel::Rbf { bandwidth: 0.5 })]
    {
        let options = Options { estimator, kernel, ..Options::default() };
        let begin = || Comparison::on(Some(device.clone()), &LAYERS, &PAIRS, options).unwrap();
        let mut whole = begin();
        (0..3).for_each(|batch| observe(&mut whole, batch, false).unwrap());
        let expected = bits(whole.finish().unwrap());
        for split in 0..=3 {
            let (mut before, mut after) = (begin(), begin());
            (0..split).for_each(|batch| observe(&mut before, batch, false).unwrap());
            let totals = before.totals().unwrap();
            // What it has observed itself is forgotten, and what was wrong with it.
            observe(&mut after, 1, true).unwrap();
            after.go_on_from(totals.clone()).unwrap();
            assert_eq!(after.totals().unwrap(), totals);
            (split..3).for_each(|batch| observe(&mut after, batch, false).unwrap());
            assert_eq!(bits(after.finish().unwrap()), expected, "{options:?}, after {split} batches");
        }
        // What is not finite shows late, and never in sums that could be kept. Batches are counted from the first of all.
        let (mut before, mut after) = (begin(), begin());
        observe(&mut before, 0, false).unwrap();
        after.go_on_from(before.totals().unwrap()).unwrap();
        observe(&mut after, 1, true).unwrap();
        assert_eq!(after.totals(), Err(Error::NonFinite { model: 1, layer: 0, batch: 1, example: 1 }));
    }
}
