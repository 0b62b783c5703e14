//! Checkpoints: everything that training needs to go on, in one sealed safetensors file.
//!
//! Tensors under the parameters' names (and running statistics'), each parameter's velocity under `velocity.` and its name;
//! the metadata say how far the run had come, and on which images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sealed::{self, Stored};

const FORMAT: u32 = 1;
const KIND: &str = "checkpoint";
const VELOCITY: &str = "velocity.";

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Whole epochs that were trained.
    pub(crate) epochs: usize,
    /// Steps of the next one that were made, and what they came to.
    pub(crate) partial: Partial,
}

/// What the steps of an epoch that is not over came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Partial {
    /// Steps.
    pub(crate) steps: usize,
    /// Sum of their losses.
    pub(crate) loss_sum: f64,
    /// Images that were classified correctly.
    pub(crate) correct: f64,
    /// The time they took.
    pub(crate) seconds: f64,
}

impl Position {
    /// What orders checkpoints by age.
    fn age(self) -> (usize, usize) {
        (self.epochs, self.partial.steps)
    }
}

/// What a checkpoint is of.
#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    position: Position,
    /// MD5 of the training images and labels.
    data: String,
}

/// A checkpoint that was read, as it was written.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// How far the run had come.
    pub(crate) position: Position,
    /// Which images it was trained on.
    pub(crate) data: String,
    path: PathBuf,
    /// The file.
    bytes: Vec<u8>,
}

impl Checkpoint {
    /// Parameters and running statistics by name.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for what is no tensor.
    pub(crate) fn state(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        self.tensors(device, |name| (!name.starts_with(VELOCITY)).then_some(name))
    }

    /// Velocities by their parameter's name.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub(crate) fn velocities(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        self.tensors(device, |name| name.strip_prefix(VELOCITY))
    }

    /// The tensors that have a name by `named`, and no others: half of a file is velocities, which networks have no use for.
    fn tensors(&self, device: &Device, named: impl Fn(&str) -> Option<&str>) -> Result<HashMap<String, Tensor>> {
        let unusable = |problem: String| Error::Checkpoint { path: self.path.clone(), problem };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|reason| unusable(reason.to_string()))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            if let Some(name) = named(name) {
                let tensor = view.load(device).map_err(|reason| unusable(reason.to_string()))?;
                tensors.insert(name.to_owned(), tensor);
            }
        }
        Ok(tensors)
    }
}

/// Replaces the checkpoint at `path`.
pub(crate) fn save(
    path: &Path,
    position: Position,
    data: &str,
    state: &[(String, Tensor)],
    velocities: &[(String, Tensor)],
) -> Result<()> {
    let velocities = velocities.iter().map(|(name, tensor)| (format!("{VELOCITY}{name}"), tensor));
    let tensors = state.iter().map(|(name, tensor)| (name.clone(), tensor)).chain(velocities);
    let values = tensors
        .map(|(name, tensor)| {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Stored<'_>> = values
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), Dtype::F32, shape.clone(), bytes.as_slice()))
        .collect();
    sealed::write(path, KIND, &Description { format: FORMAT, position, data: data.to_owned() }, &tensors)
}

/// Reads the checkpoint at `path`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Damaged`] for a file that is no checkpoint, or is not what was written; [`Error::Checkpoint`] for one of
/// another format.
pub(crate) fn load(path: &Path) -> Result<Checkpoint> {
    let (Description { format, position, data }, bytes) = sealed::read(path, KIND)?;
    let path = path.to_path_buf();
    if format != FORMAT {
        let problem = format!("its format is {format}, and this program reads {FORMAT}");
        return Err(Error::Checkpoint { path, problem });
    }
    match check_types(&bytes) {
        Ok(()) => Ok(Checkpoint { position, data, path, bytes }),
        Err(problem) => Err(Error::Checkpoint { path, problem }),
    }
}

/// Fails unless all tensors of a file are float32, as they are written.
fn check_types(bytes: &[u8]) -> Result<(), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|reason| reason.to_string())?;
    match file.iter().find(|(_, view)| view.dtype() != Dtype::F32) {
        None => Ok(()),
        Some((name, _)) => Err(format!("{name} holds no float32 numbers")),
    }
}

/// The newest good one of the checkpoints at `paths`, those that do not exist left out, with its path; none where none
/// exists. A damaged one is named in a warning and passed over.
///
/// # Errors
/// What is wrong with the newest, where every one that exists is damaged.
pub(crate) fn newest(paths: &[PathBuf]) -> Result<Option<(PathBuf, Checkpoint)>> {
    let mut damage = None;
    let mut passed_over = |reason: Error| {
        tracing::warn!("{reason}");
        damage.get_or_insert(reason);
    };
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        match sealed::describe::<Description>(path, KIND) {
            Ok(description) => found.push((description.position.age(), path)),
            Err(reason) => passed_over(reason),
        }
    }
    found.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
    for (_, path) in found {
        match load(path) {
            Ok(checkpoint) => return Ok(Some((path.clone(), checkpoint))),
            Err(reason) => passed_over(reason),
        }
    }
    damage.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests;
