//! predict.npz and predict.json, with two excerpts of the latter, and the pictures.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use gramscope_train::reading;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Maps, PredictResult, Predicted};
use crate::plot::{self, warn_about};
use crate::provenance::Versions;
use crate::saved::{Array, Files, Saved, Staged};
use crate::{Error, Result};

use crate::statistics::Moments;

/// File of the numbers.
pub const NUMBERS: &str = "predict.npz";
/// File that says what the numbers are of.
pub const INFO: &str = "predict.json";
/// The groups' accuracies: the list `groups` of predict.json.
pub const ACCURACIES: &str = "accuracies.json";
/// The classes' tests: the list `classes` of predict.json's `between`; empty without two groups.
pub const CLASSES: &str = "classes.json";
/// Picture of the maps.
pub const MAPS_PICTURE: &str = "predict-maps.png";
/// Picture of the images' accuracies, as figure 7 of the paper.
pub const EXAMPLES_PICTURE: &str = "examples.png";
/// Picture of the classes' differences, as figure 8 of the paper.
pub const CLASSES_PICTURE: &str = "classes.png";

const FILES: Files = Files {
    kind: "predictions",
    numbers: NUMBERS,
    info: INFO,
    arrays: &[
        "agreement",
        "kl",
        "hellinger",
        "entropy",
        "group_agreement",
        "group_kl",
        "group_hellinger",
        "group_entropy",
        "example_accuracy",
        "half_accuracy",
        "class_accuracy",
    ],
};

/// What was analysed, and what came out beside the arrays: predict.json. What is undefined is null there, NaN here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictInfo {
    /// Names of the runs, in the order of rows and columns.
    pub runs: Vec<String>,
    /// The groups, in the order of rows and columns of the `group_` arrays.
    pub groups: Vec<Group>,
    /// The group whose halves are compared; none where there is no group of two runs to compare.
    pub halves: Option<Halves>,
    /// The two groups that are compared; none where there is only one.
    pub between: Option<Classwise>,
    /// Name of the data set.
    pub data: String,
    /// How many test images.
    pub images: usize,
    /// How many classes.
    pub classes: usize,
    /// What computed this.
    pub versions: Versions,
}

/// Runs that differ in their seed alone, and their test accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// Names of its runs.
    pub runs: Vec<String>,
    /// How many.
    pub n: usize,
    /// Mean accuracy.
    pub mean: f64,
    /// Standard deviation (n - 1); NaN of one run.
    #[serde(deserialize_with = "number_or_null")]
    pub sd: f64,
    /// Standard error of the mean; NaN of one run.
    #[serde(deserialize_with = "number_or_null")]
    pub standard_error: f64,
    /// Of each run.
    pub accuracies: Vec<f64>,
}

impl Group {
    pub(super) fn new(name: &str, runs: &[usize], networks: &[Predicted], accuracies: &[f64]) -> Self {
        let accuracies: Vec<f64> = runs.iter().map(|&run| accuracies[run]).collect();
        let moments = Moments::of(&accuracies);
        Self {
            group: name.to_owned(),
            runs: runs.iter().map(|&run| networks[run].name.clone()).collect(),
            n: runs.len(),
            mean: moments.mean,
            sd: moments.standard_deviation(),
            standard_error: moments.standard_error(),
            accuracies,
        }
    }
}

/// Two halves of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Halves {
    /// Name of the group.
    pub group: String,
    /// Names of the runs of one half.
    pub first: Vec<String>,
    /// Of the other, as many.
    pub second: Vec<String>,
    /// The mean over images of how far their accuracies lie apart: what chance does.
    pub mean_absolute_difference: f64,
}

/// Two groups, class by class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classwise {
    /// Name of one group.
    pub a: String,
    /// Of the other.
    pub b: String,
    /// The mean over images of how far their accuracies lie apart.
    pub mean_absolute_difference: f64,
    /// In the order of their labels.
    pub classes: Vec<ClassDifference>,
}

impl Classwise {
    /// The classes without a test, because neither group varies there, one is a single run, or there is no image.
    pub fn undefined(&self) -> impl Iterator<Item = &ClassDifference> {
        self.classes.iter().filter(|class| class.p.is_nan())
    }
}

/// A class's accuracies in two groups, by [`crate::statistics::welch`], with [`crate::statistics::holm`]'s correction. NaN is
/// undefined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassDifference {
    /// Its label.
    pub class: usize,
    /// Its name, where the runs know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Test images of it.
    pub images: usize,
    /// Mean accuracy on them in one group.
    #[serde(deserialize_with = "number_or_null")]
    pub mean_a: f64,
    /// In the other.
    #[serde(deserialize_with = "number_or_null")]
    pub mean_b: f64,
    /// Welch's t of `mean_a - mean_b`.
    #[serde(deserialize_with = "number_or_null")]
    pub t: f64,
    /// Its degrees of freedom.
    #[serde(deserialize_with = "number_or_null")]
    pub df: f64,
    /// Two-sided.
    #[serde(deserialize_with = "number_or_null")]
    pub p: f64,
    /// Corrected for the number of classes.
    #[serde(deserialize_with = "number_or_null")]
    pub p_adjusted: f64,
    /// Ends of the 95% confidence interval of `mean_a - mean_b`, not corrected.
    #[serde(deserialize_with = "numbers_or_null")]
    pub interval: [f64; 2],
    /// The difference in pooled standard deviations.
    #[serde(deserialize_with = "number_or_null")]
    pub cohens_d: f64,
    /// The same without its bias in small groups.
    #[serde(deserialize_with = "number_or_null")]
    pub hedges_g: f64,
}

