//! The files of the kinds of results: an npz file with its description, a list with its description, a description alone.

use std::path::Path;

use gramscope_train::reading;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::npz::{Array, Npz, npz};
use super::prepare;
use super::sealed::Sealed;
use super::staged::{Staged, written};
use crate::{Error, Result};

/// The two files of a kind of result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    /// What it is, for messages: "a CKA result".
    pub(crate) kind: &'static str,
    /// Name of the npz file.
    pub(crate) numbers: &'static str,
    /// Name of the JSON file.
    pub(crate) info: &'static str,
    /// The arrays of the npz file.
    pub(crate) arrays: &'static [&'static str],
}

impl Files {
    /// Writes both files into `dir`, but for their names.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written.
    pub(crate) fn stage<I: Serialize>(self, dir: &Path, info: &I, arrays: &[Array<'_>]) -> Result<Staged> {
        debug_assert!(arrays.iter().map(|(name, ..)| name).eq(self.arrays));
        let path = dir.join(self.numbers);
        let bytes = npz(arrays).map_err(Error::io("write", &path))?;
        stage_both(dir, &path, &bytes, &dir.join(self.info), info)
    }

    /// Opens what [`Self::stage`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for one that does not hold a result.
    pub(crate) fn open<I: Serialize + DeserializeOwned>(self, dir: &Path) -> Result<(I, Numbers)> {
        self.open_at(&dir.join(self.numbers), &dir.join(self.info))
    }

    /// The same, wherever the two files are now.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_at<I: Serialize + DeserializeOwned>(self, path: &Path, info: &Path) -> Result<(I, Numbers)> {
        let sealed = Sealed::<I>::read(info, self.kind)?;
        let bytes = reading::read(path).map_err(Error::io("read", path))?;
        let intact = sealed.is_intact(&bytes);
        Ok((sealed.info, Numbers { npz: Npz::open(path, bytes)?, files: self, intact }))
    }

    /// Reads the description alone.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is not what [`Self::stage`] wrote.
    pub(crate) fn load_info<I: DeserializeOwned>(self, dir: &Path) -> Result<I> {
        Sealed::read(&dir.join(self.info), self.kind).map(|sealed: Sealed<I>| sealed.info)
    }

    /// Whether a result lies in `dir`, or what a process leaves of one that is killed while it saves: its numbers alone.
    pub(crate) fn are_in<I: DeserializeOwned>(self, dir: &Path) -> bool {
        let path = dir.join(self.numbers);
        let holds = |bytes| Npz::open(&path, bytes).is_ok_and(|npz| npz.holds(self.arrays));
        let unfinished = || !dir.join(self.info).exists() && reading::read(&path).is_ok_and(holds);
        self.load_info::<I>(dir).is_ok() || unfinished()
    }
}

/// The two files of a kind of result that is a list: a JSON file of nothing but its rows, for other tools, and another that
/// says what they are of and holds the checksum of both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListFiles {
    /// What it is, for messages: "linear probes".
    pub(crate) kind: &'static str,
    /// Name of the file of the rows.
    pub(crate) rows: &'static str,
    /// Name of the file of the description.
    pub(crate) info: &'static str,
}

impl ListFiles {
    /// Writes both files into `dir`, but for their names.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written.
    pub(crate) fn stage<I: Serialize, R: Serialize>(self, dir: &Path, info: &I, rows: &[R]) -> Result<Staged> {
        let mut bytes = serde_json::to_vec_pretty(rows).expect("numbers and names in Unicode can always be written");
        bytes.push(b'\n');
        stage_both(dir, &dir.join(self.rows), &bytes, &dir.join(self.info), info)
    }

    /// Reads what [`Self::stage`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for one that does not hold a result, or where one of the two was
    /// changed.
    pub(crate) fn load<I, R>(self, dir: &Path) -> Result<(I, Vec<R>)>
    where
        I: Serialize + DeserializeOwned,
        R: DeserializeOwned,
    {
        let sealed = Sealed::<I>::read(&dir.join(self.info), self.kind)?;
        let path = dir.join(self.rows);
        let bytes = reading::read(&path).map_err(Error::io("read", &path))?;
        let rows = serde_json::from_slice(&bytes)
            .map_err(|reason| Error::file(&path, format!("not the list of {}: {reason}", self.kind)))?;
        if !sealed.is_intact(&bytes) {
            return Err(changed(dir, self.rows, self.info));
        }
        Ok((sealed.info, rows))
    }

    /// Whether a result lies in `dir`, or what a process leaves of one that is killed while it saves: its rows alone.
    pub(crate) fn are_in<I: DeserializeOwned, R: DeserializeOwned>(self, dir: &Path) -> bool {
        let holds = |bytes: Vec<u8>| serde_json::from_slice::<Vec<R>>(&bytes).is_ok();
        let unfinished = || !dir.join(self.info).exists() && reading::read(&dir.join(self.rows)).is_ok_and(holds);
        Sealed::<I>::read(&dir.join(self.info), self.kind).is_ok() || unfinished()
    }
}

/// The one file of a kind of result that is all description.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InfoFile {
    /// What it is, for messages: "a study".
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) info: &'static str,
}

impl InfoFile {
    /// Writes it into `dir`, but for its name.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written.
    pub(crate) fn stage<I: Serialize>(self, dir: &Path, info: &I) -> Result<Staged> {
        let path = dir.join(self.info);
        let sealed = Sealed::new(info, &[], &path)?;
        prepare(dir)?;
        Ok(Staged::new(Vec::new(), sealed.written(&path)?))
    }

    /// Reads what [`Self::stage`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is no such description, or was changed.
    pub(crate) fn load<I: Serialize + DeserializeOwned>(self, dir: &Path) -> Result<I> {
        let path = dir.join(self.info);
        let sealed = Sealed::<I>::read(&path, self.kind)?;
        if !sealed.is_intact(&[]) {
            return Err(Error::file(&path, "its checksum is wrong: it was changed after it was written"));
        }
        Ok(sealed.info)
    }
}

/// Writes the numbers and their description, but for their names.
fn stage_both(dir: &Path, path: &Path, numbers: &[u8], info_path: &Path, info: &impl Serialize) -> Result<Staged> {
    let sealed = Sealed::new(info, numbers, info_path)?;
    prepare(dir)?;
    Ok(Staged::new(vec![written(path, numbers)?], sealed.written(info_path)?))
}

/// One of the two files of the result in `dir` is not as it was written.
fn changed(dir: &Path, numbers: &str, info: &str) -> Error {
    Error::file(
        dir,
        format!("the checksum of {numbers} and {info} is wrong: one of them was changed after it was written"),
    )
}

/// The arrays of an opened result.
pub(crate) struct Numbers {
    npz: Npz,
    files: Files,
    intact: bool,
}

impl Numbers {
    /// The float64 array `name` of `shape`, row-major.
    ///
    /// # Errors
    /// [`Error::File`] where there is none.
    pub(crate) fn array(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        self.npz.array(name, shape)
    }

    /// Fails unless both files are as they were written.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn check(&self) -> Result<()> {
        if self.intact {
            return Ok(());
        }
        let Files { numbers, info, .. } = self.files;
        Err(changed(self.npz.path.parent().unwrap_or(&self.npz.path), numbers, info))
    }
}
