//! Named tensors taken over from elsewhere, such as a checkpoint.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// The tensors of `state` in the order of `expected`, if names and shapes agree.
pub(crate) fn check<'s>(expected: &[(&str, &Tensor)], state: &'s HashMap<String, Tensor>) -> Result<Vec<&'s Tensor>> {
    if state.len() > expected.len() {
        let mut names: Vec<String> =
            state.keys().filter(|name| !expected.iter().any(|(known, _)| known == name)).cloned().collect();
        names.sort_unstable();
        return Err(Error::SurplusState { names });
    }
    expected
        .iter()
        .map(|(name, current)| {
            let value = state.get(*name).ok_or_else(|| Error::MissingState { name: (*name).to_owned() })?;
            if value.dims() != current.dims() {
                let (expected, got) = (current.dims().to_vec(), value.dims().to_vec());
                return Err(Error::StateShape { name: (*name).to_owned(), expected, got });
            }
            Ok(value)
        })
        .collect()
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
