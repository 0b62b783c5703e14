//! The heatmap of a comparison: a crisp rectangle of whole pixels for every pair of layers.

use std::ops::Range;
use std::path::Path;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten, text_width};
use super::layers::{self, Group};
use super::{cells, colour};
use crate::Result;
use crate::blocks::{Blocks, WithinMap};
use crate::mean::Mean;
use crate::pair::{PairInfo, PairResult};
use crate::provenance::DataInfo;

/// A map's longer side aims at this many pixels.
const SIDE: usize = 900;
/// A short side is stretched towards this many.
const SHORT_SIDE: usize = 240;
/// No cell is larger than this.
const LARGEST_CELL: usize = 60;
/// Pixels of ground between two stages, so that the line costs no cell a pixel.
const GUTTER: usize = 2;
const MARGIN: usize = 24;
const TITLE: f64 = 22.0;
const TEXT: f64 = 14.0;
const LABEL: f64 = 13.0;
/// Least distance between two layer names on an axis.
const LABEL_GAP: f64 = 14.0;
const TICK: usize = 5;
const BAR: usize = 20;
const LEVEL: FontTransform = FontTransform::None;
const UPWARDS: FontTransform = FontTransform::Rotate270;

/// Draws the CKA of `result` as a PNG at `path`, replacing what is there.
///
/// The layers of model x run along the horizontal axis, those of model y up the vertical one, both from the first layer
/// at the lower left. Every map has the same scale: black is 0 and below, pale yellow 1 and above (only the colour is
/// clipped; the smallest and largest value stand under the title); a value that is undefined (NaN) is grey. A cell is a
/// rectangle of whole pixels, at least one. Light blue lines part the stages; names of layers stand at the axes where
/// they fit, else those of blocks or stages.
///
/// # Errors
/// [`crate::Error::File`] where the arrays of `result` do not fit its layer names or there is no layer,
/// [`crate::Error::Io`] where the file cannot be written.
pub fn heatmap(result: &PairResult, path: &Path) -> Result<()> {
    super::check_drawable(result, path)?;
    let info = &result.info;
    let picture = Picture {
        heading: heading(info),
        lines: [how(info), range(&result.similarity.cka)],
        models: [&info.model_x, &info.model_y],
        layers: [&info.layers_x, &info.layers_y],
        stages: [&info.stages_x, &info.stages_y],
        values: &result.similarity.cka,
        scale: 0.0..1.0,
        blocks: &[],
    };
    picture.save(path)
}

/// Draws the map with a green line around each of its blocks, as [`heatmap`] does.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub(crate) fn blocks(map: &WithinMap, model: &str, found: &Blocks, path: &Path) -> Result<()> {
    let spans: Vec<_> = found.blocks.iter().map(|block| (block.first, block.last)).collect();
    let count = match found.blocks.as_slice() {
        [] => "no block".to_owned(),
        [block] => format!("1 block with {:.0}% of the layers", 100.0 * block.share),
        blocks => format!("{} blocks with {:.0}% of the layers", blocks.len(), 100.0 * found.share()),
    };
    let picture = Picture {
        heading: model.to_owned(),
        lines: [format!("Block structure of the CKA map: {count}, score {:.3}", found.score), range(map.cka())],
        models: [model, model],
        layers: [map.layers(), map.layers()],
        stages: [map.stages(), map.stages()],
        values: map.cka(),
        scale: 0.0..1.0,
        blocks: &spans,
    };
    picture.save(path)
}

/// Draws the map of means on the scale of [`heatmap`], and that of variances on one from 0 to the greatest of them.
///
/// # Errors
/// [`crate::Error::Io`] where a file cannot be written.
pub(crate) fn mean(mean: &Mean, path: &Path, variance_path: &Path) -> Result<()> {
    let info = &mean.info;
    let count = info.maps.len();
    let (model_x, model_y) = info.models();
    let draw = |what: &str, values: &[f64], greatest: f64, path: &Path| {
        let picture = Picture {
            heading: format!("{what} of {count} maps of {model_x}"),
            lines: [format!("{what} of CKA, {}, kernel {}", info.estimator, info.kernel), range(values)],
            models: [&model_x, &model_y],
            layers: [&info.layers_x, &info.layers_y],
            stages: [&info.stages_x, &info.stages_y],
            values,
            scale: 0.0..greatest,
            blocks: &[],
        };
        picture.save(path)
    };
    // f64::max passes over NaN; a map without any variance is black on a scale to 1.
    let greatest = mean.variance.iter().copied().fold(0.0, f64::max);
    let variance = draw("Variance", &mean.variance, if greatest > 0.0 { greatest } else { 1.0 }, variance_path);
    draw("Mean", &mean.mean, 1.0, path).and(variance)
}

