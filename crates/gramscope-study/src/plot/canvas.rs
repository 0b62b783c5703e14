//! A buffer of pixels with the few strokes our pictures need; plotters draws lines into the same buffer.
//!
//! Text is set here rather than by plotters, which rounds every glyph to a whole pixel and ignores the space before it:
//! at the size of an axis label that shows. The font lies in the repository, so that no machine needs one installed.

use ab_glyph::{Font, FontRef, Glyph, GlyphId, PxScale, ScaleFont, point};
use plotters::prelude::BitMapBackend;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};
use std::sync::LazyLock;

use super::colour::Rgb;

/// Black on white, but softer.
pub(super) const INK: Rgb = [28, 32, 38];
/// Words that explain.
pub(super) const QUIET: Rgb = [95, 102, 112];
/// Ground of every picture.
pub(super) const PAPER: Rgb = [255, 255, 255];

static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("../../assets/fonts/DejaVuSans.ttf"))
        .expect("the font in the repository is a valid TrueType file")
});

/// Where a text lies relative to the point it is drawn at.
#[derive(Clone, Copy)]
pub(super) struct Anchor(pub(super) HPos, pub(super) VPos);

/// An RGB picture being drawn. Everything outside it is dropped.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A sheet of paper, `width` by `height` pixels.
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: PAPER.repeat(width * height) }
    }

    /// Mixes `colour` into one pixel; `coverage` 0 leaves it, 1 replaces it.
    fn blend(&mut self, x: i64, y: i64, colour: Rgb, coverage: f64) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        if x >= self.width || y >= self.height {
            return;
        }
        let offset = 3 * (y * self.width + x);
        for (old, new) in self.pixels[offset..offset + 3].iter_mut().zip(colour) {
            let mixed = f64::from(*old) + coverage.clamp(0.0, 1.0) * (f64::from(new) - f64::from(*old));
            *old = mixed.round() as u8;
        }
    }

    /// Fills the pixels from (`left`, `top`) on, `width` by `height` of them.
    pub(super) fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, colour: Rgb) {
        let right = (left + width).min(self.width);
        for y in top..(top + height).min(self.height) {
            if left < right {
                let row = 3 * y * self.width;
                for pixel in self.pixels[row + 3 * left..row + 3 * right].chunks_exact_mut(3) {
                    pixel.copy_from_slice(&colour);
                }
            }
        }
    }

    /// Copies another picture to (`left`, `top`).
    pub(super) fn paste(&mut self, other: &Self, left: usize, top: usize) {
        self.image(&other.pixels, other.width, (left, top), 1);
    }

    /// Copies RGB pixels, `width` a row, to (`left`, `top`), each `scale` by `scale` pixels large.
    pub(super) fn image(&mut self, pixels: &[u8], width: usize, (left, top): (usize, usize), scale: usize) {
        for (y, row) in pixels.chunks_exact(3 * width).enumerate() {
            for (x, pixel) in row.chunks_exact(3).enumerate() {
                self.fill(left + x * scale, top + y * scale, scale, scale, [pixel[0], pixel[1], pixel[2]]);
            }
        }
    }

    /// Writes `text`, `size` pixels an em, with its anchor at (`x`, `y`), turned about that point.
    pub(super) fn text(
        &mut self,
        text: &str,
        (x, y): (f64, f64),
        size: f64,
        colour: Rgb,
        Anchor(horizontal, vertical): Anchor,
        turn: &FontTransform,
    ) {
        let line = Line::set(text, size);
        let left = match horizontal {
            HPos::Left => 0.0,
            HPos::Center => -line.width / 2.0,
            HPos::Right => -line.width,
        };
        let baseline = match vertical {
            VPos::Top => line.ascent,
            // Half the height of a capital below the point: what the eye takes for the middle.
            VPos::Center => 0.365 * size,
            VPos::Bottom => -line.descent,
        };
        let (x, y) = (x.round() as i32, y.round() as i32);
        for mut glyph in line.glyphs {
            glyph.position.x += left as f32;
            glyph.position.y += baseline as f32;
            let Some(outline) = FONT.outline_glyph(glyph) else {
                continue;
            };
            let corner = outline.px_bounds().min;
            outline.draw(|column, row, coverage| {
                let across = corner.x as i32 + column as i32;
                let down = corner.y as i32 + row as i32;
                let (dx, dy) = turn.transform(across, down);
                self.blend(i64::from(x + dx), i64::from(y + dy), colour, f64::from(coverage));
            });
        }
    }

    /// The picture at 1/`factor` of its size, each pixel the mean of a square: drawing large and shrinking smooths lines.
    pub(super) fn shrink(self, factor: usize) -> Self {
        let (width, height) = (self.width / factor, self.height / factor);
        let area = factor * factor;
        let mut pixels = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    let sum: usize = (0..area)
                        .map(|part| {
                            let row = y * factor + part / factor;
                            let column = x * factor + part % factor;
                            usize::from(self.pixels[3 * (row * self.width + column) + channel])
                        })
                        .sum();
                    pixels.push(((sum + area / 2) / area) as u8);
                }
            }
        }
        Self { width, height, pixels }
    }

    /// The same pixels, for plotters to draw into.
    pub(super) fn backend(&mut self) -> BitMapBackend<'_> {
        let size = (self.width as u32, self.height as u32);
        BitMapBackend::with_buffer(&mut self.pixels, size)
    }

    /// The picture as a PNG file's bytes.
    pub(super) fn encode(&self) -> image::ImageResult<Vec<u8>> {
        use image::ImageEncoder;
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes).write_image(
            &self.pixels,
            self.width as u32,
            self.height as u32,
            image::ExtendedColorType::Rgb8,
        )?;
        Ok(bytes)
    }
}

