//! Taking a run's activations elsewhere.

use std::path::Path;

use candle_core::Tensor;
use gramscope_nn::ResNet;
use gramscope_train::Run;
use gramscope_train::batches::images;
use gramscope_train::data::Split;
use regex::Regex;

use super::{ActivationFile, ActivationWriter};
use crate::compare::{Limit, Progress, TestImages};
use crate::{Error, HOST, Result};

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

/// Runs the network of `run` over the first test images of its data and writes its layers to `path`, as
/// [`write_activations`] does. An activation file at `path` is replaced. Returns the number of images.
///
/// # Errors
/// [`Error::File`] where `path` holds something that is not an activation file, or where no layer matches;
/// [`Error::Incomparable`] for more images than there are; and what the run, its data, the network or the disk may say.
pub fn export(
    run: &Run,
    path: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<usize> {
    if path.exists() && ActivationFile::open(path, None).is_err() {
        return Err(Error::file(path, "there is a file of this name that holds no activations; choose another --out"));
    }
    let limit = options.examples.map_or(Limit::AtMost(EXAMPLES), Limit::Exactly);
    let data = TestImages::load(&run.config().data, limit)?;
    let network = run.network(&HOST)?;
    data.check_side(&run.name(), &network)?;
    let indices: Vec<usize> = (0..data.len()).collect();
    write_activations(path, &run.name(), &network, data.split(), &indices, options.layers.as_ref(), progress)?;
    Ok(indices.len())
}

/// Runs `network` over the images `indices` of `split` and writes the activations of every layer whose name `pattern`
/// matches, in the order of the network, as float32 tensors [examples, height, width, channels] or [examples, features].
/// That they are NHWC is also said in the file's metadata.
///
/// # Errors
/// [`Error::File`] where no layer matches, and what the network or the disk may say.
pub fn write_activations(
    path: &Path,
    model: &str,
    network: &ResNet,
    split: &Split,
    indices: &[usize],
    pattern: Option<&Regex>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let mut places = Vec::with_capacity(network.layers().len());
    let mut layers = Vec::new();
    for layer in network.layers() {
        let chosen = pattern.is_none_or(|pattern| pattern.is_match(&layer.name));
        places.push(chosen.then_some(layers.len()));
        if chosen {
            layers.push((layer.name.clone(), layer.shape.clone()));
        }
    }
    if let (true, Some(pattern)) = (layers.is_empty(), pattern) {
        return Err(Error::Incomparable(format!("--layers {pattern} matches none of the layers of {model}")));
    }
    let about = [("layout", "NHWC".to_owned()), ("model", model.to_owned()), ("split", "test".to_owned())];
    let mut writer = ActivationWriter::create(path, &layers, indices.len(), &about)?;
    let total = indices.len().div_ceil(BATCH);
    for (batch, indices) in indices.chunks(BATCH).enumerate() {
        let images = images(split, indices, network.config().image_side, &HOST)?;
        network.forward_observed::<Error>(&images, &mut |layer, activation: &Tensor| match places[layer] {
            Some(place) => writer.append(place, &activation.flatten_all()?.to_vec1::<f32>()?),
            None => Ok(()),
        })?;
        progress(Progress { done: batch + 1, total, batch: batch + 1, batches: total, subject: model });
    }
    writer.finish()
}
