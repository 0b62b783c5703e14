//! Unpacks a `.tar.gz` without trusting it: files and folders only, all of them inside the one folder expected, no
//! larger together than agreed, never over something that is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::GzDecoder;
use tar::{Entry, EntryType};

use super::super::DataError;
use super::Archive;

/// Room for an archive's own headers and padding.
const OVERHEAD_BYTES: u64 = 1 << 20;

/// Unpacks the file at `path` so that its folder becomes `target`, completely or not at all: the files are written
/// beside it and the folder is renamed at the end.
pub(super) fn unpack(path: &Path, archive: &Archive<'_>, target: &Path) -> Result<(), DataError> {
    let staging = Staging::create(target.with_file_name(format!(".{}.unpacking", archive.folder)))?;
    extract(path, archive, &staging.path)?;
    let folder = staging.path.join(archive.folder);
    if !folder.is_dir() {
        return Err(damaged(path, format!("it holds no folder {}", archive.folder)));
    }
    fs::rename(&folder, target).map_err(DataError::io("create", target))
}

/// A folder for half-finished work, deleted at the end in any case.
struct Staging {
    path: PathBuf,
}

impl Staging {
    /// An empty one; what an earlier, killed process left is removed.
    fn create(path: PathBuf) -> Result<Self, DataError> {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(DataError::io("remove", &path)(error)),
            _ => {}
        }
        fs::create_dir(&path).map_err(DataError::io("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next call, or reported by it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn extract(path: &Path, archive: &Archive<'_>, staging: &Path) -> Result<(), DataError> {
    let unreadable = |error: io::Error| damaged(path, format!("it is damaged ({error})"));
    let file = File::open(path).map_err(DataError::io("open", path))?;
    // Whatever the headers claim, no more than this is ever decompressed.
    let limit = archive.unpacked_bytes + OVERHEAD_BYTES;
    let mut tar = tar::Archive::new(GzDecoder::new(BufReader::new(file)).take(limit));
    let mut room = archive.unpacked_bytes;
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().map_err(unreadable)?.into_owned();
        if !is_inside(&name, archive.folder) {
            let problem = format!("it holds {}, which lies outside the folder {}", name.display(), archive.folder);
            return Err(damaged(path, problem));
        }
        room = room.checked_sub(entry.size()).ok_or_else(|| {
            damaged(path, format!("it holds more than the {} bytes that were agreed", archive.unpacked_bytes))
        })?;
        let destination = staging.join(&name);
        match entry.header().entry_type() {
            EntryType::Directory => {
                fs::create_dir_all(&destination).map_err(DataError::io("create", &destination))?;
            }
            EntryType::Regular => write(&mut entry, &destination)?,
            other => {
                let problem = format!("it holds {}, which is neither a file nor a folder ({other:?})", name.display());
                return Err(damaged(path, problem));
            }
        }
    }
    Ok(())
}

/// Whether a name is relative, begins with `folder` and goes nowhere but down.
fn is_inside(name: &Path, folder: &str) -> bool {
    let mut parts = name.components().filter(|part| *part != Component::CurDir);
    parts.next() == Some(Component::Normal(folder.as_ref())) && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Writes a file that is not there yet.
fn write(entry: &mut Entry<'_, impl Read>, destination: &Path) -> Result<(), DataError> {
    if let Some(parent) = destination.parent() {
        fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
    }
    copy(entry, destination).map_err(DataError::io("unpack", destination))
}

fn copy(entry: &mut Entry<'_, impl Read>, destination: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(destination)?;
    let size = entry.size();
    if io::copy(entry, &mut file)? != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.sync_all()
}

fn damaged(path: &Path, problem: String) -> DataError {
    DataError::Archive { path: path.to_path_buf(), problem }
}
