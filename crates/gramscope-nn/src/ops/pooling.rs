//! Global average pooling.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::values;

/// The mean over the pixels of `x` [n, h, w, c]: [n, c].
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn forward(x: &Tensor) -> Result<Tensor> {
    values::check("pooling: x", x, 4)?;
    x.contiguous()?.apply_op1_no_bwd(&Average)
}

/// dL/dx [n, h, w, c] from `dy` = dL/dy [n, c]: every pixel gets its share of `side` = (h, w).
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn backward(dy: &Tensor, (h, w): (usize, usize)) -> Result<Tensor> {
    values::check("pooling: dy", dy, 2)?;
    dy.contiguous()?.apply_op1_no_bwd(&Spread { h, w })
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

struct Spread {
    h: usize,
    w: usize,
}

impl CustomOp1 for Spread {
    fn name(&self) -> &'static str {
        "global average pooling, input gradient"
    }

    fn cpu_fwd(&self, dy: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c) = layout.shape().dims2()?;
        let dy = values::of("pooling: dy", dy, layout)?;
        let pixels = self.h * self.w;
        let mut dx = vec![0.0; n * pixels * c];
        dx.par_chunks_mut(pixels * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
            for pixel in dx.chunks_exact_mut(c) {
                pixel.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / pixels as f32);
            }
        });
        Ok((CpuStorage::F32(dx), Shape::from((n, self.h, self.w, c))))
    }
}
