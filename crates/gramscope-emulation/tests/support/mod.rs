//! Inputs, and the kernels strung together as a launcher does it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod chain;
pub mod inputs;

use gramscope_cuda::plan::Device;
use gramscope_emulation::Plain;
use gramscope_reference::Matrix;
use half::{bf16, f16};

/// A device with few multiprocessors, so that small inputs have several splits and a split several slabs; its shared memory
/// is an A100's.
pub const SMALL: Device = Device { multiprocessors: 3, shared_bytes: 163 << 10 };
/// The same with an H100's shared memory: longer rings.
pub const ROOMY: Device = Device { multiprocessors: 3, shared_bytes: 227 << 10 };
/// The same with a GeForce's: tiles' rings at their shortest, and fewer examples in one block.
pub const TIGHT: Device = Device { multiprocessors: 3, shared_bytes: 99 << 10 };

/// A type that activations are stored in.
pub trait Element: Plain + PartialEq + std::fmt::Debug {
    /// As in the kernels' names.
    const SUFFIX: &'static str;
    fn round(value: f64) -> Self;
    fn widen(self) -> f64;
}

impl Element for f32 {
    const SUFFIX: &'static str = "f32";
    fn round(value: f64) -> Self {
        value as f32
    }
    fn widen(self) -> f64 {
        f64::from(self)
    }
}

impl Element for bf16 {
    const SUFFIX: &'static str = "bf16";
    fn round(value: f64) -> Self {
        bf16::from_f64(value)
    }
    fn widen(self) -> f64 {
        self.to_f64()
    }
}

impl Element for f16 {
    const SUFFIX: &'static str = "f16";
    fn round(value: f64) -> Self {
        f16::from_f64(value)
    }
    fn widen(self) -> f64 {
        self.to_f64()
    }
}

/// The stored values of x.
pub fn stored<T: Element>(x: &Matrix) -> Vec<T> {
    x.data.iter().map(|&value| T::round(value)).collect()
}

/// x as it is once stored.
pub fn rounded<T: Element>(x: &Matrix) -> Matrix {
    x.map(|_, _, value| T::round(value).widen())
}

/// The largest |a_ij - b_ij| / (s_i s_j), with s_i the length of row i (k_ii its square) plus their mean: the scale on which
/// an error of K's products shows after centring. NaN where anything is.
pub fn largest_error(a: &Matrix, b: &Matrix, k: &Matrix) -> f64 {
    let n = a.rows;
    let lengths: Vec<f64> = (0..n).map(|i| k.get(i, i).sqrt()).collect();
    let mean = lengths.iter().sum::<f64>() / n as f64;
    let scale = |i: usize| lengths[i] + mean;
    let mut largest = 0.0f64;
    for i in 0..n {
        for j in 0..n {
            let error = (a.get(i, j) - b.get(i, j)).abs() / (scale(i) * scale(j));
            // f64::max drops NaN.
            largest = if error.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(error) };
        }
    }
    largest
}
