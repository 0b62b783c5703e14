//! A data set at a glance.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, ImageResult, Rgb, RgbImage};

use super::Dataset;
use crate::atomic;

/// Pixels between two images of a contact sheet, before scaling.
const GAP: u32 = 2;
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);

/// Writes a picture of the first `columns` training images of every class to `path`, in the format that its extension names, every
/// pixel as `scale` x `scale` pixels.
///
/// # Errors
/// An extension of no format that there is, and what the system says.
pub fn write_contact_sheet(dataset: &Dataset, columns: usize, scale: usize, path: &Path) -> ImageResult<()> {
    let format = ImageFormat::from_path(path)?;
    let mut picture = Cursor::new(Vec::new());
    contact_sheet(dataset, columns, scale).write_to(&mut picture, format)?;
    Ok(atomic::write(path, picture.get_ref())?)
}

/// The first `columns` training images of every class, a row a class, in the order of the labels; every pixel becomes
/// `scale` x `scale` pixels. A class with fewer images leaves its row's end white.
fn contact_sheet(dataset: &Dataset, columns: usize, scale: usize) -> RgbImage {
    let (columns, scale) = (columns.max(1), pixels(scale.max(1)));
    let side = pixels(dataset.image_side);
    let cell = (side + GAP) * scale;
    let extent = |cells: usize| pixels(cells) * cell + GAP * scale;
    let mut sheet = RgbImage::from_pixel(extent(columns), extent(dataset.classes.len()), PAPER);
    let mut filled = vec![0; dataset.classes.len()];
    for (index, &label) in dataset.train.labels().iter().enumerate() {
        let (row, column) = (label as usize, filled[label as usize]);
        if column == columns {
            continue;
        }
        filled[row] += 1;
        let corner = (pixels(column) * cell + GAP * scale, pixels(row) * cell + GAP * scale);
        paste(&mut sheet, dataset.train.image(index), side, corner, scale);
    }
    sheet
}

/// Copies an RGB image with sides of `side` pixels to `corner`, enlarged by `scale`.
fn paste(sheet: &mut RgbImage, image: &[u8], side: u32, corner: (u32, u32), scale: u32) {
    for y in 0..side * scale {
        for x in 0..side * scale {
            let from = 3 * ((y / scale) * side + x / scale) as usize;
            sheet.put_pixel(corner.0 + x, corner.1 + y, Rgb([image[from], image[from + 1], image[from + 2]]));
        }
    }
}

fn pixels(length: usize) -> u32 {
    u32::try_from(length).expect("a contact sheet is smaller than 2^32 pixels")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::Split;

    #[test]
    fn a_row_a_class_and_an_enlarged_pixel_a_pixel() {
        // 2 x 2 images of one colour each: classes 0 1 1 0 1, colours 10 20 30 40 50; class 2 has none.
        let images: Vec<u8> = [10, 20, 30, 40, 50].into_iter().flat_map(|grey| [grey; 12]).collect();
        let train = Split::new(images, vec![0, 1, 1, 0, 1], 2).unwrap();
        let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
        let dataset = Dataset { name: "made up".to_owned(), classes, image_side: 2, test: train.clone(), train };
        let sheet = contact_sheet(&dataset, 2, 3);
        let cell = 3 * (2 + GAP);
        assert_eq!(sheet.dimensions(), (2 * cell + 3 * GAP, 3 * cell + 3 * GAP));
        for (row, column, grey) in [(0, 0, 10), (0, 1, 40), (1, 0, 20), (1, 1, 30), (2, 0, 255), (2, 1, 255)] {
            let corner = (column * cell + 3 * GAP, row * cell + 3 * GAP);
            for (x, y) in [(0, 0), (5, 0), (0, 5), (5, 5)] {
                assert_eq!(*sheet.get_pixel(corner.0 + x, corner.1 + y), Rgb([grey; 3]), "cell {row}, {column}");
            }
            assert_eq!(*sheet.get_pixel(corner.0 + 6, corner.1), PAPER);
        }
    }
}
