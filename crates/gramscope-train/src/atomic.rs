//! Writing a file so that, whenever the process or the machine stops, its path holds the old contents or the new ones.
//!
//! The contents go to a temporary file in the same directory, which is flushed to the disk and renamed; then the
//! directory is flushed, so that the new name is on the disk too. A process that is killed leaves at most a temporary
//! file, which the next one removes that writes the same file, or clears the directory ([`remove_stale`], [`remove_left`]);
//! one that fails leaves none. A temporary file is locked as long as its process lives, so that nobody takes it for one that was
//! left; in its first seconds, when it may not be locked yet, its age says so.
//!
//! Functions return the system's own errors: the caller knows which file of whose it was, and says so.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::fault;

/// What the names of temporary files end in: a name that nobody else uses, because such files are removed.
const SUFFIX: &str = ".gramscope-tmp";
/// A temporary file that was written to more recently is some process's.
const YOUNG: Duration = Duration::from_secs(10);

/// A file under construction: a temporary one in the same directory, removed again if it is dropped unfinished.
#[derive(Debug)]
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
    /// Whether all of it is on the disk.
    is_synced: bool,
}

impl NewFile {
    /// Begins the file that is to lie at `path`.
    ///
    /// # Errors
    /// What the system says; `path` is a directory, or names no file.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "there is a directory of this name"));
        }
        fault::point()?;
        let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "this names no file");
        let prefix = format!(".{}.", path.file_name().ok_or_else(no_name)?.to_string_lossy());
        remove(parent(path), |entry| starts_with(entry, &prefix) && is_left(&entry.path()))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX);
        readable(&mut builder);
        let file = builder.tempfile_in(parent(path))?;
        // Where the file system has no locks, nobody can lock it to remove it either.
        let _ = file.as_file().try_lock();
        Ok(Self { file, path: path.to_owned(), is_synced: false })
    }

    /// Begins the file that is to lie at `path` with what `write` writes, all of which is on the disk then, but for its name.
    ///
    /// # Errors
    /// What `write` or the system says; no file is left.
    pub fn written(path: &Path, write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>) -> io::Result<Self> {
        let mut new = Self::create(path)?;
        let mut buffer = BufWriter::new(new.file());
        fault::point()?;
        write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        fault::point()?;
        new.file().sync_all()?;
        new.is_synced = true;
        Ok(new)
    }

    /// What is written to.
    pub fn file(&mut self) -> &mut File {
        self.is_synced = false;
        self.file.as_file_mut()
    }

    /// Where the file will lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the file to the disk and gives it its name, in place of a file that has it.
    ///
    /// # Errors
    /// What the system says; the path holds what it held before.
    pub fn finish(self) -> io::Result<()> {
        let Self { file, path, is_synced } = self;
        if !is_synced {
            fault::point()?;
            file.as_file().sync_all()?;
        }
        fault::point()?;
        file.persist(&path)?;
        sync_directory(&path)
    }

    /// The same, but false where there is a file of this name already, which is left alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish_new(self) -> io::Result<bool> {
        let Self { file, path, .. } = self;
        fault::point()?;
        file.as_file().sync_all()?;
        fault::point()?;
        match file.persist_noclobber(&path) {
            Ok(_) => sync_directory(&path).map(|()| true),
            Err(reason) if reason.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(reason) => Err(reason.error),
        }
    }
}

/// Replaces the file at `path`, or makes it.
///
/// # Errors
/// What the system says; the path holds what it held before.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(contents))
}

/// Replaces the file at `path`, or makes it, with what `write` writes.
///
/// # Errors
/// What `write` or the system says; the path holds what it held before.
pub fn write_with(path: &Path, write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>) -> io::Result<()> {
    NewFile::written(path, write)?.finish()
}

/// Makes the file at `path`; false if there is one already, which is left alone.
///
/// # Errors
/// What the system says.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<bool> {
    let mut new = NewFile::create(path)?;
    fault::point()?;
    new.file().write_all(contents)?;
    new.finish_new()
}