/// Its label, with its name where that is known: `3 (cat)`.
impl Display for ClassDifference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.class),
            None => write!(f, "{}", self.class),
        }
    }
}

fn number_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

fn numbers_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<[f64; 2], D::Error> {
    Ok(<[Option<f64>; 2]>::deserialize(from)?.map(|number| number.unwrap_or(f64::NAN)))
}

/// predict.npz holds float64 `agreement`, `kl`, `hellinger`, `entropy` \[runs, runs\], the same with `group_` before them
/// \[groups, groups\], `example_accuracy` \[groups, images\], `half_accuracy` \[2, images\] and `class_accuracy` \[runs, classes\].
impl Saved for PredictResult {
    const SEALED: &'static [&'static str] = &[FILES.numbers, FILES.info];
    const EXCERPTS: &'static [&'static str] = &[ACCURACIES, CLASSES];
    const PICTURES: &'static [&'static str] = &[MAPS_PICTURE, EXAMPLES_PICTURE, CLASSES_PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        let PredictResult { info, runs, groups, .. } = self;
        let (by_run, by_group) = ([runs.side, runs.side], [groups.side, groups.side]);
        let shapes = shapes(info);
        let arrays: [Array<'_>; 11] = [
            ("agreement", &by_run, &runs.agreement),
            ("kl", &by_run, &runs.kl),
            ("hellinger", &by_run, &runs.hellinger),
            ("entropy", &by_run, &runs.entropy),
            ("group_agreement", &by_group, &groups.agreement),
            ("group_kl", &by_group, &groups.kl),
            ("group_hellinger", &by_group, &groups.hellinger),
            ("group_entropy", &by_group, &groups.entropy),
            ("example_accuracy", &shapes[0], &self.example_accuracy),
            ("half_accuracy", &shapes[1], &self.half_accuracy),
            ("class_accuracy", &shapes[2], &self.class_accuracy),
        ];
        let staged = FILES.stage(dir, info, &arrays)?;
        excerpts(info).into_iter().try_fold(staged, |staged, (name, text)| staged.and(&dir.join(name), text.as_bytes()))
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, mut numbers) = FILES.open::<PredictInfo>(dir)?;
        let mut maps = |side: usize, prefix: &str| {
            let mut array = |name: &str| numbers.array(&format!("{prefix}{name}"), &[side, side]);
            Ok::<Maps, Error>(Maps {
                side,
                agreement: array("agreement")?,
                kl: array("kl")?,
                hellinger: array("hellinger")?,
                entropy: array("entropy")?,
            })
        };
        let (runs, groups) = (maps(info.runs.len(), "")?, maps(info.groups.len(), "group_")?);
        let [examples, halves, classes] = shapes(&info);
        let example_accuracy = numbers.array("example_accuracy", &examples)?;
        let half_accuracy = numbers.array("half_accuracy", &halves)?;
        let class_accuracy = numbers.array("class_accuracy", &classes)?;
        numbers.check()?;
        for (name, expected) in excerpts(&info) {
            let path = dir.join(name);
            if reading::read_to_string(&path).map_err(Error::io("read", &path))? != expected {
                return Err(Error::file(&path, format!("not what {INFO} says: it was changed after it was written")));
            }
        }
        Ok(Self { info, runs, groups, example_accuracy, half_accuracy, class_accuracy })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<PredictInfo>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        warn_about(plot::example_accuracies(self, &dir.join(EXAMPLES_PICTURE)));
        warn_about(plot::class_differences(self, &dir.join(CLASSES_PICTURE)));
        plot::prediction_maps(self, &dir.join(MAPS_PICTURE))
    }
}

/// Shapes of `example_accuracy`, `half_accuracy` and `class_accuracy`.
fn shapes(info: &PredictInfo) -> [[usize; 2]; 3] {
    [[info.groups.len(), info.images], [2, info.images], [info.runs.len(), info.classes]]
}

/// accuracies.json and classes.json, as they follow from `info`.
fn excerpts(info: &PredictInfo) -> [(&'static str, String); 2] {
    let classes = info.between.as_ref().map_or(&[][..], |between| &between.classes);
    let text = |list: Result<String, serde_json::Error>| list.expect("numbers and names can always be written") + "\n";
    [
        (ACCURACIES, text(serde_json::to_string_pretty(&info.groups))),
        (CLASSES, text(serde_json::to_string_pretty(classes))),
    ]
}
