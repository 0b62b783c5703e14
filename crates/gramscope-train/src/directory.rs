//! What lies where in a run directory, and whose it is.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::{Error, Result};
use crate::metrics;
use crate::settings::RunConfig;

/// The file that makes a directory a run's.
pub(crate) const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
const KEPT_PREFIX: &str = "epoch-";
const CHECKPOINT_SUFFIX: &str = ".safetensors";

/// How a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In a directory that is empty or does not exist, or holds a run of the same settings that has written no checkpoint yet.
    Fresh,
    /// From the last checkpoint in the directory; like [`Self::Fresh`] where there is none.
    Resume,
}

/// The paths of a run's files.
#[derive(Clone, Debug)]
pub(crate) struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory's own name, which is the run's.
    pub(crate) fn name(&self) -> String {
        // "runs/r14/.." and "." have a name only once they are resolved.
        let absolute = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        absolute.file_name().map_or("run".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    pub(crate) fn predictions(&self) -> PathBuf {
        self.root.join("predictions.safetensors")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join(CHECKPOINTS)
    }

    /// The last checkpoint.
    pub(crate) fn latest(&self) -> PathBuf {
        self.checkpoints().join(format!("latest{CHECKPOINT_SUFFIX}"))
    }

    /// The one before it, in case the last is damaged.
    pub(crate) fn previous(&self) -> PathBuf {
        self.checkpoints().join(format!("previous{CHECKPOINT_SUFFIX}"))
    }

    /// The one that was written when the run was asked to stop in the middle of an epoch; gone when the epoch is over.
    pub(crate) fn interrupted(&self) -> PathBuf {
        self.checkpoints().join(format!("interrupted{CHECKPOINT_SUFFIX}"))
    }

    /// Every checkpoint that training may go on from, whether it exists or not.
    pub(crate) fn every_checkpoint(&self) -> Result<Vec<PathBuf>> {
        let mut paths = vec![self.interrupted(), self.latest(), self.previous()];
        if self.checkpoints().is_dir() {
            paths.extend(self.kept_epochs()?.into_iter().map(|epoch| self.kept(epoch)));
        }
        Ok(paths)
    }

    /// Whether a run has begun here and there is nothing of it to go on from: it was stopped, or failed, before its first
    /// checkpoint. Files of others make it somebody's, so that it is none.
    fn is_unstarted(&self) -> Result<bool> {
        let checkpoints = self.checkpoints();
        for dir in [self.root(), &checkpoints] {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(Error::io("list", dir))?,
            };
            for entry in entries {
                let entry = entry.map_err(Error::io("list", dir))?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(Error::io("look at", &entry.path()))?);
                let is_of_run = if path == checkpoints {
                    kind.is_dir()
                } else if path == self.metrics() {
                    // An epoch's line goes before its checkpoint, for which there may have been no room.
                    kind.is_file() && metrics::are_of_no_checkpoint(&path)?
                } else {
                    kind.is_file() && (path == self.config() || atomic::is_temporary(&entry.file_name()))
                };
                if !is_of_run {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The checkpoint that is kept of `epoch`.
    pub(crate) fn kept(&self, epoch: usize) -> PathBuf {
        self.checkpoints().join(format!("{KEPT_PREFIX}{epoch:04}{CHECKPOINT_SUFFIX}"))
    }

    /// The epochs whose checkpoints are kept, ascending.
    pub(crate) fn kept_epochs(&self) -> Result<Vec<usize>> {
        let dir = self.checkpoints();
        let mut epochs = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let name = entry.map_err(Error::io("list", &dir))?.file_name();
            let number: Option<usize> = name
                .to_str()
                .and_then(|name| name.strip_prefix(KEPT_PREFIX)?.strip_suffix(CHECKPOINT_SUFFIX)?.parse().ok());
            epochs.extend(number);
        }
        epochs.sort_unstable();
        Ok(epochs)
    }
}

/// What a directory that is to be a run's holds.
#[derive(Debug)]
pub(crate) enum Contents {
    /// It does not exist, or is empty.
    Nothing,
    /// A run.
    Run,
    /// Something else.
    Other,
}

/// Looks into `dir`.
pub(crate) fn contents(dir: &Path) -> Result<Contents> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        entries => entries.map_err(Error::io("use as a directory", dir))?,
    };
    let config = RunDirectory::new(dir).config();
    if config.exists() {
        return Ok(Contents::Run);
    }
    for entry in entries {
        // What a process that was killed while it wrote config.toml has left is nothing.
        if !atomic::is_temporary(&entry.map_err(Error::io("list", dir))?.file_name()) {
            return Ok(Contents::Other);
        }
    }
    Ok(Contents::Nothing)
}

