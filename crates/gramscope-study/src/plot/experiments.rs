//! Curves of experiments on a network: accuracy of linear probes against depth (figure 4 of Nguyen, Raghu and Kornblith
//! 2021), accuracy without blocks against their number (figure 5).

use std::path::Path;

use super::canvas::Canvas;
use super::chart::{self, Panel, Series};
use super::colour::{self, Rgb};
use crate::ablate::AblateResult;
use crate::probe::{ProbeResult, ProbedLayer};
use crate::{Error, Result};

const SIZE: (usize, usize) = (860, 480);
/// Colour of what stands apart from the curves.
const ASIDE: Rgb = colour::QUALITATIVE[6];
/// Points that are few enough for a dot each.
const MOST_DOTS: usize = 60;

/// Draws the accuracies of `result` against the place of the layer in the network as a PNG at `path`, replacing what is
/// there: a curve of the layers right before an addition, one of those right after it (in a network without additions, of the
/// last two layers of a block), other layers as grey dots; solid for the test images, dashed for the training images. A probe
/// that diverged is a gap.
///
/// # Errors
/// [`Error::File`] where there is no layer, [`Error::Io`] where the file cannot be written.
pub fn probes(result: &ProbeResult, path: &Path) -> Result<()> {
    super::save(&draw_probes(result, path)?, path)
}

/// Draws the accuracies of `result` against the number of deleted blocks as a PNG at `path`, replacing what is there: a curve a
/// stage, the whole network dashed; in a panel of their own the blocks that were deleted alone.
///
/// # Errors
/// [`Error::File`] where there is no stage, [`Error::Io`] where the file cannot be written.
pub fn ablations(result: &AblateResult, path: &Path) -> Result<()> {
    super::save(&draw_ablations(result, path)?, path)
}

/// How a group of layers is drawn.
struct Group {
    /// The last component of the layers' names; every other one where there is none.
    part: Option<&'static str>,
    label: &'static str,
    colour: Rgb,
}

/// In a network with additions, and in one without.
fn groups(result: &ProbeResult) -> [Group; 3] {
    let [before, after] = [colour::QUALITATIVE[1], colour::QUALITATIVE[0]];
    let end = result.branch_end();
    let names = match (result.layers.iter().any(|layer| layer.part() == "add"), end) {
        (true, _) => [(end, "before the addition"), ("add", "after the addition")],
        (false, "bn3") => [(end, "batch norm at a block's end"), ("relu3", "ReLU after it")],
        (false, _) => [(end, "batch norm at a block's end"), ("relu2", "ReLU after it")],
    };
    let [(first, first_label), (second, second_label)] = names;
    [
        Group { part: None, label: "other layers", colour: ASIDE },
        Group { part: Some(first), label: first_label, colour: before },
        Group { part: Some(second), label: second_label, colour: after },
    ]
}

fn draw_probes(result: &ProbeResult, path: &Path) -> Result<Canvas> {
    let info = &result.info;
    if result.layers.is_empty() || info.indices.len() != result.layers.len() {
        return Err(Error::file(path, "no curve can be drawn, because there is no probe"));
    }
    let groups = groups(result);
    let known: Vec<&str> = groups.iter().filter_map(|group| group.part).collect();
    let values = |layer: &ProbedLayer| [layer.accuracy_train, layer.accuracy_test].map(percent);
    let y = chart::round_range(result.layers.iter().flat_map(values));
    let boundaries: Vec<usize> =
        (1..info.stages.len()).filter(|&layer| info.stages[layer] != info.stages[layer - 1]).collect();
    let mut series: Vec<Series> = boundaries.iter().map(|&layer| boundary(layer as f64 - 0.5, &y)).collect();
    let mut legend = Vec::new();
    for group in &groups {
        let is_in = |layer: &&(usize, &ProbedLayer)| match group.part {
            Some(wanted) => layer.1.part() == wanted,
            None => !known.contains(&layer.1.part()),
        };
        let layers: Vec<_> = info.indices.iter().copied().zip(&result.layers).collect();
        let members: Vec<_> = layers.iter().filter(is_in).collect();
        if members.is_empty() {
            continue;
        }
        legend.push((group.colour, group.label.to_owned()));
        let curve = |dashed: bool, value: fn(&ProbedLayer) -> Option<f64>| Series {
            colour: group.colour,
            dashed,
            dots: !dashed && members.len() <= MOST_DOTS,
            joined: group.part.is_some(),
            points: members.iter().map(|(index, layer)| (*index as f64, percent(value(layer)))).collect(),
        };
        series.push(curve(true, |layer| layer.accuracy_train));
        series.push(curve(false, |layer| layer.accuracy_test));
    }
    let starts = [0].into_iter().chain(boundaries.iter().copied());
    let ends = boundaries.iter().copied().chain([info.stages.len()]);
    // What follows the stages counts as the last of them.
    let head = info.stages.last().copied().unwrap_or(0);
    let middle = |(start, end): (usize, usize)| ((start + end - 1) as f64 / 2.0, stage_name(info.stages[start], head));
    let panel = Panel {
        title: format!("{}: accuracy of linear probes, test (solid) and training (dashed)", info.model),
        x_title: "layer, first to last",
        x: -0.5..info.stages.len() as f64 - 0.5,
        x_ticks: starts.zip(ends).map(middle).collect(),
        y_ticks: percent_ticks(&y),
        y,
        series,
        legend,
    };
    Ok(chart::draw(&[panel], SIZE.0, SIZE.1))
}

