//! Memory for kernels: with a margin of NaN on either side that must not change.

use std::marker::PhantomData;

use gramscope_cuda::shapes;

/// Values that are no more than their bytes, whatever these are.
///
/// # Safety
/// Every pattern of bytes must be a valid value.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: numbers, or repr(C) structs of numbers without padding.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(u8, u16, i32, u32, i64, u64, f32, f64, half::f16, half::bf16);
plain!(shapes::LayerValues, shapes::LayerSplits);
plain!(shapes::GramShape, shapes::CentreShape, shapes::RbfShape, shapes::HsicShape, shapes::EigenShape);
plain!(shapes::ConvolutionShape, shapes::BatchNormShape, shapes::ElementwiseShape, shapes::PoolingShape);
plain!(shapes::LossShape, shapes::SgdShape, shapes::AugmentShape, shapes::SharesShape, shapes::MixingShape);
plain!(shapes::FirstComponentShape, shapes::ProbeShape, shapes::ProbeRecord);
plain!(shapes::RowSummary, shapes::LayerSum, shapes::Weight, shapes::Selection, shapes::EigenSummary);

/// Bytes on either side of the values; a multiple of what buffers on a device are aligned to.
const MARGIN: usize = 512;
/// NaN as any float; -1 as any integer.
const POISON: u8 = 0xFF;

/// Values in memory, aligned to 256 bytes unless asked otherwise.
#[derive(Clone, Debug)]
pub struct Buffer<T> {
    /// Margins, a gap up to the alignment, and the values, as bytes.
    bytes: Vec<u8>,
    start: usize,
    length: usize,
    values: PhantomData<T>,
}

/// What a launch checks when it is done.
pub(crate) trait Guarded {
    fn margins_intact(&self) -> bool;
}

impl<T: Plain> Buffer<T> {
    /// A buffer that holds a copy of `values`.
    pub fn new(values: &[T]) -> Self {
        Self::misaligned(values, 0)
    }

    /// The same, `shift` values behind an aligned address.
    pub fn misaligned(values: &[T], shift: usize) -> Self {
        let mut buffer = Self::placed(values.len(), shift);
        buffer.values_mut().copy_from_slice(values);
        buffer
    }

    /// `length` values that nobody has written: NaN.
    pub fn poisoned(length: usize) -> Self {
        Self::placed(length, 0)
    }

    fn placed(length: usize, shift: usize) -> Self {
        let bytes = vec![POISON; 3 * MARGIN + (length + shift) * size_of::<T>()];
        let start = bytes.as_ptr().align_offset(MARGIN) + MARGIN + shift * size_of::<T>();
        Self { bytes, start, length, values: PhantomData }
    }

    /// The values.
    pub fn values(&self) -> &[T] {
        // SAFETY: `length` values lie at `start`, initialised, and aligned because `start` leads to a multiple of the size of T
        // behind a multiple of MARGIN; any bytes are a T; the borrow is of self.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.length) }
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `values`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer_mut(), self.length) }
    }

    /// Where the values are, for an argument that has addresses in it: the launch is to be shown the buffer as well
    /// (`Launch::reading`).
    pub fn address(&self) -> u64 {
        self.pointer() as u64
    }

    pub(crate) fn pointer(&self) -> *const T {
        self.bytes[self.start..].as_ptr().cast()
    }

    pub(crate) fn pointer_mut(&mut self) -> *mut T {
        self.bytes[self.start..].as_mut_ptr().cast()
    }
}

impl<T: Plain> Guarded for Buffer<T> {
    fn margins_intact(&self) -> bool {
        let end = self.start + self.length * size_of::<T>();
        let mut margins = self.bytes[..self.start].iter().chain(&self.bytes[end..]);
        margins.all(|&byte| byte == POISON)
    }
}
