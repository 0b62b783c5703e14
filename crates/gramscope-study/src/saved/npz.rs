//! npz files of float64 arrays, as `numpy.load` reads them.

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::{Error, Result};

/// The longest header of an array that is read, in bytes; numpy's have some hundred.
const LARGEST_HEADER: usize = 1 << 16;

/// Name, shape and values of an array, row-major.
pub(crate) type Array<'a> = (&'a str, &'a [usize], &'a [f64]);

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
    pub(super) path: PathBuf,
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
    pub(super) fn holds(&self, arrays: &[&str]) -> bool {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

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
