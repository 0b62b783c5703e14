//! Loss and test accuracy against epochs.

use std::path::Path;

use gramscope_train::EpochMetrics;

use super::canvas::INK;
use super::chart::{self, Panel, Series};
use super::colour;
use crate::{Error, Result};

/// Draws the training curves of several runs, given as (name, epochs), as a PNG at `path`: on the left the loss of
/// training (solid) and of the test images (dashed), on the right the test accuracy in percent. Values that are not
/// finite are left out. Runs of the same name share a colour and an entry of the legend.
///
/// # Errors
/// [`Error::File`] where no run has an epoch, [`Error::Io`] where the file cannot be written.
pub fn training_curves(runs: &[(String, Vec<EpochMetrics>)], path: &Path) -> Result<()> {
    let longest = runs.iter().flat_map(|(_, epochs)| epochs).map(|epoch| epoch.epoch).max();
    let Some(longest) = longest else {
        return Err(Error::file(path, "no curve can be drawn, because no run has finished an epoch"));
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in runs {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let colours = colour::line_colours(names.len());
    let colour_of = |name: &str| names.iter().zip(&colours).find(|(known, _)| **known == name).map_or(INK, |(_, &c)| c);
    let lines = |value: fn(&EpochMetrics) -> f64, dashed: bool| -> Vec<Series> {
        let line = |(name, epochs): &(String, Vec<EpochMetrics>)| {
            let colour = colour_of(name);
            let points = epochs.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect();
            Series { colour, dashed, dots: !dashed && epochs.len() < 8, joined: true, points }
        };
        runs.iter().map(line).collect()
    };
    let mut losses = lines(|epoch| epoch.test_loss, true);
    losses.extend(lines(|epoch| epoch.train_loss, false));
    let accuracies = lines(|epoch| 100.0 * epoch.test_accuracy, false);
    let legend = names.iter().zip(&colours).map(|(&name, &colour)| (colour, name.to_owned())).collect();
    let panels = [
        panel("Loss: training (solid) and test (dashed)".to_owned(), longest, losses, |y| format!("{y}"), legend),
        panel("Test accuracy".to_owned(), longest, accuracies, |y| format!("{y}%"), Vec::new()),
    ];
    super::save(&chart::draw(&panels, 640, 440), path)
}

fn panel(
    title: String,
    longest: usize,
    series: Vec<Series>,
    y_label: impl Fn(f64) -> String,
    legend: Vec<(colour::Rgb, String)>,
) -> Panel {
    let x = if longest == 1 { 0.5..1.5 } else { 1.0..longest as f64 };
    let y = chart::round_range(series.iter().flat_map(|line| &line.points).map(|&(_, y)| y));
    let whole = chart::round_ticks(&x, 8).into_iter().filter(|tick| tick.fract() == 0.0);
    let x_ticks = whole.map(|tick| (tick, format!("{tick}"))).collect();
    let y_ticks = chart::round_ticks(&y, 6).into_iter().map(|tick| (tick, y_label(rounded(tick)))).collect();
    Panel { title, x_title: "epoch", x, y, x_ticks, y_ticks, series, legend }
}

/// A tick without the noise of its last binary digits.
fn rounded(tick: f64) -> f64 {
    (tick * 1e9).round() / 1e9
}
