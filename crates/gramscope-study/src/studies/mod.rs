//! Whole studies: the figures of Nguyen, Raghu and Kornblith (2021), each from nothing to its picture in one command that
//! can be interrupted at any time and goes on where it was.
//!
//! A study is a plan (plans/*.toml): families of networks, and what is measured of them. [`Scale`] says how it shrinks. Its
//! directory holds study.toml (which study, at which scale, on which data), runs/ (a directory a network), a directory for
//! each kind of result, figure.png, study.json (the findings) and report.html. A result that is there and whole is not
//! computed again.

mod figure;
mod findings;
mod measure;
mod plan;
mod scale;
mod scaled;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gramscope_nn::Processor;
use gramscope_train::data::DataConfig;
use gramscope_train::reading;
use gramscope_train::sweep::SweepEvent;
use gramscope_train::{Run, atomic};
use serde::{Deserialize, Serialize};

pub use plan::{Measures, ProbeMeasure, StudyPlan};
pub use scale::Scale;

use crate::compare::{MemoryLimits, Progress};
use crate::provenance::Versions;
use crate::saved::{InfoFile, Saved, Staged, prepare};
use crate::{Error, Result, Setting, family, plot, report};
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
/// another process, and what measuring and writing may say, [`Error::Interrupted`] once `stop` is set among it.
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

/// Makes `dir` this study's, or finds that it is.
fn claim(dir: &Path, plan: &StudyPlan, scaled: &ScaledStudy) -> Result<()> {
    let path = dir.join(PLAN);
    let text = describe(plan, scaled)?;
    match reading::read_to_string(&path) {
        Ok(found) if found == text => return prepare(dir),
        Ok(_) => {
            let problem =
                "describes another study, or this one at another scale or on other data; choose another place";
            return Err(Error::file(&path, problem).mended_by(&[Setting::Out]));
        }
        Err(reason) if reason.kind() == std::io::ErrorKind::NotFound => {}
        Err(reason) => return Err(Error::io("read", &path)(reason)),
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>().map_err(Error::io("list", dir))?,
        Err(reason) if reason.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(reason) => return Err(Error::io("use as a directory", dir)(reason)),
    };
    if entries.iter().any(|entry| !atomic::is_temporary(&entry.file_name())) {
        let problem = "holds something that is no study; choose another place, or an empty directory";
        return Err(Error::file(dir, problem).mended_by(&[Setting::Out]));
    }
    prepare(dir)?;
    atomic::write(&path, text.as_bytes()).map_err(Error::io("write", &path))
}

/// The text of study.toml: the networks at this scale, the data, and what is measured.
///
/// # Errors
/// [`Error::Incomparable`] where TOML has no way to write a value, such as a path that is not Unicode.
fn describe(plan: &StudyPlan, scaled: &ScaledStudy) -> Result<String> {
    let unwritable = |reason: toml::ser::Error| Error::incomparable(format!("{PLAN} cannot be written: {reason}"));
    let mut text = format!("# {}: {}\n# {}\n", plan.name, plan.title, scaled.describe());
    for (name, config) in scaled.runs() {
        text += &format!("\n[runs.\"{name}\"]\n{}", toml::to_string(&config.train).map_err(unwritable)?);
    }
    text += &format!("\n[data]\n{}", toml::to_string(scaled.data()).map_err(unwritable)?);
    text += &format!("\n[measure]\n{}", toml::to_string(&plan.measure).map_err(unwritable)?);
    Ok(text)
}
