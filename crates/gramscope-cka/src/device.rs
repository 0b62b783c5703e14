//! Rounds, rows and values as a GPU takes them.

use std::ops::Range;

use gramscope_cuda::{Block, HostValues, RowSummary, Stretch};

use crate::activation::{Activation, Values};
use crate::rounds::{Rounds, RowPlace};
use crate::sums::Row;

/// Layers that pass by at a time where memory is short: what a block of the kernels multiplies at once.
pub(crate) const STRIP: usize = gramscope_cuda::plan::TILE;

/// The panel's row for a layer that this round wants: those that stay come first.
pub(crate) fn panel_row(rounds: &Rounds, model: usize, layer: usize) -> usize {
    match rounds.place(model, layer) {
        RowPlace::Held(row) => row,
        RowPlace::Passing(row) => rounds.held_rows() + row,
    }
}

fn stretch(rounds: &Rounds, model: usize, layers: Range<usize>) -> Stretch {
    Stretch { row: panel_row(rounds, model, layers.start), layers }
}

/// The layers of `model` that stay for the round, if any do.
fn held(rounds: &Rounds, model: usize) -> Option<Stretch> {
    let layers = rounds.held_of(model);
    (!layers.is_empty()).then(|| stretch(rounds, model, layers))
}

/// What can be multiplied once the row of this layer is there: the strip that passes by, if this completes it, with all that
/// stay.
pub(crate) fn blocks_with(rounds: &Rounds, model: usize, layer: usize) -> Vec<Block> {
    let Some(layers) = rounds.passing_up_to(model, layer) else { return Vec::new() };
    let passing = stretch(rounds, model, layers);
    let mut blocks = Vec::new();
    for (pair, (x, y)) in rounds.pairs() {
        // Those that stay come before those that pass by.
        if x == model
            && let Some(held) = held(rounds, y)
        {
            blocks.push(Block { pair, x: passing.clone(), y: held });
        }
        if y == model
            && x != y
            && let Some(held) = held(rounds, x)
        {
            blocks.push(Block { pair, x: held, y: passing.clone() });
        }
    }
    blocks
}

/// What is to be multiplied at the end of the round: all that stay, with each other.
pub(crate) fn blocks_held(rounds: &Rounds) -> Vec<Block> {
    let block = |(pair, (x, y))| Some(Block { pair, x: held(rounds, x)?, y: held(rounds, y)? });
    rounds.pairs().filter_map(block).collect()
}

/// The values of an activation that the kernels take: in memory, and not float64.
pub(crate) fn host_values(activation: Activation<'_>) -> Option<HostValues<'_>> {
    match activation.values()? {
        Values::F16(values) => Some(HostValues::F16(values)),
        Values::Bf16(values) => Some(HostValues::Bf16(values)),
        Values::F32(values) => Some(HostValues::F32(values)),
        Values::F64(_) => None,
    }
}

/// The most rows, of `total`, whose `bytes` are no more than `left`; two, or all of fewer, are known to fit.
pub(crate) fn most_rows(total: usize, left: u64, bytes: impl Fn(usize) -> u64) -> usize {
    let (mut fits, mut too_many) = (total.min(2), total + 1);
    while fits + 1 < too_many {
        let middle = fits.midpoint(too_many);
        if bytes(middle) <= left { fits = middle } else { too_many = middle }
    }
    fits
}

pub(crate) fn summary(row: Row) -> RowSummary {
    match row {
        Row::Centred { exponent, norm } => RowSummary { norm, kappa: 0.0, exponent, state: RowSummary::CENTRED },
        Row::Zero => RowSummary { state: RowSummary::ZERO, ..RowSummary::default() },
        Row::Undefined => RowSummary { state: RowSummary::UNDEFINED, ..RowSummary::default() },
    }
}
