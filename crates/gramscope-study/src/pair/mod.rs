//! One compared pair as it lies on disk: cka.npz (the numbers), cka.json (what they are of).
//!
//! cka.npz holds float64 arrays `cka` and `hsic_xy` of L1 x L2, `hsic_xx` of L1 and `hsic_yy` of L2 values, so that
//! `numpy.load` reads it; undefined entries are NaN.

mod all;

use std::path::{Path, PathBuf};

pub use all::{check_all, write_all};
use gramscope_cka::Similarity;
use serde::{Deserialize, Serialize};

use crate::provenance::{DataInfo, Versions};
use crate::saved::{Array, Files, Saved, Staged, positions};
use crate::{Error, Result, plot};

/// File of the numbers.
pub const NUMBERS: &str = "cka.npz";
/// File that says what the numbers are of.
pub const INFO: &str = "cka.json";
/// File of the heatmap.
pub const PICTURE: &str = "cka.png";

const FILES: Files =
    Files { kind: "a CKA result", numbers: NUMBERS, info: INFO, arrays: &["cka", "hsic_xy", "hsic_xx", "hsic_yy"] };

/// A compared pair of models, or a model compared with itself.
#[derive(Clone, Debug)]
pub struct PairResult {
    /// What was compared, and how.
    pub info: PairInfo,
    /// The numbers.
    pub similarity: Similarity,
}

impl PairResult {
    /// The same result with rows and columns exchanged.
    pub(crate) fn transposed(&self) -> Self {
        let (info, found) = (self.info.clone(), &self.similarity);
        let (rows, columns) = (found.layers_x, found.layers_y);
        let transpose = |values: &[f64]| {
            (0..columns).flat_map(|y| (0..rows).map(move |x| x * columns + y)).map(|place| values[place]).collect()
        };
        Self {
            info: PairInfo {
                model_x: info.model_y,
                model_y: info.model_x,
                layers_x: info.layers_y,
                layers_y: info.layers_x,
                stages_x: info.stages_y,
                stages_y: info.stages_x,
                undefined: Undefined { x: info.undefined.y, y: info.undefined.x },
                ..info
            },
            similarity: Similarity {
                layers_x: columns,
                layers_y: rows,
                cka: transpose(&found.cka),
                hsic_xy: transpose(&found.hsic_xy),
                hsic_xx: found.hsic_yy.clone(),
                hsic_yy: found.hsic_xx.clone(),
                undefined_x: found.undefined_y.clone(),
                undefined_y: found.undefined_x.clone(),
                batches: found.batches,
            },
        }
    }
}

/// What was compared, and how: cka.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairInfo {
    /// Name of the model whose layers are the rows.
    pub model_x: String,
    /// Name of the model whose layers are the columns.
    pub model_y: String,
    /// Names of the rows, first layer first.
    pub layers_x: Vec<String>,
    /// Names of the columns.
    pub layers_y: Vec<String>,
    /// Stage of each row (0 stem, 1 to 3, 4 head), where it is known: a boundary lies where it changes.
    #[serde(default)]
    pub stages_x: Vec<usize>,
    /// Stage of each column.
    #[serde(default)]
    pub stages_y: Vec<usize>,
    /// `unbiased` or `biased`.
    pub estimator: String,
    /// `linear` or `rbf:T`.
    pub kernel: String,
    /// `exact` or `fast`.
    pub gram: String,
    /// Whether every example's activation was divided by its Euclidean norm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalised_examples: bool,
    /// Examples a minibatch.
    pub batch_size: usize,
    /// Minibatches that were summed over.
    pub batches: usize,
    /// Examples of the last minibatch of a pass: fewer than `batch_size` where a short one was kept.
    pub last_batch: usize,
    /// Examples at the end of every pass that were in no minibatch.
    pub dropped: usize,
    /// What was left out because it dominates a model, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_dominant: Option<DroppedDominant>,
    /// Whether the networks' batch norms took the statistics of each minibatch instead of the running ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batch_statistics: bool,
    /// Layers whose HSIC with themselves is zero: their entries are NaN.
    pub undefined: Undefined,
    /// Where the examples came from.
    pub data: DataInfo,
    /// What computed this.
    pub versions: Versions,
}

impl PairInfo {
    /// Whether the examples are images as the network was tested on, and its activations as it has them then.
    pub(crate) fn is_plain(&self) -> bool {
        let changed = self.normalised_examples || self.batch_statistics || self.dropped_dominant.is_some();
        !self.is_noise() && !changed
    }

    /// Whether noise was fed in the place of images.
    pub(crate) fn is_noise(&self) -> bool {
        matches!(self.data, DataInfo::Images { noise: true, .. })
    }

