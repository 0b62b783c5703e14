//! Convolutions: what they are, and how their kernels are launched.

use super::{ENTRY_THREADS, Geometry, constant, each};
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

/// What is computed of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// y from x, weights and biases.
    Forward,
    /// dL/dx from dL/dy and the weights.
    InputGradient {
        /// To what is there, instead of replacing it.
        adds: bool,
    },
    /// dL/dw from x and dL/dy.
    WeightGradient,
}

/// The most rows or columns of an image, and the largest stride.
const MOST_SIDE: usize = 1 << 14;
const MOST_STRIDE: usize = 64;
/// What pixels, and weights, are fewer than.
const MOST: i32 = 1 << 30;

const THREADS: usize = constant("CONVOLUTION_THREADS");
const ROWS: usize = constant("CONVOLUTION_ROWS");
const BUFFERS: usize = constant("CONVOLUTION_BUFFERS");
const PAD: usize = constant("CONVOLUTION_PAD");
const WIDE_PAD: usize = constant("CONVOLUTION_WIDE_PAD");
const PATCH_ROWS: usize = constant("CONVOLUTION_PATCH_ROWS");
const PATCH_WIDTH: usize = constant("CONVOLUTION_PATCH_WIDTH");
const PATCH_DEPTH: usize = constant("CONVOLUTION_PATCH_DEPTH");
const PATCH_BUFFERS: usize = constant("CONVOLUTION_PATCH_BUFFERS");
const REDUCE_VALUES: usize = constant("CONVOLUTION_REDUCE_VALUES");
const REDUCE_PARTS: usize = constant("CONVOLUTION_REDUCE_PARTS");
/// A row of a tile: its window's first pixel and place, and the pixel of the result.
const ROW_BYTES: usize = 12;
/// The same without the result.
const ORIGIN_BYTES: usize = 8;

/// Blocks that the groups of a weight gradient make together, if each group has pixels enough: what keeps 132
/// multiprocessors busy. It is not the device's own number, so that every device gives the same bits.
const WEIGHT_BLOCKS: usize = 512;
/// Pixels that a group has at least: it costs a set of partial sums whatever their number.
const GROUP_PIXELS: usize = 256;
/// Pixels that a thread of a bias gradient has about, at least: it costs a partial sum whatever their number.
const BIAS_PIXELS: usize = 32;
/// What a slab's rows cost beside its columns, in columns.
const COST_OF_ROWS: usize = 32;

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

    /// As kernels take it; none where it is empty, its kernel does not fit into an image, its stride is above 64, an image has
    /// more than 2^14 rows or columns, or there are 2^30 pixels or weights or more.
    pub fn shape(&self) -> Option<ConvolutionShape> {
        let Self { images, height, width, from, to, kernel, stride, padding } = *self;
        let small = [height, width, kernel, padding.checked_add(1)?].into_iter().all(|side| side <= MOST_SIDE);
        if !small || !(1..=MOST_STRIDE).contains(&stride) || height.min(width) + 2 * padding < kernel {
            return None;
        }
        let counted =
            |factors: &[usize]| factors.iter().try_fold(1, |product: usize, &factor| product.checked_mul(factor));
        let narrow = |count: Option<usize>| i32::try_from(count?).ok().filter(|count| (1..MOST).contains(count));
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
            groups: narrow(Some(groups(self)))?,
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

/// How a product is cut into tiles, as kernels' names say: for few columns, or from patches (convolution.cu).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are named for what they are")]
pub enum Variant {
    Tile16,
    Tile32,
    Tile64,
    Patch16,
    Patch32,
}

impl Variant {
    /// Of `forward`.
    pub fn forward(convolution: &Convolution) -> Self {
        Self::of_pixels(convolution, convolution.from, convolution.to)
    }

    /// Of `input_gradient`.
    pub fn input_gradient(convolution: &Convolution) -> Self {
        Self::of_pixels(convolution, convolution.to, convolution.from)
    }

    /// Of `weight_gradient`.
    pub fn weight_gradient(convolution: &Convolution) -> Self {
        Self::tile(convolution.to)
    }

    /// As in kernels' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tile16 => "tile16",
            Self::Tile32 => "tile32",
            Self::Tile64 => "tile64",
            Self::Patch16 => "patch16",
            Self::Patch32 => "patch32",
        }
    }

    /// Columns of a tile.
    fn columns(self) -> usize {
        match self {
            Self::Tile16 | Self::Patch16 => 16,
            Self::Tile32 | Self::Patch32 => 32,
            Self::Tile64 => 64,
        }
    }

    /// Rows of a tile.
    fn rows(self) -> usize {
        if self == Self::Patch16 { PATCH_ROWS } else { ROWS }
    }

    /// The tile that computes so many columns at the least cost.
    fn tile(columns: usize) -> Self {
        // Columns may be more than any convolution has: launchers look at that afterwards.
        let cost = |tile: &Self| columns.div_ceil(tile.columns()).saturating_mul(tile.columns() + COST_OF_ROWS);
        [Self::Tile64, Self::Tile32, Self::Tile16].into_iter().min_by_key(cost).unwrap_or(Self::Tile64)
    }

    fn of_pixels(convolution: &Convolution, summed: usize, columns: usize) -> Self {
        let Convolution { width, kernel, stride, padding, .. } = *convolution;
        let patches =
            (kernel, stride, padding) == (3, 1, 1) && width <= PATCH_WIDTH && summed.is_multiple_of(PATCH_DEPTH);
        match Self::tile(columns) {
            Self::Tile16 if patches => Self::Patch16,
            Self::Tile32 if patches => Self::Patch32,
            tile => tile,
        }
    }
}

