//! Cosine similarity of the layers of one shape: of a run, or of stored activations.
//!
//! cosine\[i\]\[j\] is the mean over the examples of <x, y> / (|x| |y|), x and y being what layers i and j make of the example.
//! It is uncentred and compares coordinate with coordinate, unlike CKA, which no rotation of the features changes: layers that
//! have no reason to put the same thing at the same place, of different networks for instance, are near 0 or, after a ReLU,
//! near what any two non-negative vectors have in common. What it shows are residual connections, which hand coordinates on.
//! Layers of different shapes cannot be compared: NaN.
//!
//! The cosine with a vector of zeros is undefined, and a dead ReLU makes such vectors. The mean is over the examples where it
//! is defined, and `count` says how many those are: counting it as 0 would pull the mean to "nothing in common", and giving
//! up an entry for the sake of one example would lose what the others say. An entry without any example is NaN.
//!
//! Cosines need all layers of a shape at once, which nothing else here does. They are in memory for a small batch of
//! examples, at most `MOST_EXAMPLES` and, where an example is large, as many as fit into `BATCH_BYTES` or the memory
//! limit, but at least one; they are dropped as soon as the last layer of the shape has been seen.

mod files;
mod shapes;

use std::path::Path;

use gramscope_nn::Processor;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use regex::Regex;

pub use files::{CosineInfo, CosineResult, INFO, NUMBERS, PICTURE};

use shapes::Cosines;

use crate::activations::{ActivationFile, Rows};
use crate::compare::{
    BatchNeeds, Limit, MemoryLimits, Model, ModelInfo, Pass, Progress, TestImages, forward_bytes, in_layer,
};
use crate::pcs::EXAMPLES;
use crate::provenance::{ExampleSource, Versions};
use crate::{Error, Fewer, Result, Within};

/// The most examples of a batch: enough for the network to be fast.
const MOST_EXAMPLES: usize = 64;
/// Bytes that a batch takes at most, unless one example takes more.
const BATCH_BYTES: u64 = 256 << 20;
/// What it is that takes them, for messages.
const EXAMPLE: &str = "the activations of an example in all layers of one shape";

/// What is compared.
#[derive(Clone, Debug, Default)]
pub struct CosineOptions {
    /// How many examples, the first in order (of test images, class-balanced); 1,024, or all where there are fewer, unless
    /// told otherwise.
    pub examples: Option<usize>,
    /// Only the layers whose name matches.
    pub layers: Option<Regex>,
    /// Feed this data's test images instead of those of the data that the run was trained on.
    pub data: Option<DataConfig>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
}

/// The cosine similarities of the layers of `run` over the first test images of its data, or of other data.
///
/// # Errors
/// [`crate::Error::Incomparable`] for more images than there are, or where no layer matches; [`crate::Error::NonFinite`] for NaN or
/// infinity in an activation; memory that is too little for one image; and what the run or its data may say.
pub fn cosine_of_run(
    run: &Run,
    options: &CosineOptions,
    processor: &Processor,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<CosineResult> {
    let limit = options.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly);
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), limit)?;
    let model = Model::open_one(run, options.layers.as_ref(), &data, processor)?;
    let shapes: Vec<Vec<usize>> = model.shapes().map(<[usize]>::to_vec).collect();
    let mut cosines = Cosines::new(&shapes);
    let image = cosines.bytes(0..shapes.len());
    let bytes = |images| Ok(images as u64 * image + forward_bytes(std::slice::from_ref(&model), images, false));
    let needs = of_layers(shapes.len(), BatchNeeds::of_images(EXAMPLE, &model, &data, &bytes)?);
    let pass = Pass::observing(&model, &data, &needs, options.memory, most_examples(needs.example))?;
    let (name, names) = (&model.info.name, &model.info.layers);
    pass.each_layer(progress, &mut |batch, layer, activation| {
        cosines.observe(layer, batch, activation).map_err(in_layer(name, &names[layer], batch))
    })?;
    let versions = Versions::on(model.processor());
    let (data, examples) = (data.example_source(), data.len());
    Ok(result(model.info, shapes, cosines, examples, data, versions))
}

