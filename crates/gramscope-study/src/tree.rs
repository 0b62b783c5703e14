//! Walking through a directory of runs and results.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use gramscope_train::Run;

use crate::{Error, Result};

/// What makes a directory a run's.
pub(crate) const RUN_MARK: &str = "config.toml";

/// `dir` and every directory below it, in the order of their names; links are not followed.
///
/// # Errors
/// [`Error::Io`] where one cannot be listed.
pub(crate) fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![dir.to_owned()];
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut entries = entries.map_err(Error::io("list", dir))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.extend(directories(&entry.path())?);
    }
    Ok(found)
}

/// The runs that `names` stand for, in their order: a run's directory, `DIR@EPOCH` for a run as it was kept after an epoch
/// ([`Run::named`]), or a directory of runs, for all that lie below it, in the order of their names.
///
/// # Errors
/// Those of [`Run::named`], for a directory without any run too; [`Error::Io`] where a directory cannot be listed.
pub fn runs(names: &[PathBuf]) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for name in names {
        let below = match name.is_dir() && !name.join(RUN_MARK).is_file() {
            true => directories(name)?.into_iter().filter(|dir| dir.join(RUN_MARK).is_file()).collect(),
            false => Vec::new(),
        };
        match below.as_slice() {
            [] => runs.push(Run::named(name)?),
            below => runs.extend(below.iter().map(|dir| Run::open(dir)).collect::<Result<Vec<_>, _>>()?),
        }
    }
    Ok(runs)
}

/// Fails where one of `runs` is there twice: it would count as two seeds, of which one tells nothing new.
///
/// # Errors
/// [`Error::Incomparable`] with its name, [`Error::Io`] where its directory cannot be found.
pub fn check_distinct(runs: &[Run]) -> Result<()> {
    let mut taken = HashSet::new();
    for run in runs {
        let place = fs::canonicalize(run.dir()).map_err(Error::io("read", run.dir()))?;
        if !taken.insert((place, run.kept_epoch())) {
            let problem = format!("{} is given twice, and would count as two seeds; name it once", run.dir().display());
            return Err(Error::incomparable(problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gramscope_train::data::DataConfig;
    use gramscope_train::{RunConfig, TrainSettings};

    use super::*;

    #[test]
    fn a_directory_stands_for_the_runs_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let dir = dir.path().join(name);
            fs::create_dir_all(&dir).unwrap();
            let settings = TrainSettings { depth: 8, ..TrainSettings::default() };
            let config = RunConfig::new(DataConfig::default(), settings).to_toml().unwrap();
            fs::write(dir.join(RUN_MARK), config).unwrap();
            dir
        };
        let (b, a, deep) = (made("family/b"), made("family/a"), made("family/more/c"));
        let names = |names: &[PathBuf]| runs(names).unwrap().iter().map(Run::name).collect::<Vec<_>>();
        assert_eq!(names(&[dir.path().join("family")]), ["a", "b", "c"]);
        assert_eq!(names(&[deep, a.clone(), b]), ["c", "a", "b"]);
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        for name in [empty, dir.path().join("none")] {
            let message = runs(&[a.clone(), name.clone()]).unwrap_err().to_string();
            assert!(message.contains(name.to_str().unwrap()), "{message}");
        }
    }
}
