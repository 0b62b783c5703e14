//! First principal components: figure 3 of Nguyen, Raghu and Kornblith (2021) for one network, four panels in one picture.

use std::path::Path;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten};
use super::cells::{self, BAR_WIDTH, Layers, Square};
use super::chart::{self, Panel, Series};
use super::{colour, layers};
use crate::pcs::{CLOSE_EIGENVALUES, PcsResult};
use crate::provenance::ExampleSource;
use crate::{Error, Result};

/// Pixels of a map's side.
const SIDE: usize = 440;
const MARGIN: usize = 32;
/// Room above all panels, and above each.
const HEADING: usize = 104;
const CAPTION: usize = 46;
const GAP: usize = 44;
const TITLE: f64 = 30.0;
const PANEL_TITLE: f64 = 24.0;
const TEXT: f64 = 20.0;
const LEVEL: FontTransform = FontTransform::None;
const CHART_HEIGHT: usize = CAPTION + SIDE;
/// Layers that are few enough for a dot each.
const MOST_DOTS: usize = 80;
/// Colour of what is not to be relied upon.
const WARNING: colour::Rgb = colour::QUALITATIVE[1];

/// Draws `result` as a PNG at `path`, replacing what is there: CKA of all pairs of layers, the fraction of variance that each
/// first component explains, the squared cosine between first components, and CKA without them. Maps have the scale and the
/// orientation of [`super::heatmap`]; layers whose component is not well defined are marked in the chart.
///
/// # Errors
/// [`Error::File`] where the arrays of `result` do not fit its layer names or there is no layer, [`Error::Io`] where the file
/// cannot be written.
pub fn principal_components(result: &PcsResult, path: &Path) -> Result<()> {
    super::save(&draw(result, path)?, path)
}

fn draw(result: &PcsResult, path: &Path) -> Result<Canvas> {
    let (info, found) = (&result.info, &result.similarity);
    let layers = info.layers.len();
    let matrices = [&found.cka, &found.cosine_sq, &found.cka_without_first];
    if layers == 0 || found.variance_explained.len() != layers || matrices.iter().any(|m| m.len() != layers * layers) {
        return Err(Error::file(path, format!("a map of {layers} layers cannot be drawn from these arrays")));
    }
    let column = SIDE + GAP + BAR_WIDTH;
    let row = CAPTION + SIDE + GAP;
    let mut canvas = Canvas::new(2 * MARGIN + 2 * column, HEADING + 2 * row - GAP + MARGIN);
    heading(&mut canvas, result, 2 * column);
    let (left, right) = (MARGIN, MARGIN + column);
    let (upper, lower) = (HEADING, HEADING + row);
    for (title, values, at, top) in [
        (format!("CKA ({})", info.estimator), &found.cka, left, upper),
        ("Squared cosine of first components".to_owned(), &found.cosine_sq, left, lower),
        ("CKA without the first component".to_owned(), &found.cka_without_first, right, lower),
    ] {
        let place = (at as f64, top as f64);
        canvas.text(&title, place, PANEL_TITLE, INK, Anchor(HPos::Left, VPos::Top), &LEVEL);
        let square = Square { left: at, top: top + CAPTION, side: SIDE };
        let axis = Layers { names: &info.layers, stages: &info.stages };
        cells::map(&mut canvas, values, [axis, axis], square);
        cells::colour_bar(&mut canvas, Square { left: at + SIDE + GAP / 2, ..square }, "");
    }
    let chart = chart::draw(&[fractions(result)], column, CHART_HEIGHT);
    canvas.paste(&chart, right - GAP / 2, upper);
    let title = "Variance explained by the first component";
    let place = (right as f64, upper as f64);
    canvas.text(title, place, PANEL_TITLE, INK, Anchor(HPos::Left, VPos::Top), &LEVEL);
    Ok(canvas)
}

fn heading(canvas: &mut Canvas, result: &PcsResult, room: usize) {
    let (info, found) = (&result.info, &result.similarity);
    let noun = match &info.data {
        ExampleSource::Images { name, .. } => format!("{name} test images"),
        ExampleSource::Activations { .. } => "stored examples".to_owned(),
    };
    let undefined = [&found.undefined, &found.undefined_cka, &found.undefined_without_first];
    let grey = if undefined.iter().all(|layers| layers.is_empty()) { "" } else { "; grey: undefined" };
    let how = format!("First principal components over {} {noun}; first layers at the lower left{grey}", info.examples);
    let (left, room) = (MARGIN as f64, room as f64);
    let corner = Anchor(HPos::Left, VPos::Top);
    canvas.text(&shorten(&info.model, TITLE, room), (left, 20.0), TITLE, INK, corner, &LEVEL);
    canvas.text(&shorten(&how, TEXT, room), (left, 60.0), TEXT, QUIET, corner, &LEVEL);
}

/// Variance explained against the layer, from the first.
fn fractions(result: &PcsResult) -> Panel {
    let (info, found) = (&result.info, &result.similarity);
    let count = found.variance_explained.len();
    let x = -0.5..count as f64 - 0.5;
    let stages = layers::stages(&info.layers, &info.stages);
    let points = || found.variance_explained.iter().enumerate().map(|(layer, &fraction)| (layer as f64, fraction));
    let mut series = chart::stage_boundaries(&stages, 1.0);
    let (colour, dots) = (colour::QUALITATIVE[0], count <= MOST_DOTS);
    series.push(Series { colour, dashed: false, dots, joined: true, points: points().collect() });
    let close = |&(layer, _): &(f64, f64)| found.second_over_first[layer as usize] > CLOSE_EIGENVALUES;
    let unclear: Vec<(f64, f64)> = points().filter(close).collect();
    let mut legend = Vec::new();
    if !unclear.is_empty() {
        legend.push((WARNING, format!("not well defined: the second explains over {CLOSE_EIGENVALUES} as much")));
        series.push(Series { colour: WARNING, dashed: false, dots: true, joined: false, points: unclear });
    }
    Panel {
        title: String::new(),
        x_title: "layer, first to last",
        x,
        y: 0.0..1.0,
        x_ticks: chart::stage_names(&stages),
        y_ticks: (0..=4).map(|tick| f64::from(tick) / 4.0).map(|y| (y, format!("{y}"))).collect(),
        series,
        legend,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::pcs::tests::made;

    #[test]
    fn each_panel_shows_its_numbers_with_the_first_layers_at_the_lower_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pcs.png");
        let result = made("model");
        principal_components(&result, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        let found = &result.similarity;
        let (right, lower) = (MARGIN + SIDE + GAP + BAR_WIDTH, HEADING + CAPTION + SIDE + GAP);
        for (values, left, top) in
            [(&found.cka, MARGIN, HEADING), (&found.cosine_sq, MARGIN, lower), (&found.cka_without_first, right, lower)]
        {
            for (x, y) in [(0, 0), (0, 1), (1, 1), (2, 0)] {
                let pixel = |cell: usize| (cell * SIDE / 3 + SIDE / 6) as u32;
                let bottom = (top + CAPTION + SIDE) as u32;
                let colour = picture.get_pixel(left as u32 + pixel(x), bottom - pixel(y)).0;
                assert_eq!(colour, colour::similarity(values[3 * x + y]), "({x}, {y})");
            }
        }
        assert!(picture.pixels().any(|pixel| pixel.0 == WARNING), "no mark of the layer that is not well defined");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pcs.png");
        let mut result = made("model");
        result.similarity.cosine_sq.pop();
        assert!(principal_components(&result, &path).unwrap_err().to_string().contains("3 layers"));
        assert!(!path.exists());
    }
}
