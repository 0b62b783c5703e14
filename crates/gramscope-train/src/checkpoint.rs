//! Checkpoints: everything that training needs to go on, in one sealed safetensors file.
//!
//! Tensors under the parameters' names (and running statistics'), each parameter's velocity under `velocity.` and its name;
//! the metadata say how far the run had come, and on which images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gramscope_nn::NamedTensors;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sealed::{self, SealedFile, Stored};

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

/// A checkpoint, as it was written; its tensors are read when they are asked for.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// How far the run had come.
    pub(crate) position: Position,
    /// Which images it was trained on.
    pub(crate) data: String,
    file: SealedFile,
}

impl Checkpoint {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Parameters and running statistics by name.
    pub(crate) fn state(&self) -> Part<'_> {
        self.part(|name| (!name.starts_with(VELOCITY)).then_some(name))
    }

    /// Velocities by their parameter's name.
    pub(crate) fn velocities(&self) -> Part<'_> {
        self.part(|name| name.strip_prefix(VELOCITY))
    }

    /// The tensors that have a name by `named`, and no others.
    fn part<'c>(&'c self, named: impl Fn(&'c str) -> Option<&'c str>) -> Part<'c> {
        let tensors = self.file.tensors().iter().filter_map(|(name, tensor)| Some((named(name)?, tensor)));
        Part { file: &self.file, tensors: tensors.collect() }
    }
}

/// Some of a checkpoint's tensors, in its file.
pub(crate) struct Part<'c> {
    file: &'c SealedFile,
    tensors: HashMap<&'c str, &'c TensorInfo>,
}

impl NamedTensors for Part<'_> {
    fn shapes(&self) -> Vec<(&str, &[usize])> {
        self.tensors.iter().map(|(name, tensor)| (*name, tensor.shape.as_slice())).collect()
    }

    fn tensor(&self, name: &str) -> candle_core::Result<Tensor> {
        let tensor = self.tensors[name];
        Tensor::from_raw_buffer(&self.file.read(tensor)?, DType::F32, &tensor.shape, &Device::Cpu)
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

/// Opens the checkpoint at `path`, all of which is looked at.
///
/// # Errors
/// [`Error::Io`]; [`Error::Damaged`] for a file that is no checkpoint, or is not what was written; [`Error::Checkpoint`] for one of
/// another format.
pub(crate) fn load(path: &Path) -> Result<Checkpoint> {
    let (Description { format, position, data }, file) = sealed::open(path, KIND)?;
    let unusable = |problem: String| Err(Error::Checkpoint { path: path.to_path_buf(), problem });
    if format != FORMAT {
        return unusable(format!("its format is {format}, and this program reads {FORMAT}"));
    }
    // As they are written.
    match file.tensors().iter().find(|(_, tensor)| tensor.dtype != Dtype::F32) {
        None => Ok(Checkpoint { position, data, file }),
        Some((name, _)) => unusable(format!("{name} holds no float32 numbers")),
    }
}

/// The newest good one of the checkpoints at `paths`, those that do not exist left out; none where none exists. A damaged one is named
/// in a warning and passed over.
///
/// # Errors
/// What is wrong with the newest, where every one that exists is damaged.
pub(crate) fn newest(paths: &[PathBuf]) -> Result<Option<Checkpoint>> {
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
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(reason) => passed_over(reason),
        }
    }
    damage.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests;
