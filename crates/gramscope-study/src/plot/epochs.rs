//! A network over its training: each layer against itself at the end, its first component, and whole maps of some epochs.

use std::path::Path;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten};
use super::cells::{self, BAR_WIDTH, Layers, Square};
use super::layers;
use crate::epochs::EpochsResult;
use crate::{Error, Result};

/// Pixels of the side of an upper panel, and of a map.
const PANEL: usize = 440;
const MAP: usize = 284;
/// Maps in the lower row.
const MAPS: usize = 5;
const MARGIN: usize = 32;
/// Room left of the upper panels for the numbers of epochs.
const NUMBERS: usize = 60;
const HEADING: usize = 104;
const CAPTION: usize = 46;
const GAP: usize = 40;
const TITLE: f64 = 30.0;
const PANEL_TITLE: f64 = 22.0;
const TEXT: f64 = 20.0;
const LEVEL: FontTransform = FontTransform::None;

/// Draws `result` as a PNG at `path`, replacing what is there. Above, a row an epoch and a column a layer: CKA of each layer
/// with itself at the end, the fraction of variance that its first component explains, and the squared cosine of that
/// component with the one at the end. Below, whole maps against the end, evenly spread over the epochs.
///
/// # Errors
/// [`Error::File`] where the arrays of `result` do not fit its layers and epochs, [`Error::Io`] where the file cannot be written.
pub(crate) fn epochs(result: &EpochsResult, path: &Path) -> Result<()> {
    super::save(&draw(result, path)?, path)
}

fn draw(result: &EpochsResult, path: &Path) -> Result<Canvas> {
    let info = &result.info;
    let (epochs, count) = (info.epochs.len(), info.layers.len());
    let fits = [&result.variance_explained, &result.cosine_sq].iter().all(|rows| rows.len() == epochs * count);
    if epochs == 0 || count == 0 || !fits || result.cka.len() != epochs * count * count {
        return Err(Error::file(path, format!("{epochs} epochs of {count} layers cannot be drawn from these arrays")));
    }
    let width = NUMBERS + 3 * (PANEL + GAP) + BAR_WIDTH;
    let lower = HEADING + CAPTION + PANEL + GAP;
    let mut canvas = Canvas::new(2 * MARGIN + width, lower + CAPTION + MAP + MARGIN);
    heading(&mut canvas, result, width);
    let layers = Layers { names: &info.layers, stages: &info.stages };
    let names: Vec<String> = info.epochs.iter().map(usize::to_string).collect();
    for (place, (title, rows)) in [
        ("CKA of a layer with its own end", &result.layers_with_themselves()),
        ("Variance in the first component", &result.variance_explained),
        ("cos² of first component and its end", &result.cosine_sq),
    ]
    .into_iter()
    .enumerate()
    {
        let square = Square { left: MARGIN + NUMBERS + place * (PANEL + GAP), top: HEADING + CAPTION, side: PANEL };
        caption(&mut canvas, title, square);
        let columns: Vec<f64> = (0..count).flat_map(|l| (0..epochs).map(move |e| rows[e * count + l])).collect();
        cells::map(&mut canvas, &columns, [layers, Layers { names: &names, stages: &[] }], square);
    }
    numbers(&mut canvas, &names);
    let bar = MARGIN + NUMBERS + 3 * (PANEL + GAP);
    cells::colour_bar(&mut canvas, Square { left: bar, top: HEADING + CAPTION, side: PANEL }, "");
    for (place, epoch) in spread(epochs, MAPS).into_iter().enumerate() {
        let square = Square { left: MARGIN + place * (MAP + GAP), top: lower + CAPTION, side: MAP };
        caption(&mut canvas, &format!("epoch {} and the end", info.epochs[epoch]), square);
        cells::map(&mut canvas, &result.cka[epoch * count * count..][..count * count], [layers, layers], square);
    }
    Ok(canvas)
}

fn heading(canvas: &mut Canvas, result: &EpochsResult, room: usize) {
    let info = &result.info;
    let statistics = if info.batch_statistics { ", batch statistics" } else { "" };
    let how = format!(
        "CKA ({}, {}{statistics}) over {} minibatches of {}, first components over {} images; epochs upwards, first layers \
         at the left",
        info.estimator, info.kernel, info.batches, info.batch_size, info.component_examples
    );
    let (left, room) = (MARGIN as f64, room as f64);
    let corner = Anchor(HPos::Left, VPos::Top);
    let title = format!("{} over its training", info.model);
    canvas.text(&shorten(&title, TITLE, room), (left, 20.0), TITLE, INK, corner, &LEVEL);
    canvas.text(&shorten(&how, TEXT, room), (left, 60.0), TEXT, QUIET, corner, &LEVEL);
}

