//! A result on disk: an npz file of float64 arrays, which `numpy.load` reads, and a JSON file that says what they are of and
//! holds the checksum of both. Both are written to a temporary name and renamed.

use std::fs;
use std::io::{self, Cursor, Seek, Write};
use std::path::{Path, PathBuf};

use gramscope_train::atomic;
use gramscope_train::digest::hexadecimal;
use md5::{Digest, Md5};
use npyz::WriterBuilder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

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
}

/// Name, shape and values of an array, row-major.
pub(crate) type Array<'a> = (&'a str, &'a [usize], &'a [f64]);

/// The JSON file: the description, and the MD5 of it and of the bytes of the npz file.
#[derive(Serialize, Deserialize)]
struct Sealed<I> {
    #[serde(flatten)]
    info: I,
    checksum: String,
}

impl Files {
    /// Writes both files into `dir`; an earlier result there is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written.
    pub(crate) fn save<I: Serialize>(self, dir: &Path, info: &I, arrays: &[Array<'_>]) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::io("make the directory", dir))?;
        atomic::remove_stale(dir).map_err(Error::io("clear of temporary files", dir))?;
        // Without the description there is no result: a process that is stopped in between leaves none, rather than new
        // numbers under an old description.
        let (info_path, path) = (dir.join(self.info), dir.join(self.numbers));
        if let Err(reason) = fs::remove_file(&info_path)
            && reason.kind() != io::ErrorKind::NotFound
        {
            return Err(Error::io("replace", &info_path)(reason));
        }
        let bytes = encode(arrays).map_err(Error::io("write", &path))?;
        atomic::write(&path, &bytes).map_err(Error::io("write", &path))?;
        let sealed = Sealed { checksum: checksum(info, &bytes), info };
        atomic::write_with(&info_path, |file| {
            serde_json::to_writer_pretty(&mut *file, &sealed)?;
            file.write_all(b"\n")
        })
        .map_err(Error::io("write", &info_path))
    }

    /// Opens what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for one that does not hold a result.
    pub(crate) fn open<I: Serialize + DeserializeOwned>(self, dir: &Path) -> Result<(I, Numbers)> {
        let Sealed::<I> { info, checksum: expected } = self.load_sealed(dir)?;
        let path = dir.join(self.numbers);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let intact = checksum(&info, &bytes) == expected;
        let archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|reason| Error::file(&path, format!("not an npz file: {reason}")))?;
        Ok((info, Numbers { archive, path, files: self, intact }))
    }

    /// Reads the description alone.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is not what [`Self::save`] wrote.
    pub(crate) fn load_info<I: DeserializeOwned>(self, dir: &Path) -> Result<I> {
        self.load_sealed(dir).map(|sealed: Sealed<I>| sealed.info)
    }

    /// Whether one of the two files lies in `dir`.
    pub(crate) fn any_in(self, dir: &Path) -> bool {
        dir.join(self.info).is_file() || dir.join(self.numbers).is_file()
    }

    fn load_sealed<I: DeserializeOwned>(self, dir: &Path) -> Result<Sealed<I>> {
        let path = dir.join(self.info);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text)
            .map_err(|reason| Error::file(&path, format!("not the description of {}: {reason}", self.kind)))
    }
}

fn checksum(info: &impl Serialize, numbers: &[u8]) -> String {
    let info = serde_json::to_vec(info).expect("numbers, names and paths in Unicode can always be written");
    hexadecimal(Md5::new_with_prefix(info).chain_update(numbers))
}

/// The bytes of an npz file.
fn encode(arrays: &[Array<'_>]) -> io::Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    write_arrays(&mut file, arrays)?;
    Ok(file.into_inner())
}

fn write_arrays(file: impl Write + Seek, arrays: &[Array<'_>]) -> io::Result<()> {
    let mut archive = ZipWriter::new(file);
    for (name, shape, values) in arrays {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        archive.start_file(format!("{name}.npy"), options)?;
        let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
        let mut array = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut archive).begin_nd()?;
        array.extend(*values)?;
        array.finish()?;
    }
    archive.finish()?.flush()
}

/// The arrays of an opened result.
pub(crate) struct Numbers {
    archive: ZipArchive<Cursor<Vec<u8>>>,
    path: PathBuf,
    files: Files,
    intact: bool,
}

impl Numbers {
    /// The float64 array `name` of `shape`, row-major.
    ///
    /// # Errors
    /// [`Error::File`] where there is none.
    pub(crate) fn array(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let wrong = |problem: String| Error::file(&self.path, format!("array {name}: {problem}"));
        let member = self.archive.by_name(&format!("{name}.npy")).map_err(|reason| wrong(reason.to_string()))?;
        let array = npyz::NpyFile::new(member).map_err(|reason| wrong(reason.to_string()))?;
        if !array.shape().iter().copied().eq(shape.iter().map(|&side| side as u64)) {
            return Err(wrong(format!("shape {:?} where {} says {shape:?}", array.shape(), self.files.info)));
        }
        if array.order() != npyz::Order::C {
            return Err(wrong("not row-major".to_owned()));
        }
        array.into_vec().map_err(|reason| wrong(reason.to_string()))
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
        Err(Error::file(
            self.path.parent().unwrap_or(&self.path),
            format!("the checksum of {numbers} and {info} is wrong: one of them was changed after it was written"),
        ))
    }
}

/// Where in `layers` the `names` are.
pub(crate) fn positions(layers: &[String], names: &[String]) -> Vec<usize> {
    (0..layers.len()).filter(|&layer| names.contains(&layers[layer])).collect()
}
