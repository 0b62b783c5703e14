//! A result on disk: an npz file of float64 arrays, which `numpy.load` reads, and a JSON file that says what they are of and
//! holds the checksum of both. Both are written to a temporary name and renamed.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Cursor, Read, Write};
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

/// The longest header of an array that is read, in bytes; numpy's have some hundred.
const LARGEST_HEADER: usize = 1 << 16;

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

/// Name, shape and values of an array, row-major.
pub(crate) type Array<'a> = (&'a str, &'a [usize], &'a [f64]);

impl Files {
    /// Writes both files into `dir`; an earlier result there is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written.
    pub(crate) fn save<I: Serialize>(self, dir: &Path, info: &I, arrays: &[Array<'_>]) -> Result<()> {
        debug_assert!(arrays.iter().map(|(name, ..)| name).eq(self.arrays));
        let path = dir.join(self.numbers);
        let bytes = npz(arrays).map_err(Error::io("write", &path))?;
        save_both(dir, &path, &bytes, &dir.join(self.info), info)
    }

    /// Opens what [`Self::save`] wrote.
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
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let intact = sealed.is_intact(&bytes);
        Ok((sealed.info, Numbers { npz: Npz::open(path, bytes)?, files: self, intact }))
    }

    /// Reads the description alone.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is not what [`Self::save`] wrote.
    pub(crate) fn load_info<I: DeserializeOwned>(self, dir: &Path) -> Result<I> {
        Sealed::read(&dir.join(self.info), self.kind).map(|sealed: Sealed<I>| sealed.info)
    }

    /// Whether one of the two files lies in `dir`.
    pub(crate) fn any_in(self, dir: &Path) -> bool {
        dir.join(self.info).is_file() || dir.join(self.numbers).is_file()
    }

    /// Whether a result lies in `dir`, or what a process leaves of one that is killed while it saves: its numbers alone.
    pub(crate) fn are_in<I: DeserializeOwned>(self, dir: &Path) -> bool {
        let path = dir.join(self.numbers);
        let holds = |bytes| Npz::open(&path, bytes).is_ok_and(|npz| npz.holds(self.arrays));
        let unfinished = || !dir.join(self.info).exists() && fs::read(&path).is_ok_and(holds);
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
    /// Writes both files into `dir`; an earlier result there is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written.
    pub(crate) fn save<I: Serialize, R: Serialize>(self, dir: &Path, info: &I, rows: &[R]) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(rows).expect("numbers and names in Unicode can always be written");
        bytes.push(b'\n');
        save_both(dir, &dir.join(self.rows), &bytes, &dir.join(self.info), info)
    }

    /// Reads what [`Self::save`] wrote.
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
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let rows = serde_json::from_slice(&bytes)
            .map_err(|reason| Error::file(&path, format!("not the list of {}: {reason}", self.kind)))?;
        if !sealed.is_intact(&bytes) {
            return Err(changed(dir, self.rows, self.info));
        }
        Ok((sealed.info, rows))
    }

    /// Whether one of the two files lies in `dir`.
    pub(crate) fn any_in(self, dir: &Path) -> bool {
        dir.join(self.info).is_file() || dir.join(self.rows).is_file()
    }

    /// Whether a result lies in `dir`, or what a process leaves of one that is killed while it saves: its rows alone.
    pub(crate) fn are_in<I: DeserializeOwned, R: DeserializeOwned>(self, dir: &Path) -> bool {
        let holds = |bytes: Vec<u8>| serde_json::from_slice::<Vec<R>>(&bytes).is_ok();
        let unfinished = || !dir.join(self.info).exists() && fs::read(dir.join(self.rows)).is_ok_and(holds);
        Sealed::<I>::read(&dir.join(self.info), self.kind).is_ok() || unfinished()
    }
}

/// Writes the numbers and their description. Without the description there is no result: a process that is stopped in
/// between leaves none, rather than new numbers under an old description.
fn save_both(dir: &Path, path: &Path, numbers: &[u8], info_path: &Path, info: &impl Serialize) -> Result<()> {
    let sealed = Sealed::new(info, numbers, info_path)?;
    prepare(dir)?;
    if let Err(reason) = fs::remove_file(info_path)
        && reason.kind() != io::ErrorKind::NotFound
    {
        return Err(Error::io("replace", info_path)(reason));
    }
    atomic::write(path, numbers).map_err(Error::io("write", path))?;
    sealed.write(info_path)
}

