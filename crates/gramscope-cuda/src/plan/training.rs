//! Training's kernels but the convolutions: how they are launched.

use super::{Device, ENTRY_THREADS, Geometry, REDUCTION_BYTES, Settled, WARP, constant};

/// Bytes that a thread loads at once where it can: a run of values.
pub const RUN_BYTES: usize = constant("RUN_BYTES");

const BATCH_NORM_ROWS: usize = constant("BATCH_NORM_ROWS");
const LOSS_THREADS: usize = constant("LOSS_THREADS");
const POOLING_THREADS: usize = constant("POOLING_THREADS");
/// Blocks that a pass of batch norm has where there are rows enough, about two a multiprocessor, before its threads take
/// more than [`BATCH_NORM_ROWS`] rows. The numbers depend on the shape alone, so that sums do not depend on the device.
const BATCH_NORM_FEW_BLOCKS: usize = 256;
/// Blocks that it has at most, between these two twice so many rows a thread: adding up a block costs as much as some rows.
const BATCH_NORM_BLOCKS: usize = 1024;

/// What, beside the epoch, decides where an image's crop lies and whether it is flipped, and how the branches of Shake-Shake
/// networks share. The default leaves images as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// The run's seed.
    pub seed: u64,
    /// Reflected pixels on each side of an image, fewer than its side; 0: no crop.
    pub padding: usize,
    /// Whether images are flipped at random.
    pub flip: bool,
}

/// A pass of batch norm over the rows of its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNorm {
    /// The launch.
    pub geometry: Geometry,
    /// Columns (runs of channels) of a block's tile: the field `tile` of the shape.
    pub tile: usize,
    /// Parts that the rows are split into: the field `splits`.
    pub splits: usize,
    /// Values of the buffer of partial sums (float64).
    pub partials: usize,
}

/// `gs_batch_norm_{moments,normalise,sums,input_gradient}_*` of values of `value_bytes`.
pub fn batch_norm(rows: usize, channels: usize, value_bytes: usize) -> BatchNorm {
    let run = run_of_channels(channels, value_bytes);
    let columns = channels / run;
    let tile = columns.next_power_of_two().min(WARP);
    let tiles = columns.div_ceil(tile);
    let together = ENTRY_THREADS / tile;
    let most = rows.div_ceil(together * BATCH_NORM_ROWS);
    let splits = most.min((most / 2).clamp(BATCH_NORM_FEW_BLOCKS / tiles, BATCH_NORM_BLOCKS / tiles)).max(1);
    // Two sums a channel of each thread.
    let shared = 2 * run * ENTRY_THREADS * size_of::<f64>();
    BatchNorm {
        geometry: Geometry::new([tiles, splits, 1], ENTRY_THREADS, shared),
        tile,
        splits,
        partials: 2 * channels * splits,
    }
}

/// Channels that a thread of batch norm holds at once.
pub fn run_of_channels(channels: usize, value_bytes: usize) -> usize {
    let run = RUN_BYTES / value_bytes;
    if channels.is_multiple_of(run) { run } else { 1 }
}

/// Values (float64) of the scratch of batch norm, whatever its activations are stored as.
pub fn batch_norm_scratch(rows: usize, channels: usize) -> usize {
    [size_of::<f32>(), size_of::<u16>()]
        .map(|bytes| batch_norm(rows, channels, bytes).partials)
        .into_iter()
        .max()
        .unwrap_or(0)
}

/// `gs_batch_norm_{statistics,gradients,naive}_*`: a block a channel.
pub fn batch_norm_channels(channels: usize) -> Geometry {
    Geometry::new([channels, 1, 1], ENTRY_THREADS, REDUCTION_BYTES)
}

/// `gs_elementwise_*`, `gs_mixing_{forward,backward}_*` and `gs_sgd_step`: a thread a run of values of `value_bytes`.
pub fn runs(length: usize, value_bytes: usize) -> Geometry {
    Geometry::new([length.div_ceil(RUN_BYTES / value_bytes * ENTRY_THREADS), 1, 1], ENTRY_THREADS, 0)
}

/// `gs_pooling_average_backward_*`, `gs_pooling_{max,squares}_*`, `gs_augment_crop_*` and `gs_mixing_shares`: a thread a value
/// (augment: a pixel; shares: a block and image).
pub fn values(count: usize) -> Geometry {
    Geometry::new([count.div_ceil(ENTRY_THREADS), 1, 1], ENTRY_THREADS, 0)
}

/// `gs_pooling_average_*`: a thread a result.
pub fn average_pool(images: usize, channels: usize) -> Geometry {
    Geometry::new([(images * channels).div_ceil(POOLING_THREADS), 1, 1], POOLING_THREADS, 0)
}

/// `gs_loss_softmax_cross_entropy`: one block; two sums a warp.
pub fn loss() -> Geometry {
    Geometry::new([1, 1, 1], LOSS_THREADS, 2 * (LOSS_THREADS / WARP) * size_of::<f64>())
}

/// What the Gram matrices of training are split for, so that their bits do not depend on the device: about as many
/// multiprocessors as a large one has, and shared memory that every one has.
pub const ANY_DEVICE: Device = Device { multiprocessors: 128, shared_bytes: 48 << 10 };

/// When the first components that training is penalised for are good enough.
///
/// The residual is what a rounding to float32 is. Where the first component explains the fraction f, l_1 + 8 l_9 <= tr K' =
/// l_1 / f, so that its error falls by l_9 / l_1 <= (1 - f) / (8 f) a step: by a half for f = 0.2, where it has settled within
/// 32 steps. Where 64 steps do not do, f is below 0.16, and the vector is a unit vector v all the same, with v^T K' v in the
/// place of l_1: what is computed from both is the gradient of v^T K' v / tr K', a lower bound of f that is nearly it.
pub const FIRST_COMPONENT: Settled = Settled { pairs: 1, residual: 1.0 / (1 << 24) as f64, steps: 64 };

/// `gs_first_component_gradient_*`: a block a warp of columns; two sums a thread.
pub fn first_component(features: usize) -> Geometry {
    Geometry::new([features.div_ceil(WARP), 1, 1], ENTRY_THREADS, 2 * ENTRY_THREADS * size_of::<f64>())
}

/// `gs_augment_advance`: one warp, of which one thread works.
pub fn advance() -> Geometry {
    Geometry::new([1; 3], WARP, 0)
}

/// Rows (or columns) that max pooling, of either kind, leaves of `length`.
pub fn max_pooled(length: usize) -> usize {
    length.div_ceil(2)
}