/// The examples of a batch, where one takes so many bytes and there is memory for as many.
fn most_examples(example: u64) -> usize {
    (BATCH_BYTES / example.max(1)).clamp(1, MOST_EXAMPLES as u64) as usize
}

/// With the maps of so many layers.
fn of_layers(layers: usize, needs: BatchNeeds) -> BatchNeeds {
    BatchNeeds { entries: 2 * (layers as u64).pow(2), lower: &[Fewer::Layers], ..needs }
}

/// The cosine similarities of the layers of the activation file `path` over its first examples: those of as many features are
/// of one shape.
///
/// # Errors
/// What is wrong with the file ([`crate::Error::Io`], [`crate::Error::File`]), more examples than it has and none among it;
/// [`crate::Error::NonFinite`] for NaN or infinity; [`crate::Error::Memory`] where not even one example fits.
pub fn cosine_of_file(
    path: &Path,
    options: &CosineOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<CosineResult> {
    let file = ActivationFile::open(path, options.layers.as_ref())?;
    let found = file.examples();
    let examples = options.examples.unwrap_or(EXAMPLES.min(found));
    file.check_first(examples)?;
    let model = ModelInfo::of_file(&file);
    let shapes: Vec<Vec<usize>> = file.layers().iter().map(|layer| vec![layer.features]).collect();
    let mut cosines = Cosines::new(&shapes);
    let order: Vec<usize> = cosines.by_shape().collect();
    let read = file.layers().iter().map(|layer| layer.bytes(1)).max().unwrap_or(0);
    let example = cosines.bytes(order.iter().copied()) + read;
    let needs = BatchNeeds { what: EXAMPLE.to_owned(), example, entries: 0, other: 0, lower: &[] };
    let size = of_layers(shapes.len(), needs).within(options.memory.host, most_examples(example))?;
    let mut rows = Rows::default();
    let (total, batches) = (order.len() * examples.div_ceil(size), examples.div_ceil(size));
    let (mut done, subject) = (0, path.display().to_string());
    for batch in 0..batches {
        let examples: Vec<usize> = (batch * size..examples.min((batch + 1) * size)).collect();
        for &layer in &order {
            let activation = file.read(layer, &examples, &mut rows)?;
            let observed = cosines.observe(layer, batch, activation);
            let observed = observed.map_err(in_layer(&subject, &model.layers[layer], batch));
            observed.map_err(|reason| in_file(reason, batch * size))?;
            done += 1;
            progress(Progress { done, total, batch: batch + 1, batches, subject: &model.name });
        }
    }
    let data = ExampleSource::Activations { file: path.to_owned() };
    Ok(result(model, shapes, cosines, examples, data, Versions::current()))
}

/// `reason`, an example of a batch named by its place in the file, in which the batch begins with that of number `first`, from 0.
fn in_file(reason: Error, first: usize) -> Error {
    match reason {
        Error::NonFinite { model, layer, batch, example, within: Within::Batch } => {
            Error::NonFinite { model, layer, batch, example: first + example, within: Within::File }
        }
        reason => reason,
    }
}

fn result(
    model: ModelInfo,
    shapes: Vec<Vec<usize>>,
    cosines: Cosines,
    examples: usize,
    data: ExampleSource,
    versions: Versions,
) -> CosineResult {
    let (cosine, count) = cosines.finish();
    let layers = model.layers.len();
    let undefined = (0..layers).filter(|&layer| count[layer * layers + layer] == 0.0);
    let info = CosineInfo {
        undefined: undefined.map(|layer| model.layers[layer].clone()).collect(),
        model: model.name,
        layers: model.layers,
        stages: model.stages,
        shapes,
        examples,
        data,
        versions,
    };
    CosineResult { info, cosine, count }
}

#[cfg(test)]
pub(crate) mod tests;