/// One line of text with its glyphs in place, the baseline at 0.
struct Line {
    glyphs: Vec<Glyph>,
    width: f64,
    ascent: f64,
    descent: f64,
}

impl Line {
    fn set(text: &str, size: f64) -> Self {
        // The font's height is that from ascent to descent; a size in pixels an em is a share of it.
        let units = FONT.units_per_em().unwrap_or(2048.0);
        let scale = PxScale::from(size as f32 * FONT.height_unscaled() / units);
        let font = FONT.as_scaled(scale);
        let mut glyphs = Vec::new();
        let mut pen = 0.0;
        let mut previous: Option<GlyphId> = None;
        for character in text.chars().filter(|character| !character.is_control()) {
            let id = font.glyph_id(character);
            pen += previous.map_or(0.0, |before| font.kern(before, id));
            glyphs.push(id.with_scale_and_position(scale, point(pen, 0.0)));
            pen += font.h_advance(id);
            previous = Some(id);
        }
        Self { glyphs, width: f64::from(pen), ascent: f64::from(font.ascent()), descent: f64::from(-font.descent()) }
    }
}

/// Width of `text` in pixels at `size` pixels an em.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    Line::set(text, size).width
}

/// `text`, its middle replaced by an ellipsis until it is at most `room` pixels wide.
pub(super) fn shorten(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_owned();
    }
    let characters: Vec<char> = text.chars().collect();
    let cut = |kept: usize| -> String {
        let (front, back) = (kept.div_ceil(2), kept / 2);
        let front = characters[..front].iter();
        let back = characters[characters.len() - back..].iter();
        front.chain(&['…']).chain(back).collect()
    };
    let too_many = (0..characters.len()).collect::<Vec<_>>();
    let kept = too_many.partition_point(|&kept| text_width(&cut(kept), size) <= room);
    cut(kept.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ink(canvas: &Canvas) -> Vec<(usize, usize)> {
        let inked = |&pixel: &usize| canvas.pixels[3 * pixel] < 128;
        let places = (0..canvas.width * canvas.height).filter(inked);
        places.map(|pixel| (pixel % canvas.width, pixel / canvas.width)).collect()
    }

    fn written(text: &str, at: (f64, f64), anchor: Anchor, turn: &FontTransform) -> Canvas {
        let mut canvas = Canvas::new(200, 200);
        canvas.text(text, at, 20.0, [0, 0, 0], anchor, turn);
        canvas
    }

    #[test]
    fn text_lies_where_its_anchor_says() {
        let middle = (100.0, 100.0);
        for (horizontal, vertical) in [(HPos::Left, VPos::Top), (HPos::Right, VPos::Bottom)] {
            let first = matches!(horizontal, HPos::Left);
            let ink = ink(&written("name", middle, Anchor(horizontal, vertical), &FontTransform::None));
            assert!(!ink.is_empty());
            assert!(ink.iter().all(|&(x, y)| (x >= 100) == first && (y >= 100) == first));
        }
        // Rotate270 reads from the bottom to the top: what began left of the point ends below it.
        let upright = ink(&written("name", middle, Anchor(HPos::Right, VPos::Center), &FontTransform::Rotate270));
        assert!(!upright.is_empty() && upright.iter().all(|&(_, y)| y >= 100));
    }

    #[test]
    fn text_outside_the_canvas_is_dropped() {
        let canvas = written("far", (-500.0, 900.0), Anchor(HPos::Left, VPos::Top), &FontTransform::None);
        assert!(ink(&canvas).is_empty());
    }

    #[test]
    fn shortening_keeps_both_ends_and_fits() {
        let name = "a-very-long-name-of-a-run-that-nobody-should-have-chosen-seed7";
        let short = shorten(name, 14.0, 150.0);
        assert!(text_width(&short, 14.0) <= 150.0);
        assert!(short.starts_with("a-ver") && short.ends_with("seed7") && short.contains('…'), "{short}");
        assert_eq!(shorten("short", 14.0, 150.0), "short");
        assert_eq!(shorten(name, 14.0, 0.0), "…");
    }

    #[test]
    fn shrinking_averages_squares() {
        let mut canvas = Canvas::new(4, 2);
        canvas.fill(0, 0, 1, 2, [0, 0, 0]);
        let small = canvas.shrink(2);
        assert_eq!((small.width, small.height), (2, 1));
        assert_eq!(small.pixels, [128, 128, 128, 255, 255, 255]);
    }
}
