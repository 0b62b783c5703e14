//! Linear probes' kernels: how they are launched.

use super::{ENTRY_THREADS, Geometry, REDUCTION_BYTES, WARP, constant, each};

/// Features that a lane takes at once; where rows are whole runs of them, activations must be aligned to these.
pub const FEATURES: usize = constant("PROBE_FEATURES");

const EXAMPLES: usize = constant("PROBE_EXAMPLES");
const CLASSES: usize = constant("PROBE_CLASSES");
const WARPS: usize = ENTRY_THREADS / WARP;
/// Features of a tile.
const TILE: usize = WARP * FEATURES;
/// Features that a part has at least: adding the lanes up costs about as much as a tile of them.
const LEAST: usize = 4 * TILE;
/// Blocks that the products have at most where examples do not ask for more, about two a multiprocessor. The number depends on
/// the shape alone, so that sums do not depend on the device.
const BLOCKS: usize = 256;

/// How `gs_probe_*` are launched on a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `gs_probe_products_*`: a warp some examples, a block of them a part of the features.
    pub products: Geometry,
    /// `gs_probe_outcome`: a warp an example.
    pub outcome: Geometry,
    /// `gs_probe_update_*`: a block a tile of features, and one for the biases.
    pub update: Geometry,
    /// Parts of the features: the field `splits` of the shape.
    pub splits: usize,
    /// Features of a part but the last: the field `share`.
    pub share: usize,
    /// Values from row to row of the gradient by the logits: the field `row`.
    pub row: usize,
    /// Values of the buffer of partial sums (float32).
    pub partials: usize,
    /// Values of the buffer of the blocks' totals (float64).
    pub totals: usize,
}

/// For `[examples, features]` and so many classes.
pub fn probe(examples: usize, features: usize, classes: usize) -> Probe {
    let groups = examples.div_ceil(WARPS * EXAMPLES);
    let most = features.div_ceil(LEAST).min(BLOCKS / groups).max(1);
    let share = features.div_ceil(most).next_multiple_of(TILE);
    let splits = features.div_ceil(share);
    let blocks = examples.div_ceil(WARPS);
    let gradients = WARPS * CLASSES * TILE * size_of::<f32>();
    Probe {
        products: Geometry::new([groups, splits, 1], ENTRY_THREADS, 0),
        outcome: Geometry::new([blocks, 1, 1], ENTRY_THREADS, REDUCTION_BYTES),
        update: Geometry::new([features.div_ceil(TILE) + 1, 1, 1], ENTRY_THREADS, gradients),
        splits,
        share,
        row: classes.next_multiple_of(CLASSES),
        partials: splits * examples * classes,
        totals: 2 * blocks,
    }
}

/// The most that the field `partials` is for `[examples, features]` or fewer examples, which are split over more blocks.
pub fn most_partials(examples: usize, features: usize, classes: usize) -> usize {
    let of_all = features.div_ceil(LEAST).saturating_mul(examples);
    // A block takes so many examples at most, and there are so many blocks, unless examples alone ask for more.
    of_all.min(BLOCKS * WARPS * EXAMPLES).max(examples) * classes
}

/// `gs_probe_naive_products_*`: a thread a logit, whose sum is the only part.
pub fn naive_products(examples: usize, classes: usize) -> Geometry {
    each(examples * classes)
}

/// `gs_probe_naive_update_*`: a thread a weight or bias.
pub fn naive_update(features: usize, classes: usize) -> Geometry {
    each((features + 1) * classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_smaller_batch_has_more_partial_sums_than_are_counted() {
        for features in [1, 100, 5_000, 65_536, 802_816] {
            for most in [1, 7, 64, 128, 250, 1_031] {
                let counted = most_partials(most, features, 10);
                let needed = (1..=most).map(|examples| probe(examples, features, 10).partials).max();
                assert!(needed <= Some(counted), "{features} features, {most} examples: {needed:?} of {counted}");
                // No wild guess.
                assert!(needed >= Some(counted / 8), "{features} features, {most} examples: {needed:?} of {counted}");
            }
        }
    }
}
