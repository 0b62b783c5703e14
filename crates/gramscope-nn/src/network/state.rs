//! Named tensors taken over from elsewhere, such as a checkpoint.

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// Named tensors to be taken over, such as a checkpoint's: in memory, or in a file that they are read from one at a time.
pub trait NamedTensors {
    /// The names, in any order, and the shape of each.
    fn shapes(&self) -> Vec<(&str, &[usize])>;

    /// The tensor of this name, which is one of [`Self::shapes`].
    ///
    /// # Errors
    /// Where it cannot be read.
    fn tensor(&self, name: &str) -> candle_core::Result<Tensor>;
}

impl NamedTensors for HashMap<String, Tensor> {
    fn shapes(&self) -> Vec<(&str, &[usize])> {
        self.iter().map(|(name, tensor)| (name.as_str(), tensor.dims())).collect()
    }

    fn tensor(&self, name: &str) -> candle_core::Result<Tensor> {
        Ok(self[name].clone())
    }
}

/// Fails unless the `offered` names and shapes are those of `expected`.
pub(crate) fn check(expected: &[(&str, &Tensor)], offered: &HashMap<&str, &[usize]>) -> Result<()> {
    if offered.len() > expected.len() {
        let known: HashSet<&str> = expected.iter().map(|(name, _)| *name).collect();
        let mut names: Vec<String> =
            offered.keys().filter(|name| !known.contains(*name)).map(ToString::to_string).collect();
        names.sort_unstable();
        return Err(Error::SurplusState { names });
    }
    expected.iter().try_for_each(|(name, current)| {
        let found = offered.get(name).ok_or_else(|| Error::MissingState { name: (*name).to_owned() })?;
        if *found != current.dims() {
            let (expected, got) = (current.dims().to_vec(), found.to_vec());
            return Err(Error::StateShape { name: (*name).to_owned(), expected, got });
        }
        Ok(())
    })
}

/// A copy of `value` where `current` lies, for what is loaded must not change when its source does.
pub(crate) fn copied(value: &Tensor, current: &Tensor) -> Result<Tensor> {
    Ok(value.to_device(current.device())?.to_dtype(DType::F32)?.copy()?)
}

/// The stage that the parameter or statistic `name` belongs to, 0 for the stem; none for what follows the stages.
pub(crate) fn stage(name: &str) -> Option<usize> {
    let first = name.split('.').next()?;
    if first == "stem" { Some(0) } else { first.strip_prefix("stage")?.parse().ok() }
}
