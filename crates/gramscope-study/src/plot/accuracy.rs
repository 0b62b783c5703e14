//! Accuracy of a family of networks against depth and against width.

use std::path::Path;

use super::chart::{self, Panel, Series};
use super::colour;
use crate::{Error, Result};

/// What a picture of a family needs to know of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyMember {
    /// Depth.
    pub depth: usize,
    /// Width, as a multiple of 16 channels in the first stage.
    pub width: f64,
    /// In what it differs from others of its depth and width, but for the seed ("fraction 0.1"); may be empty.
    pub variant: String,
    /// Share of the test images that are classified correctly.
    pub test_accuracy: f64,
}

/// Draws the test accuracy of a family as a PNG at `path`: on the left against depth with a line for each width, on the
/// right against width with a line for each depth, and for each variant of them. A dot is a network, a line joins the
/// means over those that share depth, width and variant. Depths and widths stand at equal distances in their order.
///
/// # Errors
/// [`Error::File`] for a family without a network, [`Error::Io`] where the file cannot be written.
pub fn accuracy(family: &[FamilyMember], path: &Path) -> Result<()> {
    if family.is_empty() {
        return Err(Error::file(path, "no accuracy can be drawn, because the family has no network"));
    }
    let by_depth = |member: &FamilyMember| member.depth as f64;
    let by_width = |member: &FamilyMember| member.width;
    let depth =
        panel(family, ("Test accuracy against depth", "depth"), by_depth, by_width, |width| format!("width {width}"));
    let width =
        panel(family, ("Test accuracy against width", "width"), by_width, by_depth, |depth| format!("depth {depth}"));
    super::save(&chart::draw(&[depth, width], 640, 440), path)
}

fn panel(
    family: &[FamilyMember],
    (title, x_title): (&str, &'static str),
    along: impl Fn(&FamilyMember) -> f64,
    apart: impl Fn(&FamilyMember) -> f64,
    name: impl Fn(f64) -> String,
) -> Panel {
    let places = distinct(family.iter().map(&along));
    let lines = lines(family, &apart);
    let colours = colour::line_colours(lines.len());
    let is_of = |member: &FamilyMember, line, variant| apart(member) == line && member.variant == variant;
    let mut series = Vec::new();
    for (&(line, variant), &colour) in lines.iter().zip(&colours) {
        let mut means = Vec::new();
        for (place, &value) in places.iter().enumerate() {
            let here = family.iter().filter(|member| along(member) == value && is_of(member, line, variant));
            let accuracies: Vec<f64> = here.map(|member| 100.0 * member.test_accuracy).collect();
            if !accuracies.is_empty() {
                means.push((place as f64, accuracies.iter().sum::<f64>() / accuracies.len() as f64));
            }
            let points = accuracies.into_iter().map(|accuracy| (place as f64, accuracy)).collect();
            series.push(Series { colour, dashed: false, dots: true, joined: false, points });
        }
        series.push(Series { colour, dashed: false, dots: false, joined: true, points: means });
    }
    let y = chart::round_range(family.iter().map(|member| 100.0 * member.test_accuracy));
    let y_ticks = chart::round_ticks(&y, 6).into_iter().map(|tick| (tick, format!("{}%", (tick * 1e6).round() / 1e6)));
    let x_ticks = places.iter().enumerate().map(|(place, value)| (place as f64, format!("{value}")));
    Panel {
        title: title.to_owned(),
        x_title,
        x: -0.5..places.len() as f64 - 0.5,
        y_ticks: y_ticks.collect(),
        y,
        x_ticks: x_ticks.collect(),
        series,
        legend: lines
            .iter()
            .zip(colours)
            .map(|(&(line, variant), colour)| (colour, label(name(line), variant)))
            .collect(),
    }
}

/// What each line stands for: a value of the setting that tells lines apart, and a variant.
fn lines(family: &[FamilyMember], apart: impl Fn(&FamilyMember) -> f64) -> Vec<(f64, &str)> {
    let mut lines: Vec<_> = family.iter().map(|member| (apart(member), member.variant.as_str())).collect();
    lines.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    lines.dedup();
    lines
}

fn label(name: String, variant: &str) -> String {
    if variant.is_empty() { name } else { format!("{name}, {variant}") }
}

/// The different values, ascending.
fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    sorted
}
