//! A description in JSON that is sealed with the numbers it describes.

use std::io::Write;
use std::path::Path;

use gramscope_train::atomic::NewFile;
use gramscope_train::digest::hexadecimal;
use gramscope_train::reading;
use md5::{Digest, Md5};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A description as it lies on disk: itself, and the MD5 of it and of the bytes of the numbers it is of, if any.
#[derive(Serialize, Deserialize)]
pub(super) struct Sealed<I> {
    #[serde(flatten)]
    pub(super) info: I,
    checksum: String,
}

impl<I: Serialize> Sealed<I> {
    /// `info`, which is to be written to `path`, sealed with the numbers.
    ///
    /// # Errors
    /// [`Error::File`] where it names a file whose name is not Unicode, as JSON is.
    pub(super) fn new(info: I, numbers: &[u8], path: &Path) -> Result<Self> {
        let checksum = checksum(&info, numbers)
            .map_err(|reason| Error::file(path, format!("cannot hold what it describes: {reason}")))?;
        Ok(Self { info, checksum })
    }

    pub(super) fn is_intact(&self, numbers: &[u8]) -> bool {
        checksum(&self.info, numbers).is_ok_and(|checksum| checksum == self.checksum)
    }

    /// The file of it that is to lie at `path`.
    pub(super) fn written(&self, path: &Path) -> Result<NewFile> {
        let write = |file: &mut dyn Write| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        };
        NewFile::written(path, |file| write(file)).map_err(Error::io("write", path))
    }
}

impl<I: DeserializeOwned> Sealed<I> {
    /// Reads the description of `kind`; nothing is checked.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is none.
    pub(super) fn read(path: &Path, kind: &str) -> Result<Self> {
        let text = reading::read_to_string(path).map_err(Error::io("read", path))?;
        serde_json::from_str(&text)
            .map_err(|reason| Error::file(path, format!("not the description of {kind}: {reason}")))
    }
}

fn checksum(info: &impl Serialize, numbers: &[u8]) -> serde_json::Result<String> {
    let info = serde_json::to_vec(info)?;
    Ok(hexadecimal(Md5::new_with_prefix(info).chain_update(numbers)))
}
