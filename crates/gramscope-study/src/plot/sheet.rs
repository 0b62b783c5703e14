//! Many heatmaps on one sheet, small, so that one glance compares them.

use std::path::Path;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten};
use super::cells::{self, BAR_WIDTH, Layers, Square};
use crate::blocks;
use crate::pair::PairResult;
use crate::{Error, Result};

/// Pixels of a map's side. Sheets are wide: they are looked at shrunk to the width of a page.
const SIDE: usize = 300;
const GAP: usize = 28;
const MARGIN: usize = 28;
/// Room above a map for its title and two more lines.
const CAPTION: usize = 100;
const TITLE: f64 = 28.0;
const TEXT: f64 = 22.0;
const LEVEL: FontTransform = FontTransform::None;

/// One map of a sheet.
#[derive(Clone, Debug)]
pub struct SheetMap<'a> {
    /// What it shows.
    pub result: &'a PairResult,
    /// Its name.
    pub title: String,
    /// Up to two lines below the name.
    pub lines: Vec<String>,
}

/// Draws the maps as a PNG at `path`, `columns` in a row, in their order from the upper left. All have the same side,
/// whatever their number of layers, the scale of [`super::heatmap`], and the first layers at the lower left. The blocks of a map of
/// one network are outlined.
///
/// # Errors
/// [`Error::File`] where there is no map or column, or the arrays of one do not fit its layer names, [`Error::Io`] where
/// the file cannot be written.
pub fn sheet(maps: &[SheetMap<'_>], columns: usize, path: &Path) -> Result<()> {
    super::save(&draw(maps, columns, path)?, path)
}

fn draw(maps: &[SheetMap<'_>], columns: usize, path: &Path) -> Result<Canvas> {
    if maps.is_empty() || columns == 0 {
        return Err(Error::file(path, "a sheet without a map cannot be drawn"));
    }
    for SheetMap { result, .. } in maps {
        super::check_drawable(result, path)?;
    }
    let rows = maps.len().div_ceil(columns);
    let pitch = (SIDE + GAP, CAPTION + SIDE + GAP);
    let bar = MARGIN + columns * pitch.0;
    let mut canvas = Canvas::new(bar + BAR_WIDTH + MARGIN, MARGIN + rows * pitch.1 - GAP + MARGIN);
    for (index, map) in maps.iter().enumerate() {
        let left = MARGIN + index % columns * pitch.0;
        let top = MARGIN + index / columns * pitch.1;
        caption(&mut canvas, map, left, top);
        let info = &map.result.info;
        let x = Layers { names: &info.layers_x, stages: &info.stages_x };
        let y = Layers { names: &info.layers_y, stages: &info.stages_y };
        let square = Square { left, top: top + CAPTION, side: SIDE };
        cells::map(&mut canvas, &map.result.similarity.cka, [x, y], square);
        if let Some(found) = blocks::of(map.result) {
            cells::block_outlines(&mut canvas, &found.blocks, info.layers_x.len(), square);
        }
    }
    cells::colour_bar(&mut canvas, Square { left: bar, top: MARGIN + CAPTION, side: SIDE }, "CKA");
    Ok(canvas)
}

fn caption(canvas: &mut Canvas, map: &SheetMap<'_>, left: usize, top: usize) {
    let (left, top, room) = (left as f64, top as f64, SIDE as f64);
    let corner = Anchor(HPos::Left, VPos::Top);
    canvas.text(&shorten(&map.title, TITLE, room), (left, top), TITLE, INK, corner, &LEVEL);
    for (number, line) in map.lines.iter().take(2).enumerate() {
        let place = (left, top + 38.0 + 28.0 * number as f64);
        canvas.text(&shorten(line, TEXT, room), place, TEXT, QUIET, corner, &LEVEL);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::pair::tests::made;
    use crate::plot::colour;

    fn maps(result: &PairResult, count: usize) -> Vec<SheetMap<'_>> {
        let map = SheetMap { result, title: "title".to_owned(), lines: vec!["one".to_owned(), "two".to_owned()] };
        vec![map; count]
    }

    #[test]
    fn a_sheet_has_room_for_every_map_and_the_first_layers_lie_at_the_lower_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps.png");
        let result = made("x", "y"); // 2 layers across, 3 up; the first has CKA 1 with the first, the second is undefined
        sheet(&maps(&result, 5), 3, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        for index in 0..5 {
            let left = (MARGIN + index % 3 * (SIDE + GAP)) as u32;
            let bottom = (MARGIN + index / 3 * (CAPTION + SIDE + GAP) + CAPTION + SIDE) as u32;
            assert_eq!(picture.get_pixel(left + 9, bottom - 9).0, colour::similarity(1.0), "map {index}");
            let right = left + SIDE as u32 - 9;
            assert_eq!(picture.get_pixel(right, bottom - 9).0, colour::UNDEFINED, "map {index}");
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps.png");
        let mut result = made("x", "y");
        assert!(sheet(&[], 3, &path).is_err() && sheet(&maps(&result, 1), 0, &path).is_err());
        result.similarity.cka.pop();
        assert!(sheet(&maps(&result, 1), 1, &path).unwrap_err().to_string().contains("2 by 3"));
        assert!(!path.exists());
    }
}
