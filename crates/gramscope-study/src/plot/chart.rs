//! Line charts: panels side by side, each with a frame of its own, drawn large by plotters and shrunk, so that lines are
//! smooth; words are set afterwards at their own size.

use std::ops::Range;

use plotters::prelude::{ChartBuilder, Circle, DashedLineSeries, IntoDrawingArea, LineSeries, PathElement};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color, FontTransform, RGBColor, ShapeStyle};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten, text_width};
use super::colour::{self, Rgb};
use super::layers::Group;

/// How much larger than life lines are drawn.
const LARGE: usize = 3;
const TITLE: f64 = 17.0;
const TEXT: f64 = 14.0;
const LABEL: f64 = 13.0;
const GRID: RGBColor = RGBColor(228, 231, 235);
const LEVEL: FontTransform = FontTransform::None;
/// Room a panel keeps left of and around its frame.
const LEFT: usize = 66;
const RIGHT: usize = 18;
const TOP: usize = 40;
const BOTTOM: usize = 52;
const LEGEND_LINE: usize = 22;

/// A line of a chart.
pub(super) struct Series {
    pub(super) colour: Rgb,
    /// Dashed rather than solid.
    pub(super) dashed: bool,
    /// With a dot at every point.
    pub(super) dots: bool,
    /// With a line between the points.
    pub(super) joined: bool,
    /// (x, y) in data units; a value that is not finite breaks the line.
    pub(super) points: Vec<(f64, f64)>,
}

/// One coordinate system with its lines.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x_title: &'static str,
    pub(super) x: Range<f64>,
    pub(super) y: Range<f64>,
    pub(super) x_ticks: Vec<(f64, String)>,
    pub(super) y_ticks: Vec<(f64, String)>,
    pub(super) series: Vec<Series>,
    /// What the colours of this panel stand for.
    pub(super) legend: Vec<(Rgb, String)>,
}

/// Draws the panels side by side, each `width` by `height` pixels without its legend.
pub(super) fn draw(panels: &[Panel], width: usize, height: usize) -> Canvas {
    let legend_lines = panels.iter().map(|panel| legend_lines(&panel.legend, width)).max().unwrap_or(0);
    let total = (panels.len() * width, height + legend_lines * LEGEND_LINE + if legend_lines > 0 { 14 } else { 0 });
    let mut large = Canvas::new(total.0 * LARGE, total.1 * LARGE);
    for (index, panel) in panels.iter().enumerate() {
        strokes(&mut large, panel, index * width, width, height);
    }
    let mut canvas = large.shrink(LARGE);
    for (index, panel) in panels.iter().enumerate() {
        words(&mut canvas, panel, index * width, width, height);
        legend(&mut canvas, &panel.legend, index * width, height, width);
    }
    canvas
}

/// Where a panel of [`draw`] has a point that is given as shares of its frame, from the lower left corner.
#[cfg(test)]
pub(super) fn pixel(panel: usize, (width, height): (usize, usize), (x, y): (f64, f64)) -> (u32, u32) {
    let (across, up) = (x * (width - LEFT - RIGHT) as f64, y * (height - TOP - BOTTOM) as f64);
    ((panel * width + LEFT + across as usize) as u32, (height - BOTTOM - up as usize) as u32)
}

/// A line from 0 to `top` wherever a stage ends and another begins, for layers that stand at 0, 1, 2, ...
pub(super) fn stage_boundaries(stages: &[Group], top: f64) -> Vec<Series> {
    let boundary = |stage: &Group| {
        let x = stage.start as f64 - 0.5;
        let points = vec![(x, 0.0), (x, top)];
        Series { colour: colour::BOUNDARY, dashed: false, dots: false, joined: true, points }
    };
    stages.iter().skip(1).map(boundary).collect()
}

/// The names of the stages, each at its middle; none where there is only one.
pub(super) fn stage_names(stages: &[Group]) -> Vec<(f64, String)> {
    let middle = |stage: &Group| (stage.start as f64 + (stage.len as f64 - 1.0) / 2.0, stage.label.clone());
    if stages.len() > 1 { stages.iter().map(middle).collect() } else { Vec::new() }
}