/// A map to be drawn. Of pairs, the first is that of the horizontal axis.
pub(super) struct Picture<'a> {
    pub(super) heading: String,
    /// What stands under it.
    pub(super) lines: [String; 2],
    pub(super) models: [&'a str; 2],
    pub(super) layers: [&'a [String]; 2],
    pub(super) stages: [&'a [usize]; 2],
    /// A row a layer of the horizontal axis.
    pub(super) values: &'a [f64],
    /// The values that are drawn in black and in the brightest colour.
    pub(super) scale: Range<f64>,
    /// First and last layer of the blocks, of a map within a model.
    pub(super) blocks: &'a [(usize, usize)],
}

impl Picture<'_> {
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        super::save(&self.draw(), path)
    }

    fn draw(&self) -> Canvas {
        let (cell_width, cell_height) = cell_size(self.layers[0].len(), self.layers[1].len());
        let horizontal = Axis::new(self.layers[0], self.stages[0], cell_width);
        let vertical = Axis::new(self.layers[1], self.stages[1], cell_height);
        let frame = Frame::around(&horizontal, &vertical, &self.heading);
        let mut canvas = Canvas::new(frame.width, frame.height);
        cells(&mut canvas, &frame, self);
        for &(first, last) in self.blocks {
            outline(&mut canvas, &frame, first, last);
        }
        title(&mut canvas, &frame, self);
        axes(&mut canvas, &frame, self.models);
        colour_bar(&mut canvas, &frame, self);
        canvas
    }
}

/// Width and height of a cell: equal, unless one side has so few layers that it would be a sliver.
fn cell_size(columns: usize, rows: usize) -> (usize, usize) {
    let common = (SIDE as f64 / columns.max(rows) as f64).round() as usize;
    let common = common.clamp(1, LARGEST_CELL);
    let along = |layers: usize| common.max(SHORT_SIDE.div_ceil(layers).min(LARGEST_CELL));
    (along(columns), along(rows))
}

/// One axis of a map: where each layer lies, in pixels from the lower left corner.
struct Axis<'a> {
    names: &'a [String],
    stages: Vec<Group>,
    cell: usize,
}

impl<'a> Axis<'a> {
    fn new(names: &'a [String], stages: &[usize], cell: usize) -> Self {
        Self { names, stages: layers::stages(names, stages), cell }
    }

    /// First pixel of a layer.
    fn offset(&self, layer: usize) -> usize {
        let crossed = self.stages.iter().skip(1).filter(|stage| stage.start <= layer).count();
        layer * self.cell + crossed * GUTTER
    }

    /// Pixels of the whole axis.
    fn extent(&self) -> usize {
        self.names.len() * self.cell + (self.stages.len() - 1) * GUTTER
    }

    /// First pixel and number of pixels of consecutive layers.
    fn span(&self, start: usize, len: usize) -> (usize, usize) {
        let first = self.offset(start);
        (first, self.offset(start + len - 1) + self.cell - first)
    }

    fn centre(&self, start: usize, len: usize) -> f64 {
        let (first, pixels) = self.span(start, len);
        first as f64 + pixels as f64 / 2.0
    }

    fn labels(&self, room: f64) -> Vec<(f64, String)> {
        let labels = layers::axis_labels(self.names, |start, len| self.centre(start, len), LABEL_GAP);
        labels.into_iter().map(|(at, label)| (at, shorten(&label, LABEL, room))).collect()
    }
}

