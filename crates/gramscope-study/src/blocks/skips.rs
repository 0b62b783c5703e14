//! Which layers a block is judged by: all but those that a residual connection skips.

use super::map::Square;
use super::search::Range;
use super::{SKIP_DROP, SKIP_REACH};

/// The layers that are not skipped, in order.
pub(super) fn core(square: &Square) -> Vec<usize> {
    let mut core = Vec::new();
    for layer in 0..square.side() {
        if !is_skipped(square, &core, layer) {
            core.push(layer);
        }
    }
    core
}

/// Whether a layer is skipped from one of the `core` before it.
fn is_skipped(square: &Square, core: &[usize], layer: usize) -> bool {
    core.iter().rev().take_while(|&&before| layer < before + SKIP_REACH).any(|&before| {
        let reach = square.side().min(before + SKIP_REACH + 1);
        (layer + 1..reach).any(|after| {
            let through = square.at(before, layer).max(square.at(layer, after));
            square.at(before, after) - through > SKIP_DROP
        })
    })
}

/// The first and last layer of a range of the core, with the skipped layers beside it that are like it.
pub(super) fn extend(square: &Square, core: &[usize], range: &Range) -> (usize, usize) {
    let members = &core[range.first..=range.last];
    let middle = (range.inside + range.outside) / 2.0;
    let belongs = |layer: usize| {
        let sum: f64 = members.iter().map(|&member| square.at(layer, member)).sum();
        sum / members.len() as f64 > middle
    };
    let (first, last) = (members[0], members[members.len() - 1]);
    let begin = range.first.checked_sub(1).map_or(0, |before| core[before] + 1);
    let end = core.get(range.last + 1).copied().unwrap_or(square.side());
    let before = (begin..first).rev().take_while(|&layer| belongs(layer)).count();
    let after = (last + 1..end).take_while(|&layer| belongs(layer)).count();
    (first - before, last + after)
}
