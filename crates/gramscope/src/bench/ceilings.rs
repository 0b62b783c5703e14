//! What this machine's processor does at best, measured: what counted work is held against.

use std::time::Instant;

use candle_core::{Device, Tensor};
#[cfg(feature = "cuda")]
use gramscope_cuda::ceilings;
use gramscope_cuda::plan::Arithmetic;
use gramscope_nn::Work;
use gramscope_nn::ops::elementwise;

use super::median;

/// Side of the matrices whose product shows the rate of multiply-adds.
const SIDE: usize = 1536;
/// Values of the two tensors whose addition shows the memory's rate: 64 MiB each, more than most caches hold, and less than a
/// training step takes, whose memory is measured in the same process.
const VALUES: usize = 16 << 20;
/// Measurements of which the first does not count.
const ROUNDS: usize = 6;

/// Rates of simple work that keeps all cores busy; what stays in a cache moves faster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceilings {
    /// Multiply-adds a second, in a large matrix product; none where there is nothing to measure them with.
    pub(crate) multiply_adds: Option<f64>,
    /// Bytes a second, in an addition in memory: two reads and a write a value.
    pub(crate) bytes: f64,
}

impl Ceilings {
    /// Measures both, in a few seconds.
    ///
    /// # Errors
    /// Too little memory.
    pub(crate) fn measure() -> anyhow::Result<Self> {
        let matrix = Tensor::rand(-1_f32, 1.0, (SIDE, SIDE), &Device::Cpu)?;
        let product = seconds(|| {
            matrix.matmul(&matrix)?;
            Ok(())
        })?;
        let addend = Tensor::rand(-1_f32, 1.0, VALUES, &Device::Cpu)?;
        let mut sum = addend.copy()?;
        let addition = seconds(|| {
            sum = elementwise::add(sum.clone(), &addend)?;
            Ok(())
        })?;
        Ok(Self { multiply_adds: Some((SIDE as f64).powi(3) / product), bytes: 3.0 * 4.0 * VALUES as f64 / addition })
    }

    /// Those of a GPU in this arithmetic, of its multiply-adds where there is a cuBLAS to measure them with.
    ///
    /// # Errors
    /// What the device may say.
    #[cfg(feature = "cuda")]
    pub(crate) fn of_gpu(device: &gramscope_cuda::Device, arithmetic: Arithmetic) -> anyhow::Result<Self> {
        let products = match arithmetic {
            Arithmetic::Float32 => ceilings::Products::Float32,
            Arithmetic::Tf32 => ceilings::Products::Tf32,
            Arithmetic::Bf16 => ceilings::Products::Bf16,
        };
        let operations = ceilings::matrix_rate(device, products)?;
        let multiply_adds = operations.map(|operations| operations / 2.0);
        Ok(Self { multiply_adds, bytes: ceilings::copy_bandwidth(device)? })
    }

    /// Those of a GPU: a build without CUDA has none.
    ///
    /// # Errors
    /// Always [`gramscope_cuda::Error::NotBuilt`].
    #[cfg(not(feature = "cuda"))]
    pub(crate) fn of_gpu(_: &gramscope_cuda::Device, _: Arithmetic) -> anyhow::Result<Self> {
        Err(gramscope_cuda::Error::NotBuilt.into())
    }

    /// The milliseconds that operations take at least if each is done on its own: what takes longer of its products and its
    /// bytes, summed; of its bytes alone where no rate of products is known.
    pub(crate) fn floor_ms(self, operations: &[Work]) -> f64 {
        let products = |work: &Work| self.multiply_adds.map_or(0.0, |rate| work.multiply_adds as f64 / rate);
        let seconds = |work: &Work| products(work).max(work.bytes as f64 / self.bytes);
        1e3 * operations.iter().map(seconds).sum::<f64>()
    }
}

/// The median of what `work` takes.
fn seconds(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times.split_off(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One operation is bound by its products (2 s against 1), the other by its bytes (3 s against 1).
    #[test]
    fn what_takes_longer_counts() {
        let ceilings = Ceilings { multiply_adds: Some(10.0), bytes: 100.0 };
        let operations = [Work { multiply_adds: 20, bytes: 100 }, Work { multiply_adds: 10, bytes: 300 }];
        assert!((ceilings.floor_ms(&operations) - 5000.0).abs() < 1e-9);
        let bytes_alone = Ceilings { multiply_adds: None, ..ceilings };
        assert!((bytes_alone.floor_ms(&operations) - 4000.0).abs() < 1e-9);
    }
}
