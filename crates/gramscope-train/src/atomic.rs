//! Writing a file so that, whenever the process or the machine stops, its path holds the old contents or the new ones.
//!
//! The contents go to a temporary file in the same directory, which is flushed to the disk and renamed; then the
//! directory is flushed, so that the new name is on the disk too. A process that is killed leaves at most a temporary
//! file, which the next one removes ([`remove_stale`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What the names of temporary files end in: a name that nobody else uses, because such files are removed.
const SUFFIX: &str = ".gramscope-tmp";

/// Replaces the file at `path`, or makes it.
pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let temporary = write_temporary(path, contents)?;
    fs::rename(&temporary, path).map_err(Error::io("write", path))?;
    sync_directory(path)
}

/// Makes the file at `path`; false if there is one already, which is left alone.
pub(crate) fn write_new(path: &Path, contents: &[u8]) -> Result<bool> {
    let temporary = write_temporary(path, contents)?;
    // Unlike a rename, a link does not replace what is there.
    let linked = fs::hard_link(&temporary, path);
    let result = match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // A file system without hard links: the check and the rename are two steps there.
        Err(_) if path.exists() => Ok(false),
        Err(_) => return fs::rename(&temporary, path).map(|()| true).map_err(Error::io("write", path)),
    };
    fs::remove_file(&temporary).map_err(Error::io("remove", &temporary))?;
    sync_directory(path)?;
    result
}

/// Whether a file of this name is one of this module's temporary files.
pub(crate) fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().ends_with(SUFFIX.as_bytes())
}

/// Removes the temporary files that a killed process left in `dir`. The caller makes sure that no process is writing
/// there.
pub(crate) fn remove_stale(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if is_temporary(&entry.file_name()) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn write_temporary(path: &Path, contents: &[u8]) -> Result<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}{SUFFIX}", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    if let Err(reason) = written {
        // Such as a full disk: do not leave half a file there. That it may fail too changes nothing about the error.
        drop(fs::remove_file(&temporary));
        return Err(Error::Io { action: "write", path: path.to_path_buf(), reason });
    }
    Ok(temporary)
}

/// Flushes the directory that `path` is in: a rename is on the disk only then. Systems on which a directory cannot be
/// opened have no such call.
fn sync_directory(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("flush", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for contents in ["first", "second, which is longer", ""] {
            write(&path, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_new_file_never_replaces_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(write_new(&path, b"first").unwrap());
        assert!(!write_new(&path, b"second").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn only_our_temporary_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = write_temporary(&dir.path().join("file"), b"half").unwrap();
        assert!(is_temporary(temporary.file_name().unwrap()));
        for other in ["notes.tmp", ".hidden", "file"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        remove_stale(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".hidden", "file", "notes.tmp"]);
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("missing").join("file"), b"").unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("file"), "{error}");
    }
}
