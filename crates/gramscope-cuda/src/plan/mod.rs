//! Launch geometry: from a shape and a device to grids, blocks, shared memory and buffer lengths.
//!
//! The numbers come from kernels/common/constants.cuh, read when this crate is compiled; no other place repeats one.

pub mod convolution;
pub mod probe;
mod splits;
pub mod training;

pub use convolution::{Arithmetic, Convolution};
pub use splits::{
    LayersSplit, PartialLengths, Split, gram_double, gram_fused, gram_lengths, gram_tiled, hsic_lengths, hsic_mma,
    most_splits,
};
pub use training::Placing;

const SOURCE: &str = include_str!("../../../../kernels/common/constants.cuh");

/// A warp.
pub const WARP: usize = constant("WARP");
/// Threads of a block that works on slabs of features.
pub const SLAB_THREADS: usize = constant("SLAB_THREADS");
/// Features that go through shared memory together.
pub const SLAB: usize = constant("SLAB");
/// Slabs of a chain, by which a row's reach is counted.
pub const CHAIN_SLABS: usize = constant("CHAIN_SLABS");
/// Rows of a strip; partial sums lie in tiles of a strip times a strip.
pub const STRIP: usize = constant("STRIP");
/// The most examples that `gs_gram_fused_*` takes.
pub const FUSED_ROWS: usize = constant("FUSED_ROWS");
/// The most layers that a launch of `gs_gram_*` or `gs_ucenter_*` takes together.
pub const LAYERS_TOGETHER: usize = constant("LAYERS_TOGETHER");
/// Side of the tile of `gs_gram_tiled_*` and `gs_hsic_mma_*`.
pub const TILE: usize = constant("TILE");
/// Threads of the kernels with one thread a column.
pub const COLUMN_THREADS: usize = constant("COLUMN_THREADS");
/// Threads of the kernels with one thread an entry, or one warp a row.
pub const ENTRY_THREADS: usize = constant("ENTRY_THREADS");
/// Side of the tile of `gs_gram_double_*`.
pub const DOUBLE_TILE: usize = constant("DOUBLE_TILE");
/// Bins of the median's radix selection.
pub const RADIX_BINS: usize = constant("RADIX_BINS");
/// Vectors that `gs_eigen_subspace` iterates.
pub const EIGEN_VECTORS: usize = constant("EIGEN_VECTORS");

/// Batches below this size are computed in float64 by `exact`.
pub const DOUBLE_BELOW: usize = 32;

/// Products that a layer wants in the place of those that there are, as the kernels number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Error-compensated ones.
    Exact = constant("WANTS_EXACT") as isize,
    /// Float64.
    Double = constant("WANTS_DOUBLE") as isize,
}

impl Better {
    /// The number in a layer's flag.
    pub fn flag(self) -> i32 {
        self as i32
    }
}

/// What products are good for: [`CentreShape`](crate::shapes::CentreShape)'s bounds, above which they are redone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Of |K| / |U|, which magnifies the entries' relative error.
    pub kappa: f64,
    /// Of reach / |U|: where products cancel, their errors stay. Independent features have 23, the root of a chain.
    pub reach: f64,
}

/// Within these the products of `exact` are left; else float64 takes their place.
pub const EXACT: Bounds = Bounds { kappa: 32.0, reach: 40.0 };
/// Within these the products of `fast` are left; else those of `exact` take their place,
pub const FAST: Bounds = Bounds { kappa: 8.0, reach: 64.0 };
/// and are left within these.
pub const FAST_REDONE: Bounds = Bounds { kappa: 4096.0, reach: 4096.0 };

/// When eigenpairs are good enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settled {
    /// How many of the leading pairs are looked at: 1 or 2.
    pub pairs: usize,
    /// |K' v - l v| that they may have, as a share of l_1.
    pub residual: f64,
    /// Steps after which they are left as they are.
    pub steps: usize,
}

/// When a layer's first components are. Float64 products of 1,024 examples leave a residual of 1e-13. The second pair's error falls
/// as l_9 / l_2 a step; what has not settled then is left to the host.
pub const PRINCIPAL_COMPONENTS: Settled = Settled { pairs: 2, residual: 1e-12, steps: 320 };