fn caption(canvas: &mut Canvas, title: &str, square: Square) {
    let place = (square.left as f64, (square.top - CAPTION) as f64);
    let title = shorten(title, PANEL_TITLE, square.side as f64);
    canvas.text(&title, place, PANEL_TITLE, INK, Anchor(HPos::Left, VPos::Top), &LEVEL);
}

/// The epochs beside the rows of the upper panels, as many as fit.
fn numbers(canvas: &mut Canvas, names: &[String]) {
    let height = PANEL as f64 / names.len() as f64;
    let middle = |start: usize, len: usize| (start as f64 + len as f64 / 2.0) * height;
    let bottom = (HEADING + CAPTION + PANEL) as f64;
    for (at, name) in layers::axis_labels(names, middle, 1.2 * TEXT) {
        let place = ((MARGIN + NUMBERS) as f64 - 8.0, bottom - at);
        canvas.text(&name, place, TEXT, QUIET, Anchor(HPos::Right, VPos::Center), &LEVEL);
    }
}

/// Up to `most` of `count` places, the first and the last among them, evenly spread.
fn spread(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|place| (place * (count - 1) + (most - 1) / 2) / (most - 1)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::epochs::EpochsInfo;
    use crate::plot::colour;
    use crate::provenance::{DataInfo, Versions};

    /// Three epochs of two layers, without two numbers that are the same.
    fn made() -> EpochsResult {
        let numbers = |count: usize, from: f64| (0..count).map(|place| from + 0.05 * place as f64).collect::<Vec<_>>();
        let info = EpochsInfo {
            model: "model".to_owned(),
            layers: vec!["one".to_owned(), "two".to_owned()],
            stages: Vec::new(),
            epochs: vec![1, 5, 9],
            estimator: "unbiased".to_owned(),
            kernel: "linear".to_owned(),
            batch_size: 4,
            batches: 1,
            component_examples: 4,
            batch_statistics: false,
            data: DataInfo::Images {
                name: "builtin".to_owned(),
                dir: None,
                examples: 4,
                passes: 1,
                seed: 0,
                noise: false,
            },
            versions: Versions::current(),
        };
        EpochsResult {
            info,
            cka: numbers(12, 0.1),
            variance_explained: numbers(6, 0.2),
            cosine_sq: numbers(6, 0.4),
            first_pc: Vec::new(),
        }
    }

    #[test]
    fn epochs_go_upwards_layers_to_the_right_and_maps_are_those_of_their_epochs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epochs.png");
        let result = made();
        epochs(&result, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        // The middle of a cell of a square that lies so many pixels from the left and ends so many from the top.
        let cell = |left: usize, bottom: usize, side: usize, [x, y]: [usize; 2], [columns, rows]: [usize; 2]| {
            let middle = |cell: usize, cells: usize| (2 * cell + 1) * side / (2 * cells);
            picture.get_pixel((left + middle(x, columns)) as u32, (bottom - middle(y, rows)) as u32).0
        };
        let upper = HEADING + CAPTION + PANEL;
        let panels = [&result.layers_with_themselves(), &result.variance_explained, &result.cosine_sq];
        for (place, rows) in panels.into_iter().enumerate() {
            let left = MARGIN + NUMBERS + place * (PANEL + GAP);
            for (epoch, layer) in (0..3).flat_map(|epoch| [(epoch, 0), (epoch, 1)]) {
                let expected = colour::similarity(rows[2 * epoch + layer]);
                assert_eq!(cell(left, upper, PANEL, [layer, epoch], [2, 3]), expected, "{place} {epoch} {layer}");
            }
        }
        let lower = upper + GAP + CAPTION + MAP;
        for (epoch, map) in result.cka.chunks_exact(4).enumerate() {
            let left = MARGIN + epoch * (MAP + GAP);
            for (x, y) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let expected = colour::similarity(map[2 * x + y]);
                assert_eq!(cell(left, lower, MAP, [x, y], [2, 2]), expected, "{epoch} {x} {y}");
            }
        }
    }

    #[test]
    fn maps_are_spread_over_all_epochs() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(spread(9, 5), [0, 2, 4, 6, 8]);
        assert_eq!(spread(30, 5), [0, 7, 15, 22, 29]);
    }
}
