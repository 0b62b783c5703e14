//! metrics.jsonl: a JSON object a line, a line an epoch.
//!
//! A line is appended before the epoch's checkpoint is written. A run that is killed in between, or in the middle of the
//! line, therefore has a line too many, which [`rewind`] takes away when the run is resumed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::{Error, Result};
use crate::fault;
use crate::reading;

/// One epoch of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Which epoch, from 1.
    pub epoch: usize,
    /// The learning rate of its steps.
    pub learning_rate: f64,
    /// Mean cross-entropy of its batches, each before its step, on augmented images, without the weight penalty.
    pub train_loss: f64,
    /// Share of those images that were classified correctly.
    pub train_accuracy: f64,
    /// Mean cross-entropy on the test images after the epoch.
    pub test_loss: f64,
    /// Share of the test images that are classified correctly.
    pub test_accuracy: f64,
    /// Training images a second, the evaluation left out.
    pub images_per_second: f64,
    /// Wall time of the epoch with its evaluation, in seconds.
    pub seconds: f64,
    /// The name of the GPU that trained it (where it was interrupted, what was left of it); none for the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

/// Appends the line of one epoch and waits until it is on the disk.
pub(crate) fn append(path: &Path, metrics: &EpochMetrics) -> Result<()> {
    let line = serde_json::to_string(metrics).expect("numbers and fixed names can always be written") + "\n";
    let append = || {
        fault::point()?;
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        fault::point()?;
        file.write_all(line.as_bytes())?;
        fault::point()?;
        file.sync_data()
    };
    append().map_err(Error::io("write", path))
}

/// All epochs in the file, in order; none where there is no file. A torn last line is passed over.
///
/// # Errors
/// [`Error::Metrics`] for any other line that is not an epoch's.
pub(crate) fn read(path: &Path) -> Result<Vec<EpochMetrics>> {
    Ok(lines(path)?.into_iter().map(|(_, metrics)| metrics).collect())
}

/// All epochs of a run that may have ended: a line each from epoch 1 on, a torn last one passed over.
///
/// # Errors
/// [`Error::Metrics`] for a line that is not the next epoch's.
pub(crate) fn read_whole(path: &Path) -> Result<Vec<EpochMetrics>> {
    let epochs = read(path)?;
    match epochs.iter().enumerate().find(|(number, metrics)| metrics.epoch != number + 1) {
        Some((number, metrics)) => Err(wrong_epoch(path, number + 1, metrics)),
        None => Ok(epochs),
    }
}

/// Fails unless the `found` epochs of a file reach that of a checkpoint: a line is there before it.
///
/// # Errors
/// [`Error::Metrics`].
pub(crate) fn check_reaches(path: &Path, found: usize, epoch: usize) -> Result<()> {
    if found >= epoch {
        return Ok(());
    }
    let problem = format!("ends with epoch {found}, but the last checkpoint is of epoch {epoch}; {RESTORE}");
    Err(Error::Metrics { path: path.to_path_buf(), problem })
}

/// Takes away every line after that of `epoch`, the torn one included.
///
/// # Errors
/// [`Error::Metrics`] unless what is left has one line for each epoch from 1 to `epoch`.
pub(crate) fn rewind(path: &Path, epoch: usize) -> Result<()> {
    let mut kept = String::new();
    for (number, (line, metrics)) in lines(path)?.into_iter().take(epoch).enumerate() {
        if metrics.epoch != number + 1 {
            return Err(wrong_epoch(path, number + 1, &metrics));
        }
        kept.push_str(&line);
        kept.push('\n');
    }
    check_reaches(path, kept.lines().count(), epoch)?;
    if epoch == 0 && !path.exists() {
        return Ok(());
    }
    atomic::write(path, kept.as_bytes()).map_err(Error::io("write", path))
}

/// Whether the file is what a run leaves that has no checkpoint yet: nothing, or the first epoch's line, whole or torn.
pub(crate) fn are_of_no_checkpoint(path: &Path) -> Result<bool> {
    const BEGINNING: &[u8] = b"{\"epoch\":";
    let bytes = reading::read(path).map_err(Error::io("read", path))?;
    let is_torn = |line: &[u8]| line.starts_with(BEGINNING) || BEGINNING.starts_with(line);
    let is_first = |line| serde_json::from_slice(line).is_ok_and(|metrics: EpochMetrics| metrics.epoch == 1);
    Ok(match bytes.strip_suffix(b"\n") {
        Some(line) => is_first(line),
        None => is_torn(&bytes) && !bytes.contains(&b'\n'),
    })
}

