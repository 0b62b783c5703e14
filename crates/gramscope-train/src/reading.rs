//! Reading files that may be anything: a pipe would be waited for, and a device has no end. Functions return the system's own errors.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens the file at `path`, if it is one that has an end.
///
/// # Errors
/// What the system says; [`io::ErrorKind::InvalidInput`] for a pipe, a socket or a device.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    // Of a directory the system says that it is one.
    if kind.is_file() || kind.is_dir() {
        return File::open(path);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file, but a pipe, a socket or a device"))
}

/// What lies in the file at `path`.
///
/// # Errors
/// Those of [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text that lies in the file at `path`.
///
/// # Errors
/// Those of [`open`]; [`io::ErrorKind::InvalidData`] for what is no UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

/// Fills `bytes` with what lies in `file` from `offset` on.
///
/// # Errors
/// What the system says; [`io::ErrorKind::UnexpectedEof`] where the file ends before.
#[cfg(unix)]
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Fills `bytes` with what lies in `file` from `offset` on.
///
/// # Errors
/// What the system says; [`io::ErrorKind::UnexpectedEof`] where the file ends before.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_what_has_an_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!((read(&path).unwrap(), read_to_string(&path).unwrap()), (b"text".to_vec(), "text".to_owned()));
        assert_eq!(read(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("endless")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for name in ["endless", "socket"] {
            let error = read(&dir.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("no file"), "{name}: {error}");
        }
        drop(socket);
    }
}
