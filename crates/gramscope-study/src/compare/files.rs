//! Comparing stored activations.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gramscope_cka::{Comparison, DeviceMemory, Memory, Similarity};

use super::unfinished::{BatchesTaken, ComparisonTask, totals};
use super::{Batches, CompareOptions, ModelInfo, Progress, batches, in_layer, in_models, in_whole, result};
use crate::activations::{ActivationFile, Rows};
use crate::names::unused;
use crate::pair::PairResult;
use crate::provenance::{DataInfo, ShuffledPasses, Versions};
use crate::unfinished::Keeper;
use crate::{Error, Result, Within};

/// Compares the layers of the file `a` with those of `b`, or with each other where there is no `b`. Batches are those
/// of as many `shuffled` passes, or of the files' own order, once: of a file that is sorted, by class say, these give another estimate,
/// for minibatch CKA is one over random batches. Rows of one layer are in memory at a time, or some features of them, and of the files
/// nothing grows with the number of examples but a shuffled order of them.
///
/// # Errors
/// What is wrong with a file ([`Error::Io`], [`Error::File`]), more examples asked for than it has among it;
/// [`Error::Incomparable`] for files with different numbers of examples or with fewer than a batch, [`Error::NonFinite`] for
/// NaN or infinity in an activation, [`Error::Memory`] where what may be taken is too little; [`Error::Interrupted`] once `stop` is set
/// and a batch is over.
pub fn compare_files(
    a: &Path,
    b: Option<&Path>,
    options: &CompareOptions,
    shuffled: Option<ShuffledPasses>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PairResult> {
    let paths = std::iter::once(a).chain(b);
    let files = paths.map(|path| ActivationFile::open(path, options.layers.as_ref())).collect::<Result<Vec<_>>>()?;
    // What is read is that of now, whatever is written there later.
    let file_versions: Option<Vec<String>> = files.iter().map(ActivationFile::version).collect();
    let examples = common_examples(&files, options.examples)?;
    let subject = || files.iter().map(|file| file.path().display().to_string()).collect::<Vec<_>>().join(", ");
    let batches = Batches::cut(examples, options).map_err(|reason| reason.of(&subject()))?;
    let passes = shuffled.map_or(Ok(0..1), |ShuffledPasses { passes, .. }| batches::passes(passes))?;
    let infos = infos(&files);
    let layers: Vec<usize> = infos.iter().map(|info| info.layers.len()).collect();
    let (x, y) = (0, files.len() - 1);
    let all_layers = || files.iter().flat_map(|file| file.layers());
    let largest = all_layers().map(|layer| layer.bytes(options.batch_size.min(examples))).max().unwrap_or(0);
    let features = all_layers().map(|layer| layer.features).max().unwrap_or(0);
    let order = shuffled.map_or(0, |_| (examples * size_of::<usize>()) as u64);
    let shares = options.needs(batches.largest(), &layers, &[(x, y)], largest, order).within(options.memory.host)?;

    let limit = options.memory.device;
    let device = DeviceMemory { limit, features, largest_upload: largest, ..DeviceMemory::default() };
    let mut comparison = options.begin(&layers, &[(x, y)], Memory { panels: shares.panels, device })?;
    let versions = Versions::with_gpu(options.device.as_deref());
    let place = options.unfinished.as_ref().filter(|_| file_versions.is_some());
    let mut keeper = Keeper::new(place, || {
        Ok(ComparisonTask {
            models: file_versions.clone().unwrap_or_default(),
            layers: infos.iter().map(|info| info.layers.clone()).collect(),
            pairs: vec![(x, y)],
            how: options.cka.into(),
            images: None,
            batches: BatchesTaken::new(examples, &batches, shuffled),
            versions: versions.clone(),
        })
    });
    if let Some(totals) = keeper.take_up(totals)? {
        comparison.go_on_from(totals).map_err(in_whole)?;
    }
    let pass = Reading { files: &files, infos: &infos, shuffled, examples, batches: &batches, most: shares.layer };
    let similarity =
        pass.compare(passes, comparison, &mut keeper, stop, progress).map_err(|reason| pass.placed(reason))?;
    drop(keeper);
    let path = |file: usize| files[file].path().to_owned();
    let data = DataInfo::Activations { file_x: path(x), file_y: path(y), examples, shuffled };
    Ok(result(&infos[x], &infos[y], similarity, &batches, options, data, versions))
}

/// Files that are read batch by batch.
struct Reading<'a> {
    files: &'a [ActivationFile],
    infos: &'a [ModelInfo],
    shuffled: Option<ShuffledPasses>,
    /// How many are compared.
    examples: usize,
    batches: &'a Batches,
    /// Bytes of a layer that may be in memory.
    most: u64,
}

