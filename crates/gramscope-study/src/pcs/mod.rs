//! First principal components of the layers of a run, or of stored activations: how much of the variance they explain, how
//! alike they are, and CKA with and without them (Nguyen, Raghu and Kornblith 2021, section 5 and figure 3).
//!
//! The examples are one batch, the first so many in order. Activations are handed to [`gramscope_cka::Components`] as soon as
//! they exist and are dropped after that.

mod files;

use std::path::Path;
use std::sync::Arc;

use gramscope_cka::{ComponentSimilarity, Components, DeviceMemory, Estimator, Memory};
use gramscope_cuda::PINNED_BYTES;
use gramscope_nn::Processor;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use regex::Regex;

pub use files::{INFO, NUMBERS, PICTURE, PcsInfo, PcsResult};

use crate::activations::{ActivationFile, Rows};
use crate::compare::{
    Batch, Feed, Limit, MemoryLimits, Model, ModelInfo, Needs, Progress, TestImages, forward_bytes, in_layer, in_whole,
};
use crate::provenance::{ExampleSource, Versions};
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
    /// The GPU that analyses stored activations; the CPU where there is none. A run is analysed where its network runs.
    pub device: Option<Arc<gramscope_cuda::Device>>,
}

impl PcsOptions {
    fn limit(&self) -> Limit {
        self.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly)
    }

    /// An empty analysis of all layers of a model whose panels take no more memory than there may be, and what a layer may
    /// take. `largest_layer` and `other` are as in [`Needs`]; `there` is what else a GPU's memory is needed for.
    fn begin(
        &self,
        model: &ModelInfo,
        examples: usize,
        [largest_layer, other]: [u64; 2],
        there: DeviceMemory,
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
        let device = DeviceMemory { limit: self.memory.device, largest_upload: largest_layer, ..there };
        components.limit_memory(Memory { panels: shares.panels, device }).map_err(in_whole)?;
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
    let options = &PcsOptions { device: processor.gpu().cloned(), ..options.clone() };
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), options.limit())?;
    let model = &Model::open_one(run, options.layers.as_ref(), &data, processor)?;
    let only = std::slice::from_ref(model);
    let feed = Feed::new(&data, only, options.memory.device)?;
    let stays = model.gpu().is_some() && Components::takes_on_device(data.len());
    // Where the components are found there, too, they need more, and say how much.
    if !stays {
        feed.most_at_once(&model.info.name, data.len()..=data.len(), &|images| Ok(model.device_bytes(images)))?;
    }
    let other = data.bytes() + model.bytes() + forward_bytes(only, data.len(), stays);
    let there = DeviceMemory { features: model.largest_output(), ..feed.device_memory(only, data.len()) };
    let (mut components, _) = options.begin(&model.info, data.len(), [0, other], there)?;
    let images = feed.batch(&(0..data.len()).collect::<Vec<_>>())?;
    let (total, subject) = (components.observations(), &model.info.name);
    let mut done = 0;
    loop {
        observe_round(model, &images, &mut components, &mut || {
            done += 1;
            progress(Progress { done, total, batch: 1, batches: 1, subject });
        })?;
        if !components.next_round().map_err(in_some_layer(subject, &model.info, None))? {
            break;
        }
    }
    let similarity = components.finish().map_err(in_some_layer(subject, &model.info, None))?;
    Ok(result(model.info.clone(), similarity, options, data.example_source(), Versions::on(processor)))
}

/// Hands the layers of a round to `components`, on the GPU where both are, and counts them.
fn observe_round(model: &Model, images: &Batch, components: &mut Components, count: &mut dyn FnMut()) -> Result<()> {
    let (info, wanted) = (&model.info, components.wanted());
    #[cfg(feature = "cuda")]
    if model.gpu().is_some() && components.takes_device_values() {
        let examples = images.len()?;
        return model.each_device_layer(images, wanted, &mut |layer, values| {
            let observed = components.observe_on_device(layer, values, examples);
            count();
            observed.map_err(in_some_layer(&info.name, info, Some(layer)))
        });
    }
    model.each_layer(images, wanted, &mut |layer, view| {
        let observed = view.and_then(|view| components.observe(layer, view));
        count();
        observed.map_err(in_some_layer(&info.name, info, Some(layer)))
    })
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
    let there = DeviceMemory { features, ..DeviceMemory::default() };
    let (mut components, most) = options.begin(&info, examples, [largest, 0], there)?;
    let (first, mut rows) = ((0..examples).collect::<Vec<_>>(), Rows::default());
    let (total, subject) = (components.observations(), path.display().to_string());
    let mut done = 0;
    loop {
        for layer in components.wanted() {
            file.with_rows(layer, &first, most, &mut rows, |activation| {
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
            gramscope_cka::Error::NonFinite { layer, .. } | gramscope_cka::Error::NoEigenvalues { layer } => {
                Some(layer)
            }
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
        return Err(Error::incomparable(format!(
            "{examples} examples are too few: the {estimator} estimator needs at least {needed}"
        )));
    }
    Components::on(device, model.layers.len(), examples, estimator).map_err(in_whole)
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
