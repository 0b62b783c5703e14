//! Writing a file so that, whenever the process or the machine stops, its path holds the old contents or the new ones.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// A file under construction: a temporary one in the same directory, removed again if it is dropped unfinished.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Begins the file that is to lie at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::file(path, "this is a directory; choose the name of a file"));
        }
        let name = path.file_name().ok_or_else(|| Error::file(path, "this names no file"))?;
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{}.", name.to_string_lossy());
        builder.prefix(&prefix).suffix(".gramscope-tmp");
        readable(&mut builder);
        let file = builder.tempfile_in(parent(path)).map_err(Error::io("write", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// What is written to.
    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Where the file will lie.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the file to the disk and gives it its name, in place of a file that has it.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { file, path } = self;
        file.as_file().sync_all().map_err(Error::io("write", &path))?;
        file.persist(&path).map_err(|reason| Error::io("write", &path)(reason.error))?;
        // A new name is on the disk only when its directory is; systems that cannot open one have no such call.
        if cfg!(unix) {
            File::open(parent(&path)).and_then(|dir| dir.sync_all()).map_err(Error::io("flush", parent(&path)))?;
        }
        Ok(())
    }
}

/// Writes the file at `path`, whole or not at all.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<()> {
    let mut new = NewFile::create(path)?;
    let mut buffer = BufWriter::new(new.file());
    write(&mut buffer).and_then(|()| buffer.flush()).map_err(Error::io("write", path))?;
    drop(buffer);
    new.finish()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(error.unwrap_err().to_string().contains("the disk is full"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        write_atomically(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_any_new_file_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        write_atomically(&dir.path().join("ours"), |file| file.write_all(b"x")).unwrap();
        fs::write(dir.path().join("any"), "x").unwrap();
        assert_eq!(mode("ours"), mode("any"));
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = NewFile::create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("directory") && error.contains(&dir.path().display().to_string()), "{error}");
        let error = NewFile::create(&dir.path().join("missing").join("file")).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
