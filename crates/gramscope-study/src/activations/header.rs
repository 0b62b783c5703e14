//! The header of a safetensors file: read, and held against the file, before anything else of it is.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::LENGTH_BYTES;
use crate::{Error, Result};

/// Headers are refused beyond this many bytes, as the format's own library does.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Member of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// What a header says, every tensor known to lie inside the file and to have the size of its shape.
pub(super) struct Header {
    /// The tensors in the order of their data.
    pub(super) tensors: Vec<StoredTensor>,
    /// The metadata.
    pub(super) metadata: HashMap<String, String>,
}

/// A tensor's place in the file.
pub(super) struct StoredTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its data begin, in bytes from the start of the file.
    pub(super) offset: u64,
}

impl Header {
    /// Reads and checks the header of `file`, which lies at `path`.
    pub(super) fn read(file: &mut File, path: &Path) -> Result<Self> {
        let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
        let text = read_text(file, file_bytes, path)?;
        let raw: RawHeader = serde_json::from_slice(&text)
            .map_err(|reason| Error::file(path, format!("not a safetensors file: its header is wrong: {reason}")))?;
        let data_start = LENGTH_BYTES + text.len() as u64;
        let tensors = place(raw.tensors, data_start, file_bytes).map_err(|problem| Error::file(path, problem))?;
        Ok(Self { tensors, metadata: raw.metadata })
    }
}

/// The JSON text of the header.
fn read_text(file: &mut File, file_bytes: u64, path: &Path) -> Result<Vec<u8>> {
    let room = file_bytes.checked_sub(LENGTH_BYTES).ok_or_else(|| {
        Error::file(path, format!("not a safetensors file: it has {file_bytes} bytes, less than a header's length"))
    })?;
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(Error::io("read", path))?;
    let claimed = u64::from_le_bytes(length);
    if let Some(found) = other_format(&length) {
        let problem =
            format!("{found}, not safetensors; save_file of safetensors.numpy, .torch or .flax writes arrays as that");
        return Err(Error::file(path, problem));
    }
    if claimed > room {
        return Err(Error::file(
            path,
            format!("truncated, or not a safetensors file: it claims a header of {claimed} bytes and {room} follow"),
        ));
    }
    if claimed > MAX_HEADER_BYTES {
        let problem = format!("its header has {claimed} bytes; safetensors allows {MAX_HEADER_BYTES} at most");
        return Err(Error::file(path, problem));
    }
    let mut text = vec![0; usize::try_from(claimed).expect("a checked length fits")];
    file.read_exact(&mut text).map_err(Error::io("read", path))?;
    Ok(text)
}

/// What else a file that begins with these bytes may be, of the formats that arrays are kept in. As lengths of a header they would be beyond
/// what is allowed.
fn other_format(start: &[u8; LENGTH_BYTES as usize]) -> Option<&'static str> {
    match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some("a NumPy array (.npy)"),
        [b'P', b'K', 3, 4, ..] => Some("a zip archive (.npz, or what torch.save writes)"),
        [0x89, b'H', b'D', b'F', ..] => Some("an HDF5 file"),
        _ => None,
    }
}

/// Puts the tensors in the order of their data and makes sure that they fill the file: one after the other, each as long
/// as its shape and dtype say.
fn place(mut raw: Vec<(String, TensorInfo)>, data_start: u64, file_bytes: u64) -> Result<Vec<StoredTensor>, String> {
    raw.sort_by(|(one, a), (other, b)| (a.data_offsets, one).cmp(&(b.data_offsets, other)));
    let data_bytes = file_bytes - data_start;
    let mut tensors = Vec::with_capacity(raw.len());
    let mut end_before = 0;
    for (name, info) in raw {
        let (start, end) = info.data_offsets;
        let size = bytes(&info)
            .ok_or_else(|| format!("tensor {name:?} claims the shape {:?}, which no file can hold", info.shape))?;
        if end.checked_sub(start) != Some(size) {
            return Err(format!(
                "tensor {name:?} of shape {:?} and type {} needs {size} bytes, but its data reach from {start} to {end}",
                info.shape, info.dtype
            ));
        }
        if start != end_before {
            let what = if start < end_before { "overlaps the one before it" } else { "leaves a gap before it" };
            return Err(format!(
                "tensor {name:?} {what}: its data begin at {start} and those before end at {end_before}"
            ));
        }
        if end as u64 > data_bytes {
            return Err(format!(
                "truncated: the data of tensor {name:?} end at {end}, but the file holds only {data_bytes} bytes of data"
            ));
        }
        end_before = end;
        let offset = data_start + start as u64;
        tensors.push(StoredTensor { name, dtype: info.dtype, shape: info.shape, offset });
    }
    if end_before as u64 != data_bytes {
        return Err(format!("its header describes {end_before} bytes of data and the file holds {data_bytes}"));
    }
    Ok(tensors)
}

/// Bytes of a tensor; none where their number overflows.
fn bytes(info: &TensorInfo) -> Option<usize> {
    let values = checked_product(&info.shape)?;
    let bits = values.checked_mul(info.dtype.bitsize())?;
    Some(bits.div_ceil(8))
}

/// The product of all sides, where even the product of those that are not 0 fits.
pub(super) fn checked_product(shape: &[usize]) -> Option<usize> {
    let positive =
        shape.iter().filter(|&&side| side > 0).try_fold(1usize, |product, &side| product.checked_mul(side))?;
    Some(if shape.contains(&0) { 0 } else { positive })
}

/// The header as it is written, each name once.
struct RawHeader {
    tensors: Vec<(String, TensorInfo)>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with a member for each tensor")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<RawHeader, M::Error> {
                let mut tensors: HashMap<String, TensorInfo> = HashMap::new();
                let mut metadata: Option<HashMap<String, String>> = None;
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == METADATA {
                        metadata.replace(map.next_value()?).is_some()
                    } else {
                        let value: serde_json::Value = map.next_value()?;
                        let info = serde_json::from_value(value)
                            .map_err(|reason| de::Error::custom(format!("tensor {name:?}: {reason}")))?;
                        tensors.insert(name.clone(), info).is_some()
                    };
                    // Readers differ in which of the two they take.
                    if twice {
                        return Err(de::Error::custom(format!("{name:?} is there twice")));
                    }
                }
                Ok(RawHeader { tensors: tensors.into_iter().collect(), metadata: metadata.unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}
