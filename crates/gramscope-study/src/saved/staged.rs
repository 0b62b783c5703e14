//! Results that are written, and not yet in the place of earlier ones.

use std::fs;
use std::io;
use std::path::Path;

use gramscope_train::atomic::NewFile;

use crate::{Error, Result};

/// The files of a result, on the disk but for their names. Dropped, they are removed: a full disk costs no earlier result.
#[derive(Debug)]
#[must_use = "a result that is not published is lost"]
pub struct Staged {
    /// The numbers, and what follows from the description.
    files: Vec<NewFile>,
    /// What they are of.
    description: NewFile,
}

impl Staged {
    pub(super) fn new(files: Vec<NewFile>, description: NewFile) -> Self {
        Self { files, description }
    }

    /// With another file of `contents`, to lie at `path`.
    pub(crate) fn and(mut self, path: &Path, contents: &[u8]) -> Result<Self> {
        self.files.push(written(path, contents)?);
        Ok(self)
    }

    /// Gives the files their names, in the place of an earlier result. Without a description there is no result: a process that is
    /// stopped in between leaves none, rather than new numbers under an old description.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(self) -> Result<()> {
        let Self { files, description } = self;
        if !files.is_empty()
            && let Err(reason) = fs::remove_file(description.path())
            && reason.kind() != io::ErrorKind::NotFound
        {
            return Err(Error::io("replace", description.path())(reason));
        }
        files.into_iter().chain([description]).try_for_each(|file| {
            let path = file.path().to_owned();
            file.finish().map_err(Error::io("write", &path))
        })
    }
}

/// The file of `contents` that is to lie at `path`.
pub(super) fn written(path: &Path, contents: &[u8]) -> Result<NewFile> {
    NewFile::written(path, |file| io::Write::write_all(file, contents)).map_err(Error::io("write", path))
}
