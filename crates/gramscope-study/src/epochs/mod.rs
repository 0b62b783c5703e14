//! How representations change while a network is trained: every kept epoch's layers against those at the end, and the first
//! principal components of each epoch.
//!
//! epochs.npz holds float64 arrays, E epochs and L layers, the last epoch being the run as it is now: `cka` [E, L, L], rows
//! the layers after the epoch and columns those at the end (so that the diagonals are each layer against itself over time);
//! `variance_explained` [E, L] by each layer's first component; `cosine_sq` [E, L], the squared cosine between a layer's
//! first component after the epoch and at the end; `first_pc` [E, L, n], those components over n examples, of unit length. All epochs go through one pass over the images together.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gramscope_nn::Processor;
use gramscope_train::Run;
use serde::{Deserialize, Serialize};

use crate::compare::{CompareOptions, Pairs, Progress, RunOptions, compare_runs};
use crate::pair::PairResult;
use crate::pcs::{PcsOptions, PcsResult, pcs_of_run};
use crate::provenance::{DataInfo, Versions};
use crate::saved::{Array, Files, Saved, Staged};
use crate::{Error, Result, plot};

/// File of the numbers.
pub const NUMBERS: &str = "epochs.npz";
/// File that says what the numbers are of.
pub const INFO: &str = "epochs.json";
/// File of the picture.
pub const PICTURE: &str = "epochs.png";

const FILES: Files = Files {
    kind: "a comparison over training",
    numbers: NUMBERS,
    info: INFO,
    arrays: &["cka", "variance_explained", "cosine_sq", "first_pc"],
};

/// What was compared, and how: epochs.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochsInfo {
    /// Name of the run.
    pub model: String,
    /// Names of the layers, first layer first.
    pub layers: Vec<String>,
    /// Stage of each layer.
    pub stages: Vec<usize>,
    /// The epochs, ascending; the last one is what all are compared with.
    pub epochs: Vec<usize>,
    /// `unbiased` or `biased`.
    pub estimator: String,
    /// `linear` or `rbf:T`.
    pub kernel: String,
    /// Examples a minibatch of CKA.
    pub batch_size: usize,
    /// Minibatches that were summed over.
    pub batches: usize,
    /// Examples that first components are taken over.
    pub component_examples: usize,
    /// Whether batch norms took the statistics of each batch instead of the running ones.
    pub batch_statistics: bool,
    /// The images of CKA.
    pub data: DataInfo,
    /// What computed this.
    pub versions: Versions,
}

/// A run over its kept epochs.
#[derive(Clone, Debug)]
pub struct EpochsResult {
    /// Of what.
    pub info: EpochsInfo,
    /// [E, L, L].
    pub cka: Vec<f64>,
    /// [E, L].
    pub variance_explained: Vec<f64>,
    /// [E, L]; 1 in the last row where the layer is not constant.
    pub cosine_sq: Vec<f64>,
    /// [E, L, n], n the examples that first components are taken over; NaN where a layer is constant.
    pub first_pc: Vec<f64>,
}

impl EpochsResult {
    /// CKA of every layer after an epoch with itself at the end, [E, L].
    pub(crate) fn layers_with_themselves(&self) -> Vec<f64> {
        let layers = self.info.layers.len();
        let of_epoch = |map: &[f64]| (0..layers).map(|layer| map[layer * layers + layer]).collect::<Vec<_>>();
        self.cka.chunks_exact(layers * layers).flat_map(of_epoch).collect()
    }
}

