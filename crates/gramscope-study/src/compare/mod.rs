//! Comparing all layers of runs, or of activation files, in one pass over the examples.
//!
//! Every activation is handed to [`gramscope_cka::Comparison`] as soon as it exists and is dropped after that. What stays
//! in memory is a panel a model: layers x n(n-1)/2 floats for batches of n examples (0.13 MB a layer for n = 256), for all
//! models that are compared together, and [layers, layers] sums a pair. Where the panels do not fit into the memory that may
//! be taken, a batch is read, or runs through its network, several times, and some of the layers are kept each time; a layer
//! of a file whose batch does not fit is read some features at a time. Neither changes a bit of the results.

mod batches;
mod feed;
mod files;
mod images;
mod memory;
mod model;
mod pass;
mod runs;
mod unfinished;

use std::io;
use std::sync::Arc;

use gramscope_cka::{Comparison, Memory, Options, Similarity};
use gramscope_cuda::{Device, PINNED_BYTES};
use regex::Regex;

use batches::Batches;
pub(crate) use feed::{Batch, Feed};
pub use files::compare_files;
pub(crate) use images::{Limit, TestImages, check_side};
pub use memory::MemoryLimits;
pub(crate) use memory::{BatchNeeds, Needs, check_memory, forward_bytes};
pub(crate) use model::{Model, with_view};
pub(crate) use pass::Pass;
pub use runs::{Pairs, RunOptions, compare_runs, pair_names};

use crate::activations::ActivationFile;
use crate::pair::{PairInfo, PairResult, Undefined};
use crate::provenance::{DataInfo, Versions};
use crate::{Error, Fewer, Result, Unfinished, Within};

/// What comparisons of runs and of files share.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Estimator, kernel and accuracy.
    pub cka: Options,
    /// Examples a minibatch.
    pub batch_size: usize,
    /// Use a last short batch, where it is large enough for the estimator, instead of dropping it.
    pub keep_partial: bool,
    /// Use only the first so many examples: test images, class-balanced, or those of a file.
    pub examples: Option<usize>,
    /// Only the layers whose name matches.
    pub layers: Option<Regex>,
    /// The GPU that compares what files hold; the CPU where there is none. Networks are compared where they run.
    pub device: Option<Arc<Device>>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
    /// Where sums lie while the comparison is at work, from which the same one goes on; nowhere where that is not asked for. They are
    /// to be removed once the results are written.
    pub unfinished: Option<Unfinished>,
}

impl CompareOptions {
    /// The comparison of models with so many layers each, where it is to be made, within the `memory` there may be.
    fn begin(&self, layers: &[usize], pairs: &[(usize, usize)], memory: Memory) -> Result<Comparison> {
        let mut comparison = Comparison::on(self.device.clone(), layers, pairs, self.cka).map_err(in_whole)?;
        comparison.limit_memory(memory);
        Ok(comparison)
    }

    /// What it needs memory for, on the host, with batches of at most so many `examples`.
    fn needs(
        &self,
        examples: usize,
        layers: &[usize],
        pairs: &[(usize, usize)],
        largest_layer: u64,
        other: u64,
    ) -> Needs {
        let on_device = self.device.is_some();
        Needs {
            what: format!("batches of {examples} examples"),
            examples,
            entries: pairs.iter().map(|&(x, y)| layers[x] as u64 * layers[y] as u64).sum(),
            row: if on_device { 0 } else { Comparison::panel_bytes(&[1], examples) },
            rows: layers.iter().map(|&layers| layers as u64).sum(),
            largest_layer,
            other: other.saturating_add(if on_device { PINNED_BYTES } else { 0 }),
            lower: &[Fewer::InBatch, Fewer::Layers],
        }
    }
}

impl Default for CompareOptions {
    /// The paper's: unbiased linear HSIC over minibatches of 256, all layers.
    fn default() -> Self {
        Self {
            cka: Options::default(),
            batch_size: 256,
            keep_partial: false,
            examples: None,
            layers: None,
            device: None,
            memory: MemoryLimits::default(),
            unfinished: None,
        }
    }
}

