//! Convolutions: what they are, and how their kernels are launched.

use super::{Geometry, each};
use crate::shapes::ConvolutionShape;

/// How products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// float32 throughout, on the ordinary units. Activations are float32.
    Float32,
    /// Tensor cores: factors rounded to TF32 (11 significant bits), sums in float32. Activations are float32.
    Tf32,
    /// Tensor cores: factors in bfloat16 (8 significant bits), sums in float32. Activations are bfloat16.
    Bf16,
}

/// The most rows or columns of an image.
const MOST_SIDE: usize = 1 << 14;

/// y[n, i, j, o] = b\[o\] + sum over u, v, c of x[n, i s + u - p, j s + v - p, c] w[o, u, v, c], x being zero outside the
/// image; x `[images, height, width, from]`, w `[to, kernel, kernel, from]`, y `[images, out_height, out_width, to]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Images of a batch.
    pub images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Channels of x.
    pub from: usize,
    /// Channels of y.
    pub to: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Pixels of x from one pixel of y to the next.
    pub stride: usize,
    /// Zeros on all four sides of an image of x.
    pub padding: usize,
}

impl Convolution {
    /// Rows of an image of y.
    pub fn out_height(&self) -> usize {
        self.out_side(self.height)
    }

    /// Columns of an image of y.
    pub fn out_width(&self) -> usize {
        self.out_side(self.width)
    }

    /// Values of x.
    pub fn x_length(&self) -> usize {
        self.images * self.height * self.width * self.from
    }

    /// Values of y.
    pub fn y_length(&self) -> usize {
        self.out_pixels() * self.to
    }

    /// Values of w.
    pub fn weight_length(&self) -> usize {
        self.to * self.taps() * self.from
    }

    /// Pixels of x.
    pub fn pixels(&self) -> usize {
        self.images * self.height * self.width
    }

    /// Pixels of y.
    pub fn out_pixels(&self) -> usize {
        self.images * self.out_height() * self.out_width()
    }

    /// Positions in the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// As kernels take it; none where it is empty, its kernel does not fit into an image, or it is too large for them: they
    /// count pixels, and weights, in 31 bits, and rows and columns in 15.
    pub fn shape(&self) -> Option<ConvolutionShape> {
        let Self { images, height, width, from, to, kernel, stride, padding } = *self;
        let sides = |side: usize| (1..=MOST_SIDE).contains(&side);
        let small = [height, width, kernel, stride, padding + 1].into_iter().all(sides);
        if !small || height.min(width) + 2 * padding < kernel {
            return None;
        }
        let counted =
            |factors: &[usize]| factors.iter().try_fold(1, |product: usize, &factor| product.checked_mul(factor));
        let narrow = |count: Option<usize>| i32::try_from(count?).ok().filter(|&count| count > 0);
        narrow(counted(&[images, height + 2 * padding, width + 2 * padding]))?;
        narrow(counted(&[to, kernel, kernel, from]))?;
        Some(ConvolutionShape {
            images: narrow(Some(images))?,
            height: narrow(Some(height))?,
            width: narrow(Some(width))?,
            from: narrow(Some(from))?,
            out_height: narrow(Some(self.out_height()))?,
            out_width: narrow(Some(self.out_width()))?,
            to: narrow(Some(to))?,
            kernel: narrow(Some(kernel))?,
            stride: narrow(Some(stride))?,
            padding: i32::try_from(padding).ok()?,
            adds: 0,
            groups: 1,
        })
    }

    fn out_side(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

/// `gs_convolution_forward_naive_*`: a thread a value of y.
pub fn forward_naive(convolution: &Convolution) -> Geometry {
    each(convolution.y_length())
}

/// `gs_convolution_input_gradient_naive_*`: a thread a value of x.
pub fn input_gradient_naive(convolution: &Convolution) -> Geometry {
    each(convolution.x_length())
}

/// `gs_convolution_weight_gradient_naive_*`: a thread a weight or bias.
pub fn weight_gradient_naive(convolution: &Convolution) -> Geometry {
    each(convolution.weight_length() + convolution.to)
}
