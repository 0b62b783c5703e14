//! Draws one image of the built-in data set: a background, clutter, the object that gives the class, occluders in
//! front of it, light, and the grain of a cheap camera.
//!
//! Everything is a distance function or a smooth field evaluated once a pixel, so edges are anti-aliased without
//! supersampling, and any image side shows the same scene at another resolution. Coordinates run from 0 to 1 across the
//! image; colours are linear in 0..1.

mod background;
mod colour;
mod figure;
mod texture;

use gramscope_nn::random::Sequence;

use background::Background;
use colour::{Colour, add, contrasting, mix, scale};
use figure::{Figure, Placement};
use texture::{Paint, Texture};

/// What an image shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Disc,
    Ring,
    Square,
    Triangle,
    Star,
    Cross,
    Stripes,
    Checkerboard,
    Blobs,
    Spiral,
}

impl Class {
    /// All classes, in the order of their labels.
    pub(super) const ALL: [Self; 10] = [
        Self::Disc,
        Self::Ring,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Stripes,
        Self::Checkerboard,
        Self::Blobs,
        Self::Spiral,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Ring => "ring",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Stripes => "stripes",
            Self::Checkerboard => "checkerboard",
            Self::Blobs => "blobs",
            Self::Spiral => "spiral",
        }
    }
}

/// Something with an outline and a colour.
struct Object {
    placement: Placement,
    figure: Figure,
    paint: Paint,
}

impl Object {
    /// Its colour at (`x`, `y`), and how much of a pixel of width `pixel` it covers there.
    fn sample(&self, x: f32, y: f32, pixel: f32) -> Option<(Colour, f32)> {
        let (u, v) = self.placement.local(x, y);
        // No figure reaches further, but for the soft edge.
        let reach = figure::REACH + pixel / self.placement.size;
        if u * u + v * v > reach * reach {
            return None;
        }
        let covered = coverage(self.figure.distance(u, v) * self.placement.size, pixel);
        (covered > 0.0).then(|| (self.paint.at(u, v, pixel / self.placement.size), covered))
    }
}

/// Share of a pixel of width `pixel` inside an edge at signed distance `distance` (negative inside).
fn coverage(distance: f32, pixel: f32) -> f32 {
    (0.5 - distance / pixel).clamp(0.0, 1.0)
}

/// Draws an image of `class` into `pixels`, `[side, side, 3]` bytes, from the random numbers given.
pub(super) fn draw(class: Class, numbers: &mut Sequence, side: usize, pixels: &mut [u8]) {
    let background = Background::random(numbers);
    let mut objects = Vec::new();
    for _ in 0..few(numbers) {
        objects.push(clutter(numbers, 0.04, 0.09));
    }
    objects.push(subject(class, &background, numbers));
    for _ in 0..few(numbers) {
        objects.push(occluder(numbers));
    }
    let light = Light::random(numbers);
    let grain = 0.015 + 0.15 * uniform(numbers, 0.0, 1.0).powi(3);

    let pixel = 1.0 / side as f32;
    for (row, line) in pixels.chunks_exact_mut(3 * side).enumerate() {
        let y = (row as f32 + 0.5) * pixel;
        for (column, rgb) in line.chunks_exact_mut(3).enumerate() {
            let x = (column as f32 + 0.5) * pixel;
            let mut colour = background.at(x, y, pixel);
            for object in &objects {
                if let Some((paint, covered)) = object.sample(x, y, pixel) {
                    colour = mix(colour, paint, covered);
                }
            }
            colour = scale(colour, light.at(x, y));
            colour = add(colour, grain_of(numbers.next_u32(), numbers.next_u32(), grain));
            for (byte, value) in rgb.iter_mut().zip(colour) {
                *byte = (value * 255.0).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
}

/// None in three images out of five, one or two in one each.
fn few(numbers: &mut Sequence) -> u32 {
    numbers.below(5).saturating_sub(2)
}

/// The object that gives the image its class.
fn subject(class: Class, background: &Background, numbers: &mut Sequence) -> Object {
    let contrast = if numbers.below(10) == 0 { FAINT } else { CONTRAST };
    let first = contrasting(background.mean(), contrast, numbers);
    let second = contrasting(first, contrast, numbers);
    let figure = match class {
        Class::Disc => Figure::Disc,
        Class::Ring => Figure::ring(numbers),
        Class::Square => Figure::square(),
        Class::Triangle => Figure::triangle(),
        Class::Star => Figure::star(numbers),
        Class::Cross => Figure::cross(numbers),
        Class::Stripes | Class::Checkerboard => Figure::patch(numbers),
        Class::Blobs => Figure::blobs(numbers),
        Class::Spiral => Figure::spiral(numbers),
    };
    let textured = matches!(class, Class::Stripes | Class::Checkerboard);
    let smallest = if textured || class == Class::Spiral { 0.32 } else { 0.28 };
    let placement = Placement::random(smallest, 0.45, numbers);
    let paint = match class {
        Class::Stripes => Paint::Texture(Texture::stripes(placement.size, numbers), first, second),
        Class::Checkerboard => Paint::Texture(Texture::checkerboard(placement.size, numbers), first, second),
        _ => Paint::shaded(first, numbers),
    };
    Object { placement, figure, paint }
}

/// Least distance in RGB between a subject and what lies behind it, and between the colours of a texture.
const CONTRAST: f32 = 0.6;
/// The same in the few images that are hard to make out.
const FAINT: f32 = 0.2;

/// A small thing of no class, between `smallest` and `largest` in radius, anywhere in the image.
fn clutter(numbers: &mut Sequence, smallest: f32, largest: f32) -> Object {
    Object {
        placement: Placement::anywhere(smallest, largest, numbers),
        figure: Figure::clutter(numbers),
        paint: Paint::Plain(colour::random(numbers)),
    }
}

/// Something in front of the subject: a bar across it, or a small thing.
fn occluder(numbers: &mut Sequence) -> Object {
    if numbers.below(2) == 0 {
        return clutter(numbers, 0.06, 0.13);
    }
    let paint = Paint::Plain(colour::random(numbers));
    Object { placement: Placement::anywhere(0.25, 0.5, numbers), figure: Figure::bar(numbers), paint }
}

/// Brightness that falls off across the image.
struct Light {
    at_origin: f32,
    slope: (f32, f32),
}

impl Light {
    fn random(numbers: &mut Sequence) -> Self {
        let slope = (uniform(numbers, -0.3, 0.3), uniform(numbers, -0.3, 0.3));
        let mean = uniform(numbers, 0.8, 1.1);
        Self { at_origin: mean - (slope.0 + slope.1) / 2.0, slope }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        self.at_origin + self.slope.0 * x + self.slope.1 * y
    }
}

/// Triangular noise in -`strength`..`strength` for three channels, two of the random bytes each.
fn grain_of(first: u32, second: u32, strength: f32) -> Colour {
    let ([a, b, c, d], [e, f, _, _]) = (first.to_le_bytes(), second.to_le_bytes());
    [(a, b), (c, d), (e, f)].map(|(one, other)| (f32::from(one) + f32::from(other) - 255.0) / 255.0 * strength)
}

/// Uniform in `from`..`to`.
fn uniform(numbers: &mut Sequence, from: f32, to: f32) -> f32 {
    numbers.between(f64::from(from), f64::from(to)) as f32
}
