//! Into how many parts the features of layers, and the entries of panels, are split, and the launches that leave a part's sums behind.

use super::{
    DOUBLE_TILE, Device, ENTRY_THREADS, FUSED_ROWS, Geometry, SLAB, SLAB_THREADS, STRIP, TILE, WARP, constant, strips,
    triangle,
};

const ROW_BYTES: usize = constant("ROW_BYTES");
const FLUSH_SLABS: usize = constant("FLUSH_SLABS");
const FUSED_MIN_BUFFERS: usize = constant("FUSED_MIN_BUFFERS");
const TILED_MIN_BUFFERS: usize = constant("TILED_MIN_BUFFERS");
const MAX_BUFFERS: usize = constant("MAX_BUFFERS");
/// Slabs that a split of `gs_gram_fused_*` has at least: partial sums cost 139 KB a split whatever its length, written and
/// read again (benches/NOTES.md).
const FUSED_MIN_SLABS: usize = 2;
const DOUBLE_SLAB: usize = constant("DOUBLE_SLAB");

/// Lengths of buffers of partial sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialLengths {
    /// Values of the buffer of partial sums.
    pub partials: usize,
    /// Values of the buffer of exponents a side.
    pub exponents: usize,
}

/// What the partial sums of a Gram matrix of so many examples take in `splits` parts: what every Gram kernel writes and
/// `gs_ucenter_reduce_*` reads.
pub fn gram_lengths(examples: usize, splits: usize) -> PartialLengths {
    let strips = strips(examples);
    PartialLengths { partials: splits * triangle(strips) * STRIP * STRIP, exponents: splits * strips * STRIP }
}

/// What the partial sums of the products of two panels take in `splits` parts, with the exponents of `x`: what `gs_hsic_mma_f32`
/// writes and `gs_hsic_accumulate` reads.
pub fn hsic_lengths(layers_x: usize, layers_y: usize, symmetric: bool, splits: usize) -> PartialLengths {
    let (down, across) = (strips(layers_x), strips(layers_y));
    let tiles = if symmetric { triangle(down) } else { down * across };
    PartialLengths { partials: splits * tiles * STRIP * STRIP, exponents: splits * down * STRIP }
}

/// A launch that leaves partial sums behind: one set a split of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// The launch.
    pub geometry: Geometry,
    /// Parts that the features are split into.
    pub splits: usize,
    /// Slab buffers that a block holds in shared memory: the field `buffers` of the shape. 0 where the kernel has no ring.
    pub buffers: usize,
    /// Values of the buffer of partial sums (float32 or float64, as the entry says).
    pub partials: usize,
    /// Values of the buffer of exponents (int32) a side, and of that of reaches (float32); 0 where the partial sums are
    /// float64.
    pub exponents: usize,
}

impl Split {
    /// The same in `splits` parts: what a pair of rows comes to depends on the rows and on that number alone, to the bit.
    #[must_use]
    pub fn in_parts(self, splits: usize) -> Self {
        let Self { geometry, splits: before, buffers, partials, exponents } = self;
        let [x, _, z] = geometry.grid;
        let grid = [x, u32::try_from(splits).unwrap_or(u32::MAX), z];
        let geometry = Geometry { grid, ..geometry };
        Self { geometry, splits, buffers, partials: partials / before * splits, exponents: exponents / before * splits }
    }
}

/// A launch that leaves partial sums of several layers behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayersSplit {
    /// The launch.
    pub geometry: Geometry,
    /// Parts that each layer's features are split into.
    pub splits: Vec<usize>,
    /// As [`Split::buffers`].
    pub buffers: usize,
    /// Values of the buffer of partial sums, of all layers.
    pub partials: usize,
    /// As [`Split::exponents`], of all layers.
    pub exponents: usize,
}

