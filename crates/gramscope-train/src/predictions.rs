//! predictions.safetensors: what a finished run says of the test images, `logits` [images, classes] f32 and `labels`
//! [images] u32, in the order of the data.

use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::data::Split;
use crate::error::Result;
use crate::sealed;

const FORMAT: u32 = 1;
const KIND: &str = "predictions";

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
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
    sealed::read::<Description>(path, KIND).map(drop)
}
