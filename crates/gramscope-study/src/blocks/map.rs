//! The CKA map of one network: read, and checked for being one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use gramscope_train::reading;
use serde::Deserialize;

use super::LEAST_LAYERS;
use crate::mean::{self, Mean};
use crate::pair::{self, PairResult};
use crate::saved::{Npz, Saved};
use crate::{Error, Result};

/// Two entries of a pair of layers, or an entry of the diagonal and 1, may differ by this much: float32 maps of other
/// tools are off by 1e-7, and maps across models by far more.
const SYMMETRY: f64 = 1e-3;

/// Where a map comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file with the numbers.
    pub numbers: PathBuf,
    /// Name of the model.
    pub model: String,
}

/// The CKA of every layer of one network with every other.
#[derive(Clone, Debug)]
pub struct WithinMap {
    layers: Vec<String>,
    stages: Vec<usize>,
    /// Row-major, symmetric; NaN in the rows and columns of undefined layers.
    cka: Vec<f64>,
}

/// What a map of another tool must say of itself; what `cka` writes holds all of it.
#[derive(Deserialize)]
struct Described {
    layers_x: Vec<String>,
    layers_y: Option<Vec<String>>,
    #[serde(default)]
    stages_x: Vec<usize>,
    model_x: Option<String>,
    model_y: Option<String>,
    checksum: Option<String>,
}

impl WithinMap {
    /// A map of these layers, row-major, with the stage of each where that is known (else empty).
    ///
    /// # Errors
    /// What is wrong with it, in words: a size that does not fit, infinite or asymmetric values, fewer than
    /// [`LEAST_LAYERS`] defined layers.
    pub fn new(layers: Vec<String>, stages: Vec<usize>, cka: Vec<f64>) -> std::result::Result<Self, String> {
        let side = layers.len();
        if cka.len() != side * side {
            return Err(format!("{} values do not fit {side} layers", cka.len()));
        }
        let map = Self { layers, stages, cka };
        map.check_values()?;
        match map.defined().len() {
            defined if defined < LEAST_LAYERS => Err(format!(
                "{defined} layers are defined, and a block of nearly equal layers needs at least {LEAST_LAYERS}"
            )),
            _ => Ok(map),
        }
    }

    /// The map of a result, if it is one of one network.
    ///
    /// # Errors
    /// Those of [`Self::new`], and a result of two models.
    pub fn of(result: &PairResult) -> std::result::Result<Self, String> {
        let info = &result.info;
        one_model(Some((&info.model_x, &info.model_y)), &info.layers_x, &info.layers_y)?;
        Self::new(info.layers_x.clone(), info.stages_x.clone(), result.similarity.cka.clone())
    }

    /// Reads a map: `path` is an npz file with an array `cka`, the json file beside it with the names of the layers in
    /// `layers_x`, a directory with a cka.npz and a cka.json, or a mean of maps within networks, likewise. Results of this program
    /// are checked whole, by their checksum.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::File`] for one that does not hold the map of one network.
    pub fn read(path: &Path) -> Result<(Self, Origin)> {
        match mean::directory_of(path) {
            Some(directory) => Self::read_mean(&directory),
            None => Self::read_map(path),
        }
    }

    fn read_mean(directory: &Path) -> Result<(Self, Origin)> {
        let Mean { info, mean, .. } = Mean::load(directory)?;
        let numbers = directory.join(mean::NUMBERS);
        let wrong = |problem: String| Error::file(&numbers, problem);
        let (x, y) = info.models();
        one_model(Some((&x, &y)), &info.layers_x, &info.layers_y).map_err(wrong)?;
        let map = Self::new(info.layers_x, info.stages_x, mean).map_err(wrong)?;
        Ok((map, Origin { numbers, model: x }))
    }