impl LayersSplit {
    /// Layers with so many `features` each, which share `device` with others up to `sharing` features, each split as `one` splits
    /// it alone on its share: what becomes of a layer does not depend on which of the others are in the same launch. None where
    /// there are no layers, or `one` has nothing for one.
    pub fn new(
        features: &[usize],
        sharing: usize,
        device: Device,
        one: impl Fn(usize, Device) -> Option<Split>,
    ) -> Option<Self> {
        let alone = |&features: &usize| one(features, device.share(features, sharing));
        let layers = features.iter().map(alone).collect::<Option<Vec<Split>>>()?;
        let (first, sum) = (*layers.first()?, |value: fn(&Split) -> usize| layers.iter().map(value).sum());
        let splits = sum(|split| split.splits);
        Some(Self {
            geometry: first.in_parts(splits).geometry,
            splits: layers.iter().map(|split| split.splits).collect(),
            buffers: first.buffers,
            partials: sum(|split| split.partials),
            exponents: sum(|split| split.exponents),
        })
    }
}

/// `gs_gram_fused_*`; none where there are more than [`FUSED_ROWS`] examples or the device lacks the shared memory.
pub fn gram_fused(examples: usize, features: usize, device: Device) -> Option<Split> {
    let rows = strips(examples) * STRIP;
    // Column statistics of two slabs (a sum, a minimum and a maximum a warp and column).
    let statistics = 2 * (SLAB_THREADS / WARP) * 3 * SLAB * size_of::<f32>();
    let shared = |buffers: usize| buffers * rows * ROW_BYTES + statistics + exponent_bytes(rows) + reach_bytes(rows);
    let buffers = (FUSED_MIN_BUFFERS..=MAX_BUFFERS).rev().find(|&buffers| shared(buffers) <= device.shared_bytes)?;
    let busy = device.multiprocessors.min(features.div_ceil(FUSED_MIN_SLABS * SLAB));
    let splits = busy.max(fewest_splits(features.div_ceil(SLAB)));
    let PartialLengths { partials, exponents } = gram_lengths(examples, splits);
    (examples <= FUSED_ROWS).then(|| Split {
        geometry: Geometry::new([1, splits, 1], SLAB_THREADS, shared(buffers)),
        splits,
        buffers,
        partials,
        exponents,
    })
}

/// Rows that a buffer of `gs_gram_tiled_*` holds beside those of examples: shifts and largest values.
const TILED_EXTRA_ROWS: usize = 2;

/// `gs_gram_tiled_*`; none where the device lacks the shared memory.
pub fn gram_tiled(examples: usize, features: usize, device: Device) -> Option<Split> {
    let tiles = triangle(examples.div_ceil(TILE));
    let (splits, buffers, geometry) = tiled(tiles, features, TILED_EXTRA_ROWS, device)?;
    let PartialLengths { partials, exponents } = gram_lengths(examples, splits);
    Some(Split { geometry, splits, buffers, partials, exponents })
}

/// `gs_hsic_mma_f32`: rows of a panel `[layers_x, length]` with those of another or, `symmetric`, of the same. `exponents`
/// holds for `x`; for `y` it is in proportion to its layers.
pub fn hsic_mma(layers_x: usize, layers_y: usize, length: usize, symmetric: bool, device: Device) -> Option<Split> {
    let (x, y) = (layers_x.div_ceil(TILE), layers_y.div_ceil(TILE));
    let tiles = if symmetric { triangle(x) } else { x * y };
    let (splits, buffers, geometry) = tiled(tiles, length, 0, device)?;
    let PartialLengths { partials, exponents } = hsic_lengths(layers_x, layers_y, symmetric, splits);
    Some(Split { geometry, splits, buffers, partials, exponents })
}

/// `gs_gram_double_*` and `gs_gram_distances_*`.
pub fn gram_double(examples: usize, features: usize, device: Device) -> Split {
    let tiles = triangle(examples.div_ceil(DOUBLE_TILE));
    // Twice as many blocks as multiprocessors, where there are features enough: two are resident at once.
    let wanted = device.multiprocessors.saturating_mul(2).div_ceil(tiles);
    let splits = wanted.min(features.div_ceil(DOUBLE_SLAB)).max(1);
    let shared = 2 * DOUBLE_TILE * (DOUBLE_SLAB + 1) * size_of::<f64>();
    Split {
        geometry: Geometry::new([tiles, splits, 1], ENTRY_THREADS, shared),
        splits,
        buffers: 0,
        partials: gram_lengths(examples, splits).partials,
        exponents: 0,
    }
}

/// What leaving a block's partial sums behind costs, in slabs: 64 KiB at a multiprocessor's share of the memory's rate, 2.6 us, where a slab takes
/// about one (counted, benches/NOTES.md).
const COST_OF_SUMS: usize = 3;

