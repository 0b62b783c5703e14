//! How alike predictions are: four maps over pairs of groups, or of runs where there is one group only, in one picture.

use std::ops::Range;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, PAPER, QUIET, shorten, text_width};
use super::cells::{self, BAR_WIDTH, Layers, Square};
use super::chart;
use crate::predict::{Maps, PredictResult};

/// Pixels of a map's side.
const SIDE: usize = 400;
const MARGIN: usize = 28;
/// Room above all panels, and above each.
const HEADING: usize = 100;
const CAPTION: usize = 46;
const GAP: usize = 30;
/// Pixels that a scale takes: its numbers have more digits than those from 0 to 1.
const SCALE: usize = BAR_WIDTH + 34;
const TITLE: f64 = 28.0;
const PANEL_TITLE: f64 = 22.0;
const TEXT: f64 = 18.0;
const LABEL: f64 = 16.0;
/// The most pixels that a label takes.
const LONGEST_LABEL: f64 = 280.0;
const LEVEL: FontTransform = FontTransform::None;
const UPWARDS: FontTransform = FontTransform::Rotate270;
/// Rows that are few enough for their values to be written into the cells.
const MOST_VALUES: usize = 6;

/// Agreement, KL, Hellinger distance and entropy, each on a scale of its own.
pub(super) fn draw(result: &PredictResult) -> Canvas {
    let info = &result.info;
    let by_group = info.groups.len() > 1;
    let (maps, names): (&Maps, Vec<String>) = if by_group {
        (&result.groups, info.groups.iter().map(|group| group.group.clone()).collect())
    } else {
        (&result.runs, info.runs.clone())
    };
    let labels: Vec<String> = names.iter().map(|name| shorten(name, LABEL, LONGEST_LABEL)).collect();
    let room = labels.iter().map(|label| text_width(label, LABEL)).fold(0.0, f64::max).ceil() as usize + 12;
    let (column, row) = (SIDE + GAP + SCALE, CAPTION + SIDE + GAP);
    let (left, top) = (MARGIN + room, HEADING);
    let mut canvas = Canvas::new(left + 2 * column + MARGIN, top + 2 * row - GAP + room + MARGIN);
    heading(&mut canvas, result, by_group);
    for (index, (title, values)) in [
        ("Agreement", &maps.agreement),
        ("KL(row, column), nats", &maps.kl),
        ("Hellinger distance", &maps.hellinger),
        ("Entropy of both together, nats", &maps.entropy),
    ]
    .into_iter()
    .enumerate()
    {
        let (at, above) = (left + index % 2 * column, top + index / 2 * row);
        canvas.text(title, (at as f64, above as f64), PANEL_TITLE, INK, Anchor(HPos::Left, VPos::Top), &LEVEL);
        panel(&mut canvas, values, &names, Square { left: at, top: above + CAPTION, side: SIDE });
    }
    for index in 0..2 {
        let (beside, below) = (left as f64 - 8.0, (top + 2 * row - GAP) as f64 + 8.0);
        let square = Square { left: left + index * column, top: top + index * row + CAPTION, side: SIDE };
        for (at, label) in thinned(&labels) {
            let (x, y) = (square.left as f64 + at, (square.top + SIDE) as f64 - at);
            canvas.text(label, (beside, y), LABEL, INK, Anchor(HPos::Right, VPos::Center), &LEVEL);
            canvas.text(label, (x, below), LABEL, INK, Anchor(HPos::Right, VPos::Center), &UPWARDS);
        }
    }
    canvas
}

fn heading(canvas: &mut Canvas, result: &PredictResult, by_group: bool) {
    let info = &result.info;
    let what = if by_group { "Predictions of groups of networks" } else { "Predictions of networks" };
    let of = format!("means over {} test images of {}", info.images, info.data);
    let how = match by_group {
        true => format!("{of} and over pairs of different runs; grey: a group of one run"),
        false => of,
    };
    let room = (2 * SIDE + 2 * SCALE) as f64;
    let corner = Anchor(HPos::Left, VPos::Top);
    canvas.text(what, (MARGIN as f64, 18.0), TITLE, INK, corner, &LEVEL);
    canvas.text(&shorten(&how, TEXT, room), (MARGIN as f64, 56.0), TEXT, QUIET, corner, &LEVEL);
}

/// One map: rows from the bottom, columns from the left, and the scale at its right.
fn panel(canvas: &mut Canvas, values: &[f64], names: &[String], square: Square) {
    let side = names.len();
    let range = chart::round_range(values.iter().copied());
    let scaled = |value: f64| (value - range.start) / (range.end - range.start);
    // The drawing of layers has columns first.
    let by_column: Vec<f64> = (0..side * side).map(|at| scaled(values[at % side * side + at / side])).collect();
    // One stage, so that no lines part the cells.
    let axis = Layers { names, stages: &vec![0; side] };
    cells::map(canvas, &by_column, [axis, axis], square);
    bar(canvas, Square { left: square.left + SIDE + GAP / 2, ..square }, &range);
    if side > MOST_VALUES {
        return;
    }
    let centre = |index: usize| (index as f64 + 0.5) * SIDE as f64 / side as f64;
    for row in 0..side {
        for column in 0..side {
            let value = values[row * side + column];
            let dark = !value.is_nan() && scaled(value) < 0.6;
            let place = (square.left as f64 + centre(column), (square.top + SIDE) as f64 - centre(row));
            let ink = if dark { PAPER } else { INK };
            canvas.text(&format!("{value:.3}"), place, LABEL, ink, Anchor(HPos::Center, VPos::Center), &LEVEL);
        }
    }
}

/// The scale of values in `range`.
fn bar(canvas: &mut Canvas, square: Square, range: &Range<f64>) {
    let decimals = (1.0 - (range.end - range.start).log10()).ceil().clamp(1.0, 9.0) as usize + 1;
    let label = |share: f64| format!("{:.decimals$}", range.start + share * (range.end - range.start));
    cells::scale(canvas, square, label);
}

/// Labels, as far as there is room for them, and how far their cells' centres lie from the first cell's beginning.
fn thinned(labels: &[String]) -> impl Iterator<Item = (f64, &String)> {
    let cell = SIDE as f64 / labels.len() as f64;
    let every = (1.3 * LABEL / cell).ceil().max(1.0) as usize;
    labels.iter().enumerate().step_by(every).map(move |(index, label)| ((index as f64 + 0.5) * cell, label))
}
