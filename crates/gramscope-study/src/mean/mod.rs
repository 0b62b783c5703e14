//! Mean and variance, entry by entry, of CKA maps of the same layers: over the seeds of one architecture, say.
//!
//! mean.npz holds float64 arrays `mean`, `variance` and `count`, all [L1, L2]: over the maps in which the entry is
//! defined, count of them, x_1 to x_count,
//!
//! ```text
//! mean = sum x_k / count        variance = sum (x_k - mean)^2 / (count - 1)
//! ```
//!
//! the unbiased one; NaN where there is no value, and for the variance where there is only one. mean.json says of what,
//! and mean.png and variance.png show it.

mod pairs;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use pairs::groups;
pub use pairs::{PAIRS, over_pairs};
use serde::{Deserialize, Serialize};

use crate::pair::{self, INFO, PairInfo, PairResult};
use crate::plot::{self, is_within};
use crate::provenance::Versions;
use crate::saved::{Array, Files, Saved, Staged};
use crate::statistics::Moments;
use crate::{Error, Result, tree};

/// File of the numbers.
pub const NUMBERS: &str = "mean.npz";
/// File that says what the numbers are of.
pub const MEAN: &str = "mean.json";
const FILES: Files = Files { kind: "mean maps", numbers: NUMBERS, info: MEAN, arrays: &["mean", "variance", "count"] };
/// File of the map of means.
pub const PICTURE: &str = "mean.png";
/// File of the map of variances.
pub const VARIANCE_PICTURE: &str = "variance.png";

/// What the means are those of: mean.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeanInfo {
    /// Names of the rows, first layer first.
    pub layers_x: Vec<String>,
    /// Names of the columns.
    pub layers_y: Vec<String>,
    /// Stage of each row, where it is known.
    pub stages_x: Vec<usize>,
    /// Stage of each column.
    pub stages_y: Vec<usize>,
    /// `unbiased` or `biased`, of every map.
    pub estimator: String,
    /// `linear` or `rbf:T`, of every map.
    pub kernel: String,
    /// The maps, at least one, in the order in which they were named.
    pub maps: Vec<MeanSource>,
    /// What computed this.
    pub versions: Versions,
}

impl MeanInfo {
    /// What the rows and the columns are those of: names of models, the first and others where they differ.
    pub(crate) fn models(&self) -> (String, String) {
        let named = |of: fn(&MeanSource) -> &String| {
            let first = of(&self.maps[0]);
            if self.maps.iter().all(|map| of(map) == first) { first.clone() } else { format!("{first} and others") }
        };
        (named(|map| &map.model_x), named(|map| &map.model_y))
    }
}

/// One of the maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeanSource {
    /// Name of the model whose layers are the rows.
    pub model_x: String,
    /// Name of the model whose layers are the columns.
    pub model_y: String,
    /// Its file of numbers.
    pub file: PathBuf,
}

/// Mean and variance of several maps.
#[derive(Clone, Debug)]
pub struct Mean {
    /// Of what.
    pub info: MeanInfo,
    /// A row a layer of x, as all of these.
    pub mean: Vec<f64>,
    /// Unbiased.
    pub variance: Vec<f64>,
    /// Maps in which the entry is defined.
    pub count: Vec<f64>,
}

/// Reads the maps that `paths` stand for and averages them. A path is a result's npz or json file, its directory, or
/// any directory above results, which stands for all maps below it that compare a model with itself.
///
/// # Errors
/// [`Error::Incomparable`] for fewer than two maps, for one that is given twice, and for maps that do not have the same layers,
/// estimator and kernel, or of which some are within a model and others across two; what reading says.
pub fn average(paths: &[PathBuf]) -> Result<Mean> {
    let mut maps = Vec::new();
    for path in paths {
        maps.extend(read(path)?);
    }
    check_distinct(&maps)?;
    of_maps(&maps)
}

/// Fails where a file is there twice: the variance would be too small.
fn check_distinct(maps: &[(PairResult, PathBuf)]) -> Result<()> {
    let mut places = HashSet::new();
    for (_, file) in maps {
        if !places.insert(fs::canonicalize(file).map_err(Error::io("read", file))?) {
            return Err(Error::incomparable(format!("{} is given twice", file.display())));
        }
    }
    Ok(())
}

