//! The sizes of a convolution.

use candle_core::Result;

use crate::Error;

/// How the kernel moves over the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels between two places of the kernel, in both directions.
    pub stride: usize,
    /// Rows and columns of zeros around the image, on all four sides.
    pub padding: usize,
}

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convolution {
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c_in: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
    pub(super) c_out: usize,
    pub(super) kh: usize,
    pub(super) kw: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Convolution {
    /// From the shapes of x, `[n, h, w, in]`, and of the weights, `[out, kh, kw, in]`.
    pub(super) fn new(
        (n, h, w, c_in): (usize, usize, usize, usize),
        (c_out, kh, kw, weight_c_in): (usize, usize, usize, usize),
        Geometry { stride, padding }: Geometry,
    ) -> Result<Self> {
        let fits = stride > 0 && kh > 0 && kw > 0 && kh <= h + 2 * padding && kw <= w + 2 * padding;
        if c_in != weight_c_in || c_in == 0 || c_out == 0 || n == 0 || !fits {
            let expected = format!(
                "[out, kh, kw, {c_in}] that fits an image of {h} x {w} with padding {padding}, stride {stride}"
            );
            let got = vec![c_out, kh, kw, weight_c_in];
            return Err(Error::Shape { what: "convolution: weight", expected, got }.into());
        }
        let (oh, ow) = ((h + 2 * padding - kh) / stride + 1, (w + 2 * padding - kw) / stride + 1);
        Ok(Self { n, h, w, c_in, oh, ow, c_out, kh, kw, stride, padding })
    }

    pub(super) fn x_dims(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c_in]
    }

    pub(super) fn y_dims(&self) -> [usize; 4] {
        [self.n, self.oh, self.ow, self.c_out]
    }

    pub(super) fn weight_dims(&self) -> [usize; 4] {
        [self.c_out, self.kh, self.kw, self.c_in]
    }

    /// Whether there are pixels of x that no place of the kernel covers.
    pub(super) fn has_gaps(&self) -> bool {
        self.stride > self.kh.min(self.kw)
    }

    pub(super) fn weight_count(&self) -> usize {
        self.weight_dims().iter().product()
    }
}
