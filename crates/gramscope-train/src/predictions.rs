//! predictions.safetensors: what a finished run says of the test images, `logits` [images, classes] f32 and `labels`
//! [images] u32, in the order of the data.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};

use crate::data::Split;
use crate::error::{Error, Result};
use crate::sealed;

const FORMAT: u32 = 1;
const KIND: &str = "predictions";

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
}

/// What a finished run says of the test images.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// How many classes there are.
    pub classes: usize,
    /// What the last layer said, row-major \[images, classes\].
    pub logits: Vec<f32>,
    /// The class of each image.
    pub labels: Vec<u32>,
}

/// Writes `logits`, row-major, for the images of `split`.
pub(crate) fn save(path: &Path, logits: &[f32], split: &Split) -> Result<()> {
    let (images, classes) = (split.len(), logits.len() / split.len());
    let logits: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let labels: Vec<u8> = split.labels().iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors = [
        ("logits", Dtype::F32, vec![images, classes], logits.as_slice()),
        ("labels", Dtype::U32, vec![images], labels.as_slice()),
    ];
    sealed::write(path, KIND, &Description { format: FORMAT }, &tensors)
}

/// Fails unless the file at `path` is what was written.
pub(crate) fn check(path: &Path) -> Result<()> {
    sealed::open::<Description>(path, KIND).map(drop)
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// [`Error::NoPredictions`] where there is no such file, [`Error::Io`], [`Error::Damaged`].
pub(crate) fn load(path: &Path) -> Result<Predictions> {
    if !path.exists() {
        return Err(Error::NoPredictions { path: path.to_path_buf() });
    }
    let (Description { format }, file) = sealed::open(path, KIND)?;
    let damaged = |problem: String| Error::Damaged { path: path.to_path_buf(), kind: KIND.to_owned(), problem };
    if format != FORMAT {
        return Err(damaged(format!("it has format {format}, this program reads {FORMAT}")));
    }
    let tensor = |name: &str| file.tensors().get(name).ok_or_else(|| damaged(format!("it has no {name}")));
    let (logits, labels) = (tensor("logits")?, tensor("labels")?);
    let (&[images, classes], Dtype::F32, Dtype::U32) = (logits.shape.as_slice(), logits.dtype, labels.dtype) else {
        return Err(damaged("logits or labels have another shape or type than they are written with".to_owned()));
    };
    let values = |tensor: &TensorInfo| file.read(tensor).map_err(Error::io("read", path));
    let labels = words(&values(labels)?).map(u32::from_le_bytes).collect::<Vec<_>>();
    if labels.len() != images || labels.iter().any(|&label| label as usize >= classes) {
        return Err(damaged(format!("its labels do not fit logits of {images} images and {classes} classes")));
    }
    Ok(Predictions { classes, logits: words(&values(logits)?).map(f32::from_le_bytes).collect(), labels })
}

/// Four bytes at a time.
fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]])
}
