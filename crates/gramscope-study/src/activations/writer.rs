//! Writing an activation file batch by batch and layer by layer, each at its place in the file.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use gramscope_train::atomic::NewFile;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::{LAYERS_KEY, LENGTH_BYTES};
use crate::{Error, Result};

/// A file of float32 activations under construction. All shapes are known when it is begun, so the header comes first and
/// nothing is kept in memory; the file appears under its name when [`finish`](Self::finish) is called.
#[derive(Debug)]
pub struct ActivationWriter {
    file: NewFile,
    layers: Vec<Region>,
}

/// What is still to be written of a layer, in bytes from the start of the file.
#[derive(Debug)]
struct Region {
    name: String,
    next: u64,
    end: u64,
}

impl ActivationWriter {
    /// Begins a file for `examples` examples of `layers`, (name, shape of one example). `about` is added to the metadata.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory of `path` cannot be written, [`Error::File`] for sizes beyond any file's.
    pub fn create(
        path: &Path,
        layers: &[(String, Vec<usize>)],
        examples: usize,
        about: &[(&str, String)],
    ) -> Result<Self> {
        let (header, ends) = header(layers, examples, about)
            .map_err(|problem| Error::file(path, format!("cannot be written: {problem}")))?;
        let mut file = NewFile::create(path).map_err(Error::io("write", path))?;
        let start = LENGTH_BYTES + header.len() as u64;
        let mut next = start;
        let mut regions = Vec::with_capacity(layers.len());
        for ((name, _), end) in layers.iter().zip(ends) {
            let end = start + end as u64;
            regions.push(Region { name: name.clone(), next, end });
            next = end;
        }
        let length = (header.len() as u64).to_le_bytes();
        file.file()
            .write_all(&length)
            .and_then(|()| file.file().write_all(&header))
            .and_then(|()| file.file().set_len(next))
            .map_err(Error::io("write", path))?;
        Ok(Self { file, layers: regions })
    }

    /// Adds the next examples of layer `layer`.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written: a full disk, say.
    ///
    /// # Panics
    /// If there is no such layer, or no room for so many values in it.
    pub fn append(&mut self, layer: usize, values: &[f32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let region = &mut self.layers[layer];
        let end = region.next + bytes.len() as u64;
        assert!(end <= region.end, "layer {} has no room for {} more values", region.name, values.len());
        let file = self.file.file();
        let written = file.seek(SeekFrom::Start(region.next)).and_then(|_| file.write_all(bytes));
        written.map_err(Error::io("write", self.file.path()))?;
        region.next = end;
        Ok(())
    }

    /// Flushes the file and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`] where that fails, [`Error::File`] where examples are missing.
    pub fn finish(self) -> Result<()> {
        if let Some(region) = self.layers.iter().find(|region| region.next < region.end) {
            return Err(Error::file(
                self.file.path(),
                format!("not all examples of layer {} were written", region.name),
            ));
        }
        let path = self.file.path().to_owned();
        self.file.finish().map_err(Error::io("write", &path))
    }
}

/// The header, padded so that the data are aligned, and where each layer's data end, in bytes from the start of the data.
fn header(
    layers: &[(String, Vec<usize>)],
    examples: usize,
    about: &[(&str, String)],
) -> Result<(Vec<u8>, Vec<usize>), String> {
    const ALIGNMENT: usize = 8;
    let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
    let mut metadata: HashMap<String, String> =
        about.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    metadata.insert(LAYERS_KEY.to_owned(), serde_json::to_string(&names).map_err(|reason| reason.to_string())?);

    let mut end = 0usize;
    let mut tensors = Vec::with_capacity(layers.len());
    for (name, shape) in layers {
        let shape: Vec<usize> = std::iter::once(examples).chain(shape.iter().copied()).collect();
        let size = shape.iter().try_fold(size_of::<f32>(), |size, &side| size.checked_mul(side));
        let start = end;
        end = size
            .and_then(|size| start.checked_add(size))
            .ok_or_else(|| format!("layer {name} of shape {shape:?} makes it larger than any file"))?;
        tensors.push((name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) }));
    }
    let ends = tensors.iter().map(|(_, info)| info.data_offsets.1).collect();
    let metadata = Metadata::new(Some(metadata), tensors).map_err(|reason| reason.to_string())?;
    // As a value it is sorted: the same activations make the same bytes.
    let header = serde_json::to_value(&metadata).and_then(|header| serde_json::to_vec(&header));
    let mut header = header.map_err(|reason| reason.to_string())?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok((header, ends))
}
