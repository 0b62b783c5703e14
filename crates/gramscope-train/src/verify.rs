//! Is a run as it was written, and is all of it there?

use std::path::{Path, PathBuf};

use crate::directory::RunDirectory;
use crate::error::Result;
use crate::run::Run;
use crate::{checkpoint, metrics, predictions};

/// A file that was looked at, or looked for.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, or that it is missing; nothing, where it is as it was written.
    pub problem: Option<String>,
}

impl Verified {
    /// What came of looking at `path`.
    pub fn new<T, E: std::fmt::Display>(path: PathBuf, outcome: std::result::Result<T, E>) -> Self {
        Self { path, problem: outcome.err().map(|reason| reason.to_string()) }
    }
}

/// Looks at every file of the run in `dir`: its settings, the line of each epoch that there is a checkpoint of, the checksums
/// of checkpoints and predictions. What a run must have had and has no longer, its last checkpoint or its predictions, is wrong, too;
/// what an unfinished one has not come to is not.
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
    let (run, lines) = (Run::open(dir), metrics::read_whole(&path));
    let lost = match (&run, &lines) {
        (Ok(run), Ok(lines)) => lost(&directory, run.config().train.epochs, lines.len(), trained),
        _ => None,
    };
    let reaching = lines.and_then(|lines| metrics::check_reaches(&path, lines.len(), trained));
    let mut files = vec![Verified::new(directory.config(), run), Verified::new(path, reaching)];
    files.extend(checkpoints);
    let path = directory.predictions();
    if path.is_file() {
        let outcome = predictions::check(&path);
        files.push(Verified::new(path, outcome));
    }
    files.extend(lost);
    Ok(files)
}

/// What a run has lost that was to be trained for so many epochs, has `lines` of them, and a good checkpoint of epoch `trained`: 0 where
/// there is none of a whole epoch.
fn lost(directory: &RunDirectory, epochs: usize, lines: usize, trained: usize) -> Option<Verified> {
    if trained < epochs { lost_checkpoint(directory, lines, trained) } else { lost_predictions(directory, epochs) }
}

/// The last checkpoint, of a run that must have had one: it has predicted, which comes last of all, or it has more lines than the one
/// that goes before the first checkpoint. A copy without the directory of checkpoints is one that is to have no weights, and one of a kept
/// epoch alone has that epoch's.
fn lost_checkpoint(directory: &RunDirectory, lines: usize, trained: usize) -> Option<Verified> {
    let path = directory.latest();
    let had_one = directory.predictions().is_file() || (trained == 0 && lines > 1);
    if !had_one || path.is_file() || !directory.checkpoints().is_dir() {
        return None;
    }
    let left = match trained {
        0 => "no other good one is left".to_owned(),
        trained => format!("the newest good one that is left is of epoch {trained}"),
    };
    let problem = format!("it is missing, and {left}: restore it, or resume the run, which trains again what is lost");
    Some(Verified { path, problem: Some(problem) })
}

/// The predictions, of a run that is trained to its end. One that was stopped right before it wrote them looks the same, and the same
/// mends it.
fn lost_predictions(directory: &RunDirectory, epochs: usize) -> Option<Verified> {
    let path = directory.predictions();
    if path.is_file() {
        return None;
    }
    let problem = format!("it is missing, and all {epochs} epochs are trained: resume the run, which then writes it");
    Some(Verified { path, problem: Some(problem) })
}
