//! kernels/hsic/hsic.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Launcher, MOST_LAYERS, MOST_SPLITS, checked_count, enqueue};
use crate::error::Error;
use crate::family::{Kernel, kernels};
use crate::launch::{Arguments, wrong};
use crate::plan::{self, Split};
use crate::shapes::{HsicShape, LayerSum, RowSummary, Weight};

kernels! {
    /// The kernels of this family.
    HsicKernels {
        units: "gs_hsic_units",
        naive: "gs_hsic_naive_f32",
        mma: "gs_hsic_mma_f32",
        accumulate: "gs_hsic_accumulate",
    }
}

/// Two models' panels of one batch, or blocks of their rows.
#[derive(Debug)]
pub struct Panels<'a> {
    /// `[layers_x, length]`.
    pub x: CudaView<'a, f32>,
    /// `[layers_y, length]`; not looked at where `symmetric`.
    pub y: CudaView<'a, f32>,
    /// The number of rows of `x`.
    pub layers_x: usize,
    /// The number of rows of `y`.
    pub layers_y: usize,
    /// The length of a row.
    pub length: usize,
    /// They are one panel: only pairs (i, j) with j <= i are computed.
    pub symmetric: bool,
    /// In how many parts rows are multiplied, at most one a slab of [`plan::SLAB`] columns; as many as suit the shape where nothing
    /// is said. Blocks of rows that are given as many as the whole panels have ([`plan::hsic_mma`]) come to the same, bit for bit.
    pub splits: Option<usize>,
}

/// Where the sums of pairs are, and by what they are multiplied when a batch is added.
#[derive(Debug)]
pub struct PairSums<'a> {
    /// From the first pair on: pair (i, j) is at `i * stride + j`.
    pub sums: CudaViewMut<'a, f64>,
    /// The number of layers of the whole second model.
    pub stride: usize,
    /// A weight a row of x.
    pub weights_x: CudaView<'a, Weight>,
    /// A weight a row of y.
    pub weights_y: CudaView<'a, Weight>,
    /// From the inner product of two rows to HSIC: 2 / (n (n - 3)) or 2 / (n - 1)^2.
    pub factor: f64,
}

/// Lengths of the buffers that the products of two panels need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductLengths {
    /// Partial sums.
    pub partials: usize,
    /// Exponents of the rows of x.
    pub exponents_x: usize,
    /// Exponents of the rows of y; 0 where it is x.
    pub exponents_y: usize,
}

impl Panels<'_> {
    /// Checks the dimensions and turns them into the kernels' shape.
    fn shape(&self, kernel: &Kernel) -> Result<HsicShape, Error> {
        if self.symmetric && self.layers_x != self.layers_y {
            return Err(wrong(kernel.name, "layers_y", self.layers_y, self.layers_x));
        }
        // Parts of a bounded length, which a grid's second dimension counts.
        let length = i64::try_from(self.length).ok().filter(|length| (1..=1 << 32).contains(length));
        Ok(HsicShape {
            length: length.ok_or_else(|| wrong(kernel.name, "length", self.length, "from 1 to 2^32"))?,
            layers_x: checked_count(kernel, "layers_x", self.layers_x, MOST_LAYERS)?,
            layers_y: checked_count(kernel, "layers_y", self.layers_y, MOST_LAYERS)?,
            symmetric: self.symmetric.into(),
            ..HsicShape::default()
        })
    }

    fn check(&self, arguments: &mut Arguments<'_>) -> Result<(), Error> {
        arguments.reads("x", &self.x, self.layers_x * self.length)?;
        if self.symmetric { Ok(()) } else { arguments.reads("y", &self.y, self.layers_y * self.length) }
    }

    /// Where the sums of pairs end that lie `stride` apart; none where rows overlap, or where they end beyond all memory.
    fn sums_length(&self, stride: usize) -> Option<usize> {
        let rows = self.layers_x.checked_sub(1)?.checked_mul(stride)?;
        rows.checked_add(self.layers_y).filter(|_| stride >= self.layers_y)
    }
}

impl PairSums<'_> {
    /// Checks the sums of `panels` and completes `shape`.
    fn check(
        &self,
        kernel: &Kernel,
        arguments: &mut Arguments<'_>,
        panels: &Panels<'_>,
        shape: HsicShape,
    ) -> Result<HsicShape, Error> {
        let expected = || format!("from {} on, and less than memory holds", panels.layers_y);
        let outside = || wrong(kernel.name, "stride", self.stride, expected());
        let stride = i64::try_from(self.stride).map_err(|_| outside())?;
        arguments.writes("sums", &self.sums, panels.sums_length(self.stride).ok_or_else(outside)?)?;
        arguments.reads("weights_x", &self.weights_x, panels.layers_x)?;
        arguments.reads("weights_y", &self.weights_y, panels.layers_y)?;
        Ok(HsicShape { factor: self.factor, stride, ..shape })
    }
}

