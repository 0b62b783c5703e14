//! What activations are stored as.

use std::borrow::Cow;

use gramscope_cuda::{Activation, Values, View};
use half::bf16;

/// A type of activations: how they come from the host, and how they go to a comparison.
pub(super) trait Stored: Activation {
    fn from_host(values: &[f32]) -> Cow<'_, [Self]>;
    fn values(view: View<'_, Self>) -> Values<'_>;
}

impl Stored for f32 {
    fn from_host(values: &[f32]) -> Cow<'_, [Self]> {
        values.into()
    }

    fn values(view: View<'_, Self>) -> Values<'_> {
        Values::F32(view)
    }
}

impl Stored for bf16 {
    fn from_host(values: &[f32]) -> Cow<'_, [Self]> {
        values.iter().map(|&value| Self::from_f32(value)).collect::<Vec<_>>().into()
    }

    fn values(view: View<'_, Self>) -> Values<'_> {
        Values::Bf16(view)
    }
}
