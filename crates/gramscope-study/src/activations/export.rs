//! Taking a run's activations elsewhere.

use std::path::Path;

use gramscope_cka::Values;
use gramscope_nn::Processor;
use gramscope_train::Run;
use regex::Regex;

use super::{ActivationFile, ActivationWriter};
use crate::compare::{Feed, Limit, Model, Progress, TestImages, in_layer};
use crate::{Error, Result, Setting};

/// Images that go through the network at once.
const BATCH: usize = 256;
/// Images that are exported unless told otherwise.
const EXAMPLES: usize = 1024;

/// What is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// How many test images, class-balanced; 1,024, or all where there are fewer, unless told otherwise.
    pub examples: Option<usize>,
    /// Only the layers whose name matches.
    pub layers: Option<Regex>,
}

/// Runs the network of `run` over the first test images of its data, where `processor` says, and writes its layers to `path`: in
/// the order of the network, as float32 tensors [examples, height, width, channels] or [examples, features]. That they are NHWC
/// is also said in the file's metadata, and what computed them, unless it was the CPU. An activation file at `path` is replaced.
/// Returns the number of images.
///
/// # Errors
/// [`Error::File`] where `path` holds something that is not an activation file; [`Error::Incomparable`] where no layer matches
/// and for more images than there are; and what the run, its data, the network or the disk may say.
pub fn export(
    run: &Run,
    path: &Path,
    options: &ExportOptions,
    processor: &Processor,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<usize> {
    if path.exists() && ActivationFile::open(path, None).is_err() {
        let problem = "there is a file of this name that holds no activations; choose another";
        return Err(Error::file(path, problem).mended_by(&[Setting::Out]));
    }
    let limit = options.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly);
    let data = TestImages::load(&run.config().data, limit)?;
    let model = Model::open_all(std::slice::from_ref(run), options.layers.as_ref(), &data, processor)?.remove(0);
    let indices: Vec<usize> = (0..data.len()).collect();
    write_activations(path, &model, &data, &indices, progress)?;
    Ok(indices.len())
}

/// Writes the chosen layers of `model` over the images `indices` of `data`.
pub(crate) fn write_activations(
    path: &Path,
    model: &Model,
    data: &TestImages,
    indices: &[usize],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let name = &model.info.name;
    let shapes = model.shapes().map(<[usize]>::to_vec);
    let layers: Vec<_> = model.info.layers.iter().cloned().zip(shapes).collect();
    let mut about = vec![("layout", "NHWC".to_owned()), ("model", name.clone()), ("split", "test".to_owned())];
    let backend = model.processor().backend();
    if !backend.is_cpu() {
        about.push(("computed with", backend.to_string()));
    }
    let mut writer = ActivationWriter::create(path, &layers, indices.len(), &about)?;
    let feed = Feed::new(data, std::slice::from_ref(model), None)?;
    let total = indices.len().div_ceil(BATCH);
    for (batch, indices) in indices.chunks(BATCH).enumerate() {
        model.each_layer(&feed.batch(indices)?, 0..layers.len(), &mut |place, view| {
            let activation = view.map_err(in_layer(name, &layers[place].0, batch))?;
            let Some(Values::F32(values)) = activation.values() else {
                return Err(candle_core::Error::msg("a network's activations are float32 numbers").into());
            };
            writer.append(place, values)
        })?;
        progress(Progress { done: batch + 1, total, batch: batch + 1, batches: total, subject: name });
    }
    writer.finish()
}