impl Launcher<'_> {
    /// Adds each layer's HSIC with itself to its sum, raises units, and leaves the weights for the sums of pairs.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn hsic_units(
        &self,
        sums: &mut CudaViewMut<'_, LayerSum>,
        weights: &mut CudaViewMut<'_, Weight>,
        rows: &CudaView<'_, RowSummary>,
        layers: usize,
        factor: f64,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().hsic.units;
        let layers_x = checked_count(kernel, "layers", layers, MOST_LAYERS)?;
        let shape = HsicShape { factor, layers_x, ..HsicShape::default() };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("sums", sums, layers)?;
        check.writes("weights", weights, layers)?;
        check.reads("rows", rows, layers)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(sums).arg(weights).arg(rows).arg(&shape);
        // SAFETY: a thread a layer below `layers` reads and writes its place of three arrays of that length, which has
        // been checked.
        unsafe { enqueue(kernel, plan::hsic_units(layers), arguments) }
    }

    /// Adds the HSIC of all pairs to their sums, a pair a thread, in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn hsic_naive(&self, pairs: &mut PairSums<'_>, panels: &Panels<'_>) -> Result<(), Error> {
        let kernel = &self.device.kernels().hsic.naive;
        let shape = panels.shape(kernel)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        panels.check(&mut check)?;
        let shape = pairs.check(kernel, &mut check, panels, shape)?;
        let y = if panels.symmetric { &panels.x } else { &panels.y };
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut pairs.sums).arg(&panels.x).arg(y).arg(&pairs.weights_x).arg(&pairs.weights_y).arg(&shape);
        // SAFETY: a thread a pair (i, j) reads rows i of x [layers_x, length] and j of y [layers_y, length], a weight of
        // each, and reads and writes sums[i * stride + j]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::hsic_naive(panels.layers_x, panels.layers_y), arguments) }
    }

    /// Partial sums of the products of all rows of x with all rows of y, on tensor cores.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn hsic_mma(
        &self,
        partials: &mut CudaViewMut<'_, f32>,
        exponents_x: &mut CudaViewMut<'_, i32>,
        exponents_y: &mut CudaViewMut<'_, i32>,
        panels: &Panels<'_>,
    ) -> Result<Split, Error> {
        let kernel = &self.device.kernels().hsic.mma;
        let shape = panels.shape(kernel)?;
        let split = self.hsic_split(kernel, panels)?;
        let shape = HsicShape {
            buffers: i32::try_from(split.buffers).unwrap_or(i32::MAX),
            splits: checked_count(kernel, "splits", split.splits, MOST_SPLITS)?,
            ..shape
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", partials, split.partials)?;
        check.writes("exponents_x", exponents_x, split.exponents)?;
        check.writes("exponents_y", exponents_y, exponents_y_length(panels, split.splits))?;
        panels.check(&mut check)?;
        let y = if panels.symmetric { &panels.x } else { &panels.y };
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials).arg(exponents_x).arg(exponents_y).arg(&panels.x).arg(y).arg(&shape);
        // SAFETY: block (tile, split) reads a strip of rows of x [layers_x, length] and one of y [layers_y, length] and
        // writes its tile of its split's set of partial sums and exponents, whose total lengths are the plan's. All have
        // been checked; shared memory holds `buffers` slabs, as the plan made it.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    /// Adds up what [`Launcher::hsic_mma`] left in so many parts and adds it to the sums of pairs, in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn hsic_accumulate(
        &self,
        pairs: &mut PairSums<'_>,
        partials: &CudaView<'_, f32>,
        exponents_x: &CudaView<'_, i32>,
        exponents_y: &CudaView<'_, i32>,
        panels: &Panels<'_>,
        splits: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().hsic.accumulate;
        let parts = checked_count(kernel, "splits", splits, MOST_SPLITS)?;
        let shape = HsicShape { splits: parts, ..panels.shape(kernel)? };
        let lengths = plan::hsic_lengths(panels.layers_x, panels.layers_y, panels.symmetric, splits);
        let mut check = Arguments::new(kernel.name, self.stream);
        check.reads("partials", partials, lengths.partials)?;
        check.reads("exponents_x", exponents_x, lengths.exponents)?;
        check.reads("exponents_y", exponents_y, exponents_y_length(panels, splits))?;
        let shape = pairs.check(kernel, &mut check, panels, shape)?;
        let exponents_y = if panels.symmetric { exponents_x } else { exponents_y };
        let geometry = plan::hsic_accumulate(panels.layers_x, panels.layers_y, panels.symmetric);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut pairs.sums).arg(partials).arg(exponents_x).arg(exponents_y);
        arguments.arg(&pairs.weights_x).arg(&pairs.weights_y).arg(&shape);
        // SAFETY: a block a tile of pairs reads that tile of each of `splits` sets of partial sums and exponents, whose
        // total lengths follow from the panels' shapes and that number, a weight a row, and reads and writes
        // sums[i * stride + j] for its pairs. All have been checked.
        unsafe { enqueue(kernel, geometry, arguments) }
    }

    /// How much memory [`Launcher::hsic_mma`] needs.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn hsic_lengths(&self, panels: &Panels<'_>) -> Result<ProductLengths, Error> {
        let kernel = &self.device.kernels().hsic.mma;
        panels.shape(kernel)?;
        let split = self.hsic_split(kernel, panels)?;
        let exponents_y = exponents_y_length(panels, split.splits);
        Ok(ProductLengths { partials: split.partials, exponents_x: split.exponents, exponents_y })
    }

    fn hsic_split(&self, kernel: &Kernel, panels: &Panels<'_>) -> Result<Split, Error> {
        let shared = self.device.properties().shared_bytes;
        let split =
            plan::hsic_mma(panels.layers_x, panels.layers_y, panels.length, panels.symmetric, self.device.plan());
        let split = split.ok_or_else(|| wrong(kernel.name, "shared memory a block", shared, "more"))?;
        let Some(splits) = panels.splits else { return Ok(split) };
        // A part without a slab would leave its sums unwritten.
        checked_count(kernel, "splits", splits, MOST_SPLITS.min(panels.length.div_ceil(plan::SLAB)))?;
        Ok(split.in_parts(splits))
    }
}

/// How many exponents of y so many sets hold: none where y is x.
fn exponents_y_length(panels: &Panels<'_>, splits: usize) -> usize {
    if panels.symmetric { 0 } else { splits * plan::strips(panels.layers_y) * plan::STRIP }
}