/// Fails if the run `stored` in `dir` has other settings than `asked`.
pub(crate) fn check_same(dir: &Path, stored: &RunConfig, asked: &RunConfig) -> Result<()> {
    match stored.first_difference(asked)? {
        Some(difference) => Err(Error::OtherSettings { dir: dir.to_path_buf(), difference }),
        None => Ok(()),
    }
}

/// A run directory that this process alone writes to, until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) directory: RunDirectory,
    _lock: File,
}

/// Makes `dir` the directory of a run with these settings, or goes on with the one that is there.
///
/// Nothing that exists is changed unless it is a run of the same settings that no other process is training, and is to be resumed
/// with the same backend or has nothing to be resumed from.
pub(crate) fn claim(dir: &Path, config: &RunConfig, start: Start) -> Result<Claim> {
    let directory = RunDirectory::new(dir);
    let is_new = match contents(dir)? {
        Contents::Nothing => {
            create(&directory, config)?;
            true
        }
        Contents::Run => false,
        Contents::Other => return Err(Error::Foreign { dir: dir.to_path_buf() }),
    };
    // First of all: a run that another process is training needs no advice but to wait, and may change until it is locked.
    let mut locked = lock(&directory)?;
    if begins_anew(&directory, config, start, is_new || locked.is_held)? {
        locked = replace(&directory, config)?;
    }
    let checkpoints = directory.checkpoints();
    fs::create_dir_all(&checkpoints).map_err(Error::io("make the directory", &checkpoints))?;
    for dir in [dir, &checkpoints] {
        atomic::remove_stale(dir).map_err(Error::io("clear of temporary files", dir))?;
    }
    Ok(Claim { directory, _lock: locked.file })
}

/// Whether the run that is there is to be begun anew with these settings, because it was begun on another backend and has trained
/// nothing yet; otherwise it goes on. `is_alone` says whether no other process can be at it.
///
/// # Errors
/// [`Error::Occupied`], [`Error::OtherSettings`] or [`Error::OtherBackend`] where it is neither.
fn begins_anew(directory: &RunDirectory, config: &RunConfig, start: Start, is_alone: bool) -> Result<bool> {
    let dir = || directory.root().to_path_buf();
    let is_unstarted = directory.is_unstarted()?;
    // Of two processes that begin here at once, one has made the directory.
    if start == Start::Fresh && !(is_unstarted && is_alone) {
        return Err(Error::Occupied { dir: dir() });
    }
    let stored = RunConfig::read(&directory.config())?;
    check_same(directory.root(), &stored, config)?;
    let (begun, asked) = (stored.backend, config.backend);
    if begun != asked && !is_unstarted {
        return Err(Error::OtherBackend { dir: dir(), begun, asked });
    }
    Ok(begun != asked)
}

/// Makes the directory of a new run.
fn create(directory: &RunDirectory, config: &RunConfig) -> Result<()> {
    let (dir, path) = (directory.root(), directory.config());
    let text = config.to_toml()?;
    fs::create_dir_all(dir).map_err(Error::io("make the directory", dir))?;
    match atomic::write_new(&path, text.as_bytes()) {
        Ok(true) => Ok(()),
        // Another process was faster; it may even have cleared this one's temporary file away.
        Ok(false) => Err(Error::Busy { dir: dir.to_path_buf() }),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound && path.exists() => {
            Err(Error::Busy { dir: dir.to_path_buf() })
        }
        Err(reason) => Err(Error::io("write", &path)(reason)),
    }
}

/// Replaces the config.toml of a run that has trained nothing yet, and locks it.
fn replace(directory: &RunDirectory, config: &RunConfig) -> Result<Lock> {
    let path = directory.config();
    atomic::write(&path, config.to_toml()?.as_bytes()).map_err(Error::io("write", &path))?;
    lock(directory)
}

/// A run's config.toml, and whether it is locked, which not every file system can do.
struct Lock {
    file: File,
    is_held: bool,
}

