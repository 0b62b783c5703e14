//! One self-contained page about every run and every comparison below a directory. It works offline, loads nothing, and
//! holds one copy of the plotting script.

mod findings;
mod page;

use std::fs;
use std::path::{Path, PathBuf};

use gramscope_train::{Run, atomic};

pub use findings::findings;

use crate::results::{self, INFO, NUMBERS, PairResult};
use crate::{Error, Result};

/// Name of the page.
pub const PAGE: &str = "report.html";

/// Writes DIR/report.html about all run directories and all cka.npz with their cka.json below `dir`, and returns its path.
/// Runs without a finished epoch are left out; so is, with a warning, what cannot be read.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be read or written, [`Error::File`] where nothing is found below it.
pub fn write(dir: &Path) -> Result<PathBuf> {
    let mut found = Found::default();
    found.search(dir)?;
    if found.runs.is_empty() && found.results.is_empty() {
        return Err(Error::file(
            dir,
            "there is neither a run nor a CKA result below it; train or compare something first",
        ));
    }
    let page = page::page(&found.runs, &found.results)?;
    let path = dir.join(PAGE);
    atomic::write(&path, page.as_bytes()).map_err(Error::io("write", &path))?;
    Ok(path)
}

#[derive(Default)]
struct Found {
    runs: Vec<Run>,
    results: Vec<PairResult>,
}

impl Found {
    /// Looks into `dir` and what is below it, in the order of names; links are not followed.
    fn search(&mut self, dir: &Path) -> Result<()> {
        if dir.join("config.toml").is_file() && dir.join("metrics.jsonl").is_file() {
            match Run::open(dir).and_then(|run| run.metrics().map(|metrics| (run, metrics))) {
                Ok((run, metrics)) if !metrics.is_empty() => self.runs.push(run),
                Ok(_) => {}
                Err(reason) => tracing::warn!("left out of the report: {reason}"),
            }
        }
        if dir.join(INFO).is_file() && dir.join(NUMBERS).is_file() {
            match results::load(dir) {
                Ok(result) => self.results.push(result),
                Err(reason) => tracing::warn!("left out of the report: {reason}"),
            }
        }
        let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut entries = entries.map_err(Error::io("list", dir))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.search(&entry.path())?;
            }
        }
        Ok(())
    }
}
