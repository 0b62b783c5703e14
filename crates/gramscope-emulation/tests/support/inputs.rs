//! Activations, friendly and hostile, that are the same on every machine.

use gramscope_reference::Matrix;

/// Uniform and normal numbers: splitmix64 and Box-Muller.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1))
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

pub fn normal(n: usize, p: usize, seed: u64) -> Matrix {
    let mut random = Random::new(seed);
    Matrix::from_fn(n, p, |_, _| random.normal())
}

/// What follows a ReLU: half of it zero, columns of different scale, and examples that resemble each other.
pub fn rectified(n: usize, p: usize, seed: u64) -> Matrix {
    let mut random = Random::new(seed);
    let strength: Vec<f64> = (0..p).map(|_| random.normal().exp()).collect();
    let common: Vec<f64> = (0..n).map(|_| random.normal()).collect();
    Matrix::from_fn(n, p, |i, j| (strength[j] * (0.7 * random.normal() + 0.7 * common[i])).max(0.0))
}

/// Two layers that share a part.
pub fn pair(n: usize, p: usize, q: usize, seed: u64) -> (Matrix, Matrix) {
    let x = normal(n, p, seed);
    let noise = normal(n, q, seed + 1);
    let y = Matrix::from_fn(n, q, |i, j| x.get(i, j % p) + 0.7 * noise.get(i, j));
    (x, y)
}

/// Features 100 +- 0.1.
pub fn offset(n: usize, p: usize, seed: u64) -> Matrix {
    normal(n, p, seed).map(|_, _, value| 100.0 + 0.1 * value)
}

/// One row `factor` times as large as the others.
pub fn outlier(n: usize, p: usize, factor: f64, seed: u64) -> Matrix {
    normal(n, p, seed).map(|i, _, value| if i == n / 2 { value * factor } else { value })
}

/// The same, the other rows far from zero.
pub fn offset_outlier(n: usize, p: usize, factor: f64, seed: u64) -> Matrix {
    normal(n, p, seed).map(|i, _, value| if i == n / 2 { value * factor } else { 3.0 + 0.5 * value })
}

/// Every example twice.
pub fn duplicated(n: usize, p: usize, seed: u64) -> Matrix {
    let half = normal(n.div_ceil(2), p, seed);
    Matrix::from_fn(n, p, |i, j| half.get(i / 2, j))
}

/// Every third column the same everywhere, at a value that float32 does not hold exactly.
pub fn constant_columns(n: usize, p: usize, seed: u64) -> Matrix {
    normal(n, p, seed).map(|_, j, value| if j % 3 == 0 { 1e4 / 3.0 } else { value })
}

/// Scales that grow from slab to slab, so that exponents change on the way.
pub fn growing(n: usize, p: usize, seed: u64) -> Matrix {
    normal(n, p, seed).map(|i, j, value| value * 10f64.powi((j / 40) as i32 - 4 + (i % 3) as i32))
}

pub fn scaled(x: &Matrix, factor: f64) -> Matrix {
    x.map(|_, _, value| value * factor)
}
