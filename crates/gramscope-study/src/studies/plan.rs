//! What a study is made of: a TOML file with families of networks, and what is measured of them.

use std::path::{Path, PathBuf};

use gramscope_train::data::DataConfig;
use gramscope_train::reading;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::compare::Pairs;
use crate::{Error, Result};

/// A study: families of networks, what is measured of them, and what the paper found.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StudyPlan {
    /// What it is called: the name it is shipped under, or that of its file.
    #[serde(skip)]
    pub name: String,
    /// What it is about.
    pub title: String,
    /// The figure of Nguyen, Raghu and Kornblith (2021) that it repeats, such as `3` or `D.1`.
    #[serde(default)]
    pub figure: Option<String>,
    /// What the paper reports there, in a sentence or two.
    #[serde(default)]
    pub reported: Option<String>,
    /// However small the scale, so many seeds are trained, if there are so many.
    #[serde(default = "two")]
    pub least_seeds: usize,
    /// The data.
    #[serde(default)]
    pub data: DataConfig,
    /// Settings that all networks share.
    #[serde(default)]
    pub train: Table,
    /// Families of networks, each a table of lists as in a plan of `sweep`.
    pub family: Vec<Table>,
    /// What is measured.
    pub measure: Measures,
}

fn two() -> usize {
    2
}

/// What a study measures of its networks.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measures {
    /// CKA of these pairs.
    pub cka: Option<Pairs>,
    /// Means over the pairs of each two architectures.
    pub mean: bool,
    /// Block structure of every network.
    pub blocks: bool,
    /// First principal components of every network.
    pub pcs: bool,
    /// Linear probes on every network, before and after each residual connection.
    pub probe: Option<ProbeMeasure>,
    /// Test accuracy of every network without blocks: from the end of each stage, and each alone.
    pub ablate: bool,
    /// Sparsity of every network.
    pub sparsity: bool,
    /// What all networks predict, by groups that differ in their seed alone.
    pub predict: bool,
    /// Every network's kept epochs against its end.
    pub epochs: bool,
}

/// How linear probes are trained; what is not here is as the paper has it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeMeasure {
    /// Passes over the training images; a scale has its share of them.
    pub epochs: usize,
    /// Pools 2 x 2 maxima before the probe.
    pub pool: bool,
}

impl Default for ProbeMeasure {
    fn default() -> Self {
        Self { epochs: 300, pool: false }
    }
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The studies that come with the program: name and text.
        const SHIPPED: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../../plans/", $name, ".toml")))),*];
    };
}

shipped![
    "fig1-depth",
    "fig1-width",
    "fig2-data",
    "fig3-pcs",
    "fig4-probes",
    "fig5-ablation",
    "fig6-across",
    "fig7-predictions",
    "c1-no-residual",
    "d1-seeds",
    "d2-data-depth",
    "d8-sparsity",
    "e1-across",
    "over-training",
    "random-labels",
];

/// What names a plan of the user's rather than a shipped one.
const EXTENSION: &str = "toml";

