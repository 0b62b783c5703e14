//! What a study found, in words, computed from its numbers.

use gramscope_train::Run;

use super::measure::{Measured, Network};
use crate::blocks::{self, Block, WithinMap};
use crate::family::members;
use crate::pcs::PcsResult;
use crate::{Result, report};

/// What was found: of the family as a whole, then of each network.
pub(super) fn findings(runs: &[Run], measured: &Measured) -> Result<Vec<String>> {
    let mut found = report::findings(&members(runs)?, &measured.maps);
    for (run, network) in runs.iter().zip(&measured.networks) {
        found.extend(of_network(&run.name(), network));
    }
    Ok(found)
}

fn of_network(name: &str, network: &Network) -> Vec<String> {
    let mut found = Vec::new();
    let block = network.blocks.as_ref().and_then(|blocks| blocks.found.largest());
    if let Some(components) = &network.components {
        found.extend(components_within(name, components, block));
        found.extend(without_first(name, components));
    }
    found
}

/// What the first components explain, inside the block and outside.
fn components_within(name: &str, components: &PcsResult, block: Option<&Block>) -> Option<String> {
    let found = &components.similarity;
    let layers = found.layers;
    let inside = |layer: usize| block.is_some_and(|block| (block.first..=block.last).contains(&layer));
    let explained =
        |wanted: bool| mean((0..layers).filter(|&l| inside(l) == wanted).map(|l| found.variance_explained[l]));
    let shared = |wanted: bool| {
        let of = |l: usize| inside(l) == wanted;
        let pairs = (0..layers).flat_map(|x| (x + 1..layers).map(move |y| (x, y))).filter(|&(x, y)| of(x) && of(y));
        mean(pairs.map(|(x, y)| found.cosine_sq[x * layers + y]))
    };
    let outside = explained(false)?;
    let Some(block) = block else {
        return Some(format!(
            "{name}: no block; a first component explains {:.0}% of a layer's variance on average, and two layers' have a \
             squared cosine of {:.2}.",
            100.0 * outside,
            shared(false)?
        ));
    };
    Some(format!(
        "{name}: inside its block ({} to {}) a first component explains {:.0}% of a layer's variance on average and two \
         layers' have a squared cosine of {:.2}; outside, {:.0}% and {:.2}.",
        block.first_name,
        block.last_name,
        100.0 * explained(true)?,
        shared(true)?,
        100.0 * outside,
        shared(false)?
    ))
}

/// Block structure with and without the first components, over the same images.
fn without_first(name: &str, components: &PcsResult) -> Option<String> {
    let score = |values: &[f64]| {
        let map =
            WithinMap::new(components.info.layers.clone(), components.info.stages.clone(), values.to_vec()).ok()?;
        Some(blocks::find(&map).score)
    };
    let (with, without) = (score(&components.similarity.cka)?, score(&components.similarity.cka_without_first)?);
    Some(format!("{name}: without first components its block score goes from {with:.2} to {without:.2}."))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.filter(|value| value.is_finite()).fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}
