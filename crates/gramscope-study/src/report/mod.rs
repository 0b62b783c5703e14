//! One self-contained page about every run and every comparison below a directory. It works offline, loads nothing, and
//! holds one copy of the plotting script.

mod experiments;
mod figures;
mod findings;
mod page;

use std::path::{Path, PathBuf};

use gramscope_train::{Run, atomic};

pub(crate) use experiments::{of_ablations, of_probes};
pub(crate) use findings::findings;

use figures::Figure;

use crate::family::{Member, members, relation};
use crate::pair::PairResult;
use crate::{Error, Result, Saved, tree};

/// Name of the page.
pub const PAGE: &str = "report.html";

/// Writes DIR/report.html about all run directories and all results below `dir`, and returns its path.
/// Runs without a finished epoch are left out; so is, with a warning, what cannot be read.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be read or written, [`Error::File`] where nothing is found below it.
pub fn write(dir: &Path) -> Result<PathBuf> {
    let found = Found::below(dir)?;
    let members = members(&found.runs)?;
    let results = in_order(found.results, &members);
    if members.is_empty() && results.is_empty() && found.figures.is_empty() {
        return Err(Error::file(dir, "there is neither a run nor a result below it; train or compare something first"));
    }
    let page = page::page(&members, &results, &found.figures, dir)?;
    let path = dir.join(PAGE);
    atomic::write(&path, page.as_bytes()).map_err(Error::io("write", &path))?;
    Ok(path)
}

/// The results from those within a network to those between the most different, each in the order of the members.
fn in_order(mut results: Vec<Placed<PairResult>>, members: &[Member]) -> Vec<Placed<PairResult>> {
    let place = |name: &str| members.iter().position(|member| member.name == name).unwrap_or(members.len());
    results.sort_by_key(|Placed { result, .. }| {
        let info = &result.info;
        (relation(members, info), place(&info.model_x), place(&info.model_y))
    });
    results
}

/// A result and the directory it was found in.
struct Placed<R> {
    result: R,
    place: PathBuf,
}

#[derive(Default)]
struct Found {
    runs: Vec<Run>,
    results: Vec<Placed<PairResult>>,
    figures: Vec<Figure>,
}

impl Found {
    /// What lies in `dir` and in the directories below it, in the order of their names.
    fn below(dir: &Path) -> Result<Self> {
        let mut found = Self::default();
        for dir in tree::directories(dir)? {
            found.look_into(dir);
        }
        Ok(found)
    }

    fn look_into(&mut self, dir: PathBuf) {
        if dir.join(tree::RUN_MARK).is_file() && dir.join("metrics.jsonl").is_file() {
            match Run::open(&dir).and_then(|run| run.metrics().map(|metrics| (run, metrics))) {
                Ok((run, metrics)) if !metrics.is_empty() => self.runs.push(run),
                Ok(_) => {}
                Err(reason) => tracing::warn!("left out of the report: {reason}"),
            }
        }
        if PairResult::any_in(&dir) {
            let result = figures::warned(PairResult::load(&dir));
            self.results.extend(result.map(|result| Placed { result, place: dir.clone() }));
        }
        self.figures.extend(figures::of_directory(&dir));
    }
}
