//! Every kernel, loaded once a device.

mod convolution;
mod probe;
mod training;

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DriverError};
use cudarc::nvrtc::Ptx;

use crate::constants;
use crate::device::refused;
use crate::error::Error;
use crate::images::{self, Image};
pub(crate) use convolution::{ConvolutionFunctions, TileFunctions};
pub(crate) use probe::ProbeFunctions;
pub(crate) use training::{BatchNormFunctions, TrainingFunctions};

/// A kernel and its name.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) function: CudaFunction,
}

/// A family's kernels for each type that activations are stored as.
pub(crate) struct Typed<K> {
    pub(crate) f32: K,
    pub(crate) bf16: K,
}

/// The Gram kernels of one type of stored values.
pub(crate) struct GramFunctions {
    pub(crate) shift: Kernel,
    pub(crate) naive: Kernel,
    pub(crate) fused_exact: Kernel,
    pub(crate) fused_fast: Kernel,
    pub(crate) tiled_exact: Kernel,
    pub(crate) tiled_fast: Kernel,
    pub(crate) double: Kernel,
    pub(crate) distances: Kernel,
}

/// Every kernel of a device.
pub(crate) struct Functions {
    pub(crate) gram_f32: GramFunctions,
    pub(crate) gram_bf16: GramFunctions,
    pub(crate) gram_f16: GramFunctions,
    pub(crate) ucenter_reduce_f32: Kernel,
    pub(crate) ucenter_reduce_f64: Kernel,
    pub(crate) ucenter_rows: Kernel,
    pub(crate) ucenter_pack: Kernel,
    pub(crate) ucenter_naive: Kernel,
    pub(crate) hsic_units: Kernel,
    pub(crate) hsic_naive: Kernel,
    pub(crate) hsic_mma: Kernel,
    pub(crate) hsic_accumulate: Kernel,
    pub(crate) rbf_start: Kernel,
    pub(crate) rbf_select: Kernel,
    pub(crate) rbf_above: Kernel,
    pub(crate) rbf_apply: Kernel,
    pub(crate) rbf_naive: Kernel,
    pub(crate) eigen_subspace: Kernel,
    pub(crate) eigen_deflate: Kernel,
    pub(crate) eigen_naive: Kernel,
    pub(crate) convolution: Typed<ConvolutionFunctions>,
    pub(crate) training: TrainingFunctions,
    pub(crate) probe: ProbeFunctions,
}

impl Functions {
    /// Loads the kernels into the context of `stream`; each may use up to `shared_bytes` of shared memory.
    pub(crate) fn load(stream: &Arc<CudaStream>, shared_bytes: u32) -> Result<Self, Error> {
        let gram = Family::load(stream, &images::GRAM, shared_bytes)?;
        let ucenter = Family::load(stream, &images::UCENTER, shared_bytes)?;
        let hsic = Family::load(stream, &images::HSIC, shared_bytes)?;
        let rbf = Family::load(stream, &images::RBF, shared_bytes)?;
        let eigen = Family::load(stream, &images::EIGEN, shared_bytes)?;
        Ok(Self {
            gram_f32: gram.of_type(GRAM_F32)?,
            gram_bf16: gram.of_type(GRAM_BF16)?,
            gram_f16: gram.of_type(GRAM_F16)?,
            ucenter_reduce_f32: ucenter.kernel("gs_ucenter_reduce_f32")?,
            ucenter_reduce_f64: ucenter.kernel("gs_ucenter_reduce_f64")?,
            ucenter_rows: ucenter.kernel("gs_ucenter_rows")?,
            ucenter_pack: ucenter.kernel("gs_ucenter_pack")?,
            ucenter_naive: ucenter.kernel("gs_ucenter_naive")?,
            hsic_units: hsic.kernel("gs_hsic_units")?,
            hsic_naive: hsic.kernel("gs_hsic_naive_f32")?,
            hsic_mma: hsic.kernel("gs_hsic_mma_f32")?,
            hsic_accumulate: hsic.kernel("gs_hsic_accumulate")?,
            rbf_start: rbf.kernel("gs_rbf_start")?,
            rbf_select: rbf.kernel("gs_rbf_select")?,
            rbf_above: rbf.kernel("gs_rbf_above")?,
            rbf_apply: rbf.kernel("gs_rbf_apply")?,
            rbf_naive: rbf.kernel("gs_rbf_naive")?,
            eigen_subspace: eigen.kernel("gs_eigen_subspace")?,
            eigen_deflate: eigen.kernel("gs_eigen_deflate")?,
            eigen_naive: eigen.kernel("gs_eigen_naive")?,
            convolution: convolution::load(&Family::load(stream, &images::CONVOLUTION, shared_bytes)?)?,
            training: TrainingFunctions::load(stream, shared_bytes)?,
            probe: probe::load(&Family::load(stream, &images::PROBE, shared_bytes)?)?,
        })
    }
}

