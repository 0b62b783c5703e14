//! Comparing trained runs: one pass over the test images for any number of them.

use std::sync::atomic::AtomicBool;

use gramscope_cka::{Comparison, DeviceMemory, Memory};
use gramscope_nn::Processor;
use gramscope_train::data::DataConfig;
use gramscope_train::{Run, TrainSettings};
use serde::{Deserialize, Serialize};

use super::model::Model;
use super::unfinished::{BatchesTaken, ComparisonTask, totals};
use super::{
    Batch, Batches, CompareOptions, Feed, Limit, Progress, TestImages, batches, forward_bytes, in_models, in_whole,
    result,
};
use crate::family;
use crate::names::run_names;
use crate::pair::{DroppedDominant, PairResult};
use crate::pcs::EXAMPLES;
use crate::provenance::{ShuffledPasses, Versions};
use crate::unfinished::Keeper;
use crate::{Error, Result, Setting};

/// Which pairs of runs are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// Each run with itself.
    Within,
    /// Each run with every later one.
    Across,
    /// Both.
    All,
    /// Runs that differ in their seed alone, each with every later one.
    SameArchitecture,
    /// Runs of one seed that differ in anything else, each with every later one.
    SameSeed,
    /// These, as positions in the list of runs; the first of each gives the rows.
    #[serde(skip)]
    These(Vec<(usize, usize)>),
}

impl Pairs {
    /// Whether every run is compared with itself.
    pub(crate) fn are_within(&self) -> bool {
        matches!(self, Self::Within | Self::All)
    }

    /// The pairs among `runs`.
    ///
    /// # Errors
    /// [`Error::Incomparable`] where there is none, and what telling the runs apart may say.
    pub(crate) fn among(&self, runs: &[Run]) -> Result<Vec<(usize, usize)>> {
        let members = if self.go_by_settings() { family::in_order_of(runs)? } else { Vec::new() };
        self.among_models(runs.len(), |run| (members[run].architecture(), members[run].settings.seed))
    }

    /// The pairs among the runs that `settings` will make.
    ///
    /// # Errors
    /// [`Error::Incomparable`] where there is none.
    pub(crate) fn among_settings(&self, settings: &[&TrainSettings]) -> Result<Vec<(usize, usize)>> {
        self.among_models(settings.len(), |run| {
            let settings = settings[run];
            (TrainSettings { seed: 0, checkpoint_every: None, ..settings.clone() }, settings.seed)
        })
    }

    /// Whether settings say which runs are compared.
    fn go_by_settings(&self) -> bool {
        matches!(self, Self::SameArchitecture | Self::SameSeed)
    }

    /// The pairs among so many models, whose architecture and seed `kind` says where it is asked.
    fn among_models<A: PartialEq>(
        &self,
        models: usize,
        kind: impl Fn(usize) -> (A, u64),
    ) -> Result<Vec<(usize, usize)>> {
        let every = (0..models).flat_map(|x| (x..models).map(move |y| (x, y)));
        let none = |what: &str| Err(Error::incomparable(what).mended_by(&[Setting::Pairs]));
        let pairs: Vec<_> = match self {
            Self::Within => every.filter(|(x, y)| x == y).collect(),
            Self::Across => every.filter(|(x, y)| x != y).collect(),
            Self::All => every.collect(),
            Self::SameArchitecture | Self::SameSeed => {
                let kinds: Vec<(A, u64)> = (0..models).map(kind).collect();
                let wanted = |&(x, y): &(usize, usize)| {
                    let ((architecture_x, seed_x), (architecture_y, seed_y)) = (&kinds[x], &kinds[y]);
                    match self {
                        Self::SameArchitecture => architecture_x == architecture_y && seed_x != seed_y,
                        _ => architecture_x != architecture_y && seed_x == seed_y,
                    }
                };
                every.filter(wanted).collect()
            }
            Self::These(pairs) => pairs.clone(),
        };
        match (pairs.is_empty(), self) {
            (false, _) => Ok(pairs),
            (true, Self::SameArchitecture) => none("no two runs differ in their seed alone"),
            (true, Self::SameSeed) => none("no two runs of different settings have the same seed"),
            (true, Self::Across) => none("comparing across runs needs at least two"),
            (true, _) => Err(Error::incomparable("there is no run to compare; name at least one")),
        }
    }
}

