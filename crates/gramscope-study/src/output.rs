//! Where the results of a comparison go: DIR itself for one pair, DIR/A__B for each of several.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use gramscope_train::{Run, atomic};

use crate::results::{self, PairInfo, PairResult};
use crate::tree::RUN_MARK;
use crate::{Error, Result, Setting, Stored};

/// Fails where the results of these pairs of models cannot go to `dir`.
///
/// # Errors
/// Those of [`PairResult::check`], of every directory that [`write()`] would write to.
pub fn check_pairs<'a>(dir: &Path, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Result<()> {
    PairResult::check(dir)?;
    // What is not there yet holds nothing, and whether it can be made has just been seen.
    let directories = directories(dir, pairs);
    directories.iter().filter(|directory| directory.exists()).try_for_each(|directory| PairResult::check(directory))
}

/// Fails where files of these `names` cannot go to `dir`: where it is a run's, or is no directory and cannot become one, or where one
/// of the names is taken and `is_result` says that what is there is none.
pub(crate) fn check_place(dir: &Path, names: &[&str], is_result: impl FnOnce(&Path) -> bool) -> Result<()> {
    check_writable(dir)?;
    if dir.join(RUN_MARK).exists() {
        let problem = "holds a run; choose another place for the results";
        return Err(Error::file(dir, problem).mended_by(&[Setting::Out]));
    }
    match names.iter().find(|name| dir.join(name).exists()) {
        Some(name) if !is_result(dir) => {
            let problem =
                "there is a file of this name that belongs to no result; choose another place, or move it away";
            Err(Error::file(&dir.join(name), problem).mended_by(&[Setting::Out]))
        }
        _ => Ok(()),
    }
}

/// Fails where no file can be made in `dir`, or, while there is no such directory, in the nearest one above it that there is.
fn check_writable(dir: &Path) -> Result<()> {
    let here = if dir.is_absolute() { dir.to_owned() } else { Path::new(".").join(dir) };
    let Some(nearest) = here.ancestors().find(|place| place.exists()) else { return Ok(()) };
    if !nearest.is_dir() {
        let problem = "not a directory, so no results can go there; choose another place";
        return Err(Error::file(nearest, problem).mended_by(&[Setting::Out]));
    }
    // Gone again when it is dropped.
    atomic::NewFile::create(&nearest.join("results")).map(drop).map_err(Error::io("write to", dir))
}

/// Writes every pair's cka.npz, cka.json and cka.png and returns their directories, in the order of `pairs`. An earlier
/// result of the same place is replaced; if it was one of other models, that is logged as a warning.
///
/// # Errors
/// Those of [`check_pairs`], before anything is written, and [`Error::Io`].
pub fn write(dir: &Path, pairs: &[PairResult]) -> Result<Vec<PathBuf>> {
    let names = || pairs.iter().map(|pair| (pair.info.model_x.as_str(), pair.info.model_y.as_str()));
    check_pairs(dir, names())?;
    let directories = directories(dir, names());
    for (pair, directory) in pairs.iter().zip(&directories) {
        if let Ok(old) = results::load_info(directory)
            && !same_subject(&old, &pair.info)
        {
            tracing::warn!("{}: replaces the result of {} and {}", directory.display(), old.model_x, old.model_y);
        }
        pair.write(directory)?;
    }
    Ok(directories)
}

fn same_subject(one: &PairInfo, other: &PairInfo) -> bool {
    (&one.model_x, &one.model_y) == (&other.model_x, &other.model_y)
}

/// A directory for each pair. Names of models may hold `__` themselves, and some file systems do not tell capitals
/// apart: names that would meet get a number.
fn directories<'a>(dir: &Path, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Vec<PathBuf> {
    if pairs.len() == 1 {
        return vec![dir.to_owned()];
    }
    let mut taken = HashSet::new();
    pairs.map(|(x, y)| dir.join(unused(&format!("{x}__{y}"), &mut taken))).collect()
}

