//! Which of cuDNN's engines were chosen: a file of the user's cache, which all processes share.
//!
//! A choice is made once for a GPU, a version of cuDNN, an operation and its shape, whoever is first, and then kept: so that a
//! run that is repeated, or gone on with, has the same bits. Without the file engines are measured anew, and others may win.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gramscope_cuda::{Choice, Choices};

use crate::atomic;
use crate::data::{DataError, cache};
use crate::reading;

/// The file, and what of it is known.
#[derive(Debug)]
pub struct KeptChoices {
    path: PathBuf,
    known: Mutex<BTreeMap<String, String>>,
}

impl KeptChoices {
    /// Those of the user's cache: `$XDG_CACHE_HOME/gramscope/cudnn.json`, or `~/.cache/gramscope/cudnn.json`.
    ///
    /// # Errors
    /// [`DataError::NoCache`] for a user without a home directory.
    pub fn in_cache() -> Result<Self, DataError> {
        Ok(Self::at(cache()?.join("cudnn.json")))
    }

    /// Those of the file at `path`, which need not be there.
    pub fn at(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// Reads the file anew, and returns what it has of `of`.
    fn read(&self, of: &str) -> Result<Option<Choice>, String> {
        let path = &self.path;
        let read: BTreeMap<String, String> = match reading::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(path, &error.to_string()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed("read", path)(error)),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = read;
        known.get(of).map(|text| text.parse().map_err(|error: String| damaged(path, &error))).transpose()
    }
}

impl Choices for KeptChoices {
    fn find(&self, of: &str) -> Result<Option<Choice>, String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(of).cloned();
        match known {
            Some(text) => text.parse().map(Some).map_err(|error: String| damaged(&self.path, &error)),
            None => self.read(of),
        }
    }

    fn keep(&self, of: &str, choice: Choice) -> Result<Choice, String> {
        let (path, lock) = (&self.path, self.path.with_extension("lock"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make", folder))?;
        }
        // Whoever holds it is the one to write; it is let go of when it is closed.
        let held = File::options().create(true).append(true).open(&lock).map_err(failed("open", &lock))?;
        held.lock().map_err(failed("lock", &lock))?;
        if let Some(earlier) = self.read(of)? {
            return Ok(earlier);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(of.to_owned(), choice.to_string());
        let text = serde_json::to_string_pretty(&*known).map_err(|error| error.to_string())?;
        atomic::write(path, format!("{text}\n").as_bytes()).map_err(failed("write", path))?;
        Ok(choice)
    }

    fn refused(&self, of: &str, reason: &str) -> String {
        let path = self.path.display();
        format!(
            "{path} has an engine for {of} that is refused ({reason}); remove it, and cuDNN's engines are chosen anew"
        )
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what} {}, where cuDNN's engines are kept once chosen: {error}", path.display())
}

fn damaged(path: &Path, problem: &str) -> String {
    format!("{} is damaged ({problem}); remove it, and cuDNN's engines are chosen anew", path.display())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;

    fn engine(index: i64) -> Choice {
        Choice::Engine { index, knobs: vec![(2, index + 1)] }
    }

    #[test]
    fn the_first_choice_counts_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/cudnn.json");
        let (one, other) = (KeptChoices::at(path.clone()), KeptChoices::at(path.clone()));
        assert_eq!(one.find("a"), Ok(None));
        assert_eq!(one.keep("a", engine(1)), Ok(engine(1)));
        assert_eq!(other.keep("b", Choice::Own), Ok(Choice::Own));
        assert_eq!(other.keep("a", engine(2)), Ok(engine(1)));
        for choices in [&one, &other, &KeptChoices::at(path)] {
            assert_eq!((choices.find("a"), choices.find("b")), (Ok(Some(engine(1))), Ok(Some(Choice::Own))));
        }
    }

    #[test]
    fn no_choice_of_many_writers_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cudnn.json");
        thread::scope(|scope| {
            for writer in 0..8 {
                let choices = KeptChoices::at(path.clone());
                scope.spawn(move || {
                    for index in 0..5 {
                        choices.keep(&format!("{writer} {index}"), engine(writer)).unwrap();
                        choices.keep("all", engine(writer)).unwrap();
                    }
                });
            }
        });
        let choices = KeptChoices::at(path);
        let kept = |of: &str| choices.find(of).unwrap();
        assert!((0..8).all(|writer| (0..5).all(|index| kept(&format!("{writer} {index}")) == Some(engine(writer)))));
        assert!(kept("all").is_some());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cudnn.json");
        for (text, problem) in [("{", "EOF"), ("{\"a\": \"7 x\"}", "no choice")] {
            fs::write(&path, text).unwrap();
            let choices = KeptChoices::at(path.clone());
            for said in [choices.find("a").unwrap_err(), choices.keep("a", engine(1)).unwrap_err()] {
                assert!(said.contains("cudnn.json") && said.contains("remove it") && said.contains(problem), "{said}");
            }
        }
        let said = KeptChoices::at(path.clone()).refused("a", "no such engine");
        assert!(said.contains("cudnn.json") && said.contains("remove it") && said.contains("no such engine"), "{said}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let said = KeptChoices::at(path).keep("a", engine(1)).unwrap_err();
        assert!(said.contains("cannot read") && said.contains("cudnn.json"), "{said}");
    }
}