/// Where the parts of the picture lie.
struct Frame<'a> {
    horizontal: &'a Axis<'a>,
    vertical: &'a Axis<'a>,
    labels_x: Vec<(f64, String)>,
    labels_y: Vec<(f64, String)>,
    /// Upper left pixel of the map.
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl<'a> Frame<'a> {
    fn around(horizontal: &'a Axis<'a>, vertical: &'a Axis<'a>, heading: &str) -> Self {
        const LONGEST_LABEL: f64 = 240.0;
        let widest = |labels: &[(f64, String)]| {
            labels.iter().map(|(_, label)| text_width(label, LABEL)).fold(0.0, f64::max).ceil() as usize
        };
        let (labels_x, labels_y) = (horizontal.labels(LONGEST_LABEL), vertical.labels(LONGEST_LABEL));
        let axis_title = 2 * TEXT as usize;
        let left = MARGIN + axis_title + widest(&labels_y) + 2 * TICK;
        let stage_names = if horizontal.stages.len() > 1 { 22 } else { 6 };
        let top = MARGIN + 62 + stage_names;
        let right = 40 + BAR + 44 + MARGIN;
        let bottom = (2 * TICK + widest(&labels_x) + axis_title).max(56) + MARGIN;
        // Room for a title of ordinary length; a longer one is shortened.
        let title = text_width(heading, TITLE).min(900.0) as usize + 2 * MARGIN;
        let width = (left + horizontal.extent() + right).max(title).max(560);
        let height = top + vertical.extent() + bottom;
        Self { horizontal, vertical, labels_x, labels_y, left, top, width, height }
    }

    fn bottom(&self) -> usize {
        self.top + self.vertical.extent()
    }

    fn right(&self) -> usize {
        self.left + self.horizontal.extent()
    }
}

fn cells(canvas: &mut Canvas, frame: &Frame<'_>, picture: &Picture<'_>) {
    let (horizontal, vertical) = (frame.horizontal, frame.vertical);
    canvas.fill(frame.left, frame.top, horizontal.extent(), vertical.extent(), colour::BOUNDARY);
    let rows = vertical.names.len();
    let Range { start, end } = picture.scale;
    for x in 0..horizontal.names.len() {
        let left = frame.left + horizontal.offset(x);
        for y in 0..rows {
            let top = frame.bottom() - vertical.offset(y) - vertical.cell;
            let colour = colour::similarity((picture.values[x * rows + y] - start) / (end - start));
            canvas.fill(left, top, horizontal.cell, vertical.cell, colour);
        }
    }
}

/// Draws a line around the square of the layers from `first` to `last`.
fn outline(canvas: &mut Canvas, frame: &Frame<'_>, first: usize, last: usize) {
    let (left, width) = frame.horizontal.span(first, last + 1 - first);
    let (up, height) = frame.vertical.span(first, last + 1 - first);
    cells::outline(canvas, (frame.left + left, frame.bottom() - up - height), (width, height));
}

fn heading(info: &PairInfo) -> String {
    if super::is_within(info) { info.model_x.clone() } else { format!("{}  and  {}", info.model_x, info.model_y) }
}

fn how(info: &PairInfo) -> String {
    let kernel = match info.kernel.as_str() {
        "linear" => "linear kernel".to_owned(),
        other => format!("kernel {other}"),
    };
    let noun = match &info.data {
        _ if info.is_noise() => "images of noise".to_owned(),
        DataInfo::Images { name, .. } => format!("{name} test images"),
        DataInfo::Activations { .. } => "stored examples".to_owned(),
    };
    let batches = if info.batches == 1 { "1 batch".to_owned() } else { format!("{} batches", info.batches) };
    let variations: String = info.variations().iter().map(|variation| format!(", {variation}")).collect();
    format!("CKA, {}, {kernel}{variations}, {batches} of {} {noun}", info.estimator, info.batch_size)
}

/// The least and the greatest value, in words.
pub(super) fn range(values: &[f64]) -> String {
    let finite = values.iter().copied().filter(|value| !value.is_nan());
    let (least, greatest) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, g), v| (l.min(v), g.max(v)));
    if least <= greatest {
        format!("values from {least:.3} to {greatest:.3}")
    } else {
        "no value is defined".to_owned()
    }
}

fn title(canvas: &mut Canvas, frame: &Frame<'_>, picture: &Picture<'_>) {
    let room = (frame.width - 2 * MARGIN) as f64;
    let left = MARGIN as f64;
    let top_left = Anchor(HPos::Left, VPos::Top);
    canvas.text(&shorten(&picture.heading, TITLE, room), (left, 18.0), TITLE, INK, top_left, &LEVEL);
    let [first, second] = &picture.lines;
    let together = format!("{first}; {second}");
    if text_width(&together, TEXT) <= room {
        canvas.text(&together, (left, 50.0), TEXT, QUIET, top_left, &LEVEL);
    } else {
        canvas.text(&shorten(first, TEXT, room), (left, 46.0), TEXT, QUIET, top_left, &LEVEL);
        canvas.text(&shorten(second, TEXT, room), (left, 64.0), TEXT, QUIET, top_left, &LEVEL);
    }
}

