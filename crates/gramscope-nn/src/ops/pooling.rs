//! Global average pooling.

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::values;

/// The mean over the pixels of `x` `[n, h, w, c]`: `[n, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn forward(x: &Tensor) -> Result<Tensor> {
    values::check("pooling: x", x, 4)?;
    x.contiguous()?.apply_op1_no_bwd(&Average)
}

/// dL/dx from `dy` = dL/dy `[n, c]`, into the memory of `dx` `[n, h, w, c]`: every pixel gets an equal share.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `dx` that is not contiguous is one.
pub fn backward_into(dx: &Tensor, dy: &Tensor) -> Result<()> {
    values::check("pooling: dx", dx, 4)?;
    let (n, _, _, c) = dx.dims4()?;
    values::check_shape("pooling: dy", dy, &[n, c])?;
    dx.inplace_op2(&dy.contiguous()?, &Spread)
}

struct Average;

impl CustomOp1 for Average {
    fn name(&self) -> &'static str {
        "global average pooling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = layout.shape().dims4()?;
        let x = values::of("pooling: x", x, layout)?;
        let mut y = vec![0.0; n * c];
        y.par_chunks_mut(c).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
            for pixel in x.chunks_exact(c) {
                y.iter_mut().zip(pixel).for_each(|(y, x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= (h * w) as f32);
        });
        Ok((CpuStorage::F32(y), Shape::from((n, c))))
    }
}

struct Spread;

impl InplaceOp2 for Spread {
    fn name(&self) -> &'static str {
        "global average pooling, input gradient"
    }

    fn cpu_fwd(&self, dx: &mut CpuStorage, dx_layout: &Layout, dy: &CpuStorage, dy_layout: &Layout) -> Result<()> {
        let (_, h, w, c) = dx_layout.shape().dims4()?;
        let dx = values::of_mut("pooling: dx", dx, dx_layout)?;
        let dy = values::of("pooling: dy", dy, dy_layout)?;
        let pixels = h * w;
        dx.par_chunks_mut(pixels * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
            for pixel in dx.chunks_exact_mut(c) {
                pixel.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / pixels as f32);
            }
        });
        Ok(())
    }
}
