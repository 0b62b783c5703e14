//! What kernels are told by value, as they lay it out: a shape struct is an entry's last argument, the others are elements of
//! device buffers. The fields' meaning is documented where the kernels define them.

use crate::plan::LAYERS_TOGETHER;

/// layers.cuh's `LayerValues`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerValues {
    /// Addresses of the activations.
    pub x: [u64; LAYERS_TOGETHER],
    /// p of each layer.
    pub features: [i64; LAYERS_TOGETHER],
    /// Columns of the layers before it.
    pub first_column: [i64; LAYERS_TOGETHER],
}

impl LayerValues {
    /// Of layers at these addresses, with so many features.
    pub fn new(layers: &[(u64, i64)]) -> Self {
        let mut values = Self::default();
        let mut column = 0;
        for (index, &(x, features)) in layers.iter().enumerate() {
            (values.x[index], values.features[index], values.first_column[index]) = (x, features, column);
            column += features;
        }
        values
    }
}

impl Default for LayerValues {
    fn default() -> Self {
        let (x, features) = ([0; LAYERS_TOGETHER], [0; LAYERS_TOGETHER]);
        Self { x, features, first_column: features }
    }
}

/// layers.cuh's `LayerSplits`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSplits {
    /// Of each layer, how many parts those before it are split into; then of all.
    pub first: [i32; LAYERS_TOGETHER + 1],
    /// How many layers there are.
    pub layers: i32,
}

impl LayerSplits {
    /// Of layers that are split into so many parts each.
    pub fn new(splits: &[usize]) -> Self {
        let mut first = [0; LAYERS_TOGETHER + 1];
        let mut all = 0;
        for (index, &splits) in splits.iter().enumerate() {
            all += i32::try_from(splits).unwrap_or(i32::MAX);
            first[index + 1] = all;
        }
        Self { first, layers: i32::try_from(splits.len()).unwrap_or(i32::MAX) }
    }
}

/// gram.cu's `GramShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GramShape {
    /// n.
    pub examples: i32,
    /// Slab buffers of the ring: [`plan::Split::buffers`](crate::plan::Split).
    pub buffers: i32,
    /// 0, or the [`Better`](crate::plan::Better) that the launch's layers want.
    pub products: i32,
    /// 0.
    pub padding: i32,
}

/// ucenter.cu's `CentreShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CentreShape {
    /// The |K| / |U| above which `gs_ucenter_rows` asks for better products.
    pub largest_kappa: f64,
    /// The reach / |U| above which it does.
    pub largest_reach: f64,
    /// n.
    pub examples: i32,
    /// 1 for HKH and the diagonal, 0 for U-centring.
    pub biased: i32,
    /// 0, or the [`Better`](crate::plan::Better) that the launch's layers want.
    pub products: i32,
    /// 0, or the [`Better`](crate::plan::Better) that `gs_ucenter_rows` asks for.
    pub better: i32,
}

/// rbf.cu's `RbfShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RbfShape {
    /// t.
    pub bandwidth: f64,
    /// n.
    pub examples: i32,
    /// Which pass of the selection this is.
    pub pass: i32,
}

/// hsic.cu's `HsicShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HsicShape {
    /// 2 / (n (n - 3)), or 2 / (n - 1)^2 for the biased estimator.
    pub factor: f64,
    /// Values of a panel row.
    pub length: i64,
    /// Values from row to row of the sums.
    pub stride: i64,
    /// Rows of the first panel.
    pub layers_x: i32,
    /// Rows of the second.
    pub layers_y: i32,
    /// 1 where both panels are one: only pairs (i, j), j <= i.
    pub symmetric: i32,
    /// Slab buffers of the ring.
    pub buffers: i32,
    /// Splits of the partial sums.
    pub splits: i32,
    /// 0.
    pub padding: i32,
}

