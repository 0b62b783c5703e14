//! cuBLAS, where there is one to load: what kernels are held against.

use cudarc::cublas::{CudaBlas, result, sys};
use cudarc::driver::{CudaViewMut, DevicePtrMut};

use crate::device::Device;
use crate::error::Error;
use crate::launch::{Arguments, wrong};
use crate::launchers::Values;

/// The names under which it is installed.
const LIBRARIES: [&str; 2] = ["libcublas.so.13", "libcublas.so"];

/// cuBLAS on a device's stream.
pub struct Cublas<'a> {
    device: &'a Device,
    blas: CudaBlas,
}

impl<'a> Cublas<'a> {
    /// None where there is no cuBLAS to load.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn load(device: &'a Device) -> Result<Option<Self>, Error> {
        // cudarc panics where the library is missing.
        // SAFETY: loading cuBLAS runs its initialisers, which is what every program that uses it does at start.
        if !LIBRARIES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok()) {
            return Ok(None);
        }
        let blas = CudaBlas::new(device.stream().clone()).map_err(|error| refused(&error))?;
        Ok(Some(Self { device, blas }))
    }

    /// Enqueues X X^T of `x` `[rows, columns]`, whole: `product` `[rows, rows]`. Half-precision values are multiplied on tensor
    /// cores with float32 sums; float32 ones as they are or, where `tf32`, there too.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Driver`].
    pub fn gram(
        &self,
        product: &mut CudaViewMut<'_, f32>,
        x: &Values<'_>,
        [rows, columns]: [usize; 2],
        tf32: bool,
    ) -> Result<(), Error> {
        let name = "cuBLAS";
        let fits = |count: usize| i32::try_from(count).map_err(|_| wrong(name, "a dimension", count, "below 2^31"));
        let (n, p) = (fits(rows)?, fits(columns)?);
        let stream = self.device.stream();
        let mut check = Arguments::new(name, stream);
        let address = x.address(&mut check, rows * columns)?;
        check.writes("product", product, rows * rows)?;
        let (kind, compute) = match x {
            Values::F16(_) => (sys::cudaDataType::CUDA_R_16F, PLAIN),
            Values::Bf16(_) => (sys::cudaDataType::CUDA_R_16BF, PLAIN),
            Values::F32(_) => (sys::cudaDataType::CUDA_R_32F, if tf32 { TF32 } else { PLAIN }),
        };
        let (product, _writing) = product.device_ptr_mut(stream);
        let (alpha, beta) = (1.0_f32, 0.0_f32);
        let (plain, transposed) = (sys::cublasOperation_t::CUBLAS_OP_N, sys::cublasOperation_t::CUBLAS_OP_T);
        // Row-major [rows, columns] is column-major [columns, rows]: the product of its transpose with itself.
        // SAFETY: x holds rows x columns values of the type that `kind` names and product rows x rows of float32, as has been
        // checked, with these leading dimensions; alpha and beta are float32, as the compute types ask; the handle is alive and
        // on the stream that orders the buffers.
        let enqueued = unsafe {
            result::gemm_ex(
                *self.blas.handle(),
                transposed,
                plain,
                n,
                n,
                p,
                (&raw const alpha).cast(),
                address as *const _,
                kind,
                p,
                address as *const _,
                kind,
                p,
                (&raw const beta).cast(),
                product as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                n,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        enqueued.map_err(|error| refused(&error))
    }
}

/// float32 sums of what is stored.
const PLAIN: sys::cublasComputeType_t = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
/// float32 rounded to TF32 first.
const TF32: sys::cublasComputeType_t = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32;

fn refused(error: &result::CublasError) -> Error {
    Error::Driver { action: "multiplying through cuBLAS".to_owned(), message: format!("{error:?}") }
}