/// One of the two files of the result in `dir` is not as it was written.
fn changed(dir: &Path, numbers: &str, info: &str) -> Error {
    Error::file(
        dir,
        format!("the checksum of {numbers} and {info} is wrong: one of them was changed after it was written"),
    )
}

/// Makes the directory of a result ready to be written to.
///
/// # Errors
/// [`Error::Io`] where it cannot be made, or cleared of what a killed process left.
pub(crate) fn prepare(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("make the directory", dir))?;
    atomic::remove_left(dir).map_err(Error::io("clear of temporary files", dir))
}

/// A description as it lies on disk: itself, and the MD5 of it and of the bytes of the numbers it is of, if any.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sealed<I> {
    #[serde(flatten)]
    pub(crate) info: I,
    checksum: String,
}

impl<I: Serialize> Sealed<I> {
    /// `info`, which is to be written to `path`, sealed with the numbers.
    ///
    /// # Errors
    /// [`Error::File`] where it names a file whose name is not Unicode, as JSON is.
    pub(crate) fn new(info: I, numbers: &[u8], path: &Path) -> Result<Self> {
        let checksum = checksum(&info, numbers)
            .map_err(|reason| Error::file(path, format!("cannot hold what it describes: {reason}")))?;
        Ok(Self { info, checksum })
    }

    pub(crate) fn is_intact(&self, numbers: &[u8]) -> bool {
        checksum(&self.info, numbers).is_ok_and(|checksum| checksum == self.checksum)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let write = |file: &mut dyn Write| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        };
        atomic::write_with(path, |file| write(file)).map_err(Error::io("write", path))
    }
}

impl<I: DeserializeOwned> Sealed<I> {
    /// Reads the description of `kind`; nothing is checked.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is none.
    pub(crate) fn read(path: &Path, kind: &str) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        serde_json::from_str(&text)
            .map_err(|reason| Error::file(path, format!("not the description of {kind}: {reason}")))
    }
}

fn checksum(info: &impl Serialize, numbers: &[u8]) -> serde_json::Result<String> {
    let info = serde_json::to_vec(info)?;
    Ok(hexadecimal(Md5::new_with_prefix(info).chain_update(numbers)))
}

/// The bytes of an npz file.
pub(crate) fn npz(arrays: &[Array<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, shape, values) in arrays {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        archive.start_file(member(name), options)?;
        let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
        let mut array = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut archive).begin_nd()?;
        array.extend(*values)?;
        array.finish()?;
    }
    Ok(archive.finish()?.into_inner())
}

/// What numpy calls the file of the array `name`.
fn member(name: &str) -> String {
    format!("{name}.npy")
}

/// Bytes of an npy file up to where its header's length is known: magic string, version, length.
const HEADER_START: usize = 12;

/// The length of an npy file's header: two bytes in version 1, four in later ones
/// (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
fn header_length(start: &[u8; HEADER_START]) -> usize {
    let [.., major, _minor, a, b, c, d] = *start;
    match major {
        1 => usize::from(u16::from_le_bytes([a, b])),
        _ => u32::from_le_bytes([a, b, c, d]) as usize,
    }
}

/// An open npz file.
pub(crate) struct Npz {
    archive: ZipArchive<Cursor<Vec<u8>>>,
    path: PathBuf,
}

