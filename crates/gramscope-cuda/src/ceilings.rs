//! What the device can do at best, measured: how fast it copies, and how fast it multiplies matrices.

use cudarc::cublas::{CudaBlas, result, sys};
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use half::bf16;

use crate::device::{Device, refused};
use crate::error::Error;

/// The names under which cuBLAS is installed.
const CUBLAS_LIBRARIES: [&str; 2] = ["libcublas.so.13", "libcublas.so"];
/// Bytes of the buffers that are copied: far more than any cache holds.
const COPY_BYTES: usize = 1 << 30;
/// Rows and columns of the matrices: enough for the last round of tiles not to count.
const SIDE: i32 = 8192;
/// Measurements, of which the median counts.
const ROUNDS: usize = 7;

/// What matrices are multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// bfloat16, float32 sums.
    Bf16,
    /// float32 with TF32 tensor cores.
    Tf32,
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
    // cudarc panics where the library is missing.
    // SAFETY: loading cuBLAS runs its initialisers, which is what every program that uses it does at start.
    if !CUBLAS_LIBRARIES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok()) {
        return Ok(None);
    }
    match products {
        Products::Bf16 => rate::<bf16>(device, products),
        Products::Tf32 => rate::<f32>(device, products),
    }
    .map(Some)
}

fn rate<T>(device: &Device, products: Products) -> Result<f64, Error>
where
    T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits,
{
    let multiplying = |message: String| Error::Driver { action: "multiplying through cuBLAS".to_owned(), message };
    let length = SIDE as usize * SIDE as usize;
    let what = "measuring the matrix rate";
    let (a, b) = (device.zeros::<T>(what, length)?, device.zeros::<T>(what, length)?);
    let mut c = device.zeros::<T>(what, length)?;
    let blas = CudaBlas::new(device.stream().clone()).map_err(|error| multiplying(format!("{error:?}")))?;
    let (kind, compute) = match products {
        Products::Bf16 => (sys::cudaDataType::CUDA_R_16BF, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
        Products::Tf32 => (sys::cudaDataType::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
    };
    let (alpha, beta) = (1.0_f32, 0.0_f32);
    let seconds = median_seconds(device, 4, || {
        let (a, _reading_a) = a.device_ptr(device.stream());
        let (b, _reading_b) = b.device_ptr(device.stream());
        let (c, _writing) = c.device_ptr_mut(device.stream());
        let (plain, transposed) = (sys::cublasOperation_t::CUBLAS_OP_N, sys::cublasOperation_t::CUBLAS_OP_T);
        // SAFETY: a, b and c hold SIDE x SIDE values of the type that `kind` names, with SIDE as leading dimension; alpha
        // and beta are float32, as the compute types ask; the handle is alive and on the stream that orders the buffers.
        let enqueued = unsafe {
            result::gemm_ex(
                *blas.handle(),
                transposed,
                plain,
                SIDE,
                SIDE,
                SIDE,
                (&raw const alpha).cast(),
                a as *const _,
                kind,
                SIDE,
                b as *const _,
                kind,
                SIDE,
                (&raw const beta).cast(),
                c as *mut _,
                kind,
                SIDE,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        enqueued.map_err(|error| multiplying(format!("{error:?}")))
    })?;
    Ok(2.0 * f64::from(SIDE).powi(3) / seconds)
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
