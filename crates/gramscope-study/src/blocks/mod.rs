//! Block structure: large contiguous ranges of layers with nearly equal representations, found and measured in the CKA
//! map of one network (Nguyen, Raghu and Kornblith 2021: a bright square on the diagonal).
//!
//! # Which layers are looked at
//!
//! Let c_ij be the CKA of layers i and j. Undefined layers are left out, so that they neither break a block nor count
//! in it. So are, at first, *skipped* layers: i is skipped where there are p < i < q, at most [`SKIP_REACH`] layers
//! apart and p not skipped itself, with
//!
//! ```text
//! c_pq - max(c_pi, c_iq) > SKIP_DROP
//! ```
//!
//! that is, where the representations before and after i are more alike than either is like i. That is what a residual
//! connection does to the layers of its branch, and what draws the checkerboard; no name has to be known for it. Where
//! similarity falls with distance, however fast and however unevenly, c_pq is the smallest of the three and no layer is
//! skipped. That p is not skipped itself decides which of two kinds of layers it is that alternate, where both are
//! alike among themselves: those that come first stay. What is left is the *core*, and "layer" below means one of it.
//!
//! # What a block is
//!
//! For a range of m layers and a distance d, let in_d be the mean of c over its m - d pairs at that distance, and out_d
//! the mean over the up to d pairs at that distance of which one is in the range and the other beside it, to its left
//! or to its right. With w_d = 1 / (1 / pairs of in_d + 1 / pairs of out_d),
//!
//! ```text
//! inside   = sum w_d in_d  / sum w_d        margin   = inside - outside
//! outside  = sum w_d out_d / sum w_d        contrast = (inside - outside) / (1 - outside)
//! ```
//!
//! and of the two sides the worse counts; a side without a layer (the range begins or ends the network) does not. A
//! range is a block if
//!
//! 1. it has at least [`LEAST_LAYERS`] layers of the core and spans [`LEAST_SHARE`] of the network;
//! 2. the mean CKA of all of its pairs, and of those at least half its length apart, is at least [`NEARLY_EQUAL`];
//! 3. its contrast is at least [`LEAST_CONTRAST`] and its margin at least [`LEAST_MARGIN`];
//! 4. no range that overlaps it has a larger product of share and contrast (blocks are taken in the order of that
//!    product).
//!
//! At last, layers beside it join it, first to the left and then to the right: skipped ones while their mean CKA with
//! its core is above the middle between inside and outside, for near the edge of a block noise can make a layer look
//! skipped; and, where the block is a checkerboard whose dark lines are at least [`LEAST_MARGIN`] above outside, up to
//! a branch's length of layers above the middle between its dark lines and outside, for the dark lines at its edge have
//! nothing behind them that could show them to be skipped.
//!
//! # Why so
//!
//! - *Equal distances are compared with equal distances*, because in any network neighbouring layers are alike. A map
//!   that decays smoothly, c_ij = f(|i - j|), has in_d = out_d: whatever its decay, its margin is exactly 0. The
//!   weights make the difference as little sensitive to noise as weights can (the inverse of its variance for
//!   independent entries).
//! - *Pairs that lie far apart must be alike* (2), for the same reason: those near the diagonal are alike everywhere.
//! - *Contrast is relative* (3): 1 - CKA, what parts two layers, must halve. Where a map decays smoothly but at two
//!   rates, this means that layers change at least three times faster outside than inside. The least margin keeps it
//!   from being satisfied by differences that nobody would see on a scale from 0 to 1.
//! - *The worse side counts*, because a square has two edges in the network, and half of a smooth band has one.
//! - *Share times contrast* (4) prefers the whole of a block to its parts: one layer too few or too many costs about
//!   3/m of the contrast, and a layer is worth 1/m of the share.
//! - A range that is the whole network has nothing beside it. It is a block only if the pairs half the network apart
//!   reach [`ALL_EQUAL`]: then no doubt is left that all layers are nearly equal, and outside is 0, the CKA of
//!   unrelated representations. So a constant map of 1 is one block, and the score goes on growing with the size of a
//!   block up to the whole; a constant map of 0.9, or one that decays a little, has nothing that stands out, and no
//!   block.
//!
//! What remains to chance: of maps of independent random numbers between 0 and 1, which no CKA map is, about one in 150
//! has a "block", because skipping selects bright pairs.
//!
//! # The score of a map
//!
//! The sum over its blocks of share times contrast: from 0, no block, to 1, all layers equal. It grows with the size of
//! a block, with the CKA inside it and with what it stands above its surroundings.
//!
//! All ranges are tried. An integral image rejects most of them at once, and sums along the diagonals give the rest in
//! time proportional to m. The result does not depend on the number of threads.