fn strokes(large: &mut Canvas, panel: &Panel, left: usize, width: usize, height: usize) {
    let corner = (((left + LEFT) * LARGE) as u32, (TOP * LARGE) as u32);
    let size = (((width - LEFT - RIGHT) * LARGE) as u32, ((height - TOP - BOTTOM) * LARGE) as u32);
    let area = large.backend().into_drawing_area().shrink(corner, size);
    let drawn = (|| {
        let mut chart = ChartBuilder::on(&area).build_cartesian_2d(panel.x.clone(), panel.y.clone())?;
        let line = ShapeStyle { color: GRID.to_rgba(), filled: false, stroke_width: LARGE as u32 };
        let ends = panel.x.start..panel.x.end;
        chart.draw_series(
            panel.y_ticks.iter().map(|&(y, _)| PathElement::new([(ends.start, y), (ends.end, y)], line)),
        )?;
        for series in &panel.series {
            let [r, g, b] = series.colour;
            let stroke_width = if series.dashed { 4 * LARGE / 3 } else { 2 * LARGE } as u32;
            let style = ShapeStyle { color: RGBColor(r, g, b).to_rgba(), filled: true, stroke_width };
            for part in unbroken(&series.points).filter(|_| series.joined) {
                if series.dashed {
                    let points = part.iter().copied();
                    chart.draw_series(DashedLineSeries::new(points, 5 * LARGE as u32, 4 * LARGE as u32, style))?;
                } else {
                    chart.draw_series(LineSeries::new(part.iter().copied(), style))?;
                }
            }
            let finite = series.points.iter().filter(|(x, y)| series.dots && x.is_finite() && y.is_finite());
            chart.draw_series(finite.map(|&point| Circle::new(point, 3 * LARGE as i32, style)))?;
        }
        Ok::<(), plotters::drawing::DrawingAreaErrorKind<_>>(())
    })();
    drawn.expect("a buffer in memory takes every stroke");
}

/// Runs of points that are finite.
fn unbroken(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    points.split(|(x, y)| !(x.is_finite() && y.is_finite())).filter(|part| part.len() > 1)
}

fn words(canvas: &mut Canvas, panel: &Panel, left: usize, width: usize, height: usize) {
    let frame_width = (width - LEFT - RIGHT) as f64;
    let frame_height = (height - TOP - BOTTOM) as f64;
    let (frame_left, frame_bottom) = ((left + LEFT) as f64, (height - BOTTOM) as f64);
    let title = shorten(&panel.title, TITLE, (width - 24) as f64);
    canvas.text(&title, ((left + 16) as f64, 9.0), TITLE, INK, Anchor(HPos::Left, VPos::Top), &LEVEL);
    for (y, label) in &panel.y_ticks {
        let place = (frame_left - 10.0, frame_bottom - share(*y, &panel.y) * frame_height);
        canvas.text(label, place, LABEL, QUIET, Anchor(HPos::Right, VPos::Center), &LEVEL);
    }
    for (at, label) in x_labels(&panel.x_ticks, &panel.x, width) {
        let place = (left as f64 + at, frame_bottom + 8.0);
        canvas.text(label, place, LABEL, QUIET, Anchor(HPos::Center, VPos::Top), &LEVEL);
    }
    let place = (frame_left + frame_width / 2.0, frame_bottom + 46.0);
    canvas.text(panel.x_title, place, TEXT, INK, Anchor(HPos::Center, VPos::Bottom), &LEVEL);
}

/// Those labels of `ticks` that leave each other room below a panel `width` pixels wide that shows `x`, from the first on, and
/// the pixels from the panel's left to the middle of each.
pub(super) fn x_labels<'a>(
    ticks: &'a [(f64, String)],
    x: &Range<f64>,
    width: usize,
) -> impl Iterator<Item = (f64, &'a str)> {
    let mut free_from = f64::NEG_INFINITY;
    ticks.iter().filter_map(move |(tick, label)| {
        let half = text_width(label, LABEL) / 2.0;
        // The last label may be wider than the room beside the frame.
        let at = (LEFT as f64 + share(*tick, x) * (width - LEFT - RIGHT) as f64).min(width as f64 - half);
        if at - half < free_from {
            return None;
        }
        free_from = at + half + 6.0;
        Some((at, label.as_str()))
    })
}

/// How far into `range` a value lies: from 0 at its start to 1 at its end.
fn share(value: f64, range: &Range<f64>) -> f64 {
    (value - range.start) / (range.end - range.start)
}

