//! What the tests of this crate share: seeded values, comparison, finite differences.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use gramscope_nn::random::{Philox, Stream};

/// Half the distance between 1 and the next f32: the relative error of one rounding.
pub const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// Uniform values in [-1, 1), a different sequence for each `seed`.
pub fn uniform(seed: u64, shape: &[usize]) -> Tensor {
    let mut numbers = Philox::new(seed, Stream::Drawing).sequence(0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.between(-1.0, 1.0) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Labels 0, 1, ..., counted modulo `classes`.
pub fn labels(images: usize, classes: usize) -> Tensor {
    let labels: Vec<u32> = (0..images).map(|image| (image % classes) as u32).collect();
    Tensor::from_vec(labels, images, &Device::Cpu).unwrap()
}

/// The values in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The values in row-major order, in float64.
pub fn wide(tensor: &Tensor) -> Vec<f64> {
    values(tensor).into_iter().map(f64::from).collect()
}

/// The bits of the values, which tell NaN from NaN and 0 from -0.
pub fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

/// The same values in the same shape, but laid out transposed and with an offset.
pub fn strided(tensor: &Tensor) -> Tensor {
    let last = tensor.rank() - 1;
    let transposed = tensor.transpose(0, last).unwrap().contiguous().unwrap();
    let padded = Tensor::cat(&[&transposed, &transposed, &transposed], 0).unwrap();
    let length = transposed.dims()[0];
    let view = padded.narrow(0, length, length).unwrap().transpose(0, last).unwrap();
    assert!(!view.is_contiguous() || tensor.dims().iter().filter(|side| **side > 1).count() < 2);
    view
}

/// Fails, naming the first place and their number, unless every value is within `tolerance` of what is expected. NaN
/// fails.
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "so that NaN fails")]
pub fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let wrong: Vec<usize> = (0..got.len()).filter(|i| !((got[*i] - expected[*i]).abs() <= tolerance)).collect();
    if let Some(first) = wrong.first() {
        let (got, expected) = (got[*first], expected[*first]);
        let count = wrong.len();
        panic!("{what}: {count} values are off; value {first} is {got}, expected {expected} +- {tolerance:e}");
    }
}

/// sum of `weights` times `f(x)`, in float64.
pub fn weighted(f: &dyn Fn(&Tensor) -> Tensor, x: &Tensor, weights: &Tensor) -> f64 {
    let y = f(x);
    assert_eq!(y.dims(), weights.dims());
    wide(&y).iter().zip(wide(weights)).map(|(y, weight)| y * weight).sum()
}

/// The gradient by `x` of the sum of `weights` times `f(x)`, by central differences of `step`.
pub fn finite_difference(f: &dyn Fn(&Tensor) -> Tensor, x: &Tensor, weights: &Tensor, step: f32) -> Vec<f64> {
    let centre = values(x);
    (0..centre.len())
        .map(|i| {
            let at = |value: f32| {
                let mut moved = centre.clone();
                moved[i] = value;
                weighted(f, &Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap(), weights)
            };
            let (above, below) = (centre[i] + step, centre[i] - step);
            (at(above) - at(below)) / (f64::from(above) - f64::from(below))
        })
        .collect()
}

/// Runs `f` on a pool of `threads` threads.
pub fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}