/// Averages maps, each with its file of numbers.
pub(crate) fn of_maps(maps: &[(PairResult, PathBuf)]) -> Result<Mean> {
    let [(first, _), others @ ..] = maps else {
        return Err(Error::incomparable("there is no map to average".to_owned()));
    };
    if others.is_empty() {
        let problem = format!("{} is the only map: a mean over seeds takes two or more", name(&first.info));
        return Err(Error::incomparable(problem));
    }
    for (other, _) in others {
        check_alike(&first.info, &other.info)?;
    }
    let values: Vec<&[f64]> = maps.iter().map(|(result, _)| result.similarity.cka.as_slice()).collect();
    let (mut mean, mut variance, mut count) = (Vec::new(), Vec::new(), Vec::new());
    for entry in 0..values[0].len() {
        let defined: Vec<f64> = values.iter().map(|map| map[entry]).filter(|value| !value.is_nan()).collect();
        let moments = Moments::of(&defined);
        mean.push(moments.mean);
        variance.push(moments.variance);
        count.push(moments.n as f64);
    }
    let info = &first.info;
    let info = MeanInfo {
        layers_x: info.layers_x.clone(),
        layers_y: info.layers_y.clone(),
        stages_x: info.stages_x.clone(),
        stages_y: info.stages_y.clone(),
        estimator: info.estimator.clone(),
        kernel: info.kernel.clone(),
        maps: maps.iter().map(|(result, file)| source(&result.info, file)).collect(),
        versions: Versions::current(),
    };
    Ok(Mean { info, mean, variance, count })
}

impl Saved for Mean {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE, VARIANCE_PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let shape = [self.info.layers_x.len(), self.info.layers_y.len()];
        let arrays: [Array<'_>; 3] =
            [("mean", &shape, &self.mean), ("variance", &shape, &self.variance), ("count", &shape, &self.count)];
        FILES.stage(dir, &self.info, &arrays)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<MeanInfo>(dir)?;
        let shape = [info.layers_x.len(), info.layers_y.len()];
        let mut array = |name| numbers.array(name, &shape);
        let (mean, variance, count) = (array("mean")?, array("variance")?, array("count")?);
        numbers.check()?;
        if info.maps.is_empty() {
            return Err(Error::file(&dir.join(MEAN), "it is the mean of no maps"));
        }
        Ok(Self { info, mean, variance, count })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<MeanInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::mean(self, &dir.join(PICTURE), &dir.join(VARIANCE_PICTURE))
    }
}

/// The directory of the mean that `path` stands for, as its npz or json file, or as the directory where no map is; none where it stands
/// for no mean, such as for a map of another tool whose files have these names.
pub(crate) fn directory_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return (path.join(MEAN).is_file() && !path.join(INFO).exists()).then(|| path.to_owned());
    }
    let is_named = [NUMBERS, MEAN].map(Some).contains(&path.file_name().and_then(|name| name.to_str()));
    let directory = path.parent().filter(|_| is_named)?;
    FILES.load_info::<MeanInfo>(directory).is_ok().then(|| directory.to_owned())
}

fn read(path: &Path) -> Result<Vec<(PairResult, PathBuf)>> {
    if !path.is_dir() || path.join(INFO).exists() {
        let (numbers, info) = pair::files(path)?;
        return Ok(vec![(pair::load_files(&numbers, &info)?, numbers)]);
    }
    let mut found = Vec::new();
    for dir in tree::directories(path)?.into_iter().filter(|dir| dir.join(INFO).is_file()) {
        let result = PairResult::load(&dir)?;
        if is_within(&result.info) {
            found.push((result, dir.join(pair::NUMBERS)));
        }
    }
    if found.is_empty() {
        return Err(Error::file(path, "there is no map of a network with itself below it"));
    }
    Ok(found)
}

fn check_alike(one: &PairInfo, other: &PairInfo) -> Result<()> {
    let differs = if is_within(one) != is_within(other) {
        "one compares a network with itself and the other does not"
    } else if (&one.layers_x, &one.layers_y) != (&other.layers_x, &other.layers_y) {
        "their layers are not the same"
    } else if (&one.estimator, &one.kernel, &one.gram) != (&other.estimator, &other.kernel, &other.gram) {
        "they were computed with different estimators, kernels or accuracies"
    } else if one.batch_size != other.batch_size {
        "their minibatches are not of one size"
    } else if one.data.source() != other.data.source() {
        "their networks were fed different data"
    } else if one.variations() != other.variations() {
        "something was done to the examples of one, or their activations, that was not done to the other's"
    } else {
        return Ok(());
    };
    let variations = |info: &PairInfo| match info.variations().join(", ") {
        none if none.is_empty() => String::new(),
        variations => format!(" ({variations})"),
    };
    let named = |info: &PairInfo| format!("{}{}", name(info), variations(info));
    Err(Error::incomparable(format!("{} and {} cannot be averaged: {differs}", named(one), named(other))))
}