    /// What was done otherwise than usual to the examples or their activations, in words.
    pub(crate) fn variations(&self) -> Vec<String> {
        let dropped = self
            .dropped_dominant
            .as_ref()
            .map(|dropped| format!("without the {} images that dominate", dropped.examples.len()));
        let said = |is: bool, text: &str| is.then(|| text.to_owned());
        let batch_statistics = said(self.batch_statistics, "statistics of each batch");
        let normalised = said(self.normalised_examples, "activations of length one");
        let shuffled = matches!(self.data, DataInfo::Activations { shuffled: Some(_), .. });
        let shuffled = said(shuffled, "shuffled");
        [normalised, batch_statistics, dropped, shuffled].into_iter().flatten().collect()
    }
}

/// Names of undefined layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undefined {
    /// Of the rows.
    pub x: Vec<String>,
    /// Of the columns.
    pub y: Vec<String>,
}

/// Images that were left out because they dominate a model: its layer whose first principal component explains the largest
/// fraction of the variance has the largest absolute projections of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedDominant {
    /// The fraction of the images that was asked for, of each model.
    pub fraction: f64,
    /// That layer of every model that was compared, as "run: layer".
    pub layers: Vec<String>,
    /// Places of the images among the first so many of the data, from 0, ascending: those of all models together.
    pub examples: Vec<usize>,
}

impl Saved for PairResult {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let similarity = &self.similarity;
        let matrix = [similarity.layers_x, similarity.layers_y];
        let arrays: [Array<'_>; 4] = [
            ("cka", &matrix, &similarity.cka),
            ("hsic_xy", &matrix, &similarity.hsic_xy),
            ("hsic_xx", &matrix[..1], &similarity.hsic_xx),
            ("hsic_yy", &matrix[1..], &similarity.hsic_yy),
        ];
        FILES.stage(dir, &self.info, &arrays)
    }

    fn load(dir: &Path) -> Result<Self> {
        load_files(&dir.join(NUMBERS), &dir.join(INFO))
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<PairInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::heatmap(self, &dir.join(PICTURE))
    }
}

/// Reads a result, wherever its two files are now.
pub(crate) fn load_files(numbers: &Path, info: &Path) -> Result<PairResult> {
    let (info, mut numbers) = FILES.open_at::<PairInfo>(numbers, info)?;
    let (layers_x, layers_y) = (info.layers_x.len(), info.layers_y.len());
    let similarity = Similarity {
        layers_x,
        layers_y,
        batches: info.batches,
        cka: numbers.array("cka", &[layers_x, layers_y])?,
        hsic_xy: numbers.array("hsic_xy", &[layers_x, layers_y])?,
        hsic_xx: numbers.array("hsic_xx", &[layers_x])?,
        hsic_yy: numbers.array("hsic_yy", &[layers_y])?,
        undefined_x: positions(&info.layers_x, &info.undefined.x),
        undefined_y: positions(&info.layers_y, &info.undefined.y),
    };
    numbers.check()?;
    Ok(PairResult { info, similarity })
}

/// Reads DIR/cka.json alone.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::File`] where it is no result's.
fn load_info(dir: &Path) -> Result<PairInfo> {
    FILES.load_info(dir)
}

