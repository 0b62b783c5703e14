//! The mixture of two residual branches by Shake-Shake (Gastaldi 2017, *Shake-Shake regularization*): with a and b the
//! branches' results for an image,
//!
//! ```text
//! forward:  m = alpha a + (1 - alpha) b
//! backward: da = beta dm,  db = (1 - beta) dm
//! ```
//!
//! In training alpha and beta are uniform in [0, 1), drawn for every block, image and epoch, and independent of each other
//! ("shake-shake-image"); in evaluation alpha is one half. Gastaldi's branches begin with a ReLU; here they are those of
//! the family, whose blocks end with one.

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::values;
use crate::random::{Philox, Stream};

/// alpha and beta of each of `images`, as they are numbered in the data set, in block number `block` and `epoch`: a pure
/// function of these and the seed.
pub fn shares(seed: u64, epoch: u32, block: usize, images: &[usize]) -> [Vec<f32>; 2] {
    let generator = Philox::new(seed, Stream::Shake);
    let words = images.iter().map(|image| generator.words(epoch, (*image as u64) << 32 | block as u64));
    let (alpha, beta) = words.map(|[alpha, beta, ..]| (share(alpha), share(beta))).unzip();
    [alpha, beta]
}

/// Uniform in [0, 1), a multiple of 2^-24: one that float32 holds exactly.
fn share(word: u32) -> f32 {
    (word >> 8) as f32 * (-24f32).exp2()
}

/// `shares` a + (1 - `shares`) b for `a` and `b` `[n, ...]` of equal shapes and `shares` `[n]`. The result takes over the
/// memory of `a`, so nothing else may use it any more.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's.
pub fn mix(a: Tensor, b: &Tensor, shares: &Tensor) -> Result<Tensor> {
    values::check("mixing: first branch", &a, a.rank().max(1))?;
    values::check_shape("mixing: second branch", b, a.dims())?;
    values::check_shape("mixing: shares", shares, &a.dims()[..1])?;
    let a = a.contiguous()?;
    a.inplace_op3(&b.contiguous()?, &shares.contiguous()?, &Mix)?;
    Ok(a)
}

/// A branch's part of `dm` `[n, ...]`, the gradient of the mixture, into the memory of `part`: `shares` `[n]` of it for the
/// `first` branch, the rest for the second.
///
/// # Errors
/// [`crate::Error::Shape`] and [`crate::Error::DType`], wrapped in candle's; a `part` that is not contiguous is one.
pub fn part_into(part: &Tensor, dm: &Tensor, shares: &Tensor, first: bool) -> Result<()> {
    values::check("mixing, gradient: part", part, part.rank().max(1))?;
    values::check_shape("mixing, gradient: dm", dm, part.dims())?;
    values::check_shape("mixing, gradient: shares", shares, &part.dims()[..1])?;
    part.inplace_op3(&dm.contiguous()?, &shares.contiguous()?, &Part { first })
}

struct Mix;

impl InplaceOp3 for Mix {
    fn name(&self) -> &'static str {
        "mixing of branches"
    }

    fn cpu_fwd(
        &self,
        a: &mut CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        shares: &CpuStorage,
        shares_layout: &Layout,
    ) -> Result<()> {
        let a = values::of_mut("mixing: first branch", a, a_layout)?;
        let b = values::of("mixing: second branch", b, b_layout)?;
        let shares = values::of("mixing: shares", shares, shares_layout)?;
        let image = a.len() / shares.len().max(1);
        a.par_chunks_mut(image.max(1)).zip(b.par_chunks(image.max(1))).zip(shares).for_each(|((a, b), share)| {
            for (a, b) in a.iter_mut().zip(b) {
                *a = share * *a + (1.0 - share) * b;
            }
        });
        Ok(())
    }
}

struct Part {
    first: bool,
}

impl InplaceOp3 for Part {
    fn name(&self) -> &'static str {
        "mixing of branches, gradient"
    }

    fn cpu_fwd(
        &self,
        part: &mut CpuStorage,
        part_layout: &Layout,
        dm: &CpuStorage,
        dm_layout: &Layout,
        shares: &CpuStorage,
        shares_layout: &Layout,
    ) -> Result<()> {
        let part = values::of_mut("mixing, gradient: part", part, part_layout)?;
        let dm = values::of("mixing, gradient: dm", dm, dm_layout)?;
        let shares = values::of("mixing, gradient: shares", shares, shares_layout)?;
        let image = part.len() / shares.len().max(1);
        part.par_chunks_mut(image.max(1)).zip(dm.par_chunks(image.max(1))).zip(shares).for_each(
            |((part, dm), share)| {
                let share = if self.first { *share } else { 1.0 - share };
                part.iter_mut().zip(dm).for_each(|(part, dm)| *part = share * dm);
            },
        );
        Ok(())
    }
}