/// convolution.cu's `ConvolutionShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvolutionShape {
    /// Images of a batch.
    pub images: i32,
    /// Rows of an image of x.
    pub height: i32,
    /// Columns of an image of x.
    pub width: i32,
    /// Channels of x.
    pub from: i32,
    /// Rows of an image of y.
    pub out_height: i32,
    /// Columns of an image of y.
    pub out_width: i32,
    /// Channels of y.
    pub to: i32,
    /// Side of the kernel.
    pub kernel: i32,
    /// Pixels of x from one pixel of y to the next.
    pub stride: i32,
    /// Zeros on all four sides of an image of x.
    pub padding: i32,
    /// 1 where the input gradient is added to what dx holds, 0 where it replaces it.
    pub adds: i32,
    /// Parts of the pixels of y whose weight gradients are summed apart.
    pub groups: i32,
}

/// batch_norm.cu's `BatchNormShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchNormShape {
    /// 1 / rows.
    pub share: f64,
    /// Images times pixels.
    pub rows: i32,
    /// Channels.
    pub channels: i32,
    /// Columns of a block's tile.
    pub tile: i32,
    /// Parts that the rows are split into.
    pub splits: i32,
    /// 1 where a ReLU follows.
    pub relu: i32,
    /// 0.
    pub padding: i32,
}

/// elementwise.cu's `ElementwiseShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElementwiseShape {
    /// Values.
    pub length: i64,
}

/// pooling.cu's `PoolingShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolingShape {
    /// Images of a batch.
    pub images: i32,
    /// Rows of an image.
    pub height: i32,
    /// Columns of an image.
    pub width: i32,
    /// Channels.
    pub channels: i32,
}

/// loss.cu's `LossShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossShape {
    /// Images of a batch.
    pub images: i32,
    /// Classes.
    pub classes: i32,
}

/// sgd.cu's `SgdShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdShape {
    /// Parameters.
    pub length: i64,
    /// How many of them, the first ones, decay.
    pub decaying: i64,
    /// Share of the velocity that is kept.
    pub momentum: f32,
    /// Twice the weight decay.
    pub twice_decay: f32,
}

/// first_component.cu's `FirstComponentShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FirstComponentShape {
    /// Of the penalty.
    pub weight: f64,
    /// The fraction of the variance that costs nothing.
    pub threshold: f64,
    /// p.
    pub features: i64,
    /// n.
    pub examples: i32,
    /// 0.
    pub padding: i32,
}

/// probe.cu's `ProbeShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbeShape {
    /// n.
    pub examples: i32,
    /// p.
    pub features: i32,
    /// Classes.
    pub classes: i32,
    /// Parts of the features whose products are summed apart.
    pub splits: i32,
    /// Features of a part but the last.
    pub share: i32,
    /// Values from row to row of the gradient by the logits.
    pub row: i32,
    /// Learning rate.
    pub rate: f32,
    /// Share of the velocity that is kept.
    pub momentum: f32,
}

/// What a linear probe's batches so far came to; all zero before the first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbeRecord {
    /// Sum of the batches' mean cross-entropies.
    pub loss: f64,
    /// Examples that were classified correctly.
    pub correct: i64,
    /// How many batches; none is counted behind one whose loss was not finite.
    pub batches: u32,
    /// That batch, from 1; 0: there was none.
    pub diverged: u32,
}

/// augment.cu's `AugmentShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AugmentShape {
    /// The run's seed.
    pub seed: u64,
    /// Images of the data set.
    pub count: i64,
    /// Entries of the order.
    pub entries: i32,
    /// Images of a batch.
    pub batch: i32,
    /// Rows, and columns, of an image.
    pub side: i32,
    /// Reflected pixels on each side.
    pub padding: i32,
    /// 1 where images are flipped at random.
    pub flip: i32,
    /// Of the data set's images, those that are there.
    pub stored: i32,
}

/// mixing.cu's `SharesShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharesShape {
    /// The run's seed.
    pub seed: u64,
    /// Entries of the order.
    pub entries: i32,
    /// Images of a batch.
    pub batch: i32,
    /// Blocks whose branches are mixed.
    pub blocks: i32,
    /// 0.
    pub padding: i32,
}

