//! Comparing trained runs: one pass over the test images for any number of them.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use gramscope_nn::random::{Philox, Stream};
use gramscope_train::Run;
use gramscope_train::batches::images;
use gramscope_train::data::DataConfig;

use super::model::Model;
use super::{Batches, CompareOptions, Limit, Progress, TestImages, in_models, in_whole, result};
use crate::pcs::EXAMPLES;
use crate::results::{DroppedDominant, PairResult};
use crate::{Error, Result};

/// Which pairs of runs are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Each run with itself.
    Within,
    /// Each run with every later one.
    Across,
    /// Both.
    All,
    /// These, as positions in the list of runs; the first of each gives the rows.
    These(Vec<(usize, usize)>),
}

impl Pairs {
    /// The pairs among `models` models.
    fn among(&self, models: usize) -> Vec<(usize, usize)> {
        let every = (0..models).flat_map(|x| (x..models).map(move |y| (x, y)));
        match self {
            Self::Within => every.filter(|(x, y)| x == y).collect(),
            Self::Across => every.filter(|(x, y)| x != y).collect(),
            Self::All => every.collect(),
            Self::These(pairs) => pairs.clone(),
        }
    }
}

/// What comparisons of runs have of their own.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Which pairs.
    pub pairs: Pairs,
    /// Passes over the test images, each in a fresh order.
    pub passes: usize,
    /// Seed of those orders.
    pub seed: u64,
    /// Use only the first so many test images, class-balanced.
    pub examples: Option<usize>,
    /// Leave out this fraction of the images: of each run, those with the largest absolute projections on the first principal
    /// component of the layer whose first component explains most of its variance, over the first `examples` images (1,024,
    /// or all where there are fewer, unless told otherwise); what dominates one run is left out for all.
    pub drop_dominant: Option<f64>,
    /// Feed this data's test images instead of those of the data that the runs were trained on.
    pub data: Option<DataConfig>,
    /// Feed images of uniformly random bytes instead, as many and of the same size, drawn from the seed.
    pub noise: bool,
}

impl Default for RunOptions {
    /// The paper's ten passes over all test images, all pairs.
    fn default() -> Self {
        Self { pairs: Pairs::All, passes: 10, seed: 0, examples: None, drop_dominant: None, data: None, noise: false }
    }
}

/// Compares `runs` in one pass over the test images for all of them together: each batch goes through each network once,
/// whatever the number of pairs, and each activation is reduced to its Gram matrix when it is made. The order of pass p
/// depends on the seed and p alone.
///
/// # Errors
/// [`Error::Incomparable`] for runs of different data, or with nothing to compare; [`Error::NonFinite`] for NaN or infinity
/// in an activation, naming run, layer and batch; [`Error::Interrupted`] once `stop` is set; and what reading a run or its
/// data may say.
pub fn compare_runs(
    runs: &[Run],
    options: &CompareOptions,
    run_options: &RunOptions,
    device: &Device,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<PairResult>> {
    let pairs = run_options.pairs.among(runs.len());
    let passes = passes(run_options, &pairs)?;
    let limit = match (run_options.examples, run_options.drop_dominant) {
        (Some(examples), _) => Limit::Exactly(examples),
        (None, Some(_)) => Limit::AtMost(EXAMPLES),
        (None, None) => Limit::None,
    };
    let data = TestImages::of_runs(runs, run_options.data.as_ref(), limit)?;
    let data = if run_options.noise { data.into_noise(run_options.seed)? } else { data };
    let dropped = match run_options.drop_dominant {
        Some(fraction) => Some(DroppedDominant::of_runs(runs, fraction, &data, device, progress)?),
        None => None,
    };
    let kept = kept(data.len(), dropped.as_ref());
    let batches = Batches::cut(kept.len(), options)?;
    let models = Model::open_all(runs, options.layers.as_ref(), &data, device)?;

    let layers: Vec<usize> = models.iter().map(|model| model.info.layers.len()).collect();
    let mut comparison = options.begin(&layers, &pairs)?;
    let orders = Philox::new(run_options.seed, Stream::Evaluation);
    let all_batches = run_options.passes * batches.ranges.len();
    for pass in passes {
        let order: Vec<usize> =
            orders.sequence(pass).permutation(kept.len()).into_iter().map(|place| kept[place]).collect();
        for range in &batches.ranges {
            let batch = comparison.batches();
            let images = images(data.split(), &order[range.clone()], data.side(), device)?;
            comparison.begin_batch(range.len()).map_err(in_whole)?;
            for (index, model) in models.iter().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                model.observe(index, &images, batch, &mut comparison)?;
                progress(Progress {
                    done: batch * models.len() + index + 1,
                    total: all_batches * models.len(),
                    batch: batch + 1,
                    batches: all_batches,
                    subject: &model.info.name,
                });
            }
            comparison.end_batch().map_err(in_models(models.iter().map(|model| &model.info)))?;
        }
    }

    let similarities = comparison.finish().map_err(in_models(models.iter().map(|model| &model.info)))?;
    let info = data.info(run_options.passes, run_options.seed);
    let results = pairs.iter().zip(similarities).map(|(&(x, y), similarity)| {
        let mut result = result(&models[x].info, &models[y].info, similarity, &batches, options, info.clone());
        result.info.dropped_dominant = dropped.clone();
        result
    });
    Ok(results.collect())
}

/// The images that are not left out, ascending.
fn kept(images: usize, dropped: Option<&DroppedDominant>) -> Vec<usize> {
    let is_dropped = |index: &usize| dropped.is_some_and(|dropped| dropped.examples.contains(index));
    (0..images).filter(|index| !is_dropped(index)).collect()
}

/// The numbers of the passes.
fn passes(options: &RunOptions, pairs: &[(usize, usize)]) -> Result<std::ops::Range<u32>> {
    if pairs.is_empty() {
        return Err(Error::Incomparable("--pairs across needs at least two runs".to_owned()));
    }
    match u32::try_from(options.passes) {
        Ok(passes) if passes > 0 => Ok(0..passes),
        _ => Err(Error::Incomparable(format!("--passes {} must be from 1 to {}", options.passes, u32::MAX))),
    }
}

#[cfg(test)]
mod tests;