    fn read_map(path: &Path) -> Result<(Self, Origin)> {
        let (numbers, info) = pair::files(path)?;
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |problem: String| Error::file(&path, problem)
        };
        let text = reading::read_to_string(&info).map_err(Error::io("read the layers' names from", &info))?;
        let described: Described = serde_json::from_str(&text)
            .map_err(|reason| Error::file(&info, format!("not the description of a CKA map: {reason}")))?;
        let layers = described.layers_x;
        let models = described.model_x.as_deref().zip(described.model_y.as_deref());
        one_model(models, &layers, described.layers_y.as_ref().unwrap_or(&layers)).map_err(wrong(&info))?;
        let model = match described.model_x {
            Some(model) => model,
            None => numbers.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let cka = if described.checksum.is_some() {
            pair::load_files(&numbers, &info)?.similarity.cka
        } else {
            let bytes = reading::read(&numbers).map_err(Error::io("read", &numbers))?;
            Npz::open(&numbers, bytes)?.array("cka", &[layers.len(), layers.len()])?
        };
        let map = Self::new(layers, described.stages_x, cka).map_err(wrong(&numbers))?;
        Ok((map, Origin { numbers, model }))
    }

    /// Names of the layers, first layer first.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// Stage of each layer, where it is known.
    pub fn stages(&self) -> &[usize] {
        &self.stages
    }

    /// The values, row-major.
    pub fn cka(&self) -> &[f64] {
        &self.cka
    }

    /// Indices of the layers that have a value with any other.
    pub(super) fn defined(&self) -> Vec<usize> {
        let side = self.layers.len();
        let row = |layer: usize| &self.cka[layer * side..(layer + 1) * side];
        let others = |layer: usize| row(layer).iter().enumerate().filter(move |(other, _)| *other != layer);
        (0..side).filter(|&layer| others(layer).any(|(_, value)| !value.is_nan())).collect()
    }

    /// The map of these layers alone.
    pub(super) fn square(&self, layers: &[usize]) -> Square {
        let side = self.layers.len();
        let values = layers.iter().flat_map(|row| layers.iter().map(move |column| self.cka[row * side + column]));
        Square { side: layers.len(), values: values.collect() }
    }

    fn check_values(&self) -> std::result::Result<(), String> {
        let defined = self.defined();
        let square = self.square(&defined);
        let name = |index: usize| &self.layers[defined[index]];
        for row in 0..defined.len() {
            if !((square.at(row, row) - 1.0).abs() <= SYMMETRY) {
                return Err(format!(
                    "{} has a CKA of {} with itself, which is not 1: this is no map of one network",
                    name(row),
                    square.at(row, row)
                ));
            }
            for column in 0..row {
                let (value, mirrored) = (square.at(row, column), square.at(column, row));
                if !((value - mirrored).abs() <= SYMMETRY) {
                    return Err(format!(
                        "the CKA of {} and {} is {value} and, the other way round, {mirrored}: this is no map of one \
                         network",
                        name(row),
                        name(column)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn one_model(models: Option<(&str, &str)>, x: &[String], y: &[String]) -> std::result::Result<(), String> {
    match models {
        Some((one, other)) if one != other => Err(format!(
            "a map of {one} against {other}: blocks are those of one network, of its layers against themselves"
        )),
        _ if x != y => Err("rows and columns are different layers: blocks are those of one network, of its layers \
                            against themselves"
            .to_owned()),
        _ if x.iter().collect::<HashSet<_>>().len() < x.len() => Err("two layers have the same name".to_owned()),
        _ => Ok(()),
    }
}

/// A symmetric map without undefined entries.
pub(super) struct Square {
    side: usize,
    values: Vec<f64>,
}

impl Square {
    pub(super) fn side(&self) -> usize {
        self.side
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.side + column]
    }

    /// The map of these layers alone.
    pub(super) fn select(&self, layers: &[usize]) -> Self {
        let values = layers.iter().flat_map(|&row| layers.iter().map(move |&column| self.at(row, column)));
        Self { side: layers.len(), values: values.collect() }
    }

    /// Mean over the pairs of different layers from `first` to `last`.
    pub(super) fn mean_of_pairs(&self, first: usize, last: usize) -> f64 {
        let pairs = (first..=last).flat_map(|row| (first..row).map(move |column| (row, column)));
        let (sum, count) =
            pairs.fold((0.0, 0_usize), |(sum, count), (row, column)| (sum + self.at(row, column), count + 1));
        sum / count as f64
    }
}