/// What the models of each pair among `runs` are called, the rows' first: the names of the results' directories.
///
/// # Errors
/// [`Error::Incomparable`] where there is no such pair, and what telling the runs apart may say.
pub fn pair_names(runs: &[Run], pairs: &Pairs) -> Result<Vec<(String, String)>> {
    let names = run_names(runs);
    Ok(pairs.among(runs)?.into_iter().map(|(x, y)| (names[x].clone(), names[y].clone())).collect())
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
    /// Leave out this fraction of the images: of each run, those with the largest absolute projections on the first principal
    /// component of the layer whose first component explains most of its variance, over the first
    /// [`CompareOptions::examples`] images (1,024, or all where there are fewer, unless told otherwise); what dominates one run is
    /// left out for all.
    pub drop_dominant: Option<f64>,
    /// The layer whose component that is, instead.
    pub dominant_layer: Option<String>,
    /// Feed this data's test images instead of those of the data that the runs were trained on.
    pub data: Option<DataConfig>,
    /// Feed images of uniformly random bytes instead, as many and of the same size, drawn from the seed.
    pub noise: bool,
}

impl Default for RunOptions {
    /// The paper's ten passes over all test images, all pairs.
    fn default() -> Self {
        Self {
            pairs: Pairs::All,
            passes: 10,
            seed: 0,
            drop_dominant: None,
            dominant_layer: None,
            data: None,
            noise: false,
        }
    }
}

/// Compares `runs` in one pass over the test images for all of them together: each batch goes through each network once,
/// whatever the number of pairs, and each activation is reduced to its Gram matrix when it is made. The order of pass p
/// depends on the seed and p alone.
///
/// # Errors
/// [`Error::Incomparable`] for runs of different data, or with nothing to compare; [`Error::NonFinite`] for NaN or infinity
/// in an activation, naming run, layer and batch; [`Error::Memory`] where what may be taken is too little;
/// [`Error::Interrupted`] once `stop` is set and a batch is over; and what reading a run or its data may say.
pub fn compare_runs(
    runs: &[Run],
    options: &CompareOptions,
    run_options: &RunOptions,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<PairResult>> {
    // Networks are compared where they run.
    let options = &CompareOptions { device: processor.gpu().cloned(), ..options.clone() };
    let pairs = run_options.pairs.among(runs)?;
    let passes = batches::passes(run_options.passes)?;
    let (data, dropped) = test_images(runs, options, run_options, processor, stop, progress)?;
    let kept = kept(data.len(), dropped.as_ref());
    let batches = Batches::cut(kept.len(), options)?;
    let models = Model::open_all(runs, options.layers.as_ref(), &data, processor)?;
    if options.cka.takes_together(options.batch_size) {
        models.iter().for_each(Model::hand_out_together);
    }
    let (feed, mut comparison) = begin(options, &pairs, &batches, &data, &models)?;
    let versions = Versions::on(processor);
    let shuffled = ShuffledPasses { passes: run_options.passes, seed: run_options.seed };
    let mut keeper = Keeper::new(options.unfinished.as_ref(), || {
        Ok(ComparisonTask {
            models: models.iter().map(Model::digest).collect::<Result<_>>()?,
            layers: models.iter().map(|model| model.info.layers.clone()).collect(),
            pairs: pairs.clone(),
            how: options.cka.into(),
            images: Some(data.digest(&kept)),
            batches: BatchesTaken::new(kept.len(), &batches, Some(shuffled)),
            versions: versions.clone(),
        })
    });
    if let Some(totals) = keeper.take_up(totals)? {
        comparison.go_on_from(totals).map_err(in_whole)?;
    }
    let all_batches = run_options.passes * batches.ranges.len();
    let mut turns = Turns { models: &models, last: None, all_batches, done: 0 };
    for (pass, ranges) in batches.after(comparison.batches(), passes) {
        let order = batches::shuffled(kept.len(), pass, run_options.seed);
        let order: Vec<usize> = order.into_iter().map(|place| kept[place]).collect();
        let order = feed.in_order(&order)?;
        for range in ranges {
            let _range = gramscope_cuda::range(&format!("batch {}", comparison.batches() + 1));
            let images = feed.batch_of(&order, range.clone())?;
            turns.observe(&images, range.len(), &mut comparison, progress)?;
            keeper
                .batch_ended(stop, || comparison.totals().map_err(in_models(models.iter().map(|model| &model.info))))?;
        }
    }
    keeper.ended(|| comparison.totals().map_err(in_models(models.iter().map(|model| &model.info))))?;
    drop(keeper);

    let similarities = comparison.finish().map_err(in_models(models.iter().map(|model| &model.info)))?;
    let info = data.info(run_options.passes, run_options.seed);
    let results = pairs.iter().zip(similarities).map(|(&(x, y), similarity)| {
        let (x, y) = (&models[x], &models[y]);
        let mut result = result(&x.info, &y.info, similarity, &batches, options, info.clone(), versions.clone());
        result.info.dropped_dominant = dropped.clone();
        result
    });
    Ok(results.collect())
}

/// The images that are looked at, and which of them are left out.
fn test_images(
    runs: &[Run],
    options: &CompareOptions,
    run_options: &RunOptions,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(TestImages, Option<DroppedDominant>)> {
    let limit = match (options.examples, run_options.drop_dominant) {
        (Some(examples), _) => Limit::Exactly(examples),
        (None, Some(_)) => Limit::AtMost(EXAMPLES),
        (None, None) => Limit::None,
    };
    let data = TestImages::of_runs(runs, run_options.data.as_ref(), limit)?;
    let data = if run_options.noise { data.into_noise(run_options.seed)? } else { data };
    let Some(fraction) = run_options.drop_dominant else { return Ok((data, None)) };
    let of = (fraction, run_options.dominant_layer.as_deref());
    let dropped = DroppedDominant::of_runs(runs, of, &data, (processor, options.memory), stop, progress)?;
    Ok((data, Some(dropped)))
}

/// What feeds `models` with `data`, and their comparison before its first batch, within the memory that they may take.
fn begin<'a>(
    options: &CompareOptions,
    pairs: &[(usize, usize)],
    batches: &Batches,
    data: &'a TestImages,
    models: &[Model],
) -> Result<(Feed<'a>, Comparison)> {
    let layers: Vec<usize> = models.iter().map(|model| model.info.layers.len()).collect();
    // What is on a GPU already is not uploaded, unless the host normalises it first.
    let stays = !options.cka.normalise_examples && models.iter().all(|model| model.gpu().is_some());
    let networks = models.iter().map(Model::bytes).sum::<u64>() + forward_bytes(models, options.batch_size, stays);
    let needs = options.needs(batches.largest(), &layers, pairs, 0, data.bytes() + networks);
    let shares = needs.within(options.memory.host)?;

    let limit = options.memory.device;
    let feed = Feed::new(data, models, limit)?;
    let features = models.iter().map(Model::largest_output).max().unwrap_or(0);
    let largest_upload = if stays { 0 } else { (features * options.batch_size * size_of::<f32>()) as u64 };
    let memory = feed.device_memory(models, options.batch_size);
    let device = DeviceMemory { limit, features, largest_upload, ..memory };
    let comparison = options.begin(&layers, pairs, Memory { panels: shares.panels, device })?;
    Ok((feed, comparison))
}

/// Networks that take turns with each batch.
struct Turns<'a> {
    models: &'a [Model],
    /// The network that was run last, which still has the memory of its activations.
    last: Option<usize>,
    /// Of all passes.
    all_batches: usize,
    /// Activations that were observed, or had been before.
    done: usize,
}

