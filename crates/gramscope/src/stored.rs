//! The types that a network's activations are stored as on a GPU.

use gramscope_cuda::{Activation, Values, View};
use half::bf16;

/// A type that activations are stored as.
pub(crate) trait Stored: Activation {
    /// Its name.
    const NAME: &'static str;
    /// A layer of this type.
    fn layer(view: View<'_, Self>) -> Values<'_>;
    /// The nearest value of this type.
    fn of(value: f32) -> Self;
    /// The same value in float64.
    fn widen(self) -> f64;
}

impl Stored for f32 {
    const NAME: &'static str = "f32";

    fn layer(view: View<'_, Self>) -> Values<'_> {
        Values::F32(view)
    }

    fn of(value: f32) -> Self {
        value
    }

    fn widen(self) -> f64 {
        self.into()
    }
}

impl Stored for bf16 {
    const NAME: &'static str = "bf16";

    fn layer(view: View<'_, Self>) -> Values<'_> {
        Values::Bf16(view)
    }

    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f64 {
        self.into()
    }
}
