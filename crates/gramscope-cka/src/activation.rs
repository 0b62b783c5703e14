//! A layer's output over a batch, borrowed from wherever it lives.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

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

/// The floating-point formats that activations come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

/// A layer's output over a batch that is not in memory, and of which some features at a time can be.
pub trait ReadFeatures: Debug + Sync {
    /// Fills `rows` with the `features` of all examples, one example after the other, each value as the bytes that it is in
    /// memory. Called from several threads, and for the same features more than once.
    ///
    /// # Errors
    /// Whatever keeps the values from being read.
    fn read(&self, features: Range<usize>, rows: &mut [u8]) -> io::Result<()>;
}

/// Where the values are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Memory(Values<'a>),
    Elsewhere(Format, &'a dyn ReadFeatures),
}

/// A layer's output over a batch: a row-major matrix `[examples, features]`, every example flattened. The order of the
/// features does not matter, as long as it is the same for all examples.
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    examples: usize,
    features: usize,
    source: Source<'a>,
}

impl<'a> Activation<'a> {
    /// A view of `values` as `examples` rows.
    ///
    /// # Errors
    /// [`Error::NoFeatures`] without examples or values, [`Error::Uneven`] if the values do not fill whole rows.
    pub fn new(values: Values<'a>, examples: usize) -> Result<Self, Error> {
        check_shape(values.len(), examples)?;
        Ok(Self { examples, features: values.len() / examples, source: Source::Memory(values) })
    }

    /// `examples` rows of `features` values that `source` reads: for layers whose batch is too large for memory. Gives the
    /// same bits as the values themselves would.
    ///
    /// # Errors
    /// [`Error::NoFeatures`] without examples or features.
    pub fn stored(
        examples: usize,
        features: usize,
        format: Format,
        source: &'a dyn ReadFeatures,
    ) -> Result<Self, Error> {
        check_shape(examples.saturating_mul(features), examples)?;
        Ok(Self { examples, features, source: Source::Elsewhere(format, source) })
    }

    /// The number of rows.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The number of columns.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The values, row after row; none where they are not in memory.
    pub fn values(&self) -> Option<Values<'a>> {
        match self.source {
            Source::Memory(values) => Some(values),
            Source::Elsewhere(..) => None,
        }
    }

    pub(crate) fn source(&self) -> Source<'a> {
        self.source
    }
}

/// Whether so many values are `examples` rows of at least one value.
pub(crate) fn check_shape(values: usize, examples: usize) -> Result<(), Error> {
    if examples == 0 || values == 0 {
        return Err(Error::NoFeatures { values, examples });
    }
    if values.is_multiple_of(examples) { Ok(()) } else { Err(Error::Uneven { values, examples }) }
}