/// Locks config.toml, which is never replaced once there is a checkpoint. The system lets go of it when the process ends,
/// however it ends.
fn lock(directory: &RunDirectory) -> Result<Lock> {
    let path = directory.config();
    let locked = lock_once(directory)?;
    if locked.is_held && !is_at(&locked.file, &path).map_err(Error::io("read", &path))? {
        // Another process has replaced it since it was opened: what it has put there is to be locked. Where a file's number is
        // another each time, it is the same file, and free again.
        drop(locked);
        return lock_once(directory);
    }
    Ok(locked)
}

/// Locks the file that is config.toml now.
fn lock_once(directory: &RunDirectory) -> Result<Lock> {
    let path = directory.config();
    // NFS gives an exclusive lock only for a file that may be written; what may not be can be locked elsewhere all the same.
    let file = File::options().read(true).write(true).open(&path).or_else(|_| File::open(&path));
    let file = file.map_err(Error::io("read", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { file, is_held: true }),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { dir: directory.root().to_path_buf() }),
        Err(TryLockError::Error(reason)) => {
            tracing::warn!(
                "cannot lock {} ({reason}); make sure that no other process trains this run",
                path.display()
            );
            Ok(Lock { file, is_held: false })
        }
    }
}

/// Whether `path` names this open file; not known, and believed, where files have no numbers.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (opened, named) = (file.metadata()?, fs::metadata(path)?);
        Ok((opened.dev(), opened.ino()) == (named.dev(), named.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gramscope_nn::Backend;

    use super::*;
    use crate::data::DataConfig;
    use crate::settings::TrainSettings;

    fn config(seed: u64) -> RunConfig {
        RunConfig::new(DataConfig::default(), TrainSettings { seed, ..TrainSettings::default() })
    }

    #[test]
    fn a_run_is_claimed_once_and_by_its_own_settings() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("family").join("run");
        let claimed = claim(&dir, &config(1), Start::Fresh).unwrap();
        for start in [Start::Fresh, Start::Resume] {
            assert!(matches!(claim(&dir, &config(1), start), Err(Error::Busy { .. })));
        }
        drop(claimed);
        let error = claim(&dir, &config(2), Start::Resume).unwrap_err().to_string();
        assert!(error.contains("seed is 1 there and 2 here"), "{error}");
        claim(&dir, &config(1), Start::Resume).unwrap();
        assert_eq!(RunDirectory::new(&dir).name(), "run");
    }

    #[test]
    fn a_run_goes_on_as_it_was_begun() {
        let root = tempfile::tempdir().unwrap();
        let pairs = [
            (Backend::Cpu, Backend::CudaF32),
            (Backend::CudaBf16, Backend::CudaTf32),
            (Backend::CudaF32, Backend::CudaF32Cudnn),
        ];
        for (begun, asked) in pairs {
            let dir = root.path().join(begun.to_string());
            let claimed = claim(&dir, &config(1).with_backend(begun), Start::Fresh).unwrap();
            fs::write(claimed.directory.latest(), "a checkpoint").unwrap();
            let other = || claim(&dir, &config(1).with_backend(asked), Start::Resume).unwrap_err();
            assert!(matches!(other(), Error::Busy { .. }));
            drop(claimed);
            let error = other().to_string();
            let advice = format!("go on with {begun}");
            assert!(error.contains(&asked.to_string()) && error.contains(&advice), "{error}");
            claim(&dir, &config(1).with_backend(begun), Start::Resume).unwrap();
        }
    }

    /// What has failed before its first checkpoint is begun anew, on whatever is there now; what holds anything else is somebody's.
    #[test]
    fn a_run_that_never_started_is_in_nobodys_way() {
        let root = tempfile::tempdir().unwrap();
        let begin = |dir: &Path, seed, backend| claim(dir, &config(seed).with_backend(backend), Start::Fresh);
        for (number, backend) in [Backend::Cpu, Backend::CudaBf16].into_iter().enumerate() {
            let dir = root.path().join(number.to_string());
            let claimed = begin(&dir, 1, Backend::CudaBf16).unwrap();
            fs::write(claimed.directory.metrics(), "").unwrap();
            fs::write(claimed.directory.checkpoints().join(".latest.1.gramscope-tmp"), "half").unwrap();
            drop(claimed);
            let error = begin(&dir, 2, backend).unwrap_err().to_string();
            assert!(error.contains("seed is 1 there and 2 here"), "{error}");
            let claimed = begin(&dir, 1, backend).unwrap();
            assert_eq!(RunConfig::read(&claimed.directory.config()).unwrap().backend, backend);
            assert!(matches!(begin(&dir, 1, backend), Err(Error::Busy { .. })));
            drop(claimed);
        }
        for file in ["notes.txt", "metrics.jsonl", "checkpoints/interrupted.safetensors"] {
            let dir = root.path().join(file.replace('/', "-"));
            drop(begin(&dir, 1, Backend::Cpu).unwrap());
            fs::write(dir.join(file), "irreplaceable").unwrap();
            assert!(matches!(begin(&dir, 1, Backend::Cpu), Err(Error::Occupied { .. })), "{file}");
        }
        for name in ["metrics.jsonl", ".config.toml.1.gramscope-tmp"] {
            let dir = root.path().join(format!("directory-{name}"));
            drop(begin(&dir, 1, Backend::Cpu).unwrap());
            fs::create_dir(dir.join(name)).unwrap();
            assert!(matches!(begin(&dir, 1, Backend::Cpu), Err(Error::Occupied { .. })), "{name}");
        }
    }

    /// Where nothing can be locked, the one that has made the directory begins, and another may only go on.
    #[test]
    fn without_locks_no_two_processes_begin() {
        let root = tempfile::tempdir().unwrap();
        let claimed = claim(root.path(), &config(1), Start::Fresh).unwrap();
        let decided = |start, is_alone| begins_anew(&claimed.directory, &config(1), start, is_alone);
        assert!(matches!(decided(Start::Fresh, false), Err(Error::Occupied { .. })));
        for (start, is_alone) in [(Start::Fresh, true), (Start::Resume, false)] {
            assert!(!decided(start, is_alone).unwrap());
        }
    }

    /// A lock that a network's file system gives only to who may write, and one on what nobody may.
    #[test]
    fn what_may_only_be_read_is_locked_too() {
        let root = tempfile::tempdir().unwrap();
        let directory = claim(root.path(), &config(1), Start::Fresh).unwrap().directory;
        let locked = lock(&directory).unwrap();
        assert!(locked.is_held && locked.file.set_len(0).is_ok(), "it is not open to be written");
        drop(locked);
        let mut permissions = fs::metadata(directory.config()).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(directory.config(), permissions).unwrap();
        assert!(lock(&directory).unwrap().is_held);
    }

    /// A process that was slow to lock a config.toml has it no more when another has replaced it.
    #[cfg(unix)]
    #[test]
    fn a_file_is_known_by_more_than_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG);
        atomic::write(&path, b"old").unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_at(&file, &path).unwrap());
        atomic::write(&path, b"new").unwrap();
        assert!(!is_at(&file, &path).unwrap());
    }

    #[test]
    fn an_empty_directory_will_do_and_a_foreign_one_will_not() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(".config.toml.1.gramscope-tmp"), "half").unwrap();
        claim(root.path(), &config(0), Start::Resume).unwrap();
        assert!(!root.path().join(".config.toml.1.gramscope-tmp").exists(), "the stale file is still there");

        let root = tempfile::tempdir().unwrap();
        let thesis = root.path().join("thesis.txt");
        fs::write(&thesis, "irreplaceable").unwrap();
        for start in [Start::Fresh, Start::Resume] {
            assert!(matches!(claim(root.path(), &config(0), start), Err(Error::Foreign { .. })));
            assert!(matches!(claim(&thesis, &config(0), start), Err(Error::Io { .. })));
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn kept_epochs_are_read_from_names() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::new(root.path());
        fs::create_dir(directory.checkpoints()).unwrap();
        for epoch in [12_345, 3, 20] {
            fs::write(directory.kept(epoch), "").unwrap();
        }
        for other in
            ["latest.safetensors", "epoch-x.safetensors", "epoch-0007", ".epoch-0009.safetensors.1.gramscope-tmp"]
        {
            fs::write(directory.checkpoints().join(other), "").unwrap();
        }
        assert_eq!(directory.kept_epochs().unwrap(), [3, 20, 12_345]);
    }
}
