//! Which tensors of a file are layers, and in which order.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use safetensors::Dtype;

use super::LAYERS_KEY;
use super::header::{Header, StoredTensor, checked_product};

/// One layer's tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLayer {
    /// Its name.
    pub name: String,
    /// F16, BF16, F32 or F64.
    pub dtype: Dtype,
    /// Its first dimension.
    pub examples: usize,
    /// The product of its other dimensions, at least 1.
    pub features: usize,
    /// Where its data begin, in bytes from the start of the file.
    pub(super) offset: u64,
}

impl StoredLayer {
    /// The bytes of `examples` of it, of which it has as many.
    pub(crate) fn bytes(&self, examples: usize) -> u64 {
        (examples * self.features) as u64 * self.dtype.bitsize() as u64 / 8
    }
}

/// A file's tensors in their order; at least one.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn in_order(header: Header) -> Result<Vec<StoredTensor>, String> {
    let Header { tensors, metadata } = header;
    if tensors.is_empty() {
        return Err("it holds no tensor".to_owned());
    }
    match metadata.get(LAYERS_KEY) {
        Some(list) => reorder(tensors, list),
        None => Ok(tensors),
    }
}

/// The layers whose names `pattern` matches, and the number of examples that all of them have. Tensors that it leaves out need
/// not be activations.
///
/// # Errors
/// What is wrong, in words, and would not be with another pattern.
pub(super) fn chosen(tensors: Vec<StoredTensor>, pattern: Option<&Regex>) -> Result<(Vec<StoredLayer>, usize), String> {
    let chosen = tensors.into_iter().filter(|tensor| pattern.is_none_or(|pattern| pattern.is_match(&tensor.name)));
    let layers = chosen.map(layer).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = layers.first() else {
        let pattern = pattern.map(Regex::as_str).unwrap_or_default();
        return Err(format!("none of its layers matches \"{pattern}\""));
    };
    if let Some(other) = layers.iter().find(|layer| layer.examples != first.examples) {
        return Err(format!(
            "layer {:?} has {} examples and layer {:?} has {}; all layers need the same ones",
            first.name, first.examples, other.name, other.examples
        ));
    }
    let examples = first.examples;
    Ok((layers, examples))
}

/// Puts the tensors in the order of `list`, which must name each of them once.
fn reorder(tensors: Vec<StoredTensor>, list: &str) -> Result<Vec<StoredTensor>, String> {
    let key = format!("its metadata key {LAYERS_KEY:?}");
    let names: Vec<String> =
        serde_json::from_str(list).map_err(|reason| format!("{key} is not a JSON list of names: {reason}"))?;
    let mut listed = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !listed.insert(name.as_str())) {
        return Err(format!("{key} lists {twice:?} twice"));
    }
    if let Some(missing) = tensors.iter().find(|tensor| !listed.contains(tensor.name.as_str())) {
        return Err(format!("{key} leaves out the tensor {:?}", missing.name));
    }
    let mut by_name: HashMap<String, StoredTensor> =
        tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let ordered = names
        .iter()
        .map(|name| by_name.remove(name).ok_or_else(|| format!("{key} lists {name:?}, but there is no such tensor")));
    ordered.collect()
}

fn layer(tensor: StoredTensor) -> Result<StoredLayer, String> {
    let StoredTensor { name, dtype, shape, offset } = tensor;
    if !matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
        return Err(format!(
            "tensor {name:?} is of type {dtype}; activations must be F16, BF16, F32 or F64; leave it out, if it is none"
        ));
    }
    let Some((&examples, rest)) = shape.split_first() else {
        return Err(format!("layer {name:?} is a single number; its first dimension must be the examples"));
    };
    match checked_product(rest) {
        Some(features) if features > 0 => Ok(StoredLayer { name, dtype, examples, features, offset }),
        _ => Err(format!("layer {name:?} of shape {shape:?} has no features; leave it out")),
    }
}