fn name(info: &PairInfo) -> String {
    if is_within(info) { info.model_x.clone() } else { format!("{} x {}", info.model_x, info.model_y) }
}

fn source(info: &PairInfo, file: &Path) -> MeanSource {
    MeanSource { model_x: info.model_x.clone(), model_y: info.model_y.clone(), file: file.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::pair::tests::made;
    use crate::provenance::DataInfo;
    use crate::saved::Npz;

    /// Saves made maps below `dir` whose first entry is as given, and returns their directories.
    fn maps(dir: &Path, firsts: &[f64]) -> Vec<PathBuf> {
        let saved = firsts.iter().enumerate().map(|(seed, &first)| {
            let model = format!("s{seed}");
            let mut result = made(&model, &model);
            result.similarity.cka[0] = first;
            let dir = dir.join(model);
            result.save(&dir).unwrap();
            dir
        });
        saved.collect()
    }

    #[test]
    fn entries_are_averaged_over_the_maps_that_define_them() {
        let dir = tempfile::tempdir().unwrap();
        let paths = maps(dir.path(), &[0.1, f64::NAN, 0.4, 0.7]);
        let mean = average(&paths).unwrap();
        // By hand: mean 0.4, variance (0.09 + 0 + 0.09) / 2; a few roundings of numbers below 1.
        assert!((mean.mean[0] - 0.4).abs() < 1e-15 && (mean.variance[0] - 0.09).abs() < 1e-15, "{mean:?}");
        assert_eq!(mean.count, [3.0, 4.0, 4.0, 0.0, 0.0, 0.0]);
        assert_eq!((mean.mean[2], mean.variance[2]), (0.5, 0.0));
        // Equal values do not vary, whatever the rounding of their mean.
        let other = tempfile::tempdir().unwrap();
        let equal = average(&maps(other.path(), &[0.1; 7])).unwrap();
        assert_eq!((equal.mean[0], equal.variance[0]), (0.1, 0.0));
        assert!(mean.mean[3].is_nan() && mean.variance[3].is_nan());
        assert_eq!(mean.info.maps.len(), 4);
        let two = average(&paths[..2]).unwrap();
        assert!(two.mean[0] == 0.1 && two.variance[0].is_nan() && two.count[0] == 1.0);
        let below = average(&[dir.path().to_owned()]).unwrap();
        assert_eq!((below.info.maps, below.count), (mean.info.maps, mean.count));
    }

    #[test]
    fn what_is_written_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let mean = average(&maps(dir.path(), &[0.1, 0.4])).unwrap();
        let out = dir.path().join("out");
        mean.write(&out).unwrap();
        mean.write(&out).unwrap();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 4);
        Mean::load(&out).unwrap();
        let bytes = fs::read(out.join(NUMBERS)).unwrap();
        let mut read = Npz::open(&out.join(NUMBERS), bytes.clone()).unwrap();
        let read = read.array("variance", &[2, 3]).unwrap();
        assert_eq!(read[..3], mean.variance[..3]);
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        fs::write(out.join(NUMBERS), &damaged).unwrap();
        assert!(Mean::load(&out).unwrap_err().to_string().contains("checksum"));
        fs::write(out.join(MEAN), "{}").unwrap();
        assert!(mean.write(&out).unwrap_err().to_string().contains("another place"));
    }

    #[test]
    fn maps_that_do_not_belong_together_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = maps(dir.path(), &[0.1]);
        let error = |other: PairResult| {
            let place = dir.path().join("other");
            other.save(&place).unwrap();
            average(&[paths[0].clone(), place]).unwrap_err().to_string()
        };
        assert!(average(&paths).unwrap_err().to_string().contains("s0 is the only map"));
        assert!(error(made("a", "b")).contains("a x b"));
        let mut other = made("b", "b");
        other.info.layers_y[1] = "else".to_owned();
        assert!(error(other).contains("layers"));
        let mut other = made("b", "b");
        other.info.kernel = "linear".to_owned();
        assert!(error(other).contains("kernels"));
        let mut other = made("b", "b");
        other.info.batch_size += 1;
        assert!(error(other).contains("minibatches"));
        let mut other = made("b", "b");
        other.info.normalised_examples = true;
        assert!(error(other).contains("activations"));
        let mut other = made("b", "b");
        if let DataInfo::Images { noise, .. } = &mut other.info.data {
            *noise = true;
        }
        assert!(error(other).contains("different data"));
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(average(&[empty]).unwrap_err().to_string().contains("empty"));
    }
}
