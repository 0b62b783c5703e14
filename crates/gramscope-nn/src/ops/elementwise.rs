//! Addition and ReLU on their own, for when each intermediate result is wanted; otherwise [`super::batch_norm`] has
//! them.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::values;

/// Values in a piece of work.
const PIECE: usize = 65_536;

/// max(x, 0); NaN stays NaN.
///
/// # Errors
/// [`crate::Error::DType`], wrapped in candle's.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    values::check("ReLU: x", x, x.rank())?;
    x.contiguous()?.apply_op1_no_bwd(&Relu)
}

/// a + b, of equal shapes.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    values::check("addition: first argument", a, a.rank())?;
    values::check_shape("addition: second argument", b, a.dims())?;
    a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Add)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "ReLU"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values::of("ReLU: x", x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = if *x < 0.0 { 0.0 } else { *x };
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "addition"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let a = values::of("addition: first argument", a, a_layout)?;
        let b = values::of("addition: second argument", b, b_layout)?;
        let mut sum = vec![0.0; a.len()];
        sum.par_chunks_mut(PIECE).zip(a.par_chunks(PIECE).zip(b.par_chunks(PIECE))).for_each(|(sum, (a, b))| {
            for (sum, (a, b)) in sum.iter_mut().zip(a.iter().zip(b)) {
                *sum = a + b;
            }
        });
        Ok((CpuStorage::F32(sum), a_layout.shape().clone()))
    }
}