/// Names of the Gram kernels of one type, in the order of [`GramFunctions`].
type GramNames = [&'static str; 8];

/// The names for one suffix.
macro_rules! gram_names {
    ($suffix:literal) => {
        [
            concat!("gs_gram_shift_", $suffix),
            concat!("gs_gram_naive_", $suffix),
            concat!("gs_gram_fused_exact_", $suffix),
            concat!("gs_gram_fused_fast_", $suffix),
            concat!("gs_gram_tiled_exact_", $suffix),
            concat!("gs_gram_tiled_fast_", $suffix),
            concat!("gs_gram_double_", $suffix),
            concat!("gs_gram_distances_", $suffix),
        ]
    };
}

const GRAM_F32: GramNames = gram_names!("f32");
const GRAM_BF16: GramNames = gram_names!("bf16");
const GRAM_F16: GramNames = gram_names!("f16");

/// A loaded fatbin.
struct Family {
    name: &'static str,
    module: Arc<CudaModule>,
    shared_bytes: u32,
}

impl Family {
    /// Loads `image` and compares the constants it was compiled with with those that launch geometry is computed from; a driver that
    /// does not find them is not in the way, for the build takes both from one file.
    fn load(stream: &Arc<CudaStream>, image: &Image, shared_bytes: u32) -> Result<Self, Error> {
        let family = image.family;
        let loading = |error| loading(family, error);
        let module = stream.context().load_module(Ptx::from_binary(image.fatbin.to_vec())).map_err(loading)?;
        let family = Self { name: family, module, shared_bytes };
        let compiled = match family.module.get_global(constants::SYMBOL, stream) {
            // nvcc makes it a symbol of the module's own.
            Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => return Ok(family),
            compiled => compiled.map_err(loading)?,
        };
        let bytes = stream.clone_dtoh(&compiled).map_err(loading)?;
        stream.synchronize().map_err(loading)?;
        let device: Vec<usize> = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).collect();
        if device != constants::VALUES {
            return Err(Error::Constants { family: family.name, device, host: constants::VALUES.to_vec() });
        }
        Ok(family)
    }

    fn kernel(&self, name: &'static str) -> Result<Kernel, Error> {
        let loading = |error| loading(self.name, error);
        let function = self.module.load_function(name).map_err(loading)?;
        // What a kernel has of its own counts towards the limit.
        let own = function.shared_size_bytes().map_err(loading)?;
        let limit = i32::try_from(self.shared_bytes).unwrap_or(i32::MAX).saturating_sub(own);
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit).map_err(loading)?;
        Ok(Kernel { name, function })
    }

    fn of_type(&self, names: GramNames) -> Result<GramFunctions, Error> {
        let [shift, naive, fused_exact, fused_fast, tiled_exact, tiled_fast, double, distances] = names;
        Ok(GramFunctions {
            shift: self.kernel(shift)?,
            naive: self.kernel(naive)?,
            fused_exact: self.kernel(fused_exact)?,
            fused_fast: self.kernel(fused_fast)?,
            tiled_exact: self.kernel(tiled_exact)?,
            tiled_fast: self.kernel(tiled_fast)?,
            double: self.kernel(double)?,
            distances: self.kernel(distances)?,
        })
    }
}

fn loading(family: &str, error: DriverError) -> Error {
    refused(&format!("loading the kernels of {family}"), error)
}