/// The npz and the json file that `path` stands for: it names either, or a directory with a cka.npz and a cka.json.
pub(crate) fn files(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if !path.exists() {
        return Err(Error::file(path, "there is no such file or directory"));
    }
    Ok(if path.is_dir() {
        (path.join(NUMBERS), path.join(INFO))
    } else {
        (path.with_extension("npz"), path.with_extension("json"))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use gramscope_nn::Backend;

    use super::*;

    /// A made result of 2 x 3 layers, the last row undefined.
    pub(crate) fn made(model_x: &str, model_y: &str) -> PairResult {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        PairResult {
            info: PairInfo {
                model_x: model_x.to_owned(),
                model_y: model_y.to_owned(),
                layers_x: names(&["stem.conv", "dead \"quoted\" β"]),
                layers_y: names(&["a", "b", "c"]),
                stages_x: vec![0, 1],
                stages_y: Vec::new(),
                estimator: "unbiased".to_owned(),
                kernel: "rbf:0.5".to_owned(),
                gram: "exact".to_owned(),
                normalised_examples: false,
                batch_size: 8,
                batches: 3,
                last_batch: 8,
                dropped: 2,
                dropped_dominant: None,
                batch_statistics: false,
                undefined: Undefined { x: names(&["dead \"quoted\" β"]), y: Vec::new() },
                data: DataInfo::Images {
                    name: "builtin".to_owned(),
                    dir: None,
                    examples: 26,
                    passes: 1,
                    seed: 0,
                    noise: false,
                },
                versions: Versions::current(),
            },
            similarity: Similarity {
                layers_x: 2,
                layers_y: 3,
                batches: 3,
                cka: vec![1.0, -0.1 / 3.0, 0.5, f64::NAN, f64::NAN, f64::NAN],
                hsic_xy: vec![f64::MIN_POSITIVE, -1e300, 0.1, 0.0, 0.0, 0.0],
                hsic_xx: vec![1e-320, 0.0],
                hsic_yy: vec![1.0, 2.0, f64::INFINITY],
                undefined_x: vec![1],
                undefined_y: Vec::new(),
            },
        }
    }

    /// The bits of every number, so that NaN equals itself.
    fn bits(similarity: &Similarity) -> Vec<Vec<u64>> {
        let Similarity { cka, hsic_xy, hsic_xx, hsic_yy, .. } = similarity;
        [cka, hsic_xy, hsic_xx, hsic_yy].map(|values| values.iter().map(|value| value.to_bits()).collect()).to_vec()
    }

    #[test]
    fn what_is_saved_is_loaded_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new").join("deep");
        let result = made("x", "y");
        made("older", "result").save(&dir).unwrap();
        result.save(&dir).unwrap();
        let loaded = PairResult::load(&dir).unwrap();
        assert_eq!(loaded.info, result.info);
        assert_eq!(bits(&loaded.similarity), bits(&result.similarity));
        assert_eq!(loaded.similarity.undefined_x, [1]);
        assert_eq!((loaded.similarity.layers_x, loaded.similarity.layers_y, loaded.similarity.batches), (2, 3, 3));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }

    /// So that what was written before there was a GPU reads as it did, and the CPU writes what it wrote.
    #[test]
    fn only_a_gpu_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let mut result = made("x", "y");
        result.save(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(INFO)).unwrap();
        assert!(!text.contains("backend") && !text.contains("gpu"), "{text}");
        result.info.versions.backend = Backend::CudaTf32;
        result.info.versions.gpu = Some("a GPU".to_owned());
        result.save(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(INFO)).unwrap();
        assert!(text.contains("\"backend\": \"cuda-tf32\"") && text.contains("\"gpu\": \"a GPU\""), "{text}");
        assert_eq!(PairResult::load(dir.path()).unwrap().info, result.info);
    }

    #[test]
    fn the_same_result_makes_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            made("x", "y").save(&dir.path().join(name)).unwrap();
            fs::read(dir.path().join(name).join(NUMBERS)).unwrap()
        });
        assert_eq!(one, two);
    }

    #[test]
    fn the_description_has_the_keys_of_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        made("x", "y").save(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(INFO)).unwrap();
        let info: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in
            ["layers_x", "layers_y", "estimator", "kernel", "batch_size", "batches", "undefined", "data", "versions"]
        {
            assert!(info.get(key).is_some(), "{key} is missing from {text}");
        }
    }

    /// JSON has white space and numbers of more than one spelling, so only the bytes of the numbers are held to every bit.
    #[test]
    fn every_flipped_bit_of_the_numbers_is_found() {
        let dir = tempfile::tempdir().unwrap();
        made("x", "y").save(dir.path()).unwrap();
        let path = dir.path().join(NUMBERS);
        let good = fs::read(&path).unwrap();
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            assert!(PairResult::load(dir.path()).is_err(), "bit {bit} may flip unnoticed");
        }
        fs::write(&path, &good).unwrap();
        let info = dir.path().join(INFO);
        let text = fs::read_to_string(&info).unwrap();
        fs::write(&info, text.replace("\"unbiased\"", "\"biased\"")).unwrap();
        let error = PairResult::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }

    #[test]
    fn files_that_are_no_result_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| PairResult::load(dir).unwrap_err().to_string();
        assert!(error(dir.path()).contains(INFO));
        made("x", "y").save(dir.path()).unwrap();
        let numbers = fs::read(dir.path().join(NUMBERS)).unwrap();
        for end in [0, 10, numbers.len() / 2, numbers.len() - 1] {
            fs::write(dir.path().join(NUMBERS), &numbers[..end]).unwrap();
            assert!(error(dir.path()).contains(NUMBERS));
        }
        let mut other = made("x", "y");
        other.info.layers_y.pop();
        let mut sealed = serde_json::to_value(&other.info).unwrap();
        sealed["checksum"] = "".into();
        fs::write(dir.path().join(INFO), sealed.to_string()).unwrap();
        fs::write(dir.path().join(NUMBERS), &numbers).unwrap();
        let message = error(dir.path());
        assert!(message.contains("cka") && message.contains("[2, 3]") && message.contains("[2, 2]"), "{message}");
        fs::write(dir.path().join(INFO), "{}").unwrap();
        assert!(error(dir.path()).contains("not the description of a CKA result"));
    }
}
