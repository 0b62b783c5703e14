//! Weights and biases in the order in which the products read them.

use rayon::prelude::*;

use super::shape::Convolution;
use crate::ops::lanes::{LANES, Lanes};

/// `[out, kh, kw, in]` as `[block of 16 out][kh][kw x in][16 out]`, the last block filled up with zeros.
pub(super) fn for_forward(convolution: &Convolution, weight: &[f32]) -> Vec<Lanes> {
    let depth = convolution.kh * convolution.kw * convolution.c_in;
    let mut packed = vec![[0.0; LANES]; convolution.c_out.div_ceil(LANES) * depth];
    packed.par_chunks_exact_mut(depth).zip(weight.par_chunks(LANES * depth)).for_each(|(block, out)| {
        for (lane, weights) in out.chunks_exact(depth).enumerate() {
            for (packed, weight) in block.iter_mut().zip(weights) {
                packed[lane] = *weight;
            }
        }
    });
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

/// Gradients of packed weights and biases, over some images.
pub(super) struct Gradients {
    /// As [`for_forward`] packs weights.
    pub(super) weights: Vec<Lanes>,
    /// As [`bias`] packs biases.
    pub(super) biases: Vec<Lanes>,
}

impl Gradients {
    pub(super) fn zeros(convolution: &Convolution) -> Self {
        let blocks = convolution.c_out.div_ceil(LANES);
        let depth = convolution.kh * convolution.kw * convolution.c_in;
        Self { weights: vec![[0.0; LANES]; blocks * depth], biases: vec![[0.0; LANES]; blocks] }
    }

    /// The sums over `groups`, in their order and in float64: dL/dw `[out, kh, kw, in]` and then dL/db `[out]`.
    pub(super) fn sum(convolution: &Convolution, groups: &[Self]) -> Vec<f32> {
        let depth = convolution.kh * convolution.kw * convolution.c_in;
        let mut gradients = vec![0.0; convolution.weight_count() + convolution.c_out];
        let (weights, biases) = gradients.split_at_mut(convolution.weight_count());
        weights.par_chunks_mut(LANES * depth).enumerate().for_each(|(block, weights)| {
            for k in 0..depth {
                let sums = sum_lanes(groups.iter().map(|group| &group.weights[block * depth + k]));
                weights[k..].iter_mut().step_by(depth).zip(sums).for_each(|(weight, sum)| *weight = sum);
            }
        });
        for (block, biases) in biases.chunks_mut(LANES).enumerate() {
            let sums = sum_lanes(groups.iter().map(|group| &group.biases[block]));
            biases.iter_mut().zip(sums).for_each(|(bias, sum)| *bias = sum);
        }
        gradients
    }
}

fn sum_lanes<'a>(terms: impl Iterator<Item = &'a Lanes>) -> Lanes {
    let mut sums = [0.0; LANES];
    for term in terms {
        for (sum, value) in sums.iter_mut().zip(term) {
            *sum += f64::from(*value);
        }
    }
    sums.map(|sum| sum as f32)
}

/// The taps of a kernel in one direction that reach the input pixels r, r + stride, r + 2 stride, ...: those k for
/// which r + padding - k is a multiple of the stride. From the largest down they meet neighbouring output pixels, from
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

/// `[out, kh, kw, in]` as `[block of 16 in][kh][kw, phase by phase][out][16 in]`, the last block filled up with zeros.
pub(super) fn for_input_gradient(convolution: &Convolution, weight: &[f32], columns: &[Phase]) -> Vec<Lanes> {
    let Convolution { c_in, c_out, kh, kw, .. } = *convolution;
    let taps: Vec<usize> = columns.iter().flat_map(|phase| &phase.taps).copied().collect();
    let mut packed = vec![[0.0; LANES]; c_in.div_ceil(LANES) * kh * kw * c_out];
    packed.par_chunks_exact_mut(kh * kw * c_out).enumerate().for_each(|(block, packed)| {
        let first = block * LANES;
        let channels = LANES.min(c_in - first);
        for (u, packed) in packed.chunks_exact_mut(kw * c_out).enumerate() {
            for (v, packed) in taps.iter().zip(packed.chunks_exact_mut(c_out)) {
                for (out, lanes) in packed.iter_mut().enumerate() {
                    let from = ((out * kh + u) * kw + v) * c_in + first;
                    lanes[..channels].copy_from_slice(&weight[from..from + channels]);
                }
            }
        }
    });
    packed
}
