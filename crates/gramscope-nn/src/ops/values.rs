//! Access to the values of candle's tensors from the CPU bodies of the operations.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

use crate::Error;

/// The values of an argument of a custom operation. The public functions make their arguments contiguous.
pub(super) fn of<'a>(what: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = range(what, layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The values of the tensor that an operation changes.
pub(super) fn of_mut<'a>(what: &'static str, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (start, end) = range(what, layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        other => {
            Err(Error::DType { what, expected: DType::F32, got: candle_core::backend::BackendStorage::dtype(other) }
                .into())
        }
    }
}

/// Where a contiguous argument lies in its storage.
pub(super) fn range(what: &'static str, layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| {
        let expected = "a contiguous tensor (call contiguous() first)".to_owned();
        Error::Shape { what, expected, got: layout.dims().to_vec() }.into()
    })
}

/// A copy of a small tensor's values, for the arguments beyond the three that candle's custom operations have.
pub(super) fn small(what: &'static str, tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    Ok(of(what, host(what, &storage)?, layout)?.to_vec())
}

/// The storage of a tensor that a custom operation on the CPU holds beside its arguments.
pub(super) fn host<'a>(what: &'static str, storage: &'a Storage) -> Result<&'a CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("{what} is not in main memory, but the operation's other arguments are"),
    }
}

/// Fails unless `tensor` holds f32 values and has `rank` dimensions.
pub(super) fn check(what: &'static str, tensor: &Tensor, rank: usize) -> Result<()> {
    check_dtype(what, tensor, DType::F32)?;
    if tensor.rank() != rank {
        return Err(
            Error::Shape { what, expected: format!("one of {rank} dimensions"), got: tensor.dims().to_vec() }.into()
        );
    }
    Ok(())
}

/// Fails unless `tensor` holds f32 values and has the shape `expected`.
pub(super) fn check_shape(what: &'static str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    check_dtype(what, tensor, DType::F32)?;
    if tensor.dims() != expected {
        return Err(Error::Shape { what, expected: format!("{expected:?}"), got: tensor.dims().to_vec() }.into());
    }
    Ok(())
}

/// Fails unless `tensor` holds `expected` values.
pub(super) fn check_dtype(what: &'static str, tensor: &Tensor, expected: DType) -> Result<()> {
    if tensor.dtype() != expected {
        return Err(Error::DType { what, expected, got: tensor.dtype() }.into());
    }
    Ok(())
}
