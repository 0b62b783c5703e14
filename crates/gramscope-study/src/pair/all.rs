//! Where the results of a comparison go: DIR itself for one pair, DIR/A__B for each of several.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{PairInfo, PairResult, load_info};
use crate::names::unused;
use crate::{Result, Saved};

/// Fails where the results of these pairs of models cannot go to `dir`.
///
/// # Errors
/// Those of [`PairResult::check`], of every directory that [`write_all`] would write to.
pub fn check_all<'a>(dir: &Path, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Result<()> {
    PairResult::check(dir)?;
    // What is not there yet holds nothing, and whether it can be made has just been seen.
    let directories = directories(dir, pairs);
    directories.iter().filter(|directory| directory.exists()).try_for_each(|directory| PairResult::check(directory))
}

/// Writes every pair's cka.npz, cka.json and cka.png and returns their directories, in the order of `pairs`. An earlier
/// result of the same place is replaced; if it was one of other models, that is logged as a warning.
///
/// # Errors
/// Those of [`check_all`], before anything is written, and [`crate::Error::Io`].
pub fn write_all(dir: &Path, pairs: &[PairResult]) -> Result<Vec<PathBuf>> {
    let names = || pairs.iter().map(|pair| (pair.info.model_x.as_str(), pair.info.model_y.as_str()));
    check_all(dir, names())?;
    let directories = directories(dir, names());
    for (pair, directory) in pairs.iter().zip(&directories) {
        if let Ok(old) = load_info(directory)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::pair::tests::made;
    use crate::pair::{INFO, NUMBERS, PICTURE};
    use crate::tree::RUN_MARK;

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
            let directories = write_all(dir.path(), &pairs).unwrap();
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
            let error = write_all(&dir, &[made("a", "b")]).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("another place"), "{error}");
            let inside = root.path().join(format!("{name}-around"));
            fs::create_dir(&inside).unwrap();
            fs::rename(&dir, inside.join("a__b")).unwrap();
            write_all(&inside, &[made("a", "a"), made("a", "b")]).unwrap_err();
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
        write_all(dir.path(), &[made("a", "a")]).unwrap();
        for left in [PICTURE, INFO] {
            fs::remove_file(dir.path().join(left)).unwrap();
            write_all(dir.path(), &[made("a", "a")]).unwrap();
            PairResult::load(dir.path()).unwrap();
        }
    }

    #[test]
    fn a_picture_that_cannot_be_drawn_costs_no_result() {
        let dir = tempfile::tempdir().unwrap();
        let pairs = [made("a", "a"), made("a", "b")];
        let directories = write_all(dir.path(), &pairs).unwrap();
        // A directory in the picture's place.
        fs::remove_file(directories[0].join(PICTURE)).unwrap();
        fs::create_dir(directories[0].join(PICTURE)).unwrap();
        fs::remove_dir_all(&directories[1]).unwrap();
        write_all(dir.path(), &pairs).unwrap();
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