/// Entries a legend shows before it says how many more there are.
const MOST_ENTRIES: usize = 40;
const LONGEST_ENTRY: f64 = 250.0;
const SWATCH: usize = 24;

/// Columns a legend has room for, and the pixels of each.
fn legend_columns(entries: &[(Rgb, String)], width: usize) -> (usize, usize) {
    let widest = entries.iter().map(|(_, name)| text_width(name, LABEL)).fold(0.0, f64::max).min(LONGEST_ENTRY);
    let column = widest.ceil() as usize + SWATCH + 26;
    let room = width - LEFT - RIGHT;
    ((room / column).max(1), column.min(room))
}

fn legend_lines(entries: &[(Rgb, String)], width: usize) -> usize {
    let shown = entries.len().min(MOST_ENTRIES + 1);
    shown.div_ceil(legend_columns(entries, width).0)
}

fn legend(canvas: &mut Canvas, entries: &[(Rgb, String)], left: usize, top: usize, width: usize) {
    let (columns, column) = legend_columns(entries, width);
    for (index, (colour, name)) in entries.iter().take(MOST_ENTRIES + 1).enumerate() {
        let x = left + LEFT + index % columns * column;
        let y = top + 6 + index / columns * LEGEND_LINE;
        let beginning = Anchor(HPos::Left, VPos::Center);
        if index == MOST_ENTRIES {
            let more = format!("and {} more", entries.len() - MOST_ENTRIES);
            canvas.text(&more, (x as f64, y as f64), LABEL, QUIET, beginning, &LEVEL);
        } else {
            canvas.fill(x, y - 1, SWATCH - 6, 3, *colour);
            let room = (column - SWATCH - 8) as f64;
            let name = shorten(name, LABEL, room);
            canvas.text(&name, ((x + SWATCH) as f64, y as f64), LABEL, INK, beginning, &LEVEL);
        }
    }
}

/// Round numbers in `range`, at most `most` or a few fewer: multiples of 1, 2 or 5 times a power of ten.
pub(super) fn round_ticks(range: &Range<f64>, most: usize) -> Vec<f64> {
    let span = range.end - range.start;
    let power = 10f64.powf((span / most as f64).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power);
    let step = step.into_iter().find(|step| span / step <= most as f64).unwrap_or(span);
    let first = (range.start / step - 1e-9).ceil() as i64;
    let last = (range.end / step + 1e-9).floor() as i64;
    (first..=last).map(|multiple| multiple as f64 * step).collect()
}

/// The smallest range around the finite `values` that ends on round numbers; 0..1 without any.
pub(super) fn round_range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (least, greatest) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, g), v| (l.min(v), g.max(v)));
    if least > greatest {
        return 0.0..1.0;
    }
    let widened = (greatest - least).max(1e-2 * greatest.abs()).max(1e-9);
    let step = {
        let ticks = round_ticks(&(0.0..widened), 5);
        ticks.get(1).copied().unwrap_or(widened)
    };
    (least / step).floor() * step..(((greatest / step).ceil()) * step).max((least / step).floor() * step + step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(round_ticks(&(0.0..300.0), 6), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
        assert_eq!(round_ticks(&(1.0..7.0), 6), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        for (start, end) in [(0.113, 0.987), (12.0, 13.0), (0.0, 1e-6)] {
            let ticks = round_ticks(&(start..end), 6);
            assert!((2..=8).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|&tick| tick >= start - 1e-9 && tick <= end + 1e-9), "{ticks:?}");
        }
    }

    #[test]
    fn ranges_contain_their_values_and_are_never_empty() {
        for values in [vec![0.3, 0.71], vec![5.0], vec![0.0], vec![f64::NAN, 2.0, f64::INFINITY], vec![]] {
            let range = round_range(values.iter().copied());
            assert!(range.end > range.start, "{values:?}: {range:?}");
            for value in values.into_iter().filter(|value| value.is_finite()) {
                assert!(range.start <= value + 1e-9 && value <= range.end + 1e-9, "{value} not in {range:?}");
            }
        }
    }

    #[test]
    fn lines_break_at_values_that_are_not_finite() {
        let points =
            [(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 4.0), (5.0, f64::INFINITY), (6.0, 1.0), (7.0, 1.0)];
        let parts: Vec<usize> = unbroken(&points).map(<[_]>::len).collect();
        assert_eq!(parts, [2, 2]);
    }
}