/// The names of the runs; equal ones get a number.
pub fn names(runs: &[Run]) -> Vec<String> {
    let mut taken = HashSet::new();
    runs.iter().map(|run| unused(&run.name(), &mut taken)).collect()
}

/// `name`, or else the first of `name-2`, `name-3`, ... that is not among the `taken`, to which it is added.
pub fn unused(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| taken.insert(name.to_lowercase())).expect("there are more numbers than names")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::results::tests::made;
    use crate::results::{INFO, NUMBERS, PICTURE};

    fn names(pairs: &[(&str, &str)]) -> Vec<PathBuf> {
        directories(Path::new(""), pairs.iter().copied())
    }

    #[test]
    fn one_pair_has_the_directory_to_itself_and_several_share_it() {
        assert_eq!(names(&[("a", "b")]), [Path::new("")]);
        assert_eq!(names(&[("a", "a"), ("a", "b")]), [Path::new("a__a"), Path::new("a__b")]);
    }

    #[test]
    fn no_two_pairs_get_the_same_directory() {
        let found = names(&[("a", "b__c"), ("a__b", "c"), ("A__b", "C"), ("a", "b__c-2")]);
        assert_eq!(
            found,
            [Path::new("a__b__c"), Path::new("a__b__c-2"), Path::new("A__b__C-3"), Path::new("a__b__c-2-2")]
        );
    }

    #[test]
    fn results_are_written_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for estimator in ["biased", "unbiased"] {
            let mut pairs = [made("a", "a"), made("a", "b")];
            pairs[1].info.estimator = estimator.to_owned();
            let directories = write(dir.path(), &pairs).unwrap();
            assert_eq!(directories, [dir.path().join("a__a"), dir.path().join("a__b")]);
            assert_eq!(PairResult::load(&directories[1]).unwrap().info.estimator, estimator);
            assert!(directories.iter().all(|directory| directory.join(PICTURE).is_file()));
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        for (name, part) in [(RUN_MARK, "holds a run"), (INFO, INFO), (NUMBERS, NUMBERS), (PICTURE, PICTURE)] {
            let dir = root.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(name), "irreplaceable").unwrap();
            let error = write(&dir, &[made("a", "b")]).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("another place"), "{error}");
            let inside = root.path().join(format!("{name}-around"));
            fs::create_dir(&inside).unwrap();
            fs::rename(&dir, inside.join("a__b")).unwrap();
            write(&inside, &[made("a", "a"), made("a", "b")]).unwrap_err();
            assert!(!inside.join("a__a").exists(), "something was written");
            assert_eq!(fs::read_to_string(inside.join("a__b").join(name)).unwrap(), "irreplaceable");
        }
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for place in [file.clone(), file.join("below"), file.join("far/below")] {
            assert!(
                PairResult::check(&place).unwrap_err().to_string().contains("not a directory"),
                "{}",
                place.display()
            );
        }
    }

    /// As a process leaves it that is killed before cka.json is written, or while an earlier result is replaced.
    #[test]
    fn what_a_killed_process_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[made("a", "a")]).unwrap();
        for left in [PICTURE, INFO] {
            fs::remove_file(dir.path().join(left)).unwrap();
            write(dir.path(), &[made("a", "a")]).unwrap();
            PairResult::load(dir.path()).unwrap();
        }
    }

    #[test]
    fn a_picture_that_cannot_be_drawn_costs_no_result() {
        let dir = tempfile::tempdir().unwrap();
        let pairs = [made("a", "a"), made("a", "b")];
        let directories = write(dir.path(), &pairs).unwrap();
        // A directory in the picture's place.
        fs::remove_file(directories[0].join(PICTURE)).unwrap();
        fs::create_dir(directories[0].join(PICTURE)).unwrap();
        fs::remove_dir_all(&directories[1]).unwrap();
        write(dir.path(), &pairs).unwrap();
        assert!(directories.iter().all(|directory| PairResult::load(directory).is_ok()));
    }

    #[test]
    fn other_files_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        PairResult::check(dir.path()).unwrap();
        PairResult::check(&dir.path().join("not yet there")).unwrap();
    }
}
