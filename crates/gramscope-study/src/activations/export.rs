//! Taking a run's activations elsewhere.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_cka::Values;
use gramscope_nn::Processor;
use gramscope_train::data::DataConfig;
use gramscope_train::{Run, atomic};
use regex::Regex;

use super::{ActivationFile, ActivationWriter};
use crate::compare::{BatchNeeds, Limit, MemoryLimits, Model, Pass, Progress, TestImages, forward_bytes};
use crate::saved::prepare;
use crate::{Error, Result, Setting};

/// Images that go through the network at once, where there is memory for them.
const BATCH: usize = 256;
/// Images that are exported unless told otherwise.
const EXAMPLES: usize = 1024;

/// What is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// How many test images, class-balanced; 1,024, or all where there are fewer, unless told otherwise.
    pub examples: Option<usize>,
    /// Feed this data's test images instead of those of the data that the run was trained on.
    pub data: Option<DataConfig>,
    /// Only the layers whose name matches.
    pub layers: Option<Regex>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
}

/// Runs the network of `run` over the first test images of its data, or of other data, where `processor` says, and writes its layers
/// to `path`: in the order of the network, as float32 tensors [examples, height, width, channels] or [examples, features]. The file's
/// metadata say that they are NHWC, what was fed (`data`, `data directory` for one of the user's, `split`), which class each image is of (`labels`, a JSON list of numbers that
/// count in `classes`, one of names), and what computed them, unless it was the CPU. An activation file at `path` is replaced. Returns
/// the number of images.
///
/// # Errors
/// [`Error::File`] where `path` is a directory, or holds something that is not an activation file; [`Error::Incomparable`] where no layer matches
/// and for more images than there are; memory that is too little for one image; and what the run, its data, the network or the disk
/// may say; [`Error::Interrupted`] once `stop` is set. No file is left then.
pub fn export(
    run: &Run,
    path: &Path,
    options: &ExportOptions,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<usize> {
    if path.is_dir() {
        return Err(Error::file(path, "is a directory; name a file in it").mended_by(&[Setting::Out]));
    }
    if path.exists() && ActivationFile::open(path, None).is_err() {
        let problem = "there is a file of this name that holds no activations; choose another";
        return Err(Error::file(path, problem).mended_by(&[Setting::Out]));
    }
    let limit = options.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly);
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), limit)?;
    let model = Model::open_one(run, options.layers.as_ref(), &data, processor)?;
    let bytes = |images| Ok(forward_bytes(std::slice::from_ref(&model), images, false));
    let needs = BatchNeeds::of_images("the activations of an image", &model, &data, &bytes)?;
    let pass = Pass::observing(&model, &data, &needs, options.memory, BATCH)?;
    let mut writer = begin(path, &model, &data)?;
    pass.each_layer(progress, &mut |_, layer, activation| match activation.values() {
        _ if stop.load(Ordering::Relaxed) => Err(Error::Interrupted),
        Some(Values::F32(values)) => writer.append(layer, values),
        _ => Err(candle_core::Error::msg("a network's activations are float32 numbers").into()),
    })?;
    writer.finish()?;
    Ok(data.len())
}

/// Begins the file of the chosen layers of `model` over the images of `data`.
fn begin(path: &Path, model: &Model, data: &TestImages) -> Result<ActivationWriter> {
    let shapes = model.shapes().map(<[usize]>::to_vec);
    let layers: Vec<_> = model.info.layers.iter().cloned().zip(shapes).collect();
    let (name, dir) = data.source();
    let mut about = vec![
        ("layout", "NHWC".to_owned()),
        ("model", model.info.name.clone()),
        ("data", name),
        ("split", "test".to_owned()),
        ("labels", serde_json::json!(data.split().labels()).to_string()),
        ("classes", serde_json::json!(data.classes()).to_string()),
    ];
    about.extend(dir.map(|dir| ("data directory", dir.display().to_string())));
    let backend = model.processor().backend();
    if !backend.is_cpu() {
        about.push(("computed with", backend.to_string()));
    }
    prepare(atomic::parent(path))?;
    ActivationWriter::create(path, &layers, data.len(), &about)
}
