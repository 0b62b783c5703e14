//! Pictures put together: rows of PNG files, each row as high as its width allows, under a title.

use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops::FilterType;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, QUIET, shorten, text_width};
use crate::{Error, Result};

const WIDTH: usize = 2000;
const MARGIN: usize = 32;
const GAP: usize = 24;
const HEADING: usize = 146;
const ROW_TITLE: usize = 48;
const TITLE: f64 = 34.0;
const TEXT: f64 = 24.0;
const LEVEL: FontTransform = FontTransform::None;

/// Pictures side by side at most: what is shrunk more than this cannot be read.
const MOST_IN_A_ROW: usize = 3;

/// Pictures that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    /// What stands above the first of them; nothing where it is empty.
    pub(crate) title: String,
    /// PNG files.
    pub(crate) pictures: Vec<PathBuf>,
}

/// Draws `groups` below `title` and a line of `how` each as a PNG at `path`. A picture that cannot be read is left out, with a
/// warning.
///
/// # Errors
/// [`Error::File`] where there is no picture, [`Error::Io`] where the file cannot be written.
pub(crate) fn tiles(title: &str, how: [&str; 2], groups: &[Tiles], path: &Path) -> Result<()> {
    let rows = rows(groups);
    if rows.is_empty() {
        return Err(Error::file(path, "there is no picture to put together"));
    }
    let total: usize = rows.iter().map(|row| row.above() + row.height() + GAP).sum();
    let texts = [text_width(title, TITLE), text_width(how[0], TEXT), text_width(how[1], TEXT)];
    let widest = rows.iter().map(Row::width).chain(texts.map(|width| width.ceil() as usize)).fold(1, usize::max);
    let mut canvas = Canvas::new(widest.min(WIDTH) + 2 * MARGIN, HEADING + total + MARGIN - GAP);
    let corner = Anchor(HPos::Left, VPos::Top);
    let (left, room) = (MARGIN as f64, WIDTH as f64);
    canvas.text(&shorten(title, TITLE, room), (left, 20.0), TITLE, INK, corner, &LEVEL);
    for (number, line) in how.into_iter().enumerate() {
        let place = (left, 68.0 + 32.0 * number as f64);
        canvas.text(&shorten(line, TEXT, room), place, TEXT, QUIET, corner, &LEVEL);
    }
    let mut top = HEADING;
    for row in &rows {
        row.draw(&mut canvas, top);
        top += row.above() + row.height() + GAP;
    }
    super::save(&canvas, path)
}

/// Pictures side by side, each with the title of its group if it is the first of it.
#[derive(Default)]
struct Row<'a> {
    pictures: Vec<(&'a str, RgbImage)>,
}

/// The groups in rows: a group that fits beside the one before it stands there, a larger one has rows of its own.
fn rows(groups: &[Tiles]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for Tiles { title, pictures } in groups {
        let pictures: Vec<RgbImage> = pictures.iter().filter_map(|picture| read(picture)).collect();
        if rows.last().is_none_or(|row| row.pictures.len() + pictures.len() > MOST_IN_A_ROW) {
            rows.push(Row::default());
        }
        for (number, picture) in pictures.into_iter().enumerate() {
            if rows.last().is_none_or(|row| row.pictures.len() == MOST_IN_A_ROW) {
                rows.push(Row::default());
            }
            if let Some(row) = rows.last_mut() {
                row.pictures.push((if number == 0 { title } else { "" }, picture));
            }
        }
    }
    rows.retain(|row| !row.pictures.is_empty());
    rows
}

impl Row<'_> {
    /// Pixels for titles.
    fn above(&self) -> usize {
        if self.pictures.iter().all(|(title, _)| title.is_empty()) { 0 } else { ROW_TITLE }
    }

    /// Pixels that its pictures are high: as many as fill the width, but none is enlarged.
    fn height(&self) -> usize {
        let gaps = GAP * (self.pictures.len() - 1);
        let pictures = || self.pictures.iter().map(|(_, picture)| picture);
        let fitting = (WIDTH - gaps) as f64 / pictures().map(aspect).sum::<f64>();
        let largest = pictures().map(RgbImage::height).max().unwrap_or(1);
        (fitting.min(f64::from(largest)) as usize).max(1)
    }

    /// Pixels that a picture of it is wide.
    fn width_of(&self, picture: &RgbImage) -> usize {
        (aspect(picture) * self.height() as f64).floor().max(1.0) as usize
    }

    /// Pixels that it is wide; a title of a single picture may take the whole width.
    fn width(&self) -> usize {
        match &self.pictures[..] {
            [(title, picture)] => self.width_of(picture).max(text_width(title, TEXT).ceil() as usize),
            pictures => pictures.iter().map(|(_, picture)| self.width_of(picture) + GAP).sum::<usize>() - GAP,
        }
    }

    fn draw(&self, canvas: &mut Canvas, top: usize) {
        let (height, mut left) = (self.height(), MARGIN);
        for (title, picture) in &self.pictures {
            let width = self.width_of(picture);
            // A single picture leaves its title the whole row.
            let room = if self.pictures.len() == 1 { WIDTH } else { width };
            let place = (left as f64, top as f64 + 8.0);
            canvas.text(&shorten(title, TEXT, room as f64), place, TEXT, INK, Anchor(HPos::Left, VPos::Top), &LEVEL);
            let shrunk = image::imageops::resize(picture, width as u32, height as u32, FilterType::CatmullRom);
            canvas.image(shrunk.as_raw(), width, (left, top + self.above()), 1);
            left += width + GAP;
        }
    }
}

fn read(path: &Path) -> Option<RgbImage> {
    match image::open(path) {
        Ok(picture) => Some(picture.to_rgb8()),
        Err(reason) => {
            tracing::warn!("a picture is missing: {}: {reason}", path.display());
            None
        }
    }
}

fn aspect(picture: &RgbImage) -> f64 {
    f64::from(picture.width()) / f64::from(picture.height())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pictures_share_the_width_and_none_is_enlarged() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, width, height, colour| {
            let path = dir.path().join(name);
            RgbImage::from_pixel(width, height, image::Rgb(colour)).save(&path).unwrap();
            path
        };
        let (red, blue) = (made("red.png", 3000, 1000, [255, 0, 0]), made("blue.png", 200, 100, [0, 0, 255]));
        let group = |title: &str, pictures: &[&PathBuf]| Tiles {
            title: title.to_owned(),
            pictures: pictures.iter().map(|&path| path.clone()).collect(),
        };
        let missing = dir.path().join("missing.png");
        let groups = [
            group("one", &[&red]),
            group("two", &[&red]),
            group("both", &[&blue, &missing, &blue]),
            group("many", &[&blue, &blue, &blue, &blue]),
        ];
        let shown: Vec<Vec<&str>> =
            rows(&groups).iter().map(|row| row.pictures.iter().map(|(title, _)| *title).collect()).collect();
        assert_eq!(shown, [vec!["one", "two"], vec!["both", ""], vec!["many", "", ""], vec![""]]);
        let path = dir.path().join("tiles.png");
        tiles("title", ["how", "more"], &groups, &path).unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        let count = |colour: [u8; 3]| picture.pixels().filter(|pixel| pixel.0 == colour).count();
        // Two of 3:1 share 2000 - 24 pixels: 329 high, 987 wide each.
        assert_eq!(count([255, 0, 0]), 2 * 329 * 987);
        assert_eq!(count([0, 0, 255]), 6 * 200 * 100);
        assert!(tiles("title", ["how", ""], &[], &path).is_err());
    }
}
