//! Safetensors files that tell when they were damaged.
//!
//! One metadata key, the kind of file, holds a JSON object: `about`, what the file is of, and `checksum`, the MD5 of that
//! and of every tensor. One key, because the order of several would differ from file to file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use md5::{Digest, Md5};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::digest::hexadecimal;
use crate::error::{Error, Result};

/// The longest header that the format allows, in bytes.
const LARGEST_HEADER: u64 = 100_000_000;

/// A tensor of a file: name, type, shape, little-endian values.
pub(crate) type Stored<'a> = (&'a str, Dtype, Vec<usize>, &'a [u8]);

/// What is needed of a safetensors header.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: HashMap<String, String>,
}

/// What lies under the metadata key.
#[derive(Serialize, Deserialize)]
struct Seal<A> {
    about: A,
    checksum: String,
}

/// Replaces the file of this `kind` at `path`.
pub(crate) fn write<A: Serialize>(path: &Path, kind: &str, about: &A, tensors: &[Stored<'_>]) -> Result<()> {
    let seal = Seal { about, checksum: checksum(about, tensors) };
    let metadata = HashMap::from([(kind.to_owned(), json(&seal))]);
    let bytes = tensors
        .iter()
        .map(|(name, dtype, shape, values)| Ok((name, TensorView::new(*dtype, shape.clone(), values)?)))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| serialize(views, Some(metadata)))
        .map_err(|reason| unusable(path, kind, format!("it cannot be written: {reason}")))?;
    atomic::write(path, &bytes).map_err(Error::io("write", path))
}

/// Reads the file of this `kind` at `path`: what it is of, and its bytes, which are as they were written.
///
/// # Errors
/// [`Error::Io`]; [`Error::Damaged`] for a file of another kind, or one that is not what was written.
pub(crate) fn read<A: Serialize + DeserializeOwned>(path: &Path, kind: &str) -> Result<(A, Vec<u8>)> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let problem = |problem: String| unusable(path, kind, problem);
    let Seal { about, checksum: expected } = seal(&bytes, kind).map_err(problem)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|reason| problem(reason.to_string()))?;
    let tensors: Vec<Stored<'_>> =
        file.iter().map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data())).collect();
    if checksum(&about, &tensors) != expected {
        return Err(problem("its checksum is wrong: the file was damaged after it was written".to_owned()));
    }
    drop(tensors);
    Ok((about, bytes))
}

/// What the file of this `kind` at `path` says it is of; its tensors are not read, and nothing is checked.
pub(crate) fn describe<A: DeserializeOwned>(path: &Path, kind: &str) -> Result<A> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| unusable(path, kind, "it is too short for a header".to_owned()))?;
    let mut bytes = length.to_vec();
    let header = u64::from_le_bytes(length).min(LARGEST_HEADER);
    file.take(header).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    let seal: Seal<A> = seal(&bytes, kind).map_err(|problem| unusable(path, kind, problem))?;
    Ok(seal.about)
}

/// The seal in the header, which is all that `bytes` need to hold of a file.
fn seal<A: DeserializeOwned>(bytes: &[u8], kind: &str) -> Result<Seal<A>, String> {
    let header: Option<&[u8]> = bytes.split_at_checked(8).and_then(|(length, rest)| {
        let length = u64::from_le_bytes(length.try_into().ok()?);
        rest.get(..usize::try_from(length).ok()?)
    });
    let header = header.ok_or("it is too short for its header")?;
    let header: Header = serde_json::from_slice(header).map_err(|reason| format!("its header is damaged: {reason}"))?;
    let text = header.metadata.get(kind);
    let text = text.ok_or_else(|| format!("this program wrote no {kind} there"))?;
    serde_json::from_str(text).map_err(|reason| format!("its description cannot be read: {reason}"))
}

/// The MD5 of `about` and of all tensors in the order of their names.
fn checksum<A: Serialize>(about: &A, tensors: &[Stored<'_>]) -> String {
    let mut hash = Md5::new_with_prefix(json(about));
    let mut tensors: Vec<&Stored<'_>> = tensors.iter().collect();
    tensors.sort_by_key(|(name, ..)| *name);
    for (name, dtype, shape, values) in tensors {
        hash.update(format!("{name} {dtype:?} {shape:?} {}\n", values.len()));
        hash.update(values);
    }
    hexadecimal(hash)
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

    use super::*;

    const KIND: &str = "made-up";

    fn write_example(path: &Path) {
        let tensors: [Stored<'_>; 2] =
            [("b", Dtype::F32, vec![2, 1], &[1, 2, 3, 4, 5, 6, 7, 8]), ("a", Dtype::U8, vec![3], &[9, 0, 255])];
        write(path, KIND, &("about", 7), &tensors).unwrap();
    }

    fn read_example(path: &Path) -> Result<((String, u32), Vec<u8>)> {
        read(path, KIND)
    }

    #[test]
    fn what_is_written_is_read_and_the_bytes_depend_on_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.safetensors");
        write_example(&path);
        let (about, bytes) = read_example(&path).unwrap();
        assert_eq!(about, ("about".to_owned(), 7));
        assert_eq!(describe::<(String, u32)>(&path, KIND).unwrap(), about);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("a").unwrap().data(), [9, 0, 255]);
        write_example(&path);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert!(read::<(String, u32)>(&path, "other").unwrap_err().to_string().contains("other"));
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