fn draw_ablations(result: &AblateResult, path: &Path) -> Result<Canvas> {
    let Some(baseline) = result.baseline() else {
        return Err(Error::file(path, "no curve can be drawn, because there is no stage"));
    };
    let accuracies = result.stages.iter().map(|entry| entry.accuracy);
    let accuracies = accuracies.chain(result.info.alone.iter().map(|entry| entry.accuracy));
    let y = chart::round_range(accuracies.map(|accuracy| 100.0 * accuracy));
    let most = result.stages.iter().map(|entry| entry.deleted).max().unwrap_or(0);
    let mut panels = vec![endings_panel(result, baseline, most, &y)];
    if !result.info.alone.is_empty() {
        panels.push(alone_panel(result, baseline, &y));
    }
    Ok(chart::draw(&panels, SIZE.0 * 3 / 4, SIZE.1))
}

/// Accuracy against the number of blocks that are deleted from the end of a stage.
fn endings_panel(result: &AblateResult, baseline: f64, most: usize, y: &std::ops::Range<f64>) -> Panel {
    let x = -0.25..most as f64 + 0.25;
    let mut series = vec![level(baseline, &x)];
    let mut legend = vec![(ASIDE, "the whole network".to_owned())];
    for (entries, colour) in result.by_stage().zip(colour::QUALITATIVE) {
        let points: Vec<_> = entries.iter().map(|entry| (entry.deleted as f64, 100.0 * entry.accuracy)).collect();
        legend.push((colour, format!("stage {}", entries[0].stage)));
        series.push(Series { colour, dashed: false, dots: points.len() <= MOST_DOTS, joined: true, points });
    }
    Panel {
        title: format!("{}: test accuracy without the last blocks", result.info.model),
        x_title: "blocks deleted from the end of a stage",
        x_ticks: chart::round_ticks(&(0.0..most.max(1) as f64), most.clamp(1, 10))
            .into_iter()
            .filter(|tick| tick.fract() == 0.0)
            .map(|tick| (tick, format!("{tick}")))
            .collect(),
        x,
        y: y.clone(),
        y_ticks: percent_ticks(y),
        series,
        legend,
    }
}

/// Accuracy without each of the blocks that were deleted alone.
fn alone_panel(result: &AblateResult, baseline: f64, y: &std::ops::Range<f64>) -> Panel {
    let alone = &result.info.alone;
    let x = -0.5..alone.len() as f64 - 0.5;
    let points = alone.iter().enumerate().map(|(place, entry)| (place as f64, 100.0 * entry.accuracy));
    let colour = colour::QUALITATIVE[7];
    let blocks = Series { colour, dashed: false, dots: true, joined: false, points: points.collect() };
    Panel {
        title: "Test accuracy without a single block".to_owned(),
        x_title: "block",
        x_ticks: alone.iter().enumerate().map(|(place, entry)| (place as f64, short(&entry.block))).collect(),
        series: vec![level(baseline, &x), blocks],
        x,
        y: y.clone(),
        y_ticks: percent_ticks(y),
        legend: Vec::new(),
    }
}

/// "2.3" for `stage2.block3`.
fn short(block: &str) -> String {
    block.replace("stage", "").replace("block", "")
}

/// A dashed line across the panel.
fn level(accuracy: f64, x: &std::ops::Range<f64>) -> Series {
    let points = vec![(x.start, 100.0 * accuracy), (x.end, 100.0 * accuracy)];
    Series { colour: ASIDE, dashed: true, dots: false, joined: true, points }
}

/// A line between two stages.
fn boundary(at: f64, y: &std::ops::Range<f64>) -> Series {
    let points = vec![(at, y.start), (at, y.end)];
    Series { colour: colour::BOUNDARY, dashed: false, dots: false, joined: true, points }
}

fn percent(accuracy: Option<f64>) -> f64 {
    accuracy.map_or(f64::NAN, |accuracy| 100.0 * accuracy)
}

fn percent_ticks(y: &std::ops::Range<f64>) -> Vec<(f64, String)> {
    chart::round_ticks(y, 6).into_iter().map(|tick| (tick, format!("{}%", (tick * 1e6).round() / 1e6))).collect()
}

fn stage_name(stage: usize, head: usize) -> String {
    match stage {
        0 => "stem".to_owned(),
        stage if stage == head => "head".to_owned(),
        _ => format!("stage {stage}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{ablate, probe};

    #[test]
    fn every_group_of_layers_and_every_stage_has_its_colour() {
        let dir = tempfile::tempdir().unwrap();
        let colours = |path: &Path| -> std::collections::HashSet<Rgb> {
            image::open(path).unwrap().to_rgb8().pixels().map(|pixel| pixel.0).collect()
        };
        let path = dir.path().join("probe.png");
        probes(&probe::tests::made("model"), &path).unwrap();
        let found = colours(&path);
        for colour in [colour::QUALITATIVE[0], colour::QUALITATIVE[1], ASIDE, colour::BOUNDARY] {
            assert!(found.contains(&colour), "{colour:?}");
        }
        let path = dir.path().join("ablate.png");
        ablations(&ablate::tests::made("model"), &path).unwrap();
        let found = colours(&path);
        for colour in [&colour::QUALITATIVE[..3], &[ASIDE, colour::QUALITATIVE[7]]].concat() {
            assert!(found.contains(&colour), "{colour:?}");
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let path = Path::new("nowhere.png");
        let mut result = probe::tests::made("model");
        result.layers.clear();
        assert!(probes(&result, path).unwrap_err().to_string().contains("no probe"));
        let mut result = ablate::tests::made("model");
        result.stages.clear();
        assert!(ablations(&result, path).unwrap_err().to_string().contains("no stage"));
    }
}
