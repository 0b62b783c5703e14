//! Safetensors files that tell when they were damaged.
//!
//! One metadata key, the kind of file, holds a JSON object: `about`, what the file is of, and `checksum`, the MD5 of that
//! and of every tensor. One key, because the order of several would differ from file to file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use safetensors::serialize;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::digest::hexadecimal;
use crate::error::{Error, Result};
use crate::reading::{self, read_exact_at};

/// The longest header that the format allows, in bytes.
const LARGEST_HEADER: u64 = 100_000_000;

/// So many bytes of a file are in memory at once while it is checked.
const CHECKED_AT_ONCE: usize = 1 << 20;

/// A tensor of a file: name, type, shape, little-endian values.
pub type Stored<'a> = (&'a str, Dtype, Vec<usize>, &'a [u8]);

/// What lies under the metadata key.
#[derive(Serialize, Deserialize)]
struct Seal<A> {
    about: A,
    checksum: String,
}

/// A file that is as it was written. Its tensors stay there until they are asked for: a wide network's take gigabytes.
#[derive(Debug)]
pub struct SealedFile {
    file: File,
    path: PathBuf,
    table: Table,
}

/// Where the tensors lie.
#[derive(Debug)]
struct Table {
    /// By name; places are in bytes from the start of the data.
    tensors: BTreeMap<String, TensorInfo>,
    /// Where the data begin, in bytes from the start of the file.
    data_start: u64,
}

impl SealedFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.table.tensors
    }

    /// The values of `tensor`, one of [`Self::tensors`], little-endian.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, tensor: &TensorInfo) -> io::Result<Vec<u8>> {
        let (start, end) = tensor.data_offsets;
        let mut values = vec![0; end - start];
        read_exact_at(&self.file, &mut values, self.table.data_start + start as u64)?;
        Ok(values)
    }

    /// The checksum of what is there.
    fn checksum<A: Serialize>(&self, about: &A) -> io::Result<String> {
        let mut checksum = Checksum::new(about);
        let mut buffer = vec![0; CHECKED_AT_ONCE];
        for (name, tensor) in &self.table.tensors {
            let (start, end) = tensor.data_offsets;
            checksum.add_head(name, tensor.dtype, &tensor.shape, end - start);
            for start in (start..end).step_by(CHECKED_AT_ONCE) {
                let values = &mut buffer[..CHECKED_AT_ONCE.min(end - start)];
                read_exact_at(&self.file, values, self.table.data_start + start as u64)?;
                checksum.add_values(values);
            }
        }
        Ok(checksum.finish())
    }
}

/// Replaces the file of this `kind` at `path` by one of `tensors`, no two of one name, and what they are `about`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Damaged`] for tensors whose values are not as many as their shapes say.
pub fn write<A: Serialize>(path: &Path, kind: &str, about: &A, tensors: &[Stored<'_>]) -> Result<()> {
    let mut checksum = Checksum::new(about);
    let by_name: BTreeMap<&str, &Stored<'_>> = tensors.iter().map(|tensor| (tensor.0, tensor)).collect();
    for (name, dtype, shape, values) in by_name.into_values() {
        checksum.add_head(name, *dtype, shape, values.len());
        checksum.add_values(values);
    }
    let metadata = HashMap::from([(kind.to_owned(), json(&Seal { about, checksum: checksum.finish() }))]);
    let bytes = tensors
        .iter()
        .map(|(name, dtype, shape, values)| Ok((name, TensorView::new(*dtype, shape.clone(), values)?)))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| serialize(views, Some(metadata)))
        .map_err(|reason| unusable(path, kind, format!("it cannot be written: {reason}")))?;
    atomic::write(path, &bytes).map_err(Error::io("write", path))
}

/// Opens the file of this `kind` at `path`, which is as it was written: what it is of, and where its tensors are.
///
/// # Errors
/// [`Error::Io`]; [`Error::Damaged`] for a file of another kind, or one that is not what was written.
pub fn open<A: Serialize + DeserializeOwned>(path: &Path, kind: &str) -> Result<(A, SealedFile)> {
    let mut file = reading::open(path).map_err(Error::io("read", path))?;
    let (Seal { about, checksum }, table) = read_header(&mut file, path, kind)?;
    let file = SealedFile { file, path: path.to_owned(), table };
    if file.checksum(&about).map_err(Error::io("read", path))? != checksum {
        let problem = "its checksum is wrong: the file was damaged after it was written";
        return Err(unusable(path, kind, problem.to_owned()));
    }
    Ok((about, file))
}

/// What the file of this `kind` at `path` says it is of; its tensors are not read, and their checksum is not checked.
///
/// # Errors
/// [`Error::Io`]; [`Error::Damaged`] for a file of another kind, or one of another length than was written.
pub fn describe<A: DeserializeOwned>(path: &Path, kind: &str) -> Result<A> {
    let mut file = reading::open(path).map_err(Error::io("read", path))?;
    let (seal, _) = read_header(&mut file, path, kind)?;
    Ok(seal.about)
}

