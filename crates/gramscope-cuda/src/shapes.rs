//! What crosses the boundary between host and kernels by value: shapes, summaries, sums. Each mirrors the struct of the same
//! name in kernels/.

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

/// Of the Gram kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct GramShape {
    pub(crate) features: i64,
    pub(crate) examples: i32,
    pub(crate) buffers: i32,
}

/// Of the kernels that reduce, centre and pack.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct CentreShape {
    pub(crate) largest_kappa: f64,
    pub(crate) examples: i32,
    pub(crate) splits: i32,
    pub(crate) biased: i32,
    pub(crate) zero: i32,
}

/// Of the HSIC kernels.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct HsicShape {
    pub(crate) factor: f64,
    pub(crate) length: i64,
    pub(crate) stride: i64,
    pub(crate) layers_x: i32,
    pub(crate) layers_y: i32,
    pub(crate) symmetric: i32,
    pub(crate) buffers: i32,
    pub(crate) splits: i32,
    pub(crate) zero: i32,
}

/// What one layer's Gram matrix came to in one batch: the panel row times 2^`exponent` is the centred, packed matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct RowSummary {
    /// The row's squared length, computed in float64 before the row was rounded to float32.
    pub norm: f64,
    /// |K| / |U|: by how much centring has magnified K's relative error.
    pub kappa: f64,
    /// The power of two that the row was divided by.
    pub exponent: i32,
    /// [`RowSummary::CENTRED`], [`RowSummary::ZERO`] or [`RowSummary::UNDEFINED`].
    pub state: i32,
}

impl RowSummary {
    /// The row holds the centred matrix.
    pub const CENTRED: i32 = 0;
    /// The centred matrix is 0, and so is the row.
    pub const ZERO: i32 = 1;
    /// The kernel is not defined on this batch; the row is 0.
    pub const UNDEFINED: i32 = 2;
}

/// One layer's HSIC with itself, summed over batches: `own` times 2^(2 `unit`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct LayerSum {
    /// The sum, in the square of the unit.
    pub own: f64,
    /// The unit's exponent.
    pub unit: i32,
    /// [`LayerSum::EMPTY`], [`LayerSum::SUMMED`] or [`LayerSum::UNDEFINED`].
    pub state: i32,
}

impl LayerSum {
    /// Nothing but zeros has been added.
    pub const EMPTY: i32 = 0;
    /// There is a unit.
    pub const SUMMED: i32 = 1;
    /// The kernel was not defined on some batch.
    pub const UNDEFINED: i32 = 2;
}

/// By which powers of two a layer's old and new terms are multiplied when a batch is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Weight {
    /// Of the sums so far.
    pub old: i32,
    /// Of the batch's products.
    pub fresh: i32,
}

const _: () = assert!(size_of::<GramShape>() == 16);
const _: () = assert!(size_of::<CentreShape>() == 24);
const _: () = assert!(size_of::<HsicShape>() == 48);
const _: () = assert!(size_of::<RowSummary>() == 24);
const _: () = assert!(size_of::<LayerSum>() == 16);
const _: () = assert!(size_of::<Weight>() == 8);

// SAFETY: plain numbers in C's layout, without padding (the sizes above are those of the fields together).
unsafe impl DeviceRepr for GramShape {}
// SAFETY: as above.
unsafe impl DeviceRepr for CentreShape {}
// SAFETY: as above.
unsafe impl DeviceRepr for HsicShape {}
// SAFETY: as above.
unsafe impl DeviceRepr for RowSummary {}
// SAFETY: as above.
unsafe impl DeviceRepr for LayerSum {}
// SAFETY: as above.
unsafe impl DeviceRepr for Weight {}
// SAFETY: zeros are numbers.
unsafe impl ValidAsZeroBits for RowSummary {}
// SAFETY: zeros are numbers.
unsafe impl ValidAsZeroBits for LayerSum {}
// SAFETY: zeros are numbers.
unsafe impl ValidAsZeroBits for Weight {}