impl Arithmetic {
    /// Values of the summed dimension in a slab of a tile.
    fn depth(self) -> usize {
        match self {
            Self::Float32 | Self::Tf32 => constant("CONVOLUTION_DEPTH_F32"),
            Self::Bf16 => constant("CONVOLUTION_DEPTH_BF16"),
        }
    }

    fn has_float_activations(self) -> bool {
        self != Self::Bf16
    }
}

/// Bytes from line to line of a slab (kernels/common/fragments.cuh) of values of float32 or of two bytes, in lines of `length`
/// `along` the summed dimension or across it, for products of this arithmetic.
fn line_bytes(along: bool, length: usize, is_float: bool, arithmetic: Arithmetic) -> usize {
    let wide = is_float && along == (arithmetic == Arithmetic::Bf16);
    length * if is_float { 4 } else { 2 } + if wide { WIDE_PAD } else { PAD }
}

/// Bytes of a slab of `rows` rows and `depth` values of the summed dimension.
fn slab_bytes(along: bool, rows: usize, depth: usize, is_float: bool, arithmetic: Arithmetic) -> usize {
    let (lines, length) = if along { (rows, depth) } else { (depth, rows) };
    lines * line_bytes(along, length, is_float, arithmetic)
}

/// Forward, or (across) the input gradient: `rows` rows of each phase and `columns` columns.
fn pixel_product(
    convolution: &Convolution,
    variant: Variant,
    [rows, columns, summed]: [usize; 3],
    phases: usize,
    along: bool,
    arithmetic: Arithmetic,
) -> Geometry {
    let floats = arithmetic.has_float_activations();
    let weights = |depth: usize| slab_bytes(along, variant.columns(), depth, true, arithmetic);
    let shared = match variant {
        Variant::Tile16 | Variant::Tile32 | Variant::Tile64 => {
            let depth = arithmetic.depth();
            BUFFERS * (slab_bytes(true, ROWS, depth, floats, arithmetic) + weights(depth)) + ROWS * ROW_BYTES
        }
        Variant::Patch16 | Variant::Patch32 => {
            // A line of zeros, and as many buffers as there are slabs to fill them.
            let line = line_bytes(true, PATCH_DEPTH, floats, arithmetic);
            let patch = (variant.rows() + 2 * (convolution.width + 1)) * line;
            line + PATCH_BUFFERS.min(summed / PATCH_DEPTH) * (patch + convolution.taps() * weights(PATCH_DEPTH))
        }
    };
    let tiles = rows.div_ceil(variant.rows()) * columns.div_ceil(variant.columns());
    Geometry::new([tiles, 1, phases], THREADS, shared)
}

