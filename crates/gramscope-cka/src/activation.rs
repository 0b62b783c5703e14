//! A layer's output over a batch, borrowed from wherever it lives.

use half::{bf16, f16};

use crate::error::Error;

/// Values in one of the four floating-point formats that activations come in.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl Values<'_> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A layer's output over a batch: a row-major matrix `[examples, features]`, every example flattened. The order of the
/// features does not matter, as long as it is the same for all examples.
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    examples: usize,
    features: usize,
    values: Values<'a>,
}

impl<'a> Activation<'a> {
    /// A view of `values` as `examples` rows.
    ///
    /// # Errors
    /// [`Error::NoFeatures`] without examples or values, [`Error::Uneven`] if the values do not fill whole rows.
    pub fn new(values: Values<'a>, examples: usize) -> Result<Self, Error> {
        check_shape(values.len(), examples)?;
        Ok(Self { examples, features: values.len() / examples, values })
    }

    /// The number of rows.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The number of columns.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The values, row after row.
    pub fn values(&self) -> Values<'a> {
        self.values
    }
}

/// Whether so many values are `examples` rows of at least one value.
pub(crate) fn check_shape(values: usize, examples: usize) -> Result<(), Error> {
    if examples == 0 || values == 0 {
        return Err(Error::NoFeatures { values, examples });
    }
    if values.is_multiple_of(examples) { Ok(()) } else { Err(Error::Uneven { values, examples }) }
}