/// Compares `run` after each of its kept epochs with itself as it is now. Of `run_options` the pairs are not looked at.
///
/// # Errors
/// [`Error::Incomparable`] for a run that kept no epoch but the last, or is a kept epoch itself; what comparing and reading say.
pub fn over_epochs(
    run: &Run,
    options: &CompareOptions,
    run_options: &RunOptions,
    processor: &Processor,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<EpochsResult> {
    if run.kept_epoch().is_some() {
        return Err(Error::incomparable(format!("{} is one epoch; name the run as a whole", run.name())));
    }
    let last = run.metrics()?.len();
    let mut epochs: Vec<usize> = run.kept_epochs()?.into_iter().filter(|&epoch| epoch < last).collect();
    if epochs.is_empty() {
        return Err(Error::incomparable(format!(
            "{} kept no epoch before its last; set checkpoint_every before training",
            run.name()
        )));
    }
    let mut runs = epochs.iter().map(|&epoch| run.at(epoch)).collect::<Result<Vec<_>, _>>()?;
    runs.push(run.clone());
    epochs.push(last);

    let end = runs.len() - 1;
    let pairs = Pairs::These((0..=end).map(|epoch| (epoch, end)).collect());
    let maps = compare_runs(&runs, options, &RunOptions { pairs, ..run_options.clone() }, processor, stop, progress)?;
    let pcs_options = PcsOptions {
        examples: options.examples,
        layers: options.layers.clone(),
        estimator: options.cka.estimator,
        data: run_options.data.clone(),
        memory: options.memory,
        ..PcsOptions::default()
    };
    let mut components = Vec::with_capacity(runs.len());
    for run in &runs {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        components.push(pcs_of_run(run, &pcs_options, processor, progress)?);
    }
    Ok(result(run, epochs, &maps, &components))
}

fn result(run: &Run, epochs: Vec<usize>, maps: &[PairResult], components: &[PcsResult]) -> EpochsResult {
    let (map, end) = (&maps[0].info, &components[components.len() - 1]);
    let info = EpochsInfo {
        model: run.name(),
        layers: map.layers_x.clone(),
        stages: map.stages_x.clone(),
        epochs,
        estimator: map.estimator.clone(),
        kernel: map.kernel.clone(),
        batch_size: map.batch_size,
        batches: map.batches,
        component_examples: end.info.examples,
        batch_statistics: map.batch_statistics,
        data: map.data.clone(),
        versions: map.versions.clone(),
    };
    EpochsResult {
        cka: maps.iter().flat_map(|map| map.similarity.cka.iter().copied()).collect(),
        variance_explained: components.iter().flat_map(|of| of.similarity.variance_explained.iter().copied()).collect(),
        cosine_sq: components.iter().flat_map(|of| squared_cosines(of, end)).collect(),
        first_pc: components.iter().flat_map(|of| of.similarity.first_pc.iter().copied()).collect(),
        info,
    }
}

/// <u, v>^2 of the first components u and v, of unit length, of every layer of both.
fn squared_cosines(one: &PcsResult, other: &PcsResult) -> Vec<f64> {
    let examples = one.similarity.examples;
    let rows = one.similarity.first_pc.chunks_exact(examples).zip(other.similarity.first_pc.chunks_exact(examples));
    rows.map(|(u, v)| u.iter().zip(v).map(|(u, v)| u * v).sum::<f64>().powi(2)).collect()
}

impl Saved for EpochsResult {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let (epochs, layers) = (self.info.epochs.len(), self.info.layers.len());
        let (maps, rows) = ([epochs, layers, layers], [epochs, layers]);
        let vectors = [epochs, layers, self.info.component_examples];
        let arrays: [Array<'_>; 4] = [
            ("cka", &maps, &self.cka),
            ("variance_explained", &rows, &self.variance_explained),
            ("cosine_sq", &rows, &self.cosine_sq),
            ("first_pc", &vectors, &self.first_pc),
        ];
        FILES.stage(dir, &self.info, &arrays)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<EpochsInfo>(dir)?;
        let (epochs, layers) = (info.epochs.len(), info.layers.len());
        let result = Self {
            cka: numbers.array("cka", &[epochs, layers, layers])?,
            variance_explained: numbers.array("variance_explained", &[epochs, layers])?,
            cosine_sq: numbers.array("cosine_sq", &[epochs, layers])?,
            first_pc: numbers.array("first_pc", &[epochs, layers, info.component_examples])?,
            info,
        };
        numbers.check()?;
        Ok(result)
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<EpochsInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::epochs(self, &dir.join(PICTURE))
    }
}

#[cfg(test)]
mod tests;
