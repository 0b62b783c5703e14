//! The convolution on the CPU: images in parallel, each as products over the rows of its padded copy.

use rayon::prelude::*;

use super::super::elementwise::rectified;
use super::super::scratch::Scratch;
use super::product::{self, Pixels, Rows, Start};
use super::shape::Convolution;
use super::weights::{self, Gradients, Phase};
use crate::ops::lanes::{LANES, Lanes};

/// Gradients of the weights are summed over groups of images, at most this many groups, and then over the groups.
const GROUPS: usize = 16;
/// Output pixels, at least, between two times that sums of weight gradients leave the registers.
const PIXELS_PER_PASS: usize = 128;

/// y = x * weight + bias, or with the ReLU of x instead of x.
pub(super) fn forward(convolution: &Convolution, y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], relu: bool) {
    let weights = weights::for_forward(convolution, weight);
    let biases = weights::bias(bias);
    let (x_image, y_image) = (x.len() / convolution.n, y.len() / convolution.n);
    y.par_chunks_exact_mut(y_image).zip(x.par_chunks_exact(x_image)).for_each_init(
        || if relu { Padded::for_changed_x(convolution) } else { Padded::for_x(convolution) },
        |padded, (y, x)| {
            let x = if relu { padded.fill_with(x, rectified) } else { padded.fill(x) };
            forward_image(convolution, y, x, &weights, &biases);
        },
    );
}

fn forward_image(convolution: &Convolution, y: &mut [f32], x: Image<'_>, weights: &[Lanes], biases: &[Lanes]) {
    let Convolution { c_in, ow, c_out, kh, kw, stride, .. } = *convolution;
    let depth = kw * c_in;
    for (block, weights) in weights.chunks_exact(kh * depth).enumerate() {
        let first = block * LANES;
        for (i, row) in y.chunks_exact_mut(ow * c_out).enumerate() {
            let channels = LANES.min(c_out - first);
            let pixels = Pixels { values: &mut row[first..], step: c_out, channels, count: ow };
            let terms = weights
                .chunks_exact(depth)
                .enumerate()
                .map(|(u, weights)| (Rows { values: x.row(i * stride + u), step: stride * c_in }, weights));
            product::products(pixels, Start::With(&biases[block]), terms);
        }
    }
}

/// dx = dL/dx, or dx += dL/dx if `add`.
pub(super) fn input_gradient(convolution: &Convolution, dx: &mut [f32], dy: &[f32], weight: &[f32], add: bool) {
    let Convolution { h, w, kh, kw, stride, padding, .. } = *convolution;
    let phases = [weights::phases(kh, h, stride, padding), weights::phases(kw, w, stride, padding)];
    let weights = weights::for_input_gradient(convolution, weight, &phases[1]);
    let (x_image, y_image) = (dx.len() / convolution.n, dy.len() / convolution.n);
    dx.par_chunks_exact_mut(x_image).zip(dy.par_chunks_exact(y_image)).for_each_init(
        || Padded::for_dy(convolution, &phases),
        |padded, (dx, dy)| {
            let low = padded.low;
            if !add && convolution.has_gaps() {
                dx.fill(0.0);
            }
            let start = if add { Start::Existing } else { Start::With(&[0.0; LANES]) };
            input_gradient_image(convolution, dx, padded.fill(dy), low, start, &weights, &phases);
        },
    );
}

fn input_gradient_image(
    convolution: &Convolution,
    dx: &mut [f32],
    dy: Image<'_>,
    low: [usize; 2],
    start: Start<'_>,
    weights: &[Lanes],
    [row_phases, column_phases]: &[Vec<Phase>; 2],
) {
    let Convolution { w, c_in, c_out, kh, kw, stride, .. } = *convolution;
    let depth = kw * c_out;
    for (block, weights) in weights.chunks_exact(kh * depth).enumerate() {
        let first = block * LANES;
        let channels = LANES.min(c_in - first);
        for (i, row) in dx.chunks_exact_mut(w * c_in).enumerate() {
            let rows = &row_phases[i % stride];
            let top = place(i / stride, low[0], rows.offset);
            for (r, columns) in column_phases.iter().enumerate() {
                if rows.taps.is_empty() || columns.taps.is_empty() || columns.pixels == 0 {
                    continue;
                }
                let left = place(0, low[1], columns.offset);
                let values = &mut row[r * c_in + first..];
                let pixels = Pixels { values, step: stride * c_in, channels, count: columns.pixels };
                let terms = rows.taps.iter().enumerate().map(|(o, u)| {
                    let values = &dy.row(top + o)[left * c_out..];
                    let weights = &weights[u * depth + columns.taps_before * c_out..][..columns.taps.len() * c_out];
                    (Rows { values, step: c_out }, weights)
                });
                product::products(pixels, start, terms);
            }
        }
    }
}