impl Turns<'_> {
    /// Runs every network over a batch of so many images, again and again where not all layers fit into memory at once.
    fn observe(
        &mut self,
        images: &Batch,
        examples: usize,
        comparison: &mut Comparison,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        comparison.begin_batch(examples).map_err(in_whole)?;
        self.done = comparison.batches() * comparison.observations();
        loop {
            for index in 0..self.models.len() {
                self.observe_model(index, images, comparison, progress)?;
            }
            if !comparison.next_round().map_err(in_whole)? {
                break;
            }
        }
        comparison.end_batch().map_err(in_models(self.models.iter().map(|model| &model.info)))
    }

    /// The turn of a network, if there are layers of it that the comparison wants.
    fn observe_model(
        &mut self,
        index: usize,
        images: &Batch,
        comparison: &mut Comparison,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let wanted = comparison.wanted(index).len();
        if wanted == 0 {
            return Ok(());
        }
        let model = &self.models[index];
        let _range = gramscope_cuda::range(&model.info.name);
        if let Some(before) = self.last.replace(index).filter(|&before| before != index) {
            model.take_memory_of(&self.models[before]);
        }
        let batch = comparison.batches();
        model.observe(index, images, batch, comparison)?;
        self.done += wanted;
        let (total, batches) = (self.all_batches * comparison.observations(), self.all_batches);
        progress(Progress { done: self.done, total, batch: batch + 1, batches, subject: &model.info.name });
        Ok(())
    }
}

/// The images that are not left out, ascending.
fn kept(images: usize, dropped: Option<&DroppedDominant>) -> Vec<usize> {
    let is_dropped = |index: &usize| dropped.is_some_and(|dropped| dropped.examples.contains(index));
    (0..images).filter(|index| !is_dropped(index)).collect()
}

#[cfg(test)]
mod tests;