mod file;
mod map;
mod search;
mod skips;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use file::{BLOCKS, BLOCKS_PICTURE, BlocksInfo, Parameters, Source, measure, write};
pub use map::{Origin, WithinMap};

use crate::pair::PairResult;

/// A layer is skipped only by layers at most this far apart: a bottleneck block has nine layers between two additions.
pub const SKIP_REACH: usize = 10;
/// CKA by which the layers around a skipped one are more alike than they are like it: clearly more than noise.
pub const SKIP_DROP: f64 = 0.1;
/// A block has at least this many layers of the core, as three residual blocks have: of fewer, some are alike by chance
/// in any map, the more so as skipped ones are left out.
pub const LEAST_LAYERS: usize = 6;
/// A block spans at least this share of the network.
pub const LEAST_SHARE: f64 = 0.1;
/// Mean CKA from which layers are nearly equal.
pub const NEARLY_EQUAL: f64 = 0.8;
/// Mean CKA from which this may be said of a whole network.
pub const ALL_EQUAL: f64 = 0.95;
/// What parts two layers is at least halved inside.
pub const LEAST_CONTRAST: f64 = 0.5;
/// Difference of CKA that is seen on a scale from 0 to 1.
pub const LEAST_MARGIN: f64 = 0.05;

/// A large contiguous range of layers with nearly equal representations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Index of its first layer, from 0.
    pub first: usize,
    /// Index of its last layer.
    pub last: usize,
    /// Name of its first layer.
    pub first_name: String,
    /// Name of its last layer.
    pub last_name: String,
    /// Its layers, undefined ones left out.
    pub layers: usize,
    /// Mean CKA over the pairs of different layers of the block, skipped ones included.
    pub mean_cka: f64,
    /// What its core has above the pairs of equal distance across its edge, on the worse side.
    pub margin: f64,
    /// The share of what parts two layers across its edge that is gone inside, on the worse side.
    pub contrast: f64,
    /// Its share of the network's layers, undefined ones left out of both.
    pub share: f64,
}

/// The blocks of a map.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Blocks {
    /// Share times contrast, summed over the blocks: 0 to 1.
    pub score: f64,
    /// From the first layer to the last.
    pub blocks: Vec<Block>,
}

impl Blocks {
    /// The share of the network's layers that lies in a block.
    pub fn share(&self) -> f64 {
        self.blocks.iter().fold(0.0, |sum, block| sum + block.share)
    }

    /// The block with the most layers, the first of them where there are several.
    pub fn largest(&self) -> Option<&Block> {
        self.blocks.iter().rev().max_by_key(|block| block.layers)
    }
}

/// The blocks of a result; `None` for one that is no map of one network, or too small for a block.
pub fn of(result: &PairResult) -> Option<Blocks> {
    WithinMap::of(result).ok().map(|map| find(&map))
}

/// Finds the blocks of a map, by the definition of this module.
pub fn find(map: &WithinMap) -> Blocks {
    let defined = map.defined();
    let square = map.square(&defined);
    let core = skips::core(&square);
    let mut ranges = search::ranges(&square.select(&core), &core, defined.len());
    ranges.sort_by_key(|range| range.first);
    let mut free = 0;
    let blocks: Vec<_> = (0..ranges.len())
        .map(|number| {
            let range = &ranges[number];
            let next = ranges.get(number + 1).map_or(defined.len(), |next| core[next.first]);
            let (first, last) = skips::extend(&square, &core, range, free..next);
            free = last + 1;
            let (first_layer, last_layer) = (defined[first], defined[last]);
            Block {
                first: first_layer,
                last: last_layer,
                first_name: map.layers()[first_layer].clone(),
                last_name: map.layers()[last_layer].clone(),
                layers: last + 1 - first,
                mean_cka: square.mean_of_pairs(first, last),
                margin: range.margin(),
                contrast: range.contrast(),
                share: (last + 1 - first) as f64 / defined.len() as f64,
            }
        })
        .collect();
    let score = blocks.iter().fold(0.0, |sum, block| sum + block.share * block.contrast);
    Blocks { score: score.min(1.0), blocks }
}
