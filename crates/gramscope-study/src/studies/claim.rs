//! Whose a study's directory is: what study.toml says.
//!
//! A plan may change as long as what is there keeps its meaning. Networks may be added and left out, and measured otherwise; but what is
//! trained stays what the plan says of it, and on one set of data.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use gramscope_train::data::DataConfig;
use gramscope_train::{RunConfig, TrainSettings, atomic, reading};
use serde::Deserialize;

use super::plan::StudyPlan;
use super::scaled::ScaledStudy;
use super::{PLAN, RUNS};
use crate::saved::prepare;
use crate::{Error, Result, Setting};

/// What study.toml says of the networks.
#[derive(Deserialize)]
struct Begun {
    runs: BTreeMap<String, TrainSettings>,
    data: DataConfig,
}

/// Makes `dir` this study's, or finds that it is.
///
/// # Errors
/// [`Error::File`] for a directory with other things in it, or with networks that are others than the plan's; [`Error::Io`].
pub(super) fn claim(dir: &Path, plan: &StudyPlan, scaled: &ScaledStudy) -> Result<()> {
    let path = dir.join(PLAN);
    let text = describe(plan, scaled)?;
    match reading::read_to_string(&path) {
        Ok(found) if found == text => return prepare(dir),
        Ok(found) => check_begun(&path, &found, scaled)?,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => check_free(dir)?,
        Err(reason) => return Err(Error::io("read", &path)(reason)),
    }
    prepare(dir)?;
    atomic::write(&path, text.as_bytes()).map_err(Error::io("write", &path))
}

/// Fails where the study that `text`, which lies at `path`, tells of is on other data than this one, or has a network of the same name
/// and other settings.
fn check_begun(path: &Path, text: &str, scaled: &ScaledStudy) -> Result<()> {
    let refused =
        |problem: String| Error::file(path, format!("{problem}; choose another place")).mended_by(&[Setting::Out]);
    let begun: Begun = toml::from_str(text).map_err(|_| refused("describes no study".to_owned()))?;
    let difference = |begun: (&DataConfig, &TrainSettings), asked: (&DataConfig, &TrainSettings)| {
        let [begun, asked] = [begun, asked].map(|(data, train)| RunConfig::new(data.clone(), train.clone()));
        begun.first_difference(&asked).map_err(gramscope_train::Error::from)
    };
    let unset = TrainSettings::default();
    if let Some(difference) = difference((&begun.data, &unset), (scaled.data(), &unset))? {
        return Err(refused(format!("the study there is on other data: {difference}")));
    }
    for (name, config) in scaled.runs() {
        let Some(settings) = begun.runs.get(name) else { continue };
        if let Some(difference) = difference((&begun.data, settings), (scaled.data(), &config.train))? {
            return Err(refused(format!("the study there has another {name}: {difference}")));
        }
    }
    Ok(())
}

/// Fails where something lies in `dir` that is not a family of networks alone, each of which is looked at before it is trained.
fn check_free(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(Error::io("list", dir))?,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(reason) => return Err(Error::io("use as a directory", dir)(reason)),
    };
    let is_foreign = |name: &OsStr| name != RUNS && !atomic::is_temporary(name);
    if entries.iter().any(|entry| is_foreign(&entry.file_name())) {
        let problem = "holds something that is no study; choose another place, or an empty directory";
        return Err(Error::file(dir, problem).mended_by(&[Setting::Out]));
    }
    Ok(())
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