/// Passes of the radix selection: eight bits of a float64 each.
pub const RADIX_PASSES: usize = 8;

/// Shared memory of a block that reduces: a number a warp, and a flag.
const REDUCTION_BYTES: usize = ENTRY_THREADS / WARP * size_of::<f64>() + 16;
const REDUCE_GROUPS: usize = constant("REDUCE_GROUPS");

/// What geometry depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// The most bytes of shared memory that a block may ask for.
    pub shared_bytes: usize,
}

impl Device {
    /// What falls to a layer of `features` where layers of `sharing` features, it included, share the device.
    #[must_use]
    pub fn share(self, features: usize, sharing: usize) -> Self {
        let multiprocessors = self.multiprocessors.saturating_mul(features) / sharing.max(features).max(1);
        Self { multiprocessors: multiprocessors.max(1), ..self }
    }
}

/// How to launch a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory a block.
    pub shared_bytes: usize,
}

impl Geometry {
    /// A grid beyond 2^32 becomes one that no device takes, so that the driver refuses it.
    fn new(grid: [usize; 3], threads: usize, shared_bytes: usize) -> Self {
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self { grid: grid.map(narrow), block: [narrow(threads), 1, 1], shared_bytes }
    }
}

/// Strips that `rows` rows make.
pub fn strips(rows: usize) -> usize {
    rows.div_ceil(STRIP)
}

/// Tiles of the lower triangle, diagonal included, of a square of `count` x `count` tiles.
pub fn triangle(count: usize) -> usize {
    count * (count + 1) / 2
}

/// `gs_gram_shift_*`: a thread a column of each of `layers` layers, of which none has more than `features`.
pub fn gram_shift(features: usize, layers: usize) -> Geometry {
    Geometry::new([features.div_ceil(COLUMN_THREADS), layers, 1], COLUMN_THREADS, 0)
}

/// `gs_gram_naive_*`: a thread an entry of each layer's [examples, examples].
pub fn gram_naive(examples: usize, layers: usize) -> Geometry {
    Geometry::new([(examples * examples).div_ceil(ENTRY_THREADS), layers, 1], ENTRY_THREADS, 0)
}

/// `gs_rbf_apply` and `gs_rbf_naive`: a thread an entry of [examples, examples].
pub fn entries(examples: usize) -> Geometry {
    each(examples * examples)
}

/// A thread for each of `count` things.
fn each(count: usize) -> Geometry {
    Geometry::new([count.div_ceil(ENTRY_THREADS), 1, 1], ENTRY_THREADS, 0)
}

/// How many layers over so many examples are taken together at most, of which the kernel is the RBF one or not: where one fills the
/// device for long, or takes many launches of its own, one.
pub fn most_together(examples: usize, rbf: bool) -> usize {
    if examples > FUSED_ROWS || rbf { 1 } else { LAYERS_TOGETHER }
}

/// `gs_hsic_accumulate`: a block a tile of a strip times a strip.
pub fn hsic_accumulate(layers_x: usize, layers_y: usize, symmetric: bool) -> Geometry {
    let tiles = if symmetric { triangle(strips(layers_x)) } else { strips(layers_x) * strips(layers_y) };
    Geometry::new([tiles, 1, 1], STRIP * STRIP, 0)
}

/// `gs_hsic_naive_f32`: a thread a pair of layers.
pub fn hsic_naive(layers_x: usize, layers_y: usize) -> Geometry {
    Geometry::new([(layers_x * layers_y).div_ceil(ENTRY_THREADS), 1, 1], ENTRY_THREADS, 0)
}

/// `gs_hsic_units`: a thread a layer.
pub fn hsic_units(layers: usize) -> Geometry {
    Geometry::new([layers.div_ceil(ENTRY_THREADS), 1, 1], ENTRY_THREADS, 0)
}

/// Layers that blocks of `gs_ucenter_reduce_*` look at side by side where few are expected to want anything.
const LAYERS_ASKED: usize = 4;

