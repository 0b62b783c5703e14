//! Is a run as it was written?

use std::path::{Path, PathBuf};

use crate::directory::RunDirectory;
use crate::error::Result;
use crate::run::Run;
use crate::{checkpoint, metrics, predictions};

/// A file that was looked at.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; nothing, where it is as it was written.
    pub problem: Option<String>,
}

impl Verified {
    /// What came of looking at `path`.
    pub fn new<T, E: std::fmt::Display>(path: PathBuf, outcome: std::result::Result<T, E>) -> Self {
        Self { path, problem: outcome.err().map(|reason| reason.to_string()) }
    }
}

/// Looks at every file of the run in `dir`: its settings, the line of each epoch that there is a checkpoint of, the checksums
/// of checkpoints and predictions.
///
/// # Errors
/// [`crate::Error::Io`] where the directory of the checkpoints cannot be listed.
pub fn verify(dir: &Path) -> Result<Vec<Verified>> {
    let directory = RunDirectory::new(dir);
    let (mut checkpoints, mut trained) = (Vec::new(), 0);
    for path in directory.every_checkpoint()?.into_iter().filter(|path| path.is_file()) {
        let outcome = checkpoint::load(&path);
        trained = outcome.as_ref().map_or(trained, |checkpoint| trained.max(checkpoint.position.epochs));
        checkpoints.push(Verified::new(path, outcome));
    }
    let path = directory.metrics();
    let reaching = metrics::read_whole(&path).and_then(|epochs| metrics::check_reaches(&path, epochs.len(), trained));
    let mut files = vec![Verified::new(directory.config(), Run::open(dir)), Verified::new(path, reaching)];
    files.extend(checkpoints);
    let path = directory.predictions();
    if path.is_file() {
        let outcome = predictions::check(&path);
        files.push(Verified::new(path, outcome));
    }
    Ok(files)
}
