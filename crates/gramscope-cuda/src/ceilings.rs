//! What the device can do at best, measured: how fast it copies, and how fast it multiplies matrices.

use cudarc::driver::{CudaSlice, DeviceRepr};
use half::bf16;

use crate::cublas::Cublas;
use crate::device::{Device, refused};
use crate::error::Error;
use crate::launchers::Values;

/// Bytes of the buffers that are copied: far more than any cache holds.
const COPY_BYTES: usize = 1 << 30;
/// Rows and columns of the matrices: enough for the last round of tiles not to count.
const SIDE: usize = 8192;
/// Measurements, of which the median counts.
const ROUNDS: usize = 7;

/// What matrices are multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// bfloat16, float32 sums.
    Bf16,
    /// float32 with TF32 tensor cores.
    Tf32,
    /// float32 as it is, on the ordinary units.
    Float32,
}

/// Bytes a second of a copy within the device, read and written ones both counted.
///
/// # Errors
/// [`Error::OutOfMemory`], [`Error::Driver`].
pub fn copy_bandwidth(device: &Device) -> Result<f64, Error> {
    let free = usize::try_from(device.memory()?.0).unwrap_or(usize::MAX);
    let length = COPY_BYTES.min(free / 4);
    let from: CudaSlice<u8> = device.zeros("measuring the copy bandwidth", length)?;
    let mut to: CudaSlice<u8> = device.zeros("measuring the copy bandwidth", length)?;
    let seconds = median_seconds(device, 1, || {
        device.stream().memcpy_dtod(&from, &mut to).map_err(|error| refused("copying within the device", error))
    })?;
    Ok(2.0 * length as f64 / seconds)
}

/// Operations a second of a large matrix product through cuBLAS; none where there is no cuBLAS to load.
///
/// # Errors
/// [`Error::OutOfMemory`], [`Error::Driver`].
pub fn matrix_rate(device: &Device, products: Products) -> Result<Option<f64>, Error> {
    let Some(cublas) = Cublas::load(device)? else { return Ok(None) };
    let (side, what) = (SIDE, "measuring the matrix rate");
    let mut product = device.zeros::<f32>(what, side * side)?;
    let mut measure = |x: &Values<'_>| {
        median_seconds(device, 4, || {
            cublas.gram(&mut product.as_view_mut(), x, [side, side], products == Products::Tf32)
        })
    };
    let seconds = match products {
        Products::Bf16 => measure(&Values::Bf16(noise(device, what, bf16::from_f32)?.as_view()))?,
        Products::Tf32 | Products::Float32 => measure(&Values::F32(noise(device, what, |value| value)?.as_view()))?,
    };
    Ok(Some(2.0 * (side as f64).powi(3) / seconds))
}

/// A matrix of numbers between -1 and 1 that look random: products of zeros take less power, and so run faster, than any others.
fn noise<T: DeviceRepr>(device: &Device, what: &str, of: impl Fn(f32) -> T) -> Result<CudaSlice<T>, Error> {
    let mut state = 1_u32;
    let mut next = || {
        // Xorshift, by Marsaglia.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // The upper bits as the fraction of a number between 1 and 2.
        of(2.0 * f32::from_bits(1.0_f32.to_bits() | state >> 9) - 3.0)
    };
    device.upload(what, &(0..SIDE * SIDE).map(|_| next()).collect::<Vec<_>>())
}

/// The median time of `work`, which is enqueued `times` times a measurement, after a first that does not count.
fn median_seconds(device: &Device, times: u32, mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    work()?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = device.now()?;
        for _ in 0..times {
            work()?;
        }
        rounds.push(start.microseconds_to(&device.now()?)? / f64::from(times));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2] * 1e-6)
}