/// How far a pass over examples has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Steps done: layers that were seen, each once a batch or, where memory is short, several times.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// The batch at work, from 1.
    pub batch: usize,
    /// Batches in all.
    pub batches: usize,
    /// The run or file at work.
    pub subject: &'a str,
}

/// What a result says of a model.
#[derive(Clone, Debug)]
pub(crate) struct ModelInfo {
    pub(crate) name: String,
    pub(crate) layers: Vec<String>,
    /// Stage of each layer; empty where that is not known.
    pub(crate) stages: Vec<usize>,
    /// Whether its batch norms take the statistics of each batch.
    pub(crate) batch_statistics: bool,
}

impl ModelInfo {
    /// An activation file: its name without folder and extension, and its layers.
    pub(crate) fn of_file(file: &ActivationFile) -> Self {
        let path = file.path();
        Self {
            name: path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            layers: file.layers().iter().map(|layer| layer.name.clone()).collect(),
            stages: Vec::new(),
            batch_statistics: false,
        }
    }
}

/// The result of one pair.
fn result(
    x: &ModelInfo,
    y: &ModelInfo,
    similarity: Similarity,
    batches: &Batches,
    options: &CompareOptions,
    data: DataInfo,
    versions: Versions,
) -> PairResult {
    let names = |model: &ModelInfo, layers: &[usize]| -> Vec<String> {
        layers.iter().map(|&layer| model.layers[layer].clone()).collect()
    };
    let info = PairInfo {
        model_x: x.name.clone(),
        model_y: y.name.clone(),
        layers_x: x.layers.clone(),
        layers_y: y.layers.clone(),
        stages_x: x.stages.clone(),
        stages_y: y.stages.clone(),
        estimator: options.cka.estimator.to_string(),
        kernel: options.cka.kernel.to_string(),
        gram: options.cka.gram.to_string(),
        normalised_examples: options.cka.normalise_examples,
        batch_size: options.batch_size,
        batches: similarity.batches,
        last_batch: batches.last(),
        dropped: batches.dropped,
        undefined: Undefined { x: names(x, &similarity.undefined_x), y: names(y, &similarity.undefined_y) },
        dropped_dominant: None,
        batch_statistics: x.batch_statistics,
        data,
        versions,
    };
    PairResult { info, similarity }
}

/// For `map_err`: an error of the comparison where it was handed a layer of `model` in batch `batch`, from 0.
pub(crate) fn in_layer(model: &str, layer: &str, batch: usize) -> impl FnOnce(gramscope_cka::Error) -> Error {
    move |reason| match reason {
        gramscope_cka::Error::NonFinite { example, .. } => Error::NonFinite {
            model: model.to_owned(),
            layer: layer.to_owned(),
            batch: batch + 1,
            example: example + 1,
            within: Within::Batch,
        },
        gramscope_cka::Error::Unread { kind, reason, .. } => {
            Error::Io { action: "read", path: model.into(), reason: io::Error::new(kind, reason) }
        }
        reason => Error::Cka { subject: format!("layer {layer} of {model}, batch {}", batch + 1), reason },
    }
}

/// For `map_err`: an error of the comparison that may be about a layer of a batch before: a GPU reports late.
fn in_models<'a>(models: impl IntoIterator<Item = &'a ModelInfo>) -> impl FnOnce(gramscope_cka::Error) -> Error {
    move |reason| {
        let gramscope_cka::Error::NonFinite { model, layer, batch, .. } = reason else { return in_whole(reason) };
        match models.into_iter().nth(model) {
            Some(info) => in_layer(&info.name, &info.layers[layer], batch)(reason),
            None => in_whole(reason),
        }
    }
}

/// For `map_err`: an error of the comparison as a whole.
pub(crate) fn in_whole(reason: gramscope_cka::Error) -> Error {
    Error::Cka { subject: "the comparison".to_owned(), reason }
}
