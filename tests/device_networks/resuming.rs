//! Comparisons and probes on a GPU that go on from what others have left.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_cka::{Activation, Comparison, Error, Estimator, Kernel, Options, Similarity, Values};
use gramscope_cuda::Device;
use gramscope_cuda::plan::Arithmetic;
use gramscope_nn::Processor;
use gramscope_study::probe::{ProbeOptions, ProbeResult, probe};
use gramscope_study::{Error as StudyError, Unfinished};
use gramscope_train::data::{self, DataConfig};
use gramscope_train::{Run, RunConfig, Start, TrainSettings, train};

use crate::support::driver::{driver, on_fake_driver};
use crate::support::files;

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

/// Probes of `run` that are stopped in batch `last`, from 1, if at all: their results, and the batch that they began with.
fn probe_until(
    last: usize,
    run: &Run,
    options: &ProbeOptions,
    processor: &Processor,
) -> (Result<ProbeResult, StudyError>, usize) {
    let (stop, mut first) = (AtomicBool::new(false), 0);
    let result = probe(run, options, processor, &stop, &mut |progress| {
        first = if first == 0 { progress.batch } else { first };
        stop.store(progress.batch >= last, Ordering::Relaxed);
    });
    (result, first)
}

/// In both types of activations, and where every probe has diverged: when and whether is the GPU's to remember.
#[test]
fn probes_on_a_gpu_go_on_from_what_others_have_learned_to_the_same_marks() {
    let name = "resuming::probes_on_a_gpu_go_on_from_what_others_have_learned_to_the_same_marks";
    if on_fake_driver(&driver(), name).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data =
        DataConfig { train_images: Some(20), test_images: Some(16), image_side: Some(9), ..DataConfig::default() };
    let settings = TrainSettings { depth: 8, width: 0.2, epochs: 1, batch_size: 10, ..TrainSettings::default() };
    let (config, never) = (RunConfig::new(data, settings), AtomicBool::new(false));
    let dataset = data::load(&config.data).unwrap();
    let place = dir.path().join("run");
    let run = train(&config, &dataset, &place, &Processor::Cpu, Start::Fresh, &never, &mut |_| ()).unwrap();
    let device = Arc::new(Device::open(0).unwrap());
    for (arithmetic, learning_rate) in
        [(Arithmetic::Float32, 0.01), (Arithmetic::Bf16, 0.01), (Arithmetic::Float32, 1e39)]
    {
        let processor = Processor::Gpu { device: device.clone(), arithmetic };
        // Three steps an epoch.
        let options = ProbeOptions { epochs: 3, batch_size: 7, learning_rate, ..ProbeOptions::default() };
        let whole = probe_until(usize::MAX, &run, &options, &processor).0.unwrap();
        assert_eq!(whole.info.diverged.is_empty(), learning_rate < 1.0);
        let [unfinished, once] = ["results", "once"].map(|name| Unfinished::within(&dir.path().join(name)));
        let keeping =
            |unfinished: &Unfinished| ProbeOptions { unfinished: Some(unfinished.clone()), ..options.clone() };
        let mut learned = 0;
        for last in [1, 3, 5, 9] {
            let (result, first) = probe_until(last, &run, &keeping(&unfinished), &processor);
            assert!(matches!(result, Err(StudyError::Interrupted)), "stopped in {last}");
            assert_eq!(first, learned + 1);
            learned = last;
        }
        // What they have learned by then is what probes have that are stopped once.
        probe_until(9, &run, &keeping(&once), &processor).0.unwrap_err();
        let [twice, once_only] = ["results", "once"].map(|name| dir.path().join(name));
        assert_eq!(files(&twice), files(&once_only));
        for file in files(&twice) {
            assert_eq!(
                fs::read(twice.join(&file)).unwrap(),
                fs::read(once_only.join(&file)).unwrap(),
                "{arithmetic:?}"
            );
        }
        let last = probe_until(usize::MAX, &run, &keeping(&unfinished), &processor).0.unwrap();
        assert_eq!(last, whole, "{arithmetic:?}");
        unfinished.remove();
        once.remove();
    }
}
