//! Sparsity: what fraction of every ReLU's output is zero, and what fraction of its units is dead, against the layer.

use std::path::Path;

use super::chart::{self, Panel, Series};
use super::{canvas::Canvas, colour, layers};
use crate::sparsity::Sparsity;
use crate::{Error, Result};

/// Pixels of a panel's width and height.
const SIZE: (usize, usize) = (640, 440);
/// Layers that are few enough for a dot each.
const MOST_DOTS: usize = 80;

/// Draws `result` as a PNG at `path`, replacing what is there: on the left the fraction of zeros of each layer, on the right
/// the fraction of its units that are dead, with the boundaries of the stages.
///
/// # Errors
/// [`Error::File`] where the arrays of `result` do not fit its layer names or there is no layer, [`Error::Io`] where the file
/// cannot be written.
pub fn sparsity(result: &Sparsity, path: &Path) -> Result<()> {
    super::save(&draw(result, path)?, path)
}

fn draw(result: &Sparsity, path: &Path) -> Result<Canvas> {
    let info = &result.info;
    let layers = info.layers.len();
    if layers == 0 || [result.zeros.len(), result.dead.len(), info.units.len()] != [layers; 3] {
        return Err(Error::file(path, format!("the sparsity of {layers} layers cannot be drawn from these arrays")));
    }
    let dead = result.dead.iter().zip(&info.units).map(|(dead, &units)| dead / units as f64);
    let panels = [
        panel(result, format!("{}: zeros in the output of every ReLU", info.model), result.zeros.iter().copied()),
        panel(result, format!("Dead units, over {} images", info.examples), dead),
    ];
    Ok(chart::draw(&panels, SIZE.0, SIZE.1))
}

fn panel(result: &Sparsity, title: String, fractions: impl Iterator<Item = f64>) -> Panel {
    let info = &result.info;
    let count = info.layers.len();
    let stages = layers::stages(&info.layers, &info.stages);
    let points = fractions.enumerate().map(|(layer, fraction)| (layer as f64, 100.0 * fraction)).collect();
    let mut series: Vec<Series> = chart::stage_boundaries(&stages, 100.0);
    let (colour, dots) = (colour::QUALITATIVE[0], count <= MOST_DOTS);
    series.push(Series { colour, dashed: false, dots, joined: true, points });
    Panel {
        title,
        x_title: "ReLU, first to last",
        x: -0.5..count as f64 - 0.5,
        y: 0.0..100.0,
        x_ticks: chart::stage_names(&stages),
        y_ticks: (0..=4).map(|tick| f64::from(tick) * 25.0).map(|y| (y, format!("{y}%"))).collect(),
        series,
        legend: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sparsity::tests::made;

    #[test]
    fn a_dot_for_each_layer_stands_at_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparsity.png");
        let result = made("model");
        sparsity(&result, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        let dead: Vec<f64> =
            result.dead.iter().zip(&result.info.units).map(|(dead, &units)| dead / units as f64).collect();
        for (panel, fractions) in [&result.zeros, &dead].into_iter().enumerate() {
            for (layer, &fraction) in fractions.iter().enumerate() {
                let x = (layer as f64 + 0.5) / fractions.len() as f64;
                let is_dot = |share: f64| {
                    let (x, y) = chart::pixel(panel, SIZE, (x, share));
                    // Half of a dot at 0 lies below the frame, which cuts it off.
                    picture.get_pixel(x, y - 1).0 == colour::QUALITATIVE[0]
                };
                assert!(is_dot(fraction), "panel {panel}, layer {layer}");
                assert!(fraction == 0.5 || !is_dot(1.0 - fraction), "panel {panel}, layer {layer}");
            }
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparsity.png");
        let mut result = made("model");
        result.dead.pop();
        assert!(sparsity(&result, &path).unwrap_err().to_string().contains("3 layers"));
        assert!(!path.exists());
    }
}
