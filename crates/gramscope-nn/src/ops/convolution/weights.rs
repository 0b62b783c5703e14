//! Weights and biases in the order in which the products read them.

use super::product::{LANES, Lanes};
use super::shape::Convolution;

/// [out, kh, kw, in] as [block of 16 out][kh][kw x in][16 out], the last block filled up with zeros.
pub(super) fn for_forward(convolution: &Convolution, weight: &[f32]) -> Vec<Lanes> {
    let depth = convolution.kh * convolution.kw * convolution.c_in;
    let mut packed = vec![[0.0; LANES]; convolution.c_out.div_ceil(LANES) * depth];
    for (block, out) in packed.chunks_exact_mut(depth).zip(weight.chunks(LANES * depth)) {
        for (lane, weights) in out.chunks_exact(depth).enumerate() {
            for (packed, weight) in block.iter_mut().zip(weights) {
                packed[lane] = *weight;
            }
        }
    }
    packed
}

/// A bias as blocks of 16, the last filled up with zeros.
pub(super) fn bias(bias: &[f32]) -> Vec<Lanes> {
    let fill = |block: &[f32]| {
        let mut lanes = [0.0; LANES];
        lanes[..block.len()].copy_from_slice(block);
        lanes
    };
    bias.chunks(LANES).map(fill).collect()
}

/// The inverse of [`for_forward`] and [`bias`] over sums in float64: dL/dw [out, kh, kw, in] and then dL/db [out].
pub(super) fn unpack_gradients(
    convolution: &Convolution,
    weights: &[[f64; LANES]],
    biases: &[[f64; LANES]],
) -> Vec<f32> {
    let depth = convolution.kh * convolution.kw * convolution.c_in;
    let mut gradients = Vec::with_capacity(convolution.weight_count() + convolution.c_out);
    for out in 0..convolution.c_out {
        let block = &weights[out / LANES * depth..][..depth];
        gradients.extend(block.iter().map(|lanes| lanes[out % LANES] as f32));
    }
    gradients.extend((0..convolution.c_out).map(|out| biases[out / LANES][out % LANES] as f32));
    gradients
}

/// The taps of a kernel in one direction that reach the input pixels r, r + stride, r + 2 stride, ...: those k for which
/// r + padding - k is a multiple of the stride. From the largest down they meet neighbouring output pixels, from
/// a + `offset` on for input pixel r + a stride.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// The taps, from the largest down.
    pub(super) taps: Vec<usize>,
    /// Where the output pixel of the first tap lies, relative to a.
    pub(super) offset: isize,
    /// Taps of the phases before it.
    pub(super) taps_before: usize,
    /// How many input pixels of the phase there are.
    pub(super) pixels: usize,
}

/// The phases r = 0 .. stride of a kernel of `kernel` taps over `side` input pixels.
pub(super) fn phases(kernel: usize, side: usize, stride: usize, padding: usize) -> Vec<Phase> {
    let mut taps_before = 0;
    (0..stride)
        .map(|r| {
            let taps: Vec<usize> = (0..kernel).rev().filter(|k| (r + padding) % stride == k % stride).collect();
            let distance = |tap: &usize| (r + padding) as isize - *tap as isize;
            let offset = taps.first().map_or(0, |tap| distance(tap) / stride as isize);
            let pixels = side.saturating_sub(r).div_ceil(stride);
            taps_before += taps.len();
            Phase { taps_before: taps_before - taps.len(), taps, offset, pixels }
        })
        .collect()
}

/// [out, kh, kw, in] as [block of 16 in][kh][kw, phase by phase][out][16 in], the last block filled up with zeros.
pub(super) fn for_input_gradient(convolution: &Convolution, weight: &[f32], columns: &[Phase]) -> Vec<Lanes> {
    let Convolution { c_in, c_out, kh, kw, .. } = *convolution;
    let mut packed = Vec::with_capacity(c_in.div_ceil(LANES) * kh * kw * c_out);
    for first in (0..c_in).step_by(LANES) {
        let channels = LANES.min(c_in - first);
        for u in 0..kh {
            for v in columns.iter().flat_map(|phase| &phase.taps) {
                for out in 0..c_out {
                    let from = ((out * kh + u) * kw + v) * c_in + first;
                    let mut lanes = [0.0; LANES];
                    lanes[..channels].copy_from_slice(&weight[from..from + channels]);
                    packed.push(lanes);
                }
            }
        }
    }
    packed
}
