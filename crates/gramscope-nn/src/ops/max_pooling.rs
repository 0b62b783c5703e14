//! Max pooling over 3 x 3 pixels with stride 2, as behind the stem of the ImageNet family (He et al. 2016, table 1). What
//! lies outside the image counts for nothing.
//!
//! Backward, a pixel's gradient goes to the first of the largest values of its window, row by row.

use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::values;
use crate::Error;

const WINDOW: usize = 3;
const STRIDE: usize = 2;

/// The shape of the result for `x` `[n, h, w, c]`: `[n, ceil(h / 2), ceil(w / 2), c]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn result_dims(x: &Tensor) -> Result<[usize; 4]> {
    values::check("max pooling: x", x, 4)?;
    let (n, h, w, c) = x.dims4()?;
    if h * w * c == 0 {
        let expected = "images with at least one pixel and channel".to_owned();
        return Err(Error::Shape { what: "max pooling: x", expected, got: x.dims().to_vec() }.into());
    }
    Ok([n, h.div_ceil(STRIDE), w.div_ceil(STRIDE), c])
}

/// The largest value of each window of `x` `[n, h, w, c]`, into the memory of `y`; NaN where there is one in it.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `y` that is not contiguous is one.
pub fn forward_into(y: &Tensor, x: &Tensor) -> Result<()> {
    values::check_shape("max pooling: y", y, &result_dims(x)?)?;
    y.inplace_op2(&x.contiguous()?, &Largest)
}

/// dL/dx from `x`, its result `y` and `dy` = dL/dy, into the memory of `dx` `[n, h, w, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `dx` that is not contiguous is one.
pub fn backward_into(dx: &Tensor, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<()> {
    let dims = result_dims(x)?;
    values::check_shape("max pooling: dx", dx, x.dims())?;
    values::check_shape("max pooling: y", y, &dims)?;
    values::check_shape("max pooling: dy", dy, &dims)?;
    let y = y.contiguous()?;
    dx.inplace_op3(&x.contiguous()?, &dy.contiguous()?, &InputGradient { y: &y })
}

/// Height, width and channels of the images, and height and width of the result.
#[derive(Clone, Copy)]
struct Sizes {
    h: usize,
    w: usize,
    c: usize,
    result_h: usize,
    result_w: usize,
}

impl Sizes {
    fn new(x: &Layout) -> Result<Self> {
        let (_, h, w, c) = x.shape().dims4()?;
        Ok(Self { h, w, c, result_h: h.div_ceil(STRIDE), result_w: w.div_ceil(STRIDE) })
    }

    /// Where the channels of the result's pixels and those of the pixels in their windows begin, window after window.
    fn for_each_window(self, mut visit: impl FnMut(usize, &mut dyn Iterator<Item = usize>)) {
        for row in 0..self.result_h {
            for column in 0..self.result_w {
                let columns = window(column, self.w);
                let mut pixels = window(row, self.h)
                    .flat_map(|row| columns.clone().map(move |column| (row * self.w + column) * self.c));
                visit((row * self.result_w + column) * self.c, &mut pixels);
            }
        }
    }
}

/// The rows (or columns) in the window of the result's row `index`, of `length` that there are.
fn window(index: usize, length: usize) -> Range<usize> {
    let end = index * STRIDE + WINDOW - 1;
    (index * STRIDE).saturating_sub(1)..end.min(length)
}

struct Largest;

impl InplaceOp2 for Largest {
    fn name(&self) -> &'static str {
        "max pooling"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, y_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Result<()> {
        let sizes = Sizes::new(x_layout)?;
        let Sizes { h, w, c, result_h, result_w } = sizes;
        let y = values::of_mut("max pooling: y", y, y_layout)?;
        let x = values::of("max pooling: x", x, x_layout)?;
        let images = y.par_chunks_mut(result_h * result_w * c).zip(x.par_chunks(h * w * c));
        images.for_each(|(y, x)| {
            sizes.for_each_window(|target, pixels| {
                let y = &mut y[target..target + c];
                y.fill(f32::NEG_INFINITY);
                for pixel in pixels {
                    for (y, x) in y.iter_mut().zip(&x[pixel..pixel + c]) {
                        *y = if *x > *y || x.is_nan() { *x } else { *y };
                    }
                }
            });
        });
        Ok(())
    }
}

/// x and dy into dx.
struct InputGradient<'a> {
    y: &'a Tensor,
}

impl InplaceOp3 for InputGradient<'_> {
    fn name(&self) -> &'static str {
        "max pooling, input gradient"
    }

    fn cpu_fwd(
        &self,
        dx: &mut CpuStorage,
        dx_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<()> {
        let sizes = Sizes::new(x_layout)?;
        let Sizes { h, w, c, result_h, result_w } = sizes;
        let (y, y_layout) = self.y.storage_and_layout();
        let y = values::of("max pooling: y", values::host("max pooling: y", &y)?, y_layout)?;
        let dx = values::of_mut("max pooling: dx", dx, dx_layout)?;
        let x = values::of("max pooling: x", x, x_layout)?;
        let dy = values::of("max pooling: dy", dy, dy_layout)?;
        let result = result_h * result_w * c;
        let images = dx.par_chunks_mut(h * w * c).zip(x.par_chunks(h * w * c));
        images.zip(y.par_chunks(result)).zip(dy.par_chunks(result)).for_each(|(((dx, x), y), dy)| {
            dx.fill(0.0);
            // What is left to hand on of each channel's gradient.
            let mut left = vec![0.0; c];
            sizes.for_each_window(|source, pixels| {
                left.copy_from_slice(&dy[source..source + c]);
                let y = &y[source..source + c];
                for pixel in pixels {
                    let (dx, x) = (&mut dx[pixel..pixel + c], &x[pixel..pixel + c]);
                    for (((dx, x), y), left) in dx.iter_mut().zip(x).zip(y).zip(&mut left) {
                        let share = if x == y { std::mem::take(left) } else { 0.0 };
                        *dx += share;
                    }
                }
            });
        });
        Ok(())
    }
}
