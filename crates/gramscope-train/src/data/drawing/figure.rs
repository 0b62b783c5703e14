//! Outlines as signed distance functions, in coordinates where an object has radius 1 around the origin.
//!
//! Source of the polygon distance: I. Quilez, *2D distance functions*, <https://iquilezles.org/articles/distfunctions2d/>.

use std::f32::consts::TAU;

use gramscope_nn::random::Sequence;

use super::uniform;

/// A point or vector in an object's own coordinates.
pub(super) type Point = (f32, f32);

/// No figure has a point farther from the origin than this.
pub(super) const REACH: f32 = 1.3;

/// Where an object lies in the image, how large it is, how it is turned and stretched.
pub(super) struct Placement {
    centre: Point,
    /// (cosine, sine) of its rotation.
    turn: Point,
    /// Width over height, as a factor to one and a divisor to the other.
    stretch: f32,
    /// The radius, as a share of the image.
    pub(super) size: f32,
}

impl Placement {
    /// A subject's: mostly inside the image, and within 30 degrees of upright, as most things in photographs are.
    pub(super) fn random(smallest: f32, largest: f32, numbers: &mut Sequence) -> Self {
        let size = uniform(numbers, smallest, largest);
        // A quarter of the radius may lie outside.
        let margin = (0.75 * size).min(0.5);
        let centre = (uniform(numbers, margin, 1.0 - margin), uniform(numbers, margin, 1.0 - margin));
        let turn = direction(uniform(numbers, -0.5, 0.5));
        Self { centre, turn, stretch: uniform(numbers, 0.9, 1.11), size }
    }

    /// With its centre anywhere in the image.
    pub(super) fn anywhere(smallest: f32, largest: f32, numbers: &mut Sequence) -> Self {
        let size = uniform(numbers, smallest, largest);
        let centre = (uniform(numbers, 0.0, 1.0), uniform(numbers, 0.0, 1.0));
        Self { centre, turn: turn(numbers), stretch: 1.0, size }
    }

    /// The point (`x`, `y`) of the image in the object's own coordinates.
    pub(super) fn local(&self, x: f32, y: f32) -> Point {
        let (dx, dy) = ((x - self.centre.0) / self.size, (y - self.centre.1) / self.size);
        let (cos, sin) = self.turn;
        ((cos * dx + sin * dy) * self.stretch, (cos * dy - sin * dx) / self.stretch)
    }
}

fn turn(numbers: &mut Sequence) -> Point {
    direction(uniform(numbers, 0.0, TAU))
}

/// The unit vector at `angle`.
fn direction(angle: f32) -> Point {
    (angle.cos(), angle.sin())
}

/// An outline.
pub(super) enum Figure {
    Disc,
    /// Everything within half of `width` of the circle of radius `1 - width / 2`.
    Ring {
        width: f32,
    },
    Polygon(Vec<Point>),
    /// Overlapping discs: centre and radius each.
    Blobs(Vec<(Point, f32)>),
    /// The Archimedean spiral with `pitch` between turns, drawn `width` wide, cut off at radius 1.
    Spiral {
        pitch: f32,
        width: f32,
    },
}

impl Figure {
    pub(super) fn ring(numbers: &mut Sequence) -> Self {
        Self::Ring { width: uniform(numbers, 0.25, 0.5) }
    }

    /// Lying on a side. The radii of the square and the triangle give them about a disc's area, so that size tells
    /// nothing about the class.
    pub(super) fn square() -> Self {
        Self::regular(4, 1.2, 0.125)
    }

    /// Pointing up.
    pub(super) fn triangle() -> Self {
        Self::regular(3, 1.3, 0.75)
    }

    /// A star of five to seven points.
    pub(super) fn star(numbers: &mut Sequence) -> Self {
        let points = 5 + numbers.below(3);
        let inner = uniform(numbers, 0.38, 0.52);
        let corner = |i: u32| {
            let (x, y) = direction(TAU * i as f32 / (2 * points) as f32);
            let radius = if i.is_multiple_of(2) { 1.1 } else { 1.1 * inner };
            (x * radius, y * radius)
        };
        Self::Polygon((0..2 * points).map(corner).collect())
    }

