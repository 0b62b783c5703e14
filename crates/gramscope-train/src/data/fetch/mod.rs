//! Fetches the official CIFAR archives into the cache: downloads, checks, unpacks.
//!
//! A download that broke off is kept beside its destination as `ARCHIVE.part`, and the next call continues it. Nothing
//! is unpacked before the published MD5 has been checked, and the data set's folder appears under its name only when it
//! is complete, so whatever goes wrong can be mended by fetching again. MD5 is what the publisher gives; it guards
//! against accidents, and the unpacking trusts nothing (see `unpack`).

mod download;
mod unpack;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::{Digest, Md5};

use super::{DataError, cifar};
use crate::digest::hexadecimal;

/// A published archive.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    /// Its file name, at the end of its address.
    pub file: &'a str,
    /// Its MD5 in lower-case hexadecimal digits.
    pub md5: &'a str,
    /// Its length in bytes.
    pub bytes: u64,
    /// The one folder it unpacks to.
    pub folder: &'a str,
    /// It may unpack to no more than this many bytes.
    pub unpacked_bytes: u64,
}

/// CIFAR-10 in the binary format.
pub const CIFAR10: Archive<'static> = Archive {
    file: "cifar-10-binary.tar.gz",
    md5: "c32a1d4ab5d03f1284b67883e8d87530",
    bytes: 170_052_171,
    folder: cifar::CIFAR10.folder,
    unpacked_bytes: 200_000_000,
};

/// CIFAR-100 in the binary format.
pub const CIFAR100: Archive<'static> = Archive {
    file: "cifar-100-binary.tar.gz",
    md5: "03b5dce01913d631647c71ecec9e9cb8",
    bytes: 168_513_733,
    folder: cifar::CIFAR100.folder,
    unpacked_bytes: 200_000_000,
};

/// Where both are published: <https://www.cs.toronto.edu/~kriz/cifar.html>.
pub const BASE_URL: &str = "https://www.cs.toronto.edu/~kriz/";

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes sure that `archive`, published under `base_url`, lies unpacked in `cache_dir`, and returns its folder there. What
/// is there already is not fetched again; a broken download is continued. `progress` hears the bytes received so far
/// (earlier calls included) and the bytes of the whole archive.
///
/// # Errors
/// The server cannot be reached, refuses, stalls, breaks off, or offers something else; the MD5 is wrong (the download is
/// then deleted); the archive is not what it should be; the disk is full. The message says what was kept.
pub fn fetch(
    archive: &Archive<'_>,
    cache_dir: &Path,
    base_url: &str,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf, DataError> {
    fetch_patiently(archive, cache_dir, base_url, PATIENCE, progress)
}

fn fetch_patiently(
    archive: &Archive<'_>,
    cache_dir: &Path,
    base_url: &str,
    patience: Duration,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf, DataError> {
    let target = cache_dir.join(archive.folder);
    if target.is_dir() {
        return Ok(target);
    }
    fs::create_dir_all(cache_dir).map_err(DataError::io("create", cache_dir))?;
    let mut partial = Partial::open(cache_dir.join(format!("{}.part", archive.file)))?;
    // Whoever held the lock until now may have finished the work.
    if target.is_dir() {
        return Ok(target);
    }
    let url = format!("{}/{}", base_url.trim_end_matches('/'), archive.file);
    if partial.bytes()? >= archive.bytes && partial.md5()? != archive.md5 {
        partial.clear()?;
    }
    if partial.bytes()? < archive.bytes {
        download::continue_download(&url, archive.bytes, &mut partial, patience, progress)?;
    }
    let found = partial.md5()?;
    if found != archive.md5 {
        partial.delete()?;
        return Err(DataError::WrongChecksum { url, found, expected: archive.md5.to_owned() });
    }
    unpack::unpack(&partial.path, archive, &target)?;
    partial.delete()?;
    Ok(target)
}

/// The part of an archive that has been received, locked against other processes while it is open.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn open(path: PathBuf) -> Result<Self, DataError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(DataError::io("write", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(DataError::Busy { path }),
            // A file system that knows no locks leaves the user to see to it.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { path, file }),
        }
    }

    fn bytes(&self) -> Result<u64, DataError> {
        Ok(self.file.metadata().map_err(DataError::io("read", &self.path))?.len())
    }

    fn clear(&mut self) -> Result<(), DataError> {
        self.file.set_len(0).map_err(DataError::io("write", &self.path))
    }

    fn delete(&self) -> Result<(), DataError> {
        fs::remove_file(&self.path).map_err(DataError::io("delete", &self.path))
    }

    /// The MD5 of what has been received, in lower-case hexadecimal digits.
    fn md5(&mut self) -> Result<String, DataError> {
        md5_of(&mut self.file).map_err(DataError::io("read", &self.path))
    }
}

fn md5_of(file: &mut File) -> io::Result<String> {
    let mut hasher = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    file.seek(SeekFrom::Start(0))?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(hasher)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests;
