//! Which layers a block is judged by: all but those that a residual connection skips.

use super::map::Square;
use super::search::Range;
use super::{LEAST_MARGIN, SKIP_DROP, SKIP_REACH};

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

/// The first and last layer of a range of the core, with what belongs to it of the layers beside it; `free` are the
/// layers that no other range has.
pub(super) fn extend(square: &Square, core: &[usize], range: &Range, free: std::ops::Range<usize>) -> (usize, usize) {
    let members = &core[range.first..=range.last];
    let (first, last) = (members[0], members[members.len() - 1]);
    let likeness =
        |layer: usize| members.iter().map(|&member| square.at(layer, member)).sum::<f64>() / members.len() as f64;
    let is_core = |layer: usize| core.binary_search(&layer).is_ok();
    let skipped: Vec<f64> = (first..last).filter(|&layer| !is_core(layer)).map(likeness).collect();
    // The longest run of skipped layers, as long as a branch, and how like the core they are.
    let branch = members.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
    let dark = skipped.iter().sum::<f64>() / skipped.len() as f64;
    let is_square = dark - range.outside >= LEAST_MARGIN;
    let belongs = |(steps, layer): &(usize, usize)| {
        let over = |level: f64| likeness(*layer) > (level + range.outside) / 2.0;
        (!is_core(*layer) && over(range.inside)) || (is_square && *steps < branch && over(dark))
    };
    let before = (free.start..first).rev().enumerate().take_while(belongs).count();
    let after = (last + 1..free.end).enumerate().take_while(belongs).count();
    (first - before, last + after)
}
