//! First principal components of the layers of a run, or of stored activations: how much of the variance they explain, how
//! alike they are, and CKA with and without them (Nguyen, Raghu and Kornblith 2021, section 5 and figure 3).
//!
//! The examples are one batch, the first so many in order. Activations are handed to [`gramscope_cka::Components`] as soon as
//! they exist and are dropped after that.

mod files;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use gramscope_cka::{ComponentSimilarity, Components, DeviceMemory, Estimator};
use gramscope_cuda::PINNED_BYTES;
use gramscope_nn::Processor;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use regex::Regex;

pub(crate) use files::FILES;
pub use files::{INFO, NUMBERS, PICTURE, PcsInfo, PcsResult, check, load, load_info, save, write};

use crate::activations::{ActivationFile, Rows};
use crate::compare::{
    Batch, Feed, Limit, MemoryLimits, Model, ModelInfo, Needs, Progress, TestImages, forward_bytes, in_layer, in_whole,
};
use crate::results::{ExampleSource, Versions};
use crate::{Error, Fewer, Result};

/// Examples that are used unless told otherwise.
pub(crate) const EXAMPLES: usize = 1024;
/// l_2 / l_1 above which a first component counts as not well defined.
pub const CLOSE_EIGENVALUES: f64 = 0.99;

/// What is analysed, and how.
#[derive(Clone, Debug, Default)]
pub struct PcsOptions {
    /// How many examples, the first in order (of test images, class-balanced); 1,024, or all where there are fewer, unless
    /// told otherwise.
    pub examples: Option<usize>,
    /// Only the layers whose name matches.
    pub layers: Option<Regex>,
    /// The estimator of both kinds of CKA.
    pub estimator: Estimator,
    /// Feed this data's test images instead of those of the data that the run was trained on.
    pub data: Option<DataConfig>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
    /// The GPU that analyses stored activations; the CPU where there is none.
    pub device: Option<Arc<gramscope_cuda::Device>>,
}

impl PcsOptions {
    fn limit(&self) -> Limit {
        self.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly)
    }

    /// An empty analysis of all layers of a model whose panels take no more memory than there may be, and what a layer may
    /// take. `largest_layer` and `other` are as in [`Needs`], `features` as in [`DeviceMemory`].
    fn begin(
        &self,
        model: &ModelInfo,
        examples: usize,
        [features, largest_layer, other]: [u64; 3],
    ) -> Result<(Components, u64)> {
        let layers = model.layers.len();
        let on_device = self.device.is_some();
        let needs = Needs {
            what: format!("the components of {examples} examples"),
            examples,
            // Three maps, of which the writer holds copies.
            entries: 3 * (layers as u64).pow(2),
            row: if on_device { 0 } else { Components::panel_bytes(1, examples) },
            rows: layers as u64,
            largest_layer,
            other: other.saturating_add(if on_device { PINNED_BYTES } else { 0 }),
            lower: &[Fewer::Examples, Fewer::Layers],
        };
        let mut components = components(self.device.clone(), model, examples, self.estimator)?;
        let shares = needs.within(self.memory.host)?;
        if on_device {
            let (limit, features) = (self.memory.device, usize::try_from(features).unwrap_or(usize::MAX));
            let memory = DeviceMemory { limit, features, largest_upload: largest_layer, ..DeviceMemory::default() };
            components.plan_device_memory(memory).map_err(in_whole)?;
        } else {
            components.limit_panels(shares.panels).map_err(in_whole)?;
        }
        Ok((components, shares.layer))
    }
}

/// The first principal components of the layers of `run` over the first test images of its data, or of other data.
///
/// # Errors
/// [`Error::Incomparable`] for more images than there are or fewer than the estimator needs, or where no layer matches;
/// [`Error::NonFinite`] for NaN or infinity in an activation; too little memory; and what the run or its data may say.
pub fn pcs_of_run(
    run: &Run,
    options: &PcsOptions,
    processor: &Processor,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PcsResult> {
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), options.limit())?;
    let model = Model::open_all(std::slice::from_ref(run), options.layers.as_ref(), &data, processor)?.remove(0);
    let other = data.bytes() + model.bytes() + forward_bytes(std::slice::from_ref(&model), data.len(), false);
    let (mut components, _) = options.begin(&model.info, data.len(), [model.largest_output() as u64, 0, other])?;
    let images = all_at_once(&model, &data, options.memory.device)?;
    let total = components.observations();
    let mut done = 0;
    loop {
        let wanted = components.wanted();
        let from = done;
        each_layer(
            &model,
            &images,
            wanted.clone(),
            &mut |step| progress(Progress { done: from + step.done, total, ..step }),
            &mut |layer, activation| components.observe(layer, activation),
        )?;
        done += wanted.len();
        if !components.next_round().map_err(in_whole)? {
            break;
        }
    }
    let similarity = components.finish().map_err(in_whole)?;
    let (name, dir) = data.source();
    let versions = Versions::on(model.processor());
    Ok(result(model.info, similarity, options, ExampleSource::Images { name, dir }, versions))
}

