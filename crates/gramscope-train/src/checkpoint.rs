//! Checkpoints: everything that training needs to go on, in one safetensors file.
//!
//! Tensors under the parameters' names (and running statistics'), each parameter's velocity under `velocity.` and its name;
//! under the metadata key `checkpoint` a JSON object with `format`, `epoch` (the last one trained) and `data` (the MD5 of the
//! training images and labels). One key, because the order of several would differ from file to file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::{Error, Result};

const FORMAT: u32 = 1;
const KEY: &str = "checkpoint";
const VELOCITY: &str = "velocity.";

/// What a checkpoint is of.
#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    epoch: usize,
    data: String,
}

/// What a checkpoint holds.
pub(crate) struct Checkpoint {
    /// The last epoch that was trained, from 1.
    pub(crate) epoch: usize,
    /// Which images it was trained on.
    pub(crate) data: String,
    /// Parameters and running statistics by name.
    pub(crate) state: HashMap<String, Tensor>,
    /// Velocities by their parameter's name.
    pub(crate) velocities: HashMap<String, Tensor>,
}

/// Replaces the checkpoint at `path`.
pub(crate) fn save(
    path: &Path,
    epoch: usize,
    data: &str,
    state: &[(String, Tensor)],
    velocities: &[(String, Tensor)],
) -> Result<()> {
    let velocities = velocities.iter().map(|(name, tensor)| (format!("{VELOCITY}{name}"), tensor));
    let tensors = state.iter().map(|(name, tensor)| (name.clone(), tensor)).chain(velocities);
    let stored = tensors
        .map(|(name, tensor)| {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<Vec<_>>>()?;
    let description = Description { format: FORMAT, epoch, data: data.to_owned() };
    let description = serde_json::to_string(&description).expect("numbers and text can always be written");
    let metadata = HashMap::from([(KEY.to_owned(), description)]);
    let tensors =
        stored.iter().map(|(name, shape, bytes)| (name.as_str(), Dtype::F32, shape.clone(), bytes.as_slice()));
    atomic::write(path, &container(path, tensors, Some(metadata))?).map_err(Error::io("write", path))
}

/// The bytes of a safetensors file.
pub(crate) fn container<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, Dtype, Vec<usize>, &'a [u8])>,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let problem = |reason: safetensors::SafeTensorError| Error::Checkpoint {
        path: path.to_path_buf(),
        problem: format!("it cannot be written: {reason}"),
    };
    let views = tensors
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(dtype, shape, bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(problem)?;
    serialize(views, metadata).map_err(problem)
}

/// Reads the checkpoint at `path`.
pub(crate) fn load(path: &Path, device: &Device) -> Result<Checkpoint> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let problem = |problem: String| Error::Checkpoint {
        path: path.to_path_buf(),
        problem: format!("{problem}; remove it, and go on from a kept epoch or train again"),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|reason| problem(reason.to_string()))?;
    let description = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let description = description.ok_or_else(|| problem("it is no checkpoint of this program".to_owned()))?;
    let Description { format, epoch, data } = serde_json::from_str(description)
        .map_err(|reason| problem(format!("its description cannot be read: {reason}")))?;
    if format != FORMAT {
        return Err(problem(format!("its format is {format} and not {FORMAT}")));
    }
    let tensors =
        candle_core::safetensors::load_buffer(&bytes, device).map_err(|reason| problem(reason.to_string()))?;
    let (mut state, mut velocities) = (HashMap::new(), HashMap::new());
    for (name, tensor) in tensors {
        match name.strip_prefix(VELOCITY) {
            Some(parameter) => velocities.insert(parameter.to_owned(), tensor),
            None => state.insert(name, tensor),
        };
    }
    Ok(Checkpoint { epoch, data, state, velocities })
}