/// Times at most that the sums of a split leave the registers. They join those in global memory by float32 additions, which round
/// all one way at worst, as where columns are copies of each other: the CKA of such layers is off by up to 2.8e-7 after two of them,
/// and by up to 3.5e-7 after 64 (emulated).
const MOST_FLUSHES: usize = 64;
/// Slabs of the longest split.
const LONGEST_SPLIT: usize = FLUSH_SLABS * MOST_FLUSHES;

/// Parts that so many slabs are split into at least, whatever the device: splits are added up in float64.
fn fewest_splits(slabs: usize) -> usize {
    slabs.div_ceil(LONGEST_SPLIT).max(1)
}

/// Parts at most, of all of them, that `layers` layers of up to `features` each and `columns` in all are split into by
/// [`gram_fused`] or [`gram_tiled`] where they share `device`.
pub fn most_splits(features: usize, layers: usize, columns: usize, device: Device) -> usize {
    // A multiprocessor is shared by nobody but by layers too small for one, which have a part each. A layer longer than a split is
    // in `fewest_splits`, which in waves may be rounded up to the next multiple of its share.
    let long = columns / (LONGEST_SPLIT * SLAB);
    (device.multiprocessors + layers - 1 + 2 * long).min(layers * features.div_ceil(SLAB))
}

/// Into how many parts the features of so many tiles are split, where a multiprocessor takes a block at a time: blocks run in waves,
/// and the last should not be nearly empty. The least number of those that take at most a twentieth longer than the best, of which
/// none makes a split too long.
fn splits_in_waves(tiles: usize, slabs: usize, multiprocessors: usize) -> usize {
    let cost = |splits: usize| (tiles * splits).div_ceil(multiprocessors) * (slabs.div_ceil(splits) + COST_OF_SUMS);
    let fewest = fewest_splits(slabs);
    let most = slabs.min(fewest.next_multiple_of(multiprocessors));
    let best = (fewest..=most).map(cost).min().unwrap_or(0);
    (fewest..=most).find(|&splits| 20 * cost(splits) <= 21 * best).unwrap_or(fewest)
}

/// Tiles of [`TILE`] a side, split over features so that multiprocessors are busy.
fn tiled(tiles: usize, features: usize, extra_rows: usize, device: Device) -> Option<(usize, usize, Geometry)> {
    let rows = 2 * TILE;
    let shared = |buffers: usize| buffers * (rows + extra_rows) * ROW_BYTES + exponent_bytes(rows);
    let buffers = (TILED_MIN_BUFFERS..=MAX_BUFFERS).rev().find(|&buffers| shared(buffers) <= device.shared_bytes)?;
    let splits = splits_in_waves(tiles, features.div_ceil(SLAB), device.multiprocessors);
    Some((splits, buffers, Geometry::new([tiles, splits, 1], SLAB_THREADS, shared(buffers))))
}

/// Shared memory a block of the GPUs of compute capability 8.0 or more that have least of it: GeForce and their like.
const LEAST_SHARED_BYTES: usize = 99 << 10;

const _: () = assert!(
    TILED_MIN_BUFFERS * (2 * TILE + TILED_EXTRA_ROWS) * ROW_BYTES + exponent_bytes(2 * TILE) <= LEAST_SHARED_BYTES,
    "layers cannot be compared on every GPU that is supported"
);

/// Exponents of three slabs and of a flush; the slab of the last change, twice.
const fn exponent_bytes(rows: usize) -> usize {
    4 * rows * size_of::<i16>() + 2 * size_of::<i32>()
}

