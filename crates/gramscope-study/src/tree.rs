//! Walking through a directory of runs and results.

use std::fs;
use std::path::{Path, PathBuf};

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