/// dL/dw `[out, kh, kw, in]` and then dL/db `[out]`.
pub(super) fn parameter_gradients(convolution: &Convolution, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (x_image, y_image) = (x.len() / convolution.n, dy.len() / convolution.n);
    let group = convolution.n.div_ceil(GROUPS);
    let groups: Vec<Gradients> = x
        .par_chunks(group * x_image)
        .zip(dy.par_chunks(group * y_image))
        .map(|(x, dy)| {
            let mut gradients = Gradients::zeros(convolution);
            let mut padded = Padded::for_x(convolution);
            let mut blocks = Blocks::new(convolution);
            for (x, dy) in x.chunks_exact(x_image).zip(dy.chunks_exact(y_image)) {
                add_image(convolution, &mut gradients, padded.fill(x), blocks.fill(dy));
            }
            gradients
        })
        .collect();
    Gradients::sum(convolution, &groups)
}

fn add_image(convolution: &Convolution, gradients: &mut Gradients, x: Image<'_>, dy: &[Lanes]) {
    let Convolution { c_in, oh, ow, kh, kw, stride, .. } = *convolution;
    let depth = kw * c_in;
    let rows_per_pass = PIXELS_PER_PASS.div_ceil(ow);
    let blocks = gradients.weights.chunks_exact_mut(kh * depth).zip(&mut gradients.biases);
    for ((weights, bias), dy) in blocks.zip(dy.chunks_exact(oh * ow)) {
        for (pass, dy) in dy.chunks(rows_per_pass * ow).enumerate() {
            for (u, weights) in weights.chunks_exact_mut(depth).enumerate() {
                let terms = dy.chunks_exact(ow).enumerate().map(|(i, dy)| {
                    let row = (pass * rows_per_pass + i) * stride + u;
                    (Rows { values: x.row(row), step: stride * c_in }, dy)
                });
                product::add_outer_products(weights, terms);
            }
        }
        add_pixels(bias, dy);
    }
}

/// Adds dy to the bias's gradient, as four sums, so that an addition need not wait for the one before.
fn add_pixels(bias: &mut Lanes, dy: &[Lanes]) {
    let mut sums = [[0.0; LANES]; 4];
    for dy in dy.chunks(sums.len()) {
        for (sums, dy) in sums.iter_mut().zip(dy) {
            for (sum, dy) in sums.iter_mut().zip(dy) {
                *sum += dy;
            }
        }
    }
    for sums in sums {
        for (bias, sum) in bias.iter_mut().zip(sums) {
            *bias += sum;
        }
    }
}

/// Index of a padded row or column, from one of the image that may lie in the padding before it.
fn place(a: usize, low: usize, offset: isize) -> usize {
    (a + low).checked_add_signed(offset).expect("the padding is as wide as the furthest offset")
}

/// An image of `row_length` values a row.
#[derive(Clone, Copy)]
struct Image<'a> {
    values: &'a [f32],
    row_length: usize,
}

impl<'a> Image<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.row_length..][..self.row_length]
    }
}

/// A thread's buffer for one image with zeros around it.
struct Padded {
    values: Scratch,
    /// Rows and columns of zeros before the image.
    low: [usize; 2],
    width: usize,
    padded_width: usize,
    channels: usize,
}