/// What a row's products could have come to, and what of that has been counted.
const fn reach_bytes(rows: usize) -> usize {
    2 * rows * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{LAYERS_TOGETHER, entries, gram_naive, gram_shift, ucenter_reduce, ucenter_rows};

    /// Slabs that the busiest of 132 multiprocessors works through, one block after the other.
    fn busiest(tiles: usize, slabs: usize, splits: usize) -> usize {
        (tiles * splits).div_ceil(132) * slabs.div_ceil(splits)
    }

    /// Blocks of panels of 60 to 6,000 layers at 256 examples, and of Gram matrices of 500 to 2,000 examples: the busiest
    /// multiprocessor has little more than its share, and never more than with about one block each.
    #[test]
    fn no_multiprocessor_has_much_more_than_its_share() {
        for (tiles, slabs) in
            [(1, 1020), (10, 1020), (15, 1020), (78, 1020), (1128, 1020), (10, 512), (36, 512), (136, 512)]
        {
            let splits = splits_in_waves(tiles, slabs, 132);
            let (found, share) = (busiest(tiles, slabs, splits), (tiles * slabs).div_ceil(132));
            assert!(
                found <= busiest(tiles, slabs, 132_usize.div_ceil(tiles)),
                "{tiles} tiles, {splits} splits: {found}"
            );
            assert!(10 * found <= 13 * share, "{tiles} tiles in {splits} parts: {found} slabs where {share} would do");
        }
    }

    /// Grids that a device takes, lengths without an overflow, offsets that kernels can hold: at the most features there are, and
    /// at more examples than launchers take.
    #[test]
    fn the_largest_shapes_fit() {
        const FEATURES: usize = 1 << 31;
        let h100 = Device { multiprocessors: 132, shared_bytes: 227 << 10 };
        let a100 = Device { multiprocessors: 108, shared_bytes: 163 << 10 };
        let fits = |Geometry { grid: [x, y, z], .. }: Geometry| {
            assert!(x < 1 << 31 && y <= 65_535 && z <= 65_535, "a grid of {x} x {y} x {z}");
        };
        for (device, examples) in [(h100, 16_384), (a100, 16_384), (h100, 32_768), (h100, 256)] {
            let fused = gram_fused(examples, FEATURES, device);
            assert_eq!(fused.is_some(), examples <= FUSED_ROWS);
            let tiled = gram_tiled(examples, FEATURES, device).expect("shared memory enough");
            for split in fused.into_iter().chain([tiled, gram_double(examples, FEATURES, device)]) {
                fits(split.geometry);
                let (count, strips) = (split.splits as u128, examples.div_ceil(STRIP) as u128);
                // Rows of partial sums, up to the end of the last set.
                assert_eq!(split.partials as u128, count * (strips * (strips + 1) / 2) * (STRIP * STRIP) as u128);
                assert!(
                    (split.partials as u128) < 1 << 60 && split.exponents as u128 <= count * strips * STRIP as u128
                );
                // A kernel counts tiles, and slabs, in 31 bits.
                assert!(u128::from(split.geometry.grid[0]) < 1 << 31 && FEATURES.div_ceil(DOUBLE_SLAB) < 1 << 31);
            }
            let others = [
                gram_shift(FEATURES, LAYERS_TOGETHER),
                gram_naive(examples, LAYERS_TOGETHER),
                entries(examples),
                ucenter_reduce(examples, &[1; LAYERS_TOGETHER], true),
                ucenter_rows(examples, LAYERS_TOGETHER),
            ];
            others.into_iter().for_each(fits);
            // The last value of x, in 63 bits.
            assert!((examples as u128) * (FEATURES as u128) < 1 << 63);
        }
        for layers in [6_000, 1 << 20] {
            let split = hsic_mma(layers, layers, 16_384 * 16_383 / 2, true, h100).expect("shared memory enough");
            let strips = layers.div_ceil(STRIP) as u128;
            assert_eq!(split.partials as u128, split.splits as u128 * (strips * (strips + 1) / 2) * 256);
            fits(split.geometry);
        }
    }

    /// A chain of additions in float32 has an end, however many features there are: a split leaves the registers 64 times at most,
    /// after 64 slabs each.
    #[test]
    fn no_split_is_too_long() {
        const LONGEST: usize = 64 * 64;
        for multiprocessors in [1, 7, 108, 132] {
            let device = Device { multiprocessors, shared_bytes: 227 << 10 };
            for features in [1, LONGEST * SLAB, LONGEST * SLAB + 1, 3_000_000, LONGEST * SLAB * 132 + 1, 1 << 31] {
                let slabs = features.div_ceil(SLAB);
                for (examples, layers) in [(4, 1), (256, 60), (257, 500), (1_000, 6_000)] {
                    let hsic = hsic_mma(layers, layers, features, true, device);
                    for split in [gram_fused(examples, features, device), gram_tiled(examples, features, device), hsic]
                    {
                        let Some(Split { splits, .. }) = split else { continue };
                        let longest = slabs.div_ceil(splits);
                        assert!((1..=LONGEST).contains(&longest), "{features} features in {splits}: {longest} slabs");
                    }
                }
            }
        }
    }

    /// What memory is taken for beforehand is enough for whatever share of the device layers have.
    #[test]
    fn layers_have_no_more_parts_than_memory_is_counted_for() {
        const LONG: usize = LONGEST_SPLIT * SLAB;
        let groups: [&[usize]; 6] = [
            &[1],
            &[64; 20],
            &[16_384; 2],
            &[802_816],
            &[200_000; 5],
            &[LONG + 1, 3, 70, LONG * 3 + 1, 10_000, 64, 64, LONG],
        ];
        for multiprocessors in [1, 2, 4, 8, 16, 20, 28, 46, 132] {
            for features in groups {
                let (columns, largest) = (features.iter().sum(), features.iter().copied().max().unwrap_or(0));
                for sharing in [columns, columns + 1_000, 2 * columns, 20 * columns] {
                    for shared_bytes in [99 << 10, 227 << 10] {
                        let device = Device { multiprocessors, shared_bytes };
                        let most = most_splits(largest, features.len(), columns, device);
                        let fused = LayersSplit::new(features, sharing, device, |p, device| gram_fused(200, p, device));
                        let tiled = LayersSplit::new(features, sharing, device, |p, device| gram_tiled(200, p, device));
                        for split in [fused, tiled].into_iter().flatten() {
                            let found: usize = split.splits.iter().sum();
                            assert!(found <= most, "{features:?} of {sharing} on {device:?}: {found}, not {most}");
                        }
                    }
                }
            }
        }
    }

    /// What adding up is told of a split that the plan has not made follows from its shape.
    #[test]
    fn lengths_follow_from_the_shape() {
        let device = Device { multiprocessors: 132, shared_bytes: 227 << 10 };
        let split = gram_tiled(300, 5000, device).expect("shared memory enough");
        let lengths = gram_lengths(300, split.splits);
        assert_eq!((lengths.partials, lengths.exponents), (split.partials, split.exponents));
        let parts = hsic_mma(70, 30, 5000, false, device).expect("shared memory enough").in_parts(7);
        let lengths = hsic_lengths(70, 30, false, 7);
        assert_eq!((lengths.partials, lengths.exponents), (parts.partials, parts.exponents));
    }

    /// A layer is split by its share of the device, whoever of the others is in the launch; all of them together fill the device
    /// once, and hardly more.
    #[test]
    fn layers_share_the_multiprocessors() {
        let device = Device { multiprocessors: 132, shared_bytes: 227 << 10 };
        let split = |features: &[usize], sharing| {
            LayersSplit::new(features, sharing, device, |features, device| gram_fused(256, features, device))
                .expect("layers, and shared memory enough")
        };
        for (layers, features) in [(32, 16_384), (64, 8_192), (128, 4_096), (128, 10)] {
            let all = vec![features; layers];
            let together = split(&all, layers * features);
            let blocks: usize = together.splits.iter().sum();
            assert!(blocks <= 132 && (features < 64 || 10 * blocks >= 132 * 9), "{blocks} blocks of {layers} layers");
            let some = split(&all[..2], layers * features);
            assert_eq!(some.splits, together.splits[..2]);
            let parts = [&some, &together].map(|split| split.geometry.grid[1] as usize);
            assert_eq!(parts, [some.splits.iter().sum(), blocks]);
            let lengths = gram_lengths(256, blocks);
            assert_eq!((together.partials, together.exponents), (lengths.partials, lengths.exponents));
        }
        // Alone, a layer has all of it.
        assert_eq!(split(&[65_536], 65_536).splits, [132]);
        assert!(LayersSplit::new(&[], 1, device, |_, _| None).is_none());
    }

    #[test]
    fn there_are_no_empty_parts() {
        for (tiles, slabs) in [(1, 1), (1, 3), (7, 2), (500, 1)] {
            assert!((1..=slabs).contains(&splits_in_waves(tiles, slabs, 132)));
        }
    }
}