/// The seal, and where the tensors are, which fill the file.
fn read_header<A: DeserializeOwned>(file: &mut File, path: &Path, kind: &str) -> Result<(Seal<A>, Table)> {
    let io = || Error::io("read", path);
    let unusable = |problem: String| unusable(path, kind, problem);
    let mut start = Vec::new();
    file.take(8).read_to_end(&mut start).map_err(io())?;
    let length = <[u8; 8]>::try_from(start).map(u64::from_le_bytes).ok().filter(|&length| length <= LARGEST_HEADER);
    let length = length.ok_or_else(|| unusable("it does not begin with a header".to_owned()))?;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(io())?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|reason| unusable(format!("its header is damaged: {reason}")))?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(kind));
    let text = text.ok_or_else(|| unusable(format!("this program wrote no {kind} there")))?;
    let seal =
        serde_json::from_str(text).map_err(|reason| unusable(format!("its description cannot be read: {reason}")))?;
    let (data_start, found) = (8 + length, file.metadata().map_err(io())?.len());
    match data_start.checked_add(header.data_len() as u64) {
        Some(expected) if expected == found => {}
        Some(expected) => {
            return Err(unusable(format!("it has {found} bytes, and had {expected} when it was written")));
        }
        None => return Err(unusable("its header describes more than any file holds".to_owned())),
    }
    let tensors = header.tensors().into_iter().map(|(name, tensor)| (name, tensor.clone())).collect();
    Ok((seal, Table { tensors, data_start }))
}

/// The MD5 of what a file is of and of all tensors in the order of their names, begun.
struct Checksum(Md5);

impl Checksum {
    fn new<A: Serialize>(about: &A) -> Self {
        Self(Md5::new_with_prefix(json(about)))
    }

    /// The next tensor, whose values follow, so many bytes of them.
    fn add_head(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: usize) {
        self.0.update(format!("{name} {dtype:?} {shape:?} {bytes}\n"));
    }

    fn add_values(&mut self, values: &[u8]) {
        self.0.update(values);
    }

    fn finish(self) -> String {
        hexadecimal(self.0)
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and text can always be written")
}

fn unusable(path: &Path, kind: &str, problem: String) -> Error {
    Error::Damaged { path: path.to_path_buf(), kind: kind.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use safetensors::SafeTensors;

    use super::*;

    const KIND: &str = "made-up";

    fn write_example(path: &Path) {
        let tensors: [Stored<'_>; 2] =
            [("b", Dtype::F32, vec![2, 1], &[1, 2, 3, 4, 5, 6, 7, 8]), ("a", Dtype::U8, vec![3], &[9, 0, 255])];
        write(path, KIND, &("about", 7), &tensors).unwrap();
    }

    fn read_example(path: &Path) -> Result<((String, u32), SealedFile)> {
        open(path, KIND)
    }

    #[test]
    fn what_is_written_is_read_and_the_bytes_depend_on_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.safetensors");
        write_example(&path);
        let bytes = fs::read(&path).unwrap();
        let (about, file) = read_example(&path).unwrap();
        assert_eq!(about, ("about".to_owned(), 7));
        assert_eq!(describe::<(String, u32)>(&path, KIND).unwrap(), about);
        let others = SafeTensors::deserialize(&bytes).unwrap();
        for (name, values) in [("a", [9, 0, 255].as_slice()), ("b", &[1, 2, 3, 4, 5, 6, 7, 8])] {
            assert_eq!(file.read(&file.tensors()[name]).unwrap(), values);
            assert_eq!(others.tensor(name).unwrap().data(), values);
        }
        write_example(&path);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert!(open::<(String, u32)>(&path, "other").unwrap_err().to_string().contains("other"));
    }

    /// Places of tensors are the header's to say, up to the last number there is.
    #[test]
    fn a_header_of_more_than_any_file_is_refused() {
        const MOST: u64 = (1 << 61) - 1;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.safetensors");
        let tensor = |place: u64| serde_json::json!({ "dtype": "U8", "shape": [MOST], "data_offsets": [place * MOST, (place + 1) * MOST] });
        let mut header: serde_json::Map<_, _> = (0..8).map(|place| (format!("t{place}"), tensor(place))).collect();
        let seal = Seal { about: ("about", 7), checksum: String::new() };
        header.insert("__metadata__".to_owned(), serde_json::json!({ KIND: json(&seal) }));
        let mut text = serde_json::to_vec(&header).unwrap();
        text.resize(text.len().next_multiple_of(8), b' ');
        fs::write(&path, [&(text.len() as u64).to_le_bytes()[..], &text].concat()).unwrap();
        let error = read_example(&path).unwrap_err().to_string();
        assert!(error.contains("more than any file holds"), "{error}");
    }

    /// The one kind of damage that may go unnoticed changes no meaning: the white space that pads the header.
    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.safetensors");
        write_example(&path);
        let good = fs::read(&path).unwrap();
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                fs::write(&path, &bad).unwrap();
                let padding = good[byte] == b' ' && bad[byte].is_ascii_whitespace();
                assert!(read_example(&path).is_err() || padding, "bit {bit} of byte {byte} may flip unnoticed");
            }
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            let error = read_example(&path).unwrap_err().to_string();
            assert!(error.contains("file.safetensors"), "{error}");
        }
    }
}
