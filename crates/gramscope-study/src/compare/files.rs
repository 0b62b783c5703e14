//! Comparing stored activations.

use std::collections::HashSet;
use std::path::Path;

use gramscope_cka::{DeviceMemory, Memory};

use super::{Batches, CompareOptions, ModelInfo, Progress, in_layer, in_models, in_whole, result};
use crate::activations::{ActivationFile, Rows};
use crate::names::unused;
use crate::pair::PairResult;
use crate::provenance::{DataInfo, Versions};
use crate::{Error, Result};

/// Compares the layers of the file `a` with those of `b`, or with each other where there is no `b`; batches are taken in
/// file order, once. Memory does not grow with the files: rows of one layer are read at a time, or some features of them.
///
/// # Errors
/// What is wrong with a file ([`Error::Io`], [`Error::File`]), more examples asked for than it has among it;
/// [`Error::Incomparable`] for files with different numbers of examples or with fewer than a batch, [`Error::NonFinite`] for
/// NaN or infinity in an activation, [`Error::Memory`] where what may be taken is too little.
pub fn compare_files(
    a: &Path,
    b: Option<&Path>,
    options: &CompareOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PairResult> {
    let paths = std::iter::once(a).chain(b);
    let files = paths.map(|path| ActivationFile::open(path, options.layers.as_ref())).collect::<Result<Vec<_>>>()?;
    let examples = common_examples(&files, options.examples)?;
    let subject = || files.iter().map(|file| file.path().display().to_string()).collect::<Vec<_>>().join(", ");
    let batches = Batches::cut(examples, options).map_err(|reason| reason.of(&subject()))?;
    let infos = infos(&files);
    let layers: Vec<usize> = infos.iter().map(|info| info.layers.len()).collect();
    let (x, y) = (0, files.len() - 1);
    let all_layers = || files.iter().flat_map(|file| file.layers());
    let largest = all_layers().map(|layer| layer.bytes(options.batch_size.min(examples))).max().unwrap_or(0);
    let features = all_layers().map(|layer| layer.features).max().unwrap_or(0);
    let shares = options.needs(batches.largest(), &layers, &[(x, y)], largest, 0).within(options.memory.host)?;

    let limit = options.memory.device;
    let device = DeviceMemory { limit, features, largest_upload: largest, ..DeviceMemory::default() };
    let mut comparison = options.begin(&layers, &[(x, y)], Memory { panels: shares.panels, device })?;
    let mut rows = Rows::default();
    let mut done = 0;
    for (batch, range) in batches.ranges.iter().enumerate() {
        let _range = gramscope_cuda::range(&format!("batch {}", batch + 1));
        comparison.begin_batch(range.len()).map_err(in_whole)?;
        let (batches, total) = (batches.ranges.len(), batches.ranges.len() * comparison.observations());
        loop {
            for (model, file) in files.iter().enumerate() {
                let subject = file.path().display().to_string();
                for layer in comparison.wanted(model) {
                    let name = &infos[model].layers[layer];
                    let _range = gramscope_cuda::range(name);
                    file.with_rows(layer, range.clone(), shares.layer, &mut rows, |activation| {
                        comparison.observe(model, layer, activation).map_err(in_layer(&subject, name, batch))
                    })?;
                    done += 1;
                    progress(Progress { done, total, batch: batch + 1, batches, subject: &infos[model].name });
                }
            }
            if !comparison.next_round().map_err(in_whole)? {
                break;
            }
        }
        comparison.end_batch().map_err(in_models(&infos))?;
    }

    let similarity = comparison.finish().map_err(in_models(&infos))?.remove(0);
    let path = |file: usize| files[file].path().to_owned();
    let data = DataInfo::Activations { file_x: path(x), file_y: path(y), examples };
    let versions = Versions::with_gpu(options.device.as_deref());
    Ok(result(&infos[x], &infos[y], similarity, &batches, options, data, versions))
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