fn wrong_epoch(path: &Path, line: usize, metrics: &EpochMetrics) -> Error {
    let problem = format!("line {line} is of epoch {}; {RESTORE}", metrics.epoch);
    Error::Metrics { path: path.to_path_buf(), problem }
}

const RESTORE: &str = "restore the file, or train into another directory";

/// Each line with what it says.
fn lines(path: &Path) -> Result<Vec<(String, EpochMetrics)>> {
    let bytes = match reading::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(Error::io("read", path))?,
    };
    // As bytes, because a torn line may end inside a character.
    let mut found = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        match (serde_json::from_slice(line), end) {
            (Ok(metrics), _) => found.push((String::from_utf8_lossy(line).into_owned(), metrics)),
            (Err(_), None) => {}
            (Err(error), Some(_)) => {
                let problem = format!("line {} is not an epoch's: {error}; {RESTORE}", found.len() + 1);
                return Err(Error::Metrics { path: path.to_path_buf(), problem });
            }
        }
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    fn epoch(epoch: usize) -> EpochMetrics {
        EpochMetrics {
            epoch,
            learning_rate: 0.01 / 3.0,
            train_loss: std::f64::consts::LN_10,
            train_accuracy: 1.0 / 7.0,
            test_loss: f64::MIN_POSITIVE,
            test_accuracy: 0.0,
            images_per_second: 1e300,
            seconds: 0.1 + 0.2,
            gpu: epoch.is_multiple_of(2).then(|| "a \"GPU\"".to_owned()),
        }
    }

    #[test]
    fn what_is_appended_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        let epochs = [epoch(1), epoch(2)];
        for metrics in &epochs {
            append(&path, metrics).unwrap();
        }
        assert_eq!(read(&path).unwrap(), epochs);
    }

    #[test]
    fn rewinding_restores_the_very_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        rewind(&path, 0).unwrap();
        assert!(!path.exists());
        append(&path, &epoch(1)).unwrap();
        append(&path, &epoch(2)).unwrap();
        let two = fs::read(&path).unwrap();
        append(&path, &epoch(3)).unwrap();
        let three = fs::read(&path).unwrap();
        for torn in two.len()..=three.len() {
            fs::write(&path, &three[..torn]).unwrap();
            let whole = torn + 1 >= three.len();
            assert_eq!(read(&path).unwrap().len(), if whole { 3 } else { 2 }, "{torn} bytes");
            rewind(&path, 2).unwrap();
            assert_eq!(fs::read(&path).unwrap(), two, "{torn} bytes");
        }
        rewind(&path, 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    /// Every beginning of the first line, as a full disk may cut it, and nothing else.
    #[test]
    fn a_run_without_a_checkpoint_has_one_line_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        append(&path, &epoch(1)).unwrap();
        let line = fs::read(&path).unwrap();
        for torn in 0..=line.len() {
            fs::write(&path, &line[..torn]).unwrap();
            assert!(are_of_no_checkpoint(&path).unwrap(), "{torn} bytes");
            rewind(&path, 0).unwrap();
        }
        fs::write(&path, &line).unwrap();
        append(&path, &epoch(2)).unwrap();
        let two = fs::read(&path).unwrap();
        for others in [&two[..], &two[line.len()..], &two[..line.len() + 5], b"irreplaceable", b"{}\n", b"\n"] {
            fs::write(&path, others).unwrap();
            assert!(!are_of_no_checkpoint(&path).unwrap(), "{:?}", String::from_utf8_lossy(others));
        }
    }

    #[test]
    fn a_lost_or_foreign_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        append(&path, &epoch(1)).unwrap();
        let error = rewind(&path, 2).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("ends with epoch 1"), "{error}");
        append(&path, &epoch(3)).unwrap();
        let error = rewind(&path, 2).unwrap_err().to_string();
        assert!(error.contains("line 2 is of epoch 3"), "{error}");
        fs::write(&path, "{}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("metrics.jsonl"), "{error}");
    }
}
