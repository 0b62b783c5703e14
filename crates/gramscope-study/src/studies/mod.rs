//! Whole studies: the figures of Nguyen, Raghu and Kornblith (2021), each from nothing to its picture in one command that
//! can be interrupted at any time and goes on where it was.
//!
//! A study is a plan (plans/*.toml): families of networks, and what is measured of them. [`Scale`] says how it shrinks. Its
//! directory holds study.toml (which study, at which scale, on which data), runs/ (a directory a network), a directory for
//! each kind of result, figure.png, study.json (the findings) and report.html. A result that is there, whole and of what is asked
//! for is not computed again, so that a plan may grow.

mod claim;
mod figure;
mod findings;
mod measure;
mod plan;
mod scale;
mod scaled;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gramscope_nn::Processor;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use gramscope_train::sweep::SweepEvent;
use serde::{Deserialize, Serialize};

pub use plan::{Measures, ProbeMeasure, StudyPlan};
pub use scale::Scale;

use crate::compare::{MemoryLimits, Progress};
use crate::provenance::Versions;
use crate::saved::{InfoFile, Saved, Staged};
use crate::{Result, family, plot, report};
use claim::claim;
use measure::Experiment;
use scaled::ScaledStudy;

/// File that says which study a directory holds.
pub const PLAN: &str = "study.toml";
/// File of what was found.
pub const INFO: &str = "study.json";
/// File of the figure.
pub const FIGURE: &str = "figure.png";
const RUNS: &str = "runs";
const FILE: InfoFile = InfoFile { kind: "a study", info: INFO };

/// What was found: study.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyInfo {
    /// The study.
    pub name: String,
    /// What it is about.
    pub title: String,
    /// The figure of the paper that it repeats.
    pub figure: Option<String>,
    /// What the paper reports there.
    pub reported: Option<String>,
    /// The share of the paper's size.
    pub scale: Scale,
    /// How large that is, in words.
    pub size: String,
    /// The networks, directories below runs/.
    pub runs: Vec<String>,
    /// What was found, a sentence or two each.
    pub findings: Vec<String>,
    /// What computed this.
    pub versions: Versions,
}

/// How a study is carried out.
#[derive(Clone, Debug)]
pub struct StudyOptions {
    /// The share of the paper's size.
    pub scale: Scale,
    /// These data instead of the study's own.
    pub data: Option<DataConfig>,
    /// The memory that measuring may take.
    pub memory: MemoryLimits,
}

/// What happens while a study goes on.
#[derive(Debug)]
pub enum StudyEvent<'a> {
    /// Networks are being trained.
    Training(SweepEvent<'a>),
    /// Something is being measured.
    Measuring {
        /// What: "comparing", "probing".
        what: &'static str,
        /// How far that has come.
        progress: Progress<'a>,
    },
}

/// What a study leaves.
#[derive(Debug)]
pub struct Outcome {
    /// What was found.
    pub info: StudyInfo,
    /// The figure, where it could be drawn.
    pub figure: Option<PathBuf>,
    /// The page with every map, curve and number.
    pub report: PathBuf,
}

/// Carries out `plan` in `dir`; what an earlier call finished is not done again. Networks are trained at once on all of
/// `processors`, as [`sweep`](gramscope_train::sweep::sweep) does, and measured one after the other on the first.
///
/// # Errors
/// A `dir` with something else in it, a scale too small for the study, a network that cannot be trained or is being trained by
/// another process, and what measuring and writing may say, [`crate::Error::Interrupted`] once `stop` is set among it.
///
/// # Panics
/// Without a processor.
pub fn study(
    plan: &StudyPlan,
    options: &StudyOptions,
    dir: &Path,
    processors: &[Processor],
    stop: &AtomicBool,
    progress: &mut (dyn FnMut(StudyEvent<'_>) + Send),
) -> Result<Outcome> {
    let scaled = ScaledStudy::new(plan, options.scale, options.data.as_ref())?;
    claim(dir, plan, &scaled)?;
    let training = &mut |event: SweepEvent<'_>| progress(StudyEvent::Training(event));
    let runs = family::train(&scaled.networks, &dir.join(RUNS), processors, stop, training)?;
    let (scale, passes, memory, processor) = (options.scale, scaled.passes, options.memory, &processors[0]);
    let experiment = Experiment { runs: &runs, scale, passes, memory, dir, processor, stop, progress };
    let measured = experiment.measure(&plan.measure)?;

    let info = StudyInfo {
        name: plan.name.clone(),
        title: plan.title.clone(),
        figure: plan.figure.clone(),
        reported: plan.reported.clone(),
        scale: options.scale,
        size: scaled.describe(),
        runs: runs.iter().map(Run::name).collect(),
        findings: findings::findings(&runs, &measured)?,
        versions: Versions::current(),
    };
    let staged = info.stage(dir)?;
    StudyInfo::remove_pictures(dir);
    staged.publish()?;
    let figure = dir.join(FIGURE);
    let drawn = figure::draw(&info, &runs, &measured, &figure);
    let figure = drawn.is_ok().then_some(figure);
    plot::warn_about(drawn);
    Ok(Outcome { info, figure, report: report::write(dir)? })
}

/// The figure shows what was measured: [`study`] draws it.
impl Saved for StudyInfo {
    const SEALED: &'static [&'static str] = &[FILE.info];
    const PICTURES: &'static [&'static str] = &[FIGURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        FILE.stage(dir, self)
    }

    fn load(dir: &Path) -> Result<Self> {
        FILE.load(dir)
    }

    fn shows(&self) -> bool {
        false
    }
}
