//! predictions.safetensors: what a finished run says of the test images, `logits` [images, classes] f32 and `labels`
//! [images] u32, in the order of the data. The metadata have the classes' names.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::sealed;

const FORMAT: u32 = 1;
const KIND: &str = "predictions";

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    /// In the order of the labels; none in files that were written before names were recorded, whose checksum knows of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    class_names: Vec<String>,
}

/// What a finished run says of the test images.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// How many classes there are.
    pub classes: usize,
    /// Their names, in the order of the labels; none where the run was finished before names were recorded.
    pub class_names: Vec<String>,
    /// What the last layer said, row-major \[images, classes\].
    pub logits: Vec<f32>,
    /// The class of each image.
    pub labels: Vec<u32>,
}

/// Writes `logits`, row-major, for the test images of `dataset`.
pub(crate) fn save(path: &Path, logits: &[f32], dataset: &Dataset) -> Result<()> {
    let description = Description { format: FORMAT, class_names: dataset.classes.clone() };
    write(path, &description, logits, dataset.test.labels())
}

/// Writes `logits`, row-major, for the images with these labels.
fn write(path: &Path, description: &impl Serialize, logits: &[f32], labels: &[u32]) -> Result<()> {
    let (images, classes) = (labels.len(), logits.len() / labels.len());
    let logits: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let labels: Vec<u8> = labels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors = [
        ("logits", Dtype::F32, vec![images, classes], logits.as_slice()),
        ("labels", Dtype::U32, vec![images], labels.as_slice()),
    ];
    sealed::write(path, KIND, description, &tensors)
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
    let (Description { format, class_names }, file) = sealed::open(path, KIND)?;
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
    if !class_names.is_empty() && class_names.len() != classes {
        return Err(damaged(format!("it names {} classes and has logits of {classes}", class_names.len())));
    }
    let logits = words(&values(logits)?).map(f32::from_le_bytes).collect();
    Ok(Predictions { classes, class_names, logits, labels })
}

/// Four bytes at a time.
fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::Split;

    const LABELS: [u32; 2] = [2, 0];
    /// Of the two images, for three classes.
    const LOGITS: [f32; 6] = [0.5, -1.0, f32::MIN_POSITIVE, f32::MAX, 0.0, -0.0];

    fn dataset(names: &[&str]) -> Dataset {
        let split = Split::new(vec![0; 6], LABELS.to_vec(), 1).unwrap();
        let classes = names.iter().map(|&name| name.to_owned()).collect();
        Dataset { name: "made up".to_owned(), classes, image_side: 1, train: split.clone(), test: split }
    }

    fn expected(names: &[&str]) -> Predictions {
        Predictions {
            classes: 3,
            class_names: dataset(names).classes,
            logits: LOGITS.to_vec(),
            labels: LABELS.to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.safetensors");
        let names = ["cat", "a \"dog\"", "größer"];
        save(&path, &LOGITS, &dataset(&names)).unwrap();
        assert_eq!(load(&path).unwrap(), expected(&names));
    }

    /// As they were written before names were recorded.
    #[test]
    fn predictions_without_names_are_read() {
        #[derive(Serialize)]
        struct Earlier {
            format: u32,
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.safetensors");
        write(&path, &Earlier { format: FORMAT }, &LOGITS, &LABELS).unwrap();
        check(&path).unwrap();
        assert_eq!(load(&path).unwrap(), expected(&[]));
    }

    #[test]
    fn names_of_other_classes_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.safetensors");
        save(&path, &LOGITS, &dataset(&["cat", "dog"])).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("names 2 classes and has logits of 3"), "{error}");
    }
}