fn axes(canvas: &mut Canvas, frame: &Frame<'_>, [across, up]: [&str; 2]) {
    let (left, bottom) = (frame.left as f64, frame.bottom() as f64);
    for (at, label) in &frame.labels_x {
        let x = left + at;
        canvas.fill(x as usize, frame.bottom(), 1, TICK, QUIET);
        let place = (x, bottom + 1.5 * TICK as f64);
        canvas.text(label, place, LABEL, INK, Anchor(HPos::Right, VPos::Center), &UPWARDS);
    }
    for (at, label) in &frame.labels_y {
        let y = bottom - at;
        canvas.fill(frame.left - TICK, y as usize, TICK, 1, QUIET);
        let place = (left - 1.5 * TICK as f64, y);
        canvas.text(label, place, LABEL, INK, Anchor(HPos::Right, VPos::Center), &LEVEL);
    }
    let horizontal = frame.horizontal.extent() as f64;
    let vertical = frame.vertical.extent() as f64;
    let name = |model: &str, room: f64| {
        let whole = format!("layers of {model}, first to last →");
        if text_width(&whole, TEXT) <= room { whole } else { shorten(&format!("{model} →"), TEXT, room) }
    };
    let (below, beside) = ((frame.height - MARGIN) as f64, MARGIN as f64);
    let (from_left, from_bottom) = (Anchor(HPos::Left, VPos::Bottom), Anchor(HPos::Left, VPos::Top));
    let (x_title, y_title) = (name(across, horizontal.max(300.0)), name(up, vertical.max(240.0)));
    canvas.text(&x_title, (left, below), TEXT, INK, from_left, &LEVEL);
    canvas.text(&y_title, (beside, bottom), TEXT, INK, from_bottom, &UPWARDS);
    stage_names(canvas, frame);
}

fn stage_names(canvas: &mut Canvas, frame: &Frame<'_>) {
    let places = |axis: &Axis<'_>| -> Vec<(f64, String)> {
        let several = axis.stages.len() > 1;
        let stages = axis.stages.iter().filter(|_| several).map(|stage| {
            let (_, pixels) = axis.span(stage.start, stage.len);
            (axis.centre(stage.start, stage.len), &stage.label, pixels as f64)
        });
        let fitting = stages.filter(|(_, label, pixels)| text_width(label, TEXT) <= *pixels);
        fitting.map(|(at, label, _)| (at, label.clone())).collect()
    };
    for (at, label) in places(frame.horizontal) {
        let place = (frame.left as f64 + at, frame.top as f64 - 3.0);
        canvas.text(&label, place, TEXT, QUIET, Anchor(HPos::Center, VPos::Bottom), &LEVEL);
    }
    for (at, label) in places(frame.vertical) {
        let place = (frame.right() as f64 + 3.0, frame.bottom() as f64 - at);
        canvas.text(&label, place, TEXT, QUIET, Anchor(HPos::Center, VPos::Top), &UPWARDS);
    }
}

fn colour_bar(canvas: &mut Canvas, frame: &Frame<'_>, picture: &Picture<'_>) {
    let left = frame.right() + 40;
    let (top, height) = (frame.top, frame.vertical.extent());
    for row in 0..height {
        let value = 1.0 - (row as f64 + 0.5) / height as f64;
        canvas.fill(left, top + row, BAR, 1, colour::similarity(value));
    }
    let Range { start, end } = picture.scale;
    // Tenths where there is room for them.
    let ticks = if height >= 400 { 10 } else { 5 };
    for tick in 0..=ticks {
        let value = f64::from(tick) / f64::from(ticks);
        let y = top as f64 + (1.0 - value) * (height - 1) as f64;
        canvas.fill(left + BAR, y.round() as usize, TICK, 1, QUIET);
        let place = ((left + BAR + 2 * TICK) as f64, y);
        canvas.text(
            &tick_label(start + (end - start) * value, end - start),
            place,
            LABEL,
            INK,
            Anchor(HPos::Left, VPos::Center),
            &LEVEL,
        );
    }
    if picture.values.iter().any(|value| value.is_nan()) {
        let side = BAR - 6;
        let y = frame.bottom() + 16;
        canvas.fill(left, y, side, side, colour::UNDEFINED);
        let place = ((left + side + 6) as f64, (y + side / 2) as f64);
        canvas.text("undef.", place, LABEL, INK, Anchor(HPos::Left, VPos::Center), &LEVEL);
    }
}

/// A number at the colour bar, with as many decimals as a tenth of its length needs.
fn tick_label(value: f64, length: f64) -> String {
    let decimals = (1.0 - length.log10()).ceil().clamp(1.0, 12.0) as usize;
    format!("{value:.decimals$}")
}