/// The first principal components of the layers of the activation file `path` over its first examples.
///
/// # Errors
/// What is wrong with the file ([`Error::Io`], [`Error::File`]), more examples than it has among it; [`Error::Incomparable`] for
/// fewer than the estimator needs, [`Error::NonFinite`] for NaN or infinity.
pub fn pcs_of_file(path: &Path, options: &PcsOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PcsResult> {
    let file = ActivationFile::open(path, options.layers.as_ref())?;
    let found = file.examples();
    let examples = options.examples.unwrap_or(EXAMPLES.min(found));
    file.check_first(examples)?;
    let info = ModelInfo::of_file(&file);
    let largest = file.layers().iter().map(|layer| layer.bytes(examples)).max().unwrap_or(0);
    let features = file.layers().iter().map(|layer| layer.features).max().unwrap_or(0);
    let (mut components, most) = options.begin(&info, examples, [features as u64, largest, 0])?;
    let mut rows = Rows::default();
    let (total, subject) = (components.observations(), path.display().to_string());
    let mut done = 0;
    loop {
        for layer in components.wanted() {
            file.with_rows(layer, 0..examples, most, &mut rows, |activation| {
                components.observe(layer, activation).map_err(in_some_layer(&subject, &info, Some(layer)))
            })?;
            done += 1;
            progress(Progress { done, total, batch: 1, batches: 1, subject: &info.name });
        }
        if !components.next_round().map_err(in_some_layer(&subject, &info, None))? {
            break;
        }
    }
    let similarity = components.finish().map_err(in_some_layer(&subject, &info, None))?;
    let (data, gpu) = (ExampleSource::Activations { file: path.to_owned() }, options.device.as_deref());
    Ok(result(info, similarity, options, data, Versions::with_gpu(gpu)))
}

/// For `map_err`: an error that may be about a layer observed before, as a GPU reports it, or about the one `at` hand.
fn in_some_layer(subject: &str, info: &ModelInfo, at: Option<usize>) -> impl FnOnce(gramscope_cka::Error) -> Error {
    move |reason| {
        let layer = match reason {
            gramscope_cka::Error::NonFinite { layer, .. } => Some(layer),
            _ => at,
        };
        match layer {
            Some(layer) => in_layer(subject, &info.layers[layer], 0)(reason),
            None => in_whole(reason),
        }
    }
}

/// An empty analysis of all layers of a model, on a GPU or on the CPU.
pub(crate) fn components(
    device: Option<Arc<gramscope_cuda::Device>>,
    model: &ModelInfo,
    examples: usize,
    estimator: Estimator,
) -> Result<Components> {
    let needed = estimator.minimum_examples();
    if examples < needed {
        return Err(Error::Incomparable(format!(
            "{examples} examples are too few: the {estimator} estimator needs at least {needed}"
        )));
    }
    Components::on(device, model.layers.len(), examples, estimator).map_err(in_whole)
}

/// All images as one batch for `model`, which is to take no more of its GPU's memory than `limit`.
///
/// # Errors
/// [`gramscope_cuda::Error::MemoryLimit`] where it would.
pub(crate) fn all_at_once(model: &Model, data: &TestImages, limit: Option<u64>) -> Result<Batch> {
    let feed = Feed::new(data, std::slice::from_ref(model), limit)?;
    feed.most_at_once(model, data.len(), data.len())?;
    feed.batch(&(0..data.len()).collect::<Vec<_>>())
}

/// Runs the network over `images`, hands number and activation of every chosen layer that is one of `wanted` to
/// `take`, and names the layer in its errors.
pub(crate) fn each_layer(
    model: &Model,
    images: &Batch,
    wanted: Range<usize>,
    progress: &mut dyn FnMut(Progress<'_>),
    take: &mut dyn FnMut(usize, gramscope_cka::Activation<'_>) -> Result<(), gramscope_cka::Error>,
) -> Result<()> {
    let (name, layers) = (&model.info.name, &model.info.layers);
    let (mut done, total) = (0, wanted.len());
    model.each_layer(images, wanted, &mut |layer, view| {
        view.and_then(|view| take(layer, view)).map_err(in_layer(name, &layers[layer], 0))?;
        done += 1;
        progress(Progress { done, total, batch: 1, batches: 1, subject: name });
        Ok(())
    })
}

fn result(
    model: ModelInfo,
    similarity: ComponentSimilarity,
    options: &PcsOptions,
    data: ExampleSource,
    versions: Versions,
) -> PcsResult {
    let names = |layers: &[usize]| layers.iter().map(|&layer| model.layers[layer].clone()).collect();
    let close = |&layer: &usize| similarity.second_over_first[layer] > CLOSE_EIGENVALUES;
    let ill_defined: Vec<usize> = (0..similarity.layers).filter(close).collect();
    let info = PcsInfo {
        examples: similarity.examples,
        estimator: options.estimator.to_string(),
        ill_defined: names(&ill_defined),
        undefined: names(&similarity.undefined),
        undefined_cka: names(&similarity.undefined_cka),
        undefined_cka_without_first: names(&similarity.undefined_without_first),
        data,
        versions,
        model: model.name,
        layers: model.layers,
        stages: model.stages,
        batch_statistics: model.batch_statistics,
    };
    PcsResult { info, similarity }
}

#[cfg(test)]
pub(crate) mod tests;
