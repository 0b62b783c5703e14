//! Square maps without words: cells, lines between stages, and the scale beside them.

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, PAPER, QUIET};
use super::{colour, layers};
use crate::blocks::Block;

const BOUNDARY: usize = 2;
/// Pixels of the line around a block.
const OUTLINE: usize = 3;
const BAR: usize = 26;
const TICK: usize = 6;
const TEXT: f64 = 22.0;
const LEVEL: FontTransform = FontTransform::None;
/// Pixels that a colour bar takes with its numbers.
pub(super) const BAR_WIDTH: usize = BAR + 2 * TICK + 50;

/// The layers along a side.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) names: &'a [String],
    /// Stage of each; empty where that is not known.
    pub(super) stages: &'a [usize],
}

/// Where a map lies, in pixels.
#[derive(Clone, Copy)]
pub(super) struct Square {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) side: usize,
}

impl Square {
    /// First pixel of a layer from the beginning of a side; that of the number of layers is the side's length.
    fn edge(self, layer: usize, layers: usize) -> usize {
        (layer * self.side + layers / 2) / layers
    }
}

/// Draws `values` [layers of x, layers of y], x from the left and y from the bottom, on the scale of [`super::heatmap`].
pub(super) fn map(canvas: &mut Canvas, values: &[f64], [x, y]: [Layers<'_>; 2], square: Square) {
    let (columns, rows) = (x.names.len(), y.names.len());
    let Square { left, top, side } = square;
    let bottom = top + side;
    for column in 0..columns {
        let (from, to) = (square.edge(column, columns), square.edge(column + 1, columns));
        for row in 0..rows {
            let (low, high) = (square.edge(row, rows), square.edge(row + 1, rows));
            let colour = colour::similarity(values[column * rows + row]);
            canvas.fill(left + from, bottom - high, to - from, high - low, colour);
        }
    }
    for stage in layers::stages(x.names, x.stages).iter().skip(1) {
        canvas.fill(left + square.edge(stage.start, columns) - BOUNDARY / 2, top, BOUNDARY, side, colour::BOUNDARY);
    }
    for stage in layers::stages(y.names, y.stages).iter().skip(1) {
        canvas.fill(left, bottom - square.edge(stage.start, rows) - BOUNDARY / 2, side, BOUNDARY, colour::BOUNDARY);
    }
}

/// Draws a line around each of `blocks`, the first and last of so many `layers` a side each, on a map in `square`.
pub(super) fn block_outlines(canvas: &mut Canvas, blocks: &[Block], layers: usize, square: Square) {
    for block in blocks {
        let (first, end) = (square.edge(block.first, layers), square.edge(block.last + 1, layers));
        let corner = (square.left + first, square.top + square.side - end);
        outline(canvas, corner, (end - first, end - first));
    }
}

/// Draws a green line with a white edge within a rectangle, given by its upper left corner.
pub(super) fn outline(canvas: &mut Canvas, (left, top): (usize, usize), (width, height): (usize, usize)) {
    for (line, colour) in [(OUTLINE + 1, PAPER), (OUTLINE, colour::BLOCK)] {
        canvas.fill(left, top, width, line, colour);
        canvas.fill(left, top + height - line, width, line, colour);
        canvas.fill(left, top, line, height, colour);
        canvas.fill(left + width - line, top, line, height, colour);
    }
}

/// Draws the scale at the left edge of `square`, as high as it, with what it measures above.
pub(super) fn colour_bar(canvas: &mut Canvas, square: Square, measure: &str) {
    scale(canvas, square, |value| value.to_string());
    let place = (square.left as f64, square.top as f64 - 14.0);
    canvas.text(measure, place, TEXT, INK, Anchor(HPos::Left, VPos::Bottom), &LEVEL);
}

/// The same without words but those that `label` has for values from 0 to 1.
pub(super) fn scale(canvas: &mut Canvas, Square { left, top, side }: Square, label: impl Fn(f64) -> String) {
    for row in 0..side {
        let value = 1.0 - (row as f64 + 0.5) / side as f64;
        canvas.fill(left, top + row, BAR, 1, colour::similarity(value));
    }
    for tick in 0..=4 {
        let value = f64::from(tick) / 4.0;
        let y = top as f64 + (1.0 - value) * (side - 1) as f64;
        canvas.fill(left + BAR, y.round() as usize, TICK, 1, QUIET);
        let place = ((left + BAR + 2 * TICK) as f64, y);
        canvas.text(&label(value), place, TEXT, INK, Anchor(HPos::Left, VPos::Center), &LEVEL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_cover_the_side_without_a_gap_or_an_overlap() {
        let square = Square { left: 0, top: 0, side: 300 };
        for layers in [1, 2, 7, 49, 299, 300, 301, 601] {
            assert_eq!((square.edge(0, layers), square.edge(layers, layers)), (0, 300), "{layers} layers");
            assert!(
                (0..layers).all(|layer| square.edge(layer, layers) <= square.edge(layer + 1, layers)),
                "{layers} layers"
            );
        }
    }
}
