//! Addition and ReLU on their own, for when each intermediate result is wanted; otherwise [`super::batch_norm`] has
//! them.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::values;

/// Values in a piece of work.
const PIECE: usize = 65_536;

/// max(x, 0); NaN stays NaN. The result takes over the memory of `x`, so nothing else may use it any more.
///
/// # Errors
/// [`crate::Error::DType`], wrapped in candle's.
pub fn relu(x: Tensor) -> Result<Tensor> {
    values::check("ReLU: x", &x, x.rank())?;
    let x = x.contiguous()?;
    x.inplace_op1(&Relu)?;
    Ok(x)
}

/// dL/dx of the ReLU from `dy` = dL/dy and its result `y`: `dy` where `y` is positive, 0 elsewhere. The result takes over
/// the memory of `dy`, so nothing else may use it any more.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn relu_backward(dy: Tensor, y: &Tensor) -> Result<Tensor> {
    values::check("ReLU, gradient: dy", &dy, dy.rank())?;
    values::check_shape("ReLU, gradient: y", y, dy.dims())?;
    let dy = dy.contiguous()?;
    dy.inplace_op2(&y.contiguous()?, &ReluGradient)?;
    Ok(dy)
}

/// a + b, of equal shapes. The result takes over the memory of `a`, so nothing else may use it any more.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn add(a: Tensor, b: &Tensor) -> Result<Tensor> {
    values::check("addition: first argument", &a, a.rank())?;
    values::check_shape("addition: second argument", b, a.dims())?;
    let a = a.contiguous()?;
    a.inplace_op2(&b.contiguous()?, &Add)?;
    Ok(a)
}

/// a + b, of equal shapes, into the memory of `sum`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `sum` that is not contiguous is one.
pub fn add_into(sum: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    add_with(sum, a, b, false)
}

/// As [`add_into`], of `a` and the ReLU of `b`, which is applied as `b` is read.
///
/// # Errors
/// As [`add_into`].
pub fn add_relu_into(sum: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    add_with(sum, a, b, true)
}

fn add_with(sum: &Tensor, a: &Tensor, b: &Tensor, relu: bool) -> Result<()> {
    values::check("addition: sum", sum, sum.rank())?;
    values::check_shape("addition: first argument", a, sum.dims())?;
    values::check_shape("addition: second argument", b, sum.dims())?;
    sum.inplace_op3(&a.contiguous()?, &b.contiguous()?, &AddInto { relu })
}

/// `value`, or 0 if that is larger; NaN stays NaN.
#[inline(always)]
pub(super) fn rectified(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

struct Relu;

impl InplaceOp1 for Relu {
    fn name(&self) -> &'static str {
        "ReLU"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        values::of_mut("ReLU: x", x, layout)?.par_chunks_mut(PIECE).for_each(|x| {
            for x in x {
                *x = rectified(*x);
            }
        });
        Ok(())
    }
}

struct ReluGradient;

impl InplaceOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "ReLU, gradient"
    }

    fn cpu_fwd(&self, dy: &mut CpuStorage, dy_layout: &Layout, y: &CpuStorage, y_layout: &Layout) -> Result<()> {
        let dy = values::of_mut("ReLU, gradient: dy", dy, dy_layout)?;
        let y = values::of("ReLU, gradient: y", y, y_layout)?;
        dy.par_chunks_mut(PIECE).zip(y.par_chunks(PIECE)).for_each(|(dy, y)| {
            for (dy, y) in dy.iter_mut().zip(y) {
                *dy = if *y > 0.0 { *dy } else { 0.0 };
            }
        });
        Ok(())
    }
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "addition"
    }

    fn cpu_fwd(&self, a: &mut CpuStorage, a_layout: &Layout, b: &CpuStorage, b_layout: &Layout) -> Result<()> {
        let a = values::of_mut("addition: first argument", a, a_layout)?;
        let b = values::of("addition: second argument", b, b_layout)?;
        a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE)).for_each(|(a, b)| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        });
        Ok(())
    }
}

/// Of a and b or, with `relu`, of a and the ReLU of b.
struct AddInto {
    relu: bool,
}

impl InplaceOp3 for AddInto {
    fn name(&self) -> &'static str {
        "addition"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<()> {
        let sum = values::of_mut("addition: sum", sum, sum_layout)?;
        let a = values::of("addition: first argument", a, a_layout)?;
        let b = values::of("addition: second argument", b, b_layout)?;
        sum.par_chunks_mut(PIECE).zip(a.par_chunks(PIECE)).zip(b.par_chunks(PIECE)).for_each(|((sum, a), b)| {
            let all = sum.iter_mut().zip(a).zip(b);
            match self.relu {
                false => all.for_each(|((sum, a), b)| *sum = a + b),
                true => all.for_each(|((sum, a), b)| *sum = a + rectified(*b)),
            }
        });
        Ok(())
    }
}
