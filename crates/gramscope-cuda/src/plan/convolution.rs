//! Convolutions: what they are, and how their kernels are launched.

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

    fn out_side(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }
}