/// Whether a file of this name is one of this module's temporary files.
pub fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(SUFFIX.as_bytes())
}

/// Removes the temporary files that a killed process left in `dir`. The caller makes sure that no process is writing
/// there.
///
/// # Errors
/// What the system says.
pub fn remove_stale(dir: &Path) -> io::Result<()> {
    remove(dir, |_| true)
}

/// Removes the temporary files that killed processes left in `dir`, where others may be writing.
///
/// # Errors
/// What the system says.
pub fn remove_left(dir: &Path) -> io::Result<()> {
    remove(dir, |entry| is_left(&entry.path()))
}

/// Removes the temporary files in `dir` that are `wanted`.
fn remove(dir: &Path, wanted: impl Fn(&fs::DirEntry) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_temporary(&entry.file_name()) && wanted(&entry) {
            match fs::remove_file(entry.path()) {
                // Another process was faster.
                Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

fn starts_with(entry: &fs::DirEntry, prefix: &str) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Whether no process holds the temporary file at `path`, as far as its age and its lock tell.
fn is_left(path: &Path) -> bool {
    let is_old = || fs::metadata(path)?.modified().map(|at| at.elapsed().is_ok_and(|age| age > YOUNG));
    let is_free = || File::options().write(true).open(path).is_ok_and(|file| file.try_lock().is_ok());
    is_old().unwrap_or(false) && is_free()
}

/// The directory that `path` is in, also where it is no more than a name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Flushes the directory that `path` is in: a rename is on the disk only then. Systems on which a directory cannot be
/// opened have no such call.
fn sync_directory(path: &Path) -> io::Result<()> {
    fault::point()?;
    if cfg!(unix) { File::open(parent(path))?.sync_all() } else { Ok(()) }
}

/// Temporary files are for their owner's eyes alone unless told otherwise; these become results, which others may read
/// as far as the user's umask allows.
fn readable(builder: &mut tempfile::Builder<'_, '_>) {
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    #[cfg(not(unix))]
    let _ = builder;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(error.unwrap_err().to_string().contains("the disk is full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["file"], "a temporary file is left");
    }

    #[test]
    fn what_is_there_is_not_replaced_by_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(write_new(&path, b"first").unwrap());
        assert!(!write_new(&path, b"second").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["file"]);
    }

    /// As a process leaves it that is killed, `seconds` ago.
    fn leave(path: &Path, seconds: u64) -> PathBuf {
        let left = NewFile::create(path).unwrap().file.into_temp_path().keep().unwrap();
        let file = File::options().write(true).open(&left).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        left
    }

    #[test]
    fn what_was_left_goes_when_the_same_file_is_written_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let (young, old, other) = (leave(&path, 0), leave(&path, 60), leave(&dir.path().join("other"), 60));
        let mut first = NewFile::create(&path).unwrap();
        assert!(young.exists() && !old.exists() && other.exists());
        first.file().write_all(b"first").unwrap();
        // However long it takes: it is locked.
        first.file().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        let second = NewFile::create(&path).unwrap();
        remove_left(dir.path()).unwrap();
        assert!(young.exists() && !other.exists());
        fs::remove_file(young).unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        second.finish().unwrap();
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn only_our_temporary_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let left = leave(&dir.path().join("file"), 0);
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(is_temporary(left.file_name().unwrap()));
        for other in ["notes.tmp", ".hidden"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        remove_stale(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".hidden", "file", "notes.tmp"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_any_new_file_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        write(&dir.path().join("ours"), b"x").unwrap();
        fs::write(dir.path().join("any"), "x").unwrap();
        assert_eq!(mode("ours"), mode("any"));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write(dir.path(), b"").unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let missing = dir.path().join("missing").join("file");
        assert_eq!(write(&missing, b"").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
