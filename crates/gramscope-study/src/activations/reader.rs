//! Reading an activation file some rows of one layer at a time.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use gramscope_cka::{Activation, Format, ReadFeatures, Values};
use gramscope_train::reading::read_exact_at;
use half::{bf16, f16};
use regex::Regex;
use safetensors::Dtype;

use super::header::Header;
use super::layers::{self, StoredLayer};
use crate::{Error, Result, Setting};

/// An open activation file, its header read and checked.
#[derive(Debug)]
pub struct ActivationFile {
    file: File,
    path: PathBuf,
    layers: Vec<StoredLayer>,
    examples: usize,
}

impl ActivationFile {
    /// Opens `path`, checks its header and takes the layers whose names `pattern` matches (all where there is none).
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::File`] for a header that lies, a dtype that is no activation's, a
    /// layer without features, layers with different numbers of examples, or no layer at all.
    pub fn open(path: &Path, pattern: Option<&Regex>) -> Result<Self> {
        // Before it is opened: a pipe would be waited for.
        if !fs::metadata(path).map_err(Error::io("open", path))?.is_file() {
            return Err(Error::file(path, "not a file; give a safetensors file"));
        }
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let header = Header::read(&mut file, path)?;
        let tensors = layers::in_order(header).map_err(|problem| Error::file(path, problem))?;
        let (layers, examples) = layers::chosen(tensors, pattern)
            .map_err(|problem| Error::file(path, problem).mended_by(&[Setting::Layers]))?;
        Ok(Self { file, path: path.to_owned(), layers, examples })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells it from the file that may lie in its place another time: path, length and when it was written; none where the file
    /// system does not say.
    pub(crate) fn version(&self) -> Option<String> {
        let about = self.file.metadata().ok()?;
        let written = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        Some(format!("{}, {} bytes, of {written}", self.path.canonicalize().ok()?.display(), about.len()))
    }

    /// The layers, first layer first; at least one.
    pub fn layers(&self) -> &[StoredLayer] {
        &self.layers
    }

    /// Examples in every layer.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// Fails unless the first `wanted` examples are at least one and no more than there are.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn check_first(&self, wanted: usize) -> Result<()> {
        match self.examples {
            0 => Err(Error::file(&self.path, "it holds no examples")),
            found if wanted == 0 || wanted > found => {
                let problem = format!("{wanted} examples are wanted and it has {found}; ask for 1 to {found}");
                Err(Error::file(&self.path, problem).mended_by(&[Setting::Examples]))
            }
            _ => Ok(()),
        }
    }

    /// Calls `take` with these examples, at least one, of layer `layer`, in this order: in memory where they take no more than `most`
    /// bytes, else as what is read some features at a time. `rows` are the memory.
    ///
    /// # Errors
    /// Those of [`Self::read`], and of `take`.
    ///
    /// # Panics
    /// If the file has no such layer or examples.
    pub(crate) fn with_rows<T>(
        &self,
        layer: usize,
        examples: &[usize],
        most: u64,
        rows: &mut Rows,
        take: impl FnOnce(Activation<'_>) -> Result<T>,
    ) -> Result<T> {
        let stored = &self.layers[layer];
        if stored.bytes(examples.len()) <= most {
            return take(self.read(layer, examples, rows)?);
        }
        let format = match stored.dtype {
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            Dtype::F64 => Format::F64,
            _ => Format::F32,
        };
        let source = StoredRows { file: &self.file, layer: stored, examples };
        let activation = Activation::stored(examples.len(), stored.features, format, &source);
        take(activation.map_err(|reason| self.unusable(stored, reason))?)
    }

    fn unusable(&self, layer: &StoredLayer, reason: gramscope_cka::Error) -> Error {
        Error::Cka { subject: format!("{}: layer {:?}", self.path.display(), layer.name), reason }
    }

    /// Reads these examples, at least one, of layer `layer` into `rows`, in this order.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, or has shrunk; [`Error::File`] where the rows do not fit into memory.
    ///
    /// # Panics
    /// If the file has no such layer or examples.
    pub fn read<'a>(&self, layer: usize, examples: &[usize], rows: &'a mut Rows) -> Result<Activation<'a>> {
        let layer = &self.layers[layer];
        let last = examples.iter().max();
        assert!(last.is_some_and(|&last| last < layer.examples), "examples up to {last:?} of {}", layer.examples);
        let values = match layer.dtype {
            Dtype::F16 => Values::F16(self.fill(&mut rows.f16, layer, examples)?),
            Dtype::BF16 => Values::Bf16(self.fill(&mut rows.bf16, layer, examples)?),
            Dtype::F64 => Values::F64(self.fill(&mut rows.f64, layer, examples)?),
            _ => Values::F32(self.fill(&mut rows.f32, layer, examples)?),
        };
        Activation::new(values, examples.len()).map_err(|reason| self.unusable(layer, reason))
    }

    fn fill<'a, T: bytemuck::Pod>(
        &self,
        buffer: &'a mut Vec<T>,
        layer: &StoredLayer,
        examples: &[usize],
    ) -> Result<&'a [T]> {
        let values = examples.len() * layer.features;
        buffer.clear();
        buffer.try_reserve(values).map_err(|_| {
            let bytes = values.saturating_mul(size_of::<T>());
            let problem =
                format!("a batch of layer {:?} takes {bytes} bytes of memory; choose smaller batches", layer.name);
            Error::file(&self.path, problem)
        })?;
        buffer.resize(values, T::zeroed());
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(buffer);
        let row = layer.features * size_of::<T>();
        // In the order of the file, and those at once that lie one behind the other there and here.
        let mut places: Vec<usize> = (0..examples.len()).collect();
        places.sort_unstable_by_key(|&place| examples[place]);
        for together in places.chunk_by(|&place, &next| place + 1 == next && examples[place] + 1 == examples[next]) {
            let bytes = &mut bytes[together[0] * row..][..together.len() * row];
            let offset = layer.offset + layer.bytes(examples[together[0]]);
            read_exact_at(&self.file, bytes, offset).map_err(Error::io("read", &self.path))?;
        }
        Ok(buffer)
    }
}

/// Rows of one layer that stay in the file.
#[derive(Debug)]
struct StoredRows<'a> {
    file: &'a File,
    layer: &'a StoredLayer,
    /// What the rows are of.
    examples: &'a [usize],
}

impl ReadFeatures for StoredRows<'_> {
    fn read(&self, features: Range<usize>, rows: &mut [u8]) -> io::Result<()> {
        let row = self.layer.bytes(1);
        let value = row / self.layer.features as u64;
        let start = self.layer.offset + features.start as u64 * value;
        let stretches = rows.chunks_exact_mut(features.len() * value as usize);
        let mut examples = self.examples.iter().zip(stretches);
        examples.try_for_each(|(&example, stretch)| read_exact_at(self.file, stretch, start + example as u64 * row))
    }
}

/// Buffers for some rows of any layer; they grow to the largest and are used again.
#[derive(Debug, Default)]
pub struct Rows {
    f16: Vec<f16>,
    bf16: Vec<bf16>,
    f32: Vec<f32>,
    f64: Vec<f64>,
}