impl StudyPlan {
    /// The study called `name`: one of the shipped ones, or a file that ends in `.toml`.
    ///
    /// # Errors
    /// [`Error::Incomparable`] for an unknown name, [`Error::Io`] and [`Error::File`] for a file that is not there or is none.
    pub fn named(name: &str) -> Result<Self> {
        let path = Path::new(name);
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            let text = reading::read_to_string(path).map_err(Error::io("read", path))?;
            let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
            return Self::parse(&stem, &text).map_err(|problem| Error::file(path, problem));
        }
        let known = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
        let (_, text) = known.ok_or_else(|| {
            let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
            Error::incomparable(format!(
                "there is no study '{name}'; there are {}, or name a plan of your own that ends in .toml",
                names.join(", ")
            ))
        })?;
        Self::parse(name, text).map_err(|problem| Error::file(&PathBuf::from(name), problem))
    }

    /// Every shipped study.
    pub fn shipped() -> impl Iterator<Item = Self> {
        let parsed = |(name, text): &(&str, &str)| Self::parse(name, text).expect("a test parses every shipped plan");
        SHIPPED.iter().map(parsed)
    }

    fn parse(name: &str, text: &str) -> std::result::Result<Self, String> {
        let plan: Self = toml::from_str(text).map_err(|reason| {
            let start = reason.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
            format!("line {line}: {}", reason.message().replace('\n', " "))
        })?;
        let problem = if plan.family.is_empty() {
            "a study needs at least one [[family]]"
        } else if plan.measure == Measures::default() {
            "a study needs something to measure: set cka, pcs, ... in [measure]"
        } else if (plan.measure.mean || plan.measure.blocks) && plan.measure.cka.is_none() {
            "mean and blocks in [measure] are those of CKA maps: set cka too, to within, across, all, same-architecture or \
             same-seed"
        } else if plan.measure.blocks && !plan.measure.cka.as_ref().is_some_and(Pairs::are_within) {
            "blocks in [measure] are those of a network's map with itself: set cka to within or all"
        } else if plan.measure.probe.as_ref().is_some_and(|probe| probe.epochs == 0) {
            "probes in [measure.probe] learn for 0 epochs: must be at least 1"
        } else {
            return Ok(Self { name: name.to_owned(), ..plan });
        };
        Err(problem.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::studies::scale::Scale;
    use crate::studies::scaled::ScaledStudy;

    #[test]
    fn every_shipped_study_is_whole_at_any_scale() {
        for plan in StudyPlan::shipped() {
            let repeats = plan.name.starts_with("fig");
            assert!(!repeats || plan.figure.is_some() && plan.reported.is_some(), "{}", plan.name);
            // What all networks share is in [train], or it would be in every run's name.
            for (key, values) in plan.family.iter().flatten() {
                let names_runs = ["depth", "width", "seed"].contains(&key.as_str());
                assert!(names_runs || values.as_array().unwrap().len() > 1, "{}: {key}", plan.name);
            }
            for scale in [1.0, 0.3, 0.05, 0.02] {
                let scaled = ScaledStudy::new(&plan, Scale::new(scale).unwrap(), None);
                let scaled = scaled.unwrap_or_else(|problem| panic!("{} at {scale}: {problem}", plan.name));
                assert!(!scaled.runs().is_empty());
            }
        }
    }

    #[test]
    fn what_cannot_be_a_study_is_explained() {
        let error = |text: &str| StudyPlan::parse("mine", text).unwrap_err();
        for (text, part) in [
            ("title = ", "line 1"),
            ("title = \"t\"\n[measure]\ncka = \"within\"\n", "family"),
            ("title = \"t\"\nfamily = []\n[measure]\ncka = \"within\"\n", "[[family]]"),
            ("title = \"t\"\n[[family]]\ndepth = [8]\n[measure]\n", "[measure]"),
            ("title = \"t\"\n[[family]]\ndepth = [8]\n[measure]\nblocks = true\n", "cka"),
            ("title = \"t\"\n[[family]]\ndepth = [8]\n[measure]\ncka = \"across\"\nblocks = true\n", "within"),
            ("title = \"t\"\n[[family]]\ndepth = [8]\n[measure]\nck = \"within\"\n", "ck"),
            ("title = \"t\"\n[[family]]\ndepth = [8]\n[measure]\ncka = \"everything\"\n", "everything"),
        ] {
            assert!(error(text).contains(part), "{part:?} is missing from {:?}", error(text));
        }
        let unknown = StudyPlan::named("fig3").unwrap_err().to_string();
        assert!(unknown.contains("'fig3'") && unknown.contains("fig3-pcs"), "{unknown}");
        let missing = StudyPlan::named("no/such.toml").unwrap_err().to_string();
        assert!(missing.contains("no/such.toml"), "{missing}");
    }
}
