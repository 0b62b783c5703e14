//! A sheet of the images that dominate a layer, those of each sign together.

use std::path::Path;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten};
use crate::Result;
use crate::dominant::{Dominant, DominantExample};

/// Images are enlarged to about this many pixels.
const SIDE: usize = 128;
const COLUMNS: usize = 8;
const GAP: usize = 16;
const MARGIN: usize = 28;
const HEADING: usize = 92;
/// Room below an image for its class and projection.
const CAPTION: usize = 52;
const SECTION: usize = 44;
const TITLE: f64 = 26.0;
const TEXT: f64 = 17.0;
const LABEL: f64 = 16.0;
const LEVEL: FontTransform = FontTransform::None;

/// Draws the images of `found` as a PNG at `path`, replacing what is there: first those with the sign of the most dominant,
/// then the others, each from the largest projection on, with its class and its projection.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn dominant_sheet(found: &Dominant, path: &Path) -> Result<()> {
    super::save(&draw(found), path)
}

fn draw(found: &Dominant) -> Canvas {
    let info = &found.info;
    let side = found.images.first().map_or(1, |image| (image.len() / 3).isqrt());
    let scale = (SIDE / side).max(1);
    let pitch = (side * scale + GAP, side * scale + CAPTION);
    let upright = info.dominant.first().is_some_and(|example| example.projection > 0.0);
    let shown = || info.dominant.iter().zip(&found.images);
    let (same, other): (Vec<_>, Vec<_>) = shown().partition(|(example, _)| (example.projection > 0.0) == upright);
    let sections = [(&same, "the sign of the most dominant image"), (&other, "the other sign")];
    let height = |images: &[_]| if images.is_empty() { 0 } else { SECTION + images.len().div_ceil(COLUMNS) * pitch.1 };
    let total = sections.iter().map(|(images, _)| height(images)).sum::<usize>();
    let mut canvas = Canvas::new(2 * MARGIN + COLUMNS * pitch.0 - GAP, HEADING + total + MARGIN);
    let room = (COLUMNS * pitch.0 - GAP) as f64;
    let (left, corner) = (MARGIN as f64, Anchor(HPos::Left, VPos::Top));
    let title = format!("Images that dominate {} of {}", info.layer, info.model);
    let share: f64 = info.dominant.iter().map(|example| example.share).sum();
    let how = format!(
        "the largest {} of {} projections on its first component, which explains {:.1}% of its variance; {:.1}% of that is theirs",
        info.dominant.len(),
        info.examples,
        100.0 * info.variance_explained,
        100.0 * share
    );
    canvas.text(&shorten(&title, TITLE, room), (left, 18.0), TITLE, INK, corner, &LEVEL);
    canvas.text(&shorten(&how, TEXT, room), (left, 54.0), TEXT, QUIET, corner, &LEVEL);
    let mut top = HEADING;
    for (images, name) in sections {
        if !images.is_empty() {
            let heading = format!("{} with {name}", images.len());
            canvas.text(&heading, (left, top as f64 + 8.0), TEXT, INK, corner, &LEVEL);
            for (index, &(example, image)) in images.iter().enumerate() {
                let place = (MARGIN + index % COLUMNS * pitch.0, top + SECTION + index / COLUMNS * pitch.1);
                canvas.image(image, side, place, scale);
                caption(&mut canvas, example, place, side * scale);
            }
        }
        top += height(images);
    }
    canvas
}

fn caption(canvas: &mut Canvas, example: &DominantExample, (left, top): (usize, usize), side: usize) {
    let (left, below) = (left as f64, (top + side) as f64);
    let corner = Anchor(HPos::Left, VPos::Top);
    let class = shorten(&example.class, LABEL, side as f64);
    canvas.text(&class, (left, below + 3.0), LABEL, INK, corner, &LEVEL);
    canvas.text(&format!("{:+.3e}", example.projection), (left, below + 23.0), LABEL, QUIET, corner, &LEVEL);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::dominant::DominantInfo;
    use crate::provenance::{ExampleSource, Versions};

    #[test]
    fn images_of_either_sign_stand_together_in_their_order() {
        let projections = [-9.0, 8.0, -7.0, 6.0, -5.0];
        let example = |(index, &projection): (usize, &f64)| DominantExample {
            index,
            file: None,
            label: 0,
            class: "class".to_owned(),
            projection,
            share: 0.1,
        };
        let info = DominantInfo {
            model: "run".to_owned(),
            layer: "layer".to_owned(),
            examples: 40,
            variance_explained: 0.5,
            second_over_first: 0.1,
            dominant: projections.iter().enumerate().map(example).collect(),
            data: ExampleSource::Images { name: "builtin".to_owned(), dir: None },
            versions: Versions::current(),
        };
        // Images of 2 x 2 pixels in one colour each.
        let images = (0..5).map(|index| vec![10 * (index + 1); 12]).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dominant.png");
        dominant_sheet(&Dominant { info, projections: projections.to_vec(), images }, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        let pitch = (SIDE + GAP, SECTION + SIDE + CAPTION);
        for (section, column, index) in [(0, 0, 0), (0, 1, 2), (0, 2, 4), (1, 0, 1), (1, 1, 3)] {
            let (x, y) = (MARGIN + column * pitch.0, HEADING + section * pitch.1 + SECTION);
            for (x, y) in [(x, y), (x + SIDE - 1, y + SIDE - 1)] {
                assert_eq!(picture.get_pixel(x as u32, y as u32).0, [10 * (index + 1); 3], "image {index}");
            }
        }
    }
}
