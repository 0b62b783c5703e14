//! Activations on disk: safetensors files with a tensor a layer, first dimension the examples.
//!
//! The order of the layers is the JSON list under the metadata key `layers` where there is one, else the order of the
//! data in the file. Files are read with positional reads into reused buffers and never mapped, so that one larger than
//! memory works, and one that shrinks under us is an error instead of a signal. The header is checked by code of our own
//! before anything else is read: it comes from strangers, and the tensors it describes must be found without the file.
//!
//! Format: <https://github.com/huggingface/safetensors#format>: the header's length as a little-endian u64, the header as
//! JSON, then the data, without gaps.

mod export;
mod header;
mod layers;
mod reader;
mod writer;

pub use export::{ExportOptions, export};
pub use layers::StoredLayer;
pub use reader::{ActivationFile, Rows};
pub use writer::ActivationWriter;

/// Metadata key that holds the order of the layers.
const LAYERS_KEY: &str = "layers";

/// Bytes that hold the header's length at the start of a safetensors file.
const LENGTH_BYTES: u64 = 8;

// Values are viewed as the bytes they are in the file, which are little-endian.
#[cfg(target_endian = "big")]
compile_error!("reading and writing activation files needs a little-endian machine");

#[cfg(test)]
pub(crate) mod tests;