/// mixing.cu's `MixingShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MixingShape {
    /// Images of a batch.
    pub images: i32,
    /// Values of an image.
    pub length: i32,
}

/// common/order.cuh's `BatchPlace`: where a batch begins in the order of an epoch's images.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchPlace {
    /// The entry of its first image.
    pub first: u32,
    /// The epoch, from 1.
    pub epoch: u32,
}

/// What one layer's Gram matrix came to in one batch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowSummary {
    /// Squared length of the panel row, in float64, before it was rounded.
    pub norm: f64,
    /// By how much centring has magnified relative errors.
    pub kappa: f64,
    /// The row times 2^exponent is the centred Gram matrix.
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

/// One layer's sums over the batches so far; all zero before the first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerSum {
    /// HSIC with itself, in the square of the unit.
    pub own: f64,
    /// Sums are held in 2^unit.
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

/// By which powers of two a layer's old sums and new products are to be multiplied.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// For what has been summed before.
    pub old: i32,
    /// For this batch.
    pub fresh: i32,
}

/// eigen.cu's `EigenShape`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EigenShape {
    /// The residual, relative to the first eigenvalue, at which the iteration stops.
    pub tolerance: f64,
    /// n.
    pub examples: i32,
    /// Gram matrices in the batch.
    pub layers: i32,
    /// The most iterations.
    pub iterations: i32,
    /// Leading pairs whose residuals are looked at: 1 or 2.
    pub pairs: i32,
}

/// rbf.cu's `Selection`: the middle values of the squared distances, as the bits of float64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The lower middle value.
    pub lower: u64,
    /// The upper one; the same where their number is odd.
    pub upper: u64,
    /// Used while they are being found.
    pub rank: u64,
}

/// What `gs_eigen_subspace` has found of one Gram matrix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EigenSummary {
    /// l_1.
    pub first: f64,
    /// l_2.
    pub second: f64,
    /// The trace of HKH: l_1 over it is the share of the variance.
    pub trace: f64,
    /// The largest |K' v - l v| of the pairs that had to settle.
    pub residual: f64,
    /// Steps taken.
    pub iterations: i32,
    /// 0.
    pub padding: i32,
}

/// What lets values cross to the device: they are plain numbers in C's layout, without padding.
#[cfg(feature = "cuda")]
mod crossing {
    use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

    use super::{
        AugmentShape, BatchNormShape, BatchPlace, CentreShape, ConvolutionShape, EigenShape, EigenSummary,
        ElementwiseShape, FirstComponentShape, GramShape, HsicShape, LayerSplits, LayerSum, LayerValues, LossShape,
        MixingShape, PoolingShape, ProbeRecord, ProbeShape, RbfShape, RowSummary, Selection, SgdShape, SharesShape,
        Weight,
    };

    /// The sizes are those of the fields together.
    macro_rules! crosses {
        ($($shape:ty: $bytes:literal),*) => {
            $(
                const _: () = assert!(size_of::<$shape>() == $bytes);
                // SAFETY: numbers in C's layout without padding, as the size shows.
                unsafe impl DeviceRepr for $shape {}
                // SAFETY: zeros are numbers.
                unsafe impl ValidAsZeroBits for $shape {}
            )*
        };
    }

    crosses!(
        LayerValues: 3072, LayerSplits: 520, GramShape: 16, CentreShape: 32, RbfShape: 16, HsicShape: 48, RowSummary: 24, LayerSum: 16, Weight: 8, EigenShape: 24, EigenSummary: 40, Selection: 24, ConvolutionShape: 48,
        BatchNormShape: 32, ElementwiseShape: 8, PoolingShape: 16, LossShape: 8, SgdShape: 24, AugmentShape: 40, BatchPlace: 8,
        SharesShape: 24, MixingShape: 8, FirstComponentShape: 32, ProbeShape: 32, ProbeRecord: 24
    );
}