/// `gs_ucenter_reduce_*`, of layers in so many `splits` each: a block a tile of each layer's triangle, with threads for as many parts as
/// there are splits. `all`: the launch is for all of them; else a block asks several.
pub fn ucenter_reduce(examples: usize, splits: &[usize], all: bool) -> Geometry {
    let groups = splits.iter().copied().max().unwrap_or(1).clamp(1, REDUCE_GROUPS);
    let layers = if all { splits.len() } else { splits.len().min(LAYERS_ASKED) };
    let shared = REDUCE_GROUPS * (STRIP * STRIP + STRIP) * size_of::<f64>();
    Geometry::new([triangle(strips(examples)), layers, 1], groups * STRIP * STRIP, shared)
}

/// `gs_ucenter_rows` and `gs_ucenter_pack`: a warp a row of each layer.
pub fn ucenter_rows(examples: usize, layers: usize) -> Geometry {
    Geometry::new([examples.div_ceil(ENTRY_THREADS / WARP), layers, 1], ENTRY_THREADS, REDUCTION_BYTES)
}

/// `gs_ucenter_naive`: a block a layer.
pub fn ucenter_naive(layers: usize) -> Geometry {
    Geometry::new([layers, 1, 1], ENTRY_THREADS, REDUCTION_BYTES)
}

/// `gs_rbf_start`.
pub fn rbf_start() -> Geometry {
    Geometry::new([1, 1, 1], RADIX_BINS, 0)
}

/// `gs_rbf_select` (once a pass, [`RADIX_PASSES`] of them) and `gs_rbf_above`.
pub fn rbf_select(examples: usize, device: Device) -> Geometry {
    // Threads take several entries each, so that few blocks have counts to add up.
    let blocks = (examples * examples).div_ceil(ENTRY_THREADS).min(4 * device.multiprocessors);
    Geometry::new([blocks, 1, 1], ENTRY_THREADS, RADIX_BINS * size_of::<u32>() + 16)
}

/// `gs_eigen_subspace`: a block a Gram matrix.
pub fn eigen_subspace(layers: usize) -> Geometry {
    // A matrix of the subspace, its eigenvectors, and their order; two products a vector.
    let projected = EIGEN_VECTORS * ((2 * EIGEN_VECTORS + 2) * size_of::<f64>() + size_of::<i32>());
    Geometry::new([layers, 1, 1], ENTRY_THREADS, projected + REDUCTION_BYTES)
}

/// `gs_eigen_naive`: a block a Gram matrix.
pub fn eigen_naive(layers: usize) -> Geometry {
    Geometry::new([layers, 1, 1], ENTRY_THREADS, REDUCTION_BYTES)
}

/// `gs_eigen_deflate`: a thread an entry.
pub fn eigen_deflate(examples: usize, layers: usize) -> Geometry {
    Geometry::new([(examples * examples).div_ceil(ENTRY_THREADS), layers, 1], ENTRY_THREADS, REDUCTION_BYTES)
}

/// The value of `constexpr int NAME = DIGITS;` in constants.cuh; an error of compilation where there is none.
pub(crate) const fn constant(name: &str) -> usize {
    let (source, name, prefix) = (SOURCE.as_bytes(), name.as_bytes(), b"constexpr int ");
    let mut start = 0;
    while start + prefix.len() < source.len() {
        if starts_with(source, start, prefix)
            && starts_with(source, start + prefix.len(), name)
            && starts_with(source, start + prefix.len() + name.len(), b" = ")
        {
            return digits(source, start + prefix.len() + name.len() + 3);
        }
        start += 1;
    }
    panic!("no such constant in kernels/common/constants.cuh");
}

const fn starts_with(source: &[u8], at: usize, what: &[u8]) -> bool {
    let mut index = 0;
    while index < what.len() {
        if at + index >= source.len() || source[at + index] != what[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn digits(source: &[u8], mut at: usize) -> usize {
    let mut value = 0;
    while source[at].is_ascii_digit() {
        value = 10 * value + (source[at] - b'0') as usize;
        at += 1;
    }
    assert!(source[at] == b';', "a constant in kernels/common/constants.cuh is not a plain number");
    value
}