impl Npz {
    /// Opens `bytes`, read from `path`.
    ///
    /// # Errors
    /// [`Error::File`] for what is no npz file.
    pub(crate) fn open(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|reason| Error::file(path, format!("not an npz file: {reason}")))?;
        Ok(Self { archive, path: path.to_owned() })
    }

    /// Whether every one of `arrays` is there.
    fn holds(&self, arrays: &[&str]) -> bool {
        arrays.iter().all(|name| self.archive.index_for_name(&member(name)).is_some())
    }

    /// The names of all arrays, for a message.
    fn names(&self) -> String {
        let names = self.archive.file_names().filter_map(|name| Some(name.ok()?.trim_end_matches(".npy").to_owned()));
        let names: Vec<String> = names.collect();
        if names.is_empty() { "nothing at all".to_owned() } else { names.join(", ") }
    }

    /// The array `name` of `shape`, row-major, float64 or float32.
    ///
    /// # Errors
    /// [`Error::File`] where there is none.
    pub(crate) fn array(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let wrong = |problem: String| Error::file(&self.path, format!("array {name}: {problem}"));
        if !self.holds(&[name]) {
            return Err(wrong(format!("there is none of this name, only {}", self.names())));
        }
        let mut member = self.archive.by_name(&member(name)).map_err(|reason| wrong(reason.to_string()))?;
        let mut start = [0; HEADER_START];
        member.read_exact(&mut start).map_err(|reason| wrong(reason.to_string()))?;
        let length = header_length(&start);
        if length > LARGEST_HEADER {
            return Err(wrong(format!("it claims a header of {length} bytes")));
        }
        let array = npyz::NpyFile::new(start.as_slice().chain(member)).map_err(|reason| wrong(reason.to_string()))?;
        if !array.shape().iter().copied().eq(shape.iter().map(|&side| side as u64)) {
            return Err(wrong(format!("shape {:?} where the description says {shape:?}", array.shape())));
        }
        if array.order() != npyz::Order::C {
            let advice = "save numpy.ascontiguousarray(array)";
            return Err(wrong(format!("it lies column by column (Fortran order), where rows are read; {advice}")));
        }
        let dtype = array.dtype().descr();
        let values = match dtype.trim_matches(['\'', '<', '>']) {
            "f8" => array.into_vec(),
            "f4" => array.into_vec::<f32>().map(|values| values.into_iter().map(f64::from).collect()),
            _ => {
                let advice = "save array.astype('float64')";
                return Err(wrong(format!("its dtype is {dtype}, where float64 and float32 are read; {advice}")));
            }
        };
        values.map_err(|reason| wrong(reason.to_string()))
    }
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

/// Where in `layers` the `names` are.
pub(crate) fn positions(layers: &[String], names: &[String]) -> Vec<usize> {
    let names: HashSet<&String> = names.iter().collect();
    (0..layers.len()).filter(|&layer| names.contains(&layers[layer])).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_array_that_claims_a_header_of_gigabytes_is_refused() {
        for (version, length) in [(2, 0xFFFF_FFF0_u32), (3, 1 << 20)] {
            let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
            archive.start_file("cka.npy", SimpleFileOptions::default()).unwrap();
            archive.write_all(b"\x93NUMPY").unwrap();
            archive.write_all(&[version, 0]).unwrap();
            archive.write_all(&length.to_le_bytes()).unwrap();
            let bytes = archive.finish().unwrap().into_inner();
            let error = Npz::open(Path::new("a.npz"), bytes).unwrap().array("cka", &[1, 3]).unwrap_err().to_string();
            assert!(error.contains(&format!("header of {length} bytes")), "{error}");
        }
    }

    #[test]
    fn arrays_that_are_not_read_are_told_with_the_way_out() {
        let refused = |dtype: &str, order: npyz::Order| {
            let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
            archive.start_file("map.npy", SimpleFileOptions::default()).unwrap();
            let options = npyz::WriteOptions::<i32>::new().dtype(npyz::DType::parse(dtype).unwrap());
            let mut array = options.order(order).shape(&[1, 3]).writer(&mut archive).begin_nd().unwrap();
            array.extend([1, 2, 3]).unwrap();
            array.finish().unwrap();
            let bytes = archive.finish().unwrap().into_inner();
            let mut npz = Npz::open(Path::new("a.npz"), bytes).unwrap();
            let of = |array: &str, npz: &mut Npz| npz.array(array, &[1, 3]).unwrap_err().to_string();
            (of("map", &mut npz), of("cka", &mut npz))
        };
        let (dtype, name) = refused("'<i4'", npyz::Order::C);
        assert!(dtype.contains("<i4") && dtype.contains("float64"), "{dtype}");
        assert!(name.contains("only map"), "{name}");
        let (order, _) = refused("'<i4'", npyz::Order::Fortran);
        assert!(order.contains("ascontiguousarray"), "{order}");
    }

    /// As `numpy.savez_compressed` writes a float32 array.
    #[test]
    fn single_precision_and_compressed_arrays_are_read() {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        archive.start_file("cka.npy", options).unwrap();
        let mut array =
            npyz::WriteOptions::<f32>::new().default_dtype().shape(&[1, 3]).writer(&mut archive).begin_nd().unwrap();
        array.extend([0.25_f32, f32::NAN, 0.1]).unwrap();
        array.finish().unwrap();
        let bytes = archive.finish().unwrap().into_inner();
        let values = Npz::open(Path::new("a.npz"), bytes).unwrap().array("cka", &[1, 3]).unwrap();
        assert!(values[0] == 0.25 && values[1].is_nan() && values[2] == f64::from(0.1_f32), "{values:?}");
    }
}