/// `gs_convolution_forward_*`, of [`Variant::forward`].
pub fn forward(convolution: &Convolution, arithmetic: Arithmetic) -> Geometry {
    let sides = [convolution.out_pixels(), convolution.to, convolution.from];
    pixel_product(convolution, Variant::forward(convolution), sides, 1, true, arithmetic)
}

/// `gs_convolution_input_gradient_*`, of [`Variant::input_gradient`].
pub fn input_gradient(convolution: &Convolution, arithmetic: Arithmetic) -> Geometry {
    let Convolution { images, height, width, from, to, stride, .. } = *convolution;
    // The first phase has the most pixels.
    let rows = images * height.div_ceil(stride) * width.div_ceil(stride);
    let variant = Variant::input_gradient(convolution);
    pixel_product(convolution, variant, [rows, from, to], stride * stride, false, arithmetic)
}

/// Parts of the pixels whose weight gradients are summed apart: they follow from the convolution alone.
pub fn groups(convolution: &Convolution) -> usize {
    (WEIGHT_BLOCKS / weight_tiles(convolution)).clamp(1, convolution.out_pixels().div_ceil(GROUP_PIXELS))
}

fn weight_tiles(convolution: &Convolution) -> usize {
    let columns = Variant::weight_gradient(convolution).columns();
    (convolution.taps() * convolution.from).div_ceil(ROWS) * convolution.to.div_ceil(columns)
}

/// `gs_convolution_weight_gradient_*`, of [`Variant::weight_gradient`].
pub fn weight_gradient(convolution: &Convolution, arithmetic: Arithmetic) -> Geometry {
    let slab =
        |rows: usize| slab_bytes(false, rows, arithmetic.depth(), arithmetic.has_float_activations(), arithmetic);
    let buffer = slab(ROWS) + slab(Variant::weight_gradient(convolution).columns());
    let shared = BUFFERS * (buffer + arithmetic.depth() * ORIGIN_BYTES);
    Geometry::new([weight_tiles(convolution), 1, groups(convolution)], THREADS, shared)
}

/// `gs_convolution_reduce`.
pub fn reduce(convolution: &Convolution) -> Geometry {
    let blocks = (convolution.weight_length() + convolution.to).div_ceil(REDUCE_VALUES);
    let threads = REDUCE_VALUES * REDUCE_PARTS;
    Geometry::new([blocks, 1, 1], threads, threads * size_of::<f64>())
}

/// Parts of the pixels whose bias gradients are summed apart where a library computes the weights'.
pub fn bias_groups(convolution: &Convolution) -> usize {
    let (tiles, rows) = bias_tiles(convolution);
    (convolution.out_pixels() / (rows * BIAS_PIXELS)).clamp(1, (WEIGHT_BLOCKS / tiles).max(1))
}

/// Tiles of channels, and pixels that a block takes at once.
fn bias_tiles(convolution: &Convolution) -> (usize, usize) {
    (convolution.to.div_ceil(ENTRY_THREADS), ENTRY_THREADS / convolution.to.min(ENTRY_THREADS))
}

/// `gs_convolution_bias_gradient_*`: a sum a thread.
pub fn bias_gradient(convolution: &Convolution) -> Geometry {
    let (tiles, _) = bias_tiles(convolution);
    let shared = ENTRY_THREADS * size_of::<f64>();
    Geometry::new([tiles, 1, bias_groups(convolution)], ENTRY_THREADS, shared)
}

/// `gs_convolution_reduce` of biases' gradients alone.
pub fn reduce_biases(convolution: &Convolution) -> Geometry {
    let threads = REDUCE_VALUES * REDUCE_PARTS;
    Geometry::new([convolution.to.div_ceil(REDUCE_VALUES), 1, 1], threads, threads * size_of::<f64>())
}

/// Partial sums of a bias gradient: none where there is one group.
pub fn bias_scratch(convolution: &Convolution) -> usize {
    match bias_groups(convolution) {
        1 => 0,
        groups => groups * convolution.to,
    }
}

/// Partial sums of a weight gradient: none where there is one group.
pub fn scratch(convolution: &Convolution) -> usize {
    match groups(convolution) {
        1 => 0,
        groups => groups * (convolution.weight_length() + convolution.to),
    }
}
