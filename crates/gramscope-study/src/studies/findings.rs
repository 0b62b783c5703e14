//! What a study found, in words, computed from its numbers.

use gramscope_train::Run;

use super::measure::{Measured, Network};
use crate::ablate::AblateResult;
use crate::blocks::{self, Block, WithinMap};
use crate::family::members;
use crate::pair::PairResult;
use crate::pcs::PcsResult;
use crate::probe::ProbeResult;
use crate::statistics::mean;
use crate::{Result, predict, report};

/// What was found: of the family as a whole, then of each network.
pub(super) fn findings(runs: &[Run], measured: &Measured) -> Result<Vec<String>> {
    let mut found = report::findings(&members(runs)?, &measured.maps);
    for (run, network) in runs.iter().zip(&measured.networks) {
        found.extend(of_network(&run.name(), network, &measured.maps));
    }
    found.extend(measured.predictions.iter().flat_map(predict::sentences));
    Ok(found)
}

fn of_network(name: &str, network: &Network, maps: &[PairResult]) -> Vec<String> {
    let mut found = Vec::new();
    let block = network.blocks.as_ref().and_then(|blocks| blocks.found.largest());
    if let Some(components) = &network.components {
        found.extend(components_within(name, components, block));
        found.extend(without_first(name, components));
    }
    if let Some(probes) = &network.probes {
        let within = block.and_then(|block| probes_within(probes, block)).unwrap_or_default();
        found.push(format!("{name}: {}{within}", report::of_probes(probes)));
    }
    if let Some(ablations) = &network.ablations {
        let own = maps.iter().find(|map| map.info.model_x == name && map.info.model_y == name);
        let within = block.zip(own).and_then(|(block, map)| ablations_within(ablations, block, &map.info.layers_x));
        found.push(format!("{name}: {}{}", report::of_ablations(ablations), within.unwrap_or_default()));
    }
    if let Some(sparsity) = &network.sparsity {
        found.push(format!("{name}: {}.", sparsity.summary()));
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

/// How much the probes after additions gain from the first to the last inside the block, and before it.
fn probes_within(probes: &ProbeResult, block: &Block) -> Option<String> {
    let layers = probes.info.indices.iter().zip(&probes.layers).filter(|(_, layer)| layer.layer.ends_with(".add"));
    let after: Vec<(usize, f64)> = layers.filter_map(|(&place, layer)| Some((place, layer.accuracy_test?))).collect();
    let gain = |wanted: &dyn Fn(usize) -> bool| {
        let of: Vec<f64> = after.iter().filter(|(place, _)| wanted(*place)).map(|&(_, accuracy)| accuracy).collect();
        let steps = of.len().checked_sub(1).filter(|&steps| steps > 0)?;
        Some((100.0 * (of[steps] - of[0]), steps))
    };
    let (inside, steps) = gain(&|place| (block.first..=block.last).contains(&place))?;
    let before = gain(&|place| place < block.first)
        .map_or_else(String::new, |(before, steps)| format!("; before it, by {before:+.1} over {steps}"));
    Some(format!(
        " Inside its block ({} to {}) the accuracy of probes after additions changes by {inside:+.1} points over {steps} \
         residual blocks{before}.",
        block.first_name, block.last_name
    ))
}

/// What deleting a residual block alone costs inside the block, and outside.
fn ablations_within(ablations: &AblateResult, block: &Block, layers: &[String]) -> Option<String> {
    let baseline = ablations.baseline()?;
    let inside = |name: &str| {
        let end = layers.iter().position(|layer| layer.strip_suffix(".add") == Some(name));
        end.is_some_and(|end| (block.first..=block.last).contains(&end))
    };
    let cost = |wanted: bool| {
        let of = ablations.info.alone.iter().filter(|alone| inside(&alone.block) == wanted);
        let costs: Vec<f64> = of.map(|alone| 100.0 * (baseline - alone.accuracy)).collect();
        Some((mean(costs.iter().copied())?, costs.len()))
    };
    let (within, count) = cost(true)?;
    let outside = cost(false)
        .map_or_else(String::new, |(outside, count)| format!(", and one of the {count} outside costs {outside:.1}"));
    Some(format!(
        " Deleted alone, one of the {count} residual blocks that end inside its block ({} to {}) costs {within:.1} points on \
         average{outside}.",
        block.first_name, block.last_name
    ))
}