    /// Two bars across each other.
    pub(super) fn cross(numbers: &mut Sequence) -> Self {
        let half = uniform(numbers, 0.2, 0.36);
        let arm = [(1.0, -half), (1.0, half), (half, half)];
        let quarter_turns = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)];
        let corners = quarter_turns
            .into_iter()
            .flat_map(|(cos, sin)| arm.map(|(x, y)| (cos * x - sin * y, sin * x + cos * y)))
            .collect();
        Self::Polygon(corners)
    }

    /// What a texture is seen through: a disc, a triangle or a square.
    pub(super) fn patch(numbers: &mut Sequence) -> Self {
        match numbers.below(3) {
            0 => Self::Disc,
            1 => Self::triangle(),
            _ => Self::square(),
        }
    }

    pub(super) fn blobs(numbers: &mut Sequence) -> Self {
        let count = 4 + numbers.below(4);
        let start = uniform(numbers, 0.0, TAU);
        let blob = |i: u32| {
            let (x, y) = direction(start + TAU * i as f32 / count as f32 + uniform(numbers, -0.3, 0.3));
            let distance = uniform(numbers, 0.45, 0.9);
            ((x * distance, y * distance), uniform(numbers, 0.18, 0.36))
        };
        Self::Blobs((0..count).map(blob).collect())
    }

    pub(super) fn spiral(numbers: &mut Sequence) -> Self {
        let pitch = uniform(numbers, 0.5, 0.7);
        Self::Spiral { pitch, width: pitch * uniform(numbers, 0.4, 0.55) }
    }

    /// A small thing of no class: a disc or a polygon with random corners.
    pub(super) fn clutter(numbers: &mut Sequence) -> Self {
        let corners = 2 + numbers.below(4);
        if corners == 2 {
            return Self::Disc;
        }
        let start = uniform(numbers, 0.0, TAU);
        let corner = |i: u32| {
            let (x, y) = direction(start + TAU * (i as f32 + uniform(numbers, 0.0, 0.6)) / corners as f32);
            let radius = uniform(numbers, 0.6, 1.2);
            (x * radius, y * radius)
        };
        Self::Polygon((0..corners).map(corner).collect())
    }

    /// A thin bar of length 2.
    pub(super) fn bar(numbers: &mut Sequence) -> Self {
        let half = uniform(numbers, 0.08, 0.2);
        Self::Polygon(vec![(-1.0, -half), (1.0, -half), (1.0, half), (-1.0, half)])
    }

    /// The regular polygon whose first corner is at `first`, a share of a full turn.
    fn regular(corners: u32, radius: f32, first: f32) -> Self {
        let corner = |i: u32| {
            let (x, y) = direction(TAU * (first + i as f32 / corners as f32));
            (x * radius, y * radius)
        };
        Self::Polygon((0..corners).map(corner).collect())
    }

    /// Signed distance of (`u`, `v`) to the outline, negative inside.
    pub(super) fn distance(&self, u: f32, v: f32) -> f32 {
        match self {
            Self::Disc => u.hypot(v) - 1.0,
            Self::Ring { width } => (u.hypot(v) - 1.0 + width / 2.0).abs() - width / 2.0,
            Self::Polygon(corners) => polygon(corners, u, v),
            Self::Blobs(blobs) => {
                blobs.iter().map(|&((x, y), radius)| (u - x).hypot(v - y) - radius).fold(f32::INFINITY, f32::min)
            }
            Self::Spiral { pitch, width } => {
                let radius = u.hypot(v);
                let turns = radius / pitch - v.atan2(u) / TAU;
                let from_line = (turns - turns.round()).abs() * pitch - width / 2.0;
                from_line.max(radius - 1.0)
            }
        }
    }
}

/// Signed distance of (`u`, `v`) to a closed polygon, negative inside.
fn polygon(corners: &[Point], u: f32, v: f32) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let edge = (previous.0 - corner.0, previous.1 - corner.1);
        let to_point = (u - corner.0, v - corner.1);
        let along = (to_point.0 * edge.0 + to_point.1 * edge.1) / (edge.0 * edge.0 + edge.1 * edge.1);
        let along = along.clamp(0.0, 1.0);
        let offset = (to_point.0 - edge.0 * along, to_point.1 - edge.1 * along);
        nearest = nearest.min(offset.0 * offset.0 + offset.1 * offset.1);
        // Even-odd rule: does the ray from the point along +u cross this edge?
        let crosses = (corner.1 > v) != (previous.1 > v);
        if crosses && to_point.0 < edge.0 * to_point.1 / edge.1 {
            inside = !inside;
        }
        previous = corner;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}