impl Padded {
    fn new(side: [usize; 2], channels: usize, low: [usize; 2], high: [usize; 2]) -> Self {
        let padded_width = low[1] + side[1] + high[1];
        let rows = low[0] + side[0] + high[0];
        Self { values: Scratch::zeros(rows * padded_width * channels), low, width: side[1], padded_width, channels }
    }

    /// For an image that, where it needs no padding, is used where it is.
    fn where_needed(side: [usize; 2], channels: usize, low: [usize; 2], high: [usize; 2]) -> Self {
        match low == [0; 2] && high == [0; 2] {
            true => Self { values: Scratch::zeros(0), low, width: side[1], padded_width: side[1], channels },
            false => Self::new(side, channels, low, high),
        }
    }

    fn for_x(convolution: &Convolution) -> Self {
        let padding = [convolution.padding; 2];
        Self::where_needed([convolution.h, convolution.w], convolution.c_in, padding, padding)
    }

    /// For [`Self::fill_with`].
    fn for_changed_x(convolution: &Convolution) -> Self {
        let padding = [convolution.padding; 2];
        Self::new([convolution.h, convolution.w], convolution.c_in, padding, padding)
    }

    /// Wide enough for every output pixel that an input pixel's taps would meet.
    fn for_dy(convolution: &Convolution, phases: &[Vec<Phase>; 2]) -> Self {
        let low = phases
            .each_ref()
            .map(|phases| phases.iter().map(|phase| phase.offset.min(0).unsigned_abs()).max().unwrap_or(0));
        let high = |phases: &[Phase], side: usize| {
            let end = |phase: &Phase| phase.offset + (phase.pixels + phase.taps.len()) as isize - 1;
            phases.iter().map(|phase| end(phase) - side as isize).max().unwrap_or(0).max(0).unsigned_abs()
        };
        let high = [high(&phases[0], convolution.oh), high(&phases[1], convolution.ow)];
        Self::where_needed([convolution.oh, convolution.ow], convolution.c_out, low, high)
    }

    fn fill<'a>(&'a mut self, image: &'a [f32]) -> Image<'a> {
        if self.values.is_empty() {
            return Image { values: image, row_length: self.padded_width * self.channels };
        }
        self.fill_with(image, |value| value)
    }

    /// With every value of the image changed, but not those around it.
    fn fill_with(&mut self, image: &[f32], change: impl Fn(f32) -> f32) -> Image<'_> {
        let row_length = self.padded_width * self.channels;
        let rows = self.values.chunks_exact_mut(row_length).skip(self.low[0]);
        for (padded, row) in rows.zip(image.chunks_exact(self.width * self.channels)) {
            let padded = &mut padded[self.low[1] * self.channels..][..row.len()];
            padded.iter_mut().zip(row).for_each(|(padded, value)| *padded = change(*value));
        }
        Image { values: &self.values, row_length }
    }
}

/// A thread's buffer for one image of dL/dy: `[pixel, out]` as `[block of 16 out][pixel][16 out]`, the last block
/// filled up with zeros. With 16 channels the image is used where it is.
struct Blocks {
    values: Scratch,
    channels: usize,
}

impl Blocks {
    fn new(convolution: &Convolution) -> Self {
        let channels = convolution.c_out;
        let blocks = if channels == LANES { 0 } else { channels.div_ceil(LANES) };
        Self { values: Scratch::zeros(blocks * convolution.oh * convolution.ow * LANES), channels }
    }

    fn fill<'a>(&'a mut self, image: &'a [f32]) -> &'a [Lanes] {
        if self.values.is_empty() {
            return image.as_chunks().0;
        }
        let pixels = image.len() / self.channels;
        let (lanes, _) = self.values.as_chunks_mut::<LANES>();
        for (block, lanes) in lanes.chunks_exact_mut(pixels).enumerate() {
            let first = block * LANES;
            for (lanes, pixel) in lanes.iter_mut().zip(image.chunks_exact(self.channels)) {
                match pixel[first..].first_chunk() {
                    Some(all) => *lanes = *all,
                    None => lanes[..self.channels - first].copy_from_slice(&pixel[first..]),
                }
            }
        }
        self.values.as_chunks().0
    }
}