impl Reading<'_> {
    /// What comes of handing all batches of these passes to `comparison`, but for those that it has.
    fn compare(
        &self,
        passes: Range<u32>,
        mut comparison: Comparison,
        keeper: &mut Keeper<'_, ComparisonTask>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Similarity> {
        let batches = passes.len() * self.batches.ranges.len();
        let mut rows = Rows::default();
        for (pass, ranges) in self.batches.after(comparison.batches(), passes) {
            let order = self.shuffled.map(|passes| self.order(passes, pass));
            for range in ranges {
                let _range = gramscope_cuda::range(&format!("batch {}", comparison.batches() + 1));
                comparison.begin_batch(range.len()).map_err(in_whole)?;
                let (batch, of_batch) = (comparison.batches(), comparison.observations());
                let (mut done, total) = (batch * of_batch, batches * of_batch);
                let examples =
                    order.as_ref().map_or_else(|| range.clone().collect(), |order| order[range.clone()].to_vec());
                self.observe(&examples, &mut comparison, &mut rows, &mut |subject| {
                    done += 1;
                    progress(Progress { done, total, batch: batch + 1, batches, subject });
                })?;
                comparison.end_batch().map_err(in_models(self.infos))?;
                keeper.batch_ended(stop, || comparison.totals().map_err(in_models(self.infos)))?;
            }
        }
        keeper.ended(|| comparison.totals().map_err(in_models(self.infos)))?;
        Ok(comparison.finish().map_err(in_models(self.infos))?.remove(0))
    }

    /// The order of the examples in one of the passes.
    fn order(&self, ShuffledPasses { seed, .. }: ShuffledPasses, pass: u32) -> Vec<usize> {
        batches::shuffled(self.examples, pass, seed)
    }

    /// Hands these examples of every layer to `comparison`, in as many rounds as it wants.
    fn observe(
        &self,
        examples: &[usize],
        comparison: &mut Comparison,
        rows: &mut Rows,
        observed: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let batch = comparison.batches();
        loop {
            for (model, (file, info)) in self.files.iter().zip(self.infos).enumerate() {
                let subject = file.path().display().to_string();
                for layer in comparison.wanted(model) {
                    let name = &info.layers[layer];
                    let _range = gramscope_cuda::range(name);
                    file.with_rows(layer, examples, self.most, rows, |activation| {
                        comparison.observe(model, layer, activation).map_err(in_layer(&subject, name, batch))
                    })?;
                    observed(&info.name);
                }
            }
            if !comparison.next_round().map_err(in_whole)? {
                return Ok(());
            }
        }
    }

    /// `reason`, where it names an example with the example's place in the file in that of its place in a batch.
    fn placed(&self, reason: Error) -> Error {
        let Error::NonFinite { model, layer, batch, example, within: Within::Batch } = reason else { return reason };
        let ranges = &self.batches.ranges;
        let (pass, start) = ((batch - 1) / ranges.len(), ranges[(batch - 1) % ranges.len()].start);
        // Every pass has a number of 32 bits.
        let pass = u32::try_from(pass).unwrap_or(u32::MAX);
        let place = start + example - 1;
        let example = self.shuffled.map_or(place, |passes| self.order(passes, pass)[place]) + 1;
        Error::NonFinite { model, layer, batch, example, within: Within::File }
    }
}

/// How many examples are compared: the first that are asked for of all files, or all.
fn common_examples(files: &[ActivationFile], wanted: Option<usize>) -> Result<usize> {
    if let Some(wanted) = wanted {
        files.iter().try_for_each(|file| file.check_first(wanted))?;
        return Ok(wanted);
    }
    let (first, last) = (&files[0], &files[files.len() - 1]);
    if first.examples() != last.examples() {
        return Err(Error::incomparable(format!(
            "{} has {} examples and {} has {}; both need the same ones, in the same order",
            first.path().display(),
            first.examples(),
            last.path().display(),
            last.examples()
        )));
    }
    Ok(first.examples())
}

/// The files as models; equal names get a number.
fn infos(files: &[ActivationFile]) -> Vec<ModelInfo> {
    let mut taken = HashSet::new();
    let info = |file: &ActivationFile| {
        let info = ModelInfo::of_file(file);
        ModelInfo { name: unused(&info.name, &mut taken), ..info }
    };
    files.iter().map(info).collect()
}

#[cfg(test)]
mod tests;
