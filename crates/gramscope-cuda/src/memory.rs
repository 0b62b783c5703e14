//! Device memory that is used again and again: buffers that grow when more is needed, and parts of one that are borrowed at once.

use std::mem;
use std::ops::Range;

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits};

use crate::device::Device;
use crate::error::Error;

/// A buffer that grows. What it held is lost when it does.
pub(crate) struct Buffer<T> {
    what: &'static str,
    slice: Option<CudaSlice<T>>,
}

impl<T: DeviceRepr + ValidAsZeroBits> Buffer<T> {
    /// An empty buffer; `what` is what a message about too little memory says it is for.
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, slice: None }
    }

    /// At least `length` values, to be written.
    pub(crate) fn at_least(&mut self, device: &Device, length: usize) -> Result<CudaViewMut<'_, T>, Error> {
        if self.slice.as_ref().is_none_or(|slice| slice.len() < length) {
            // Give back the old one first, so that both need not fit at once.
            self.slice = None;
        }
        let slice = match self.slice.take() {
            Some(slice) => slice,
            // A length of 0 would be no allocation at all, and a null pointer.
            None => device.zeros(self.what, length.max(1))?,
        };
        Ok(self.slice.insert(slice).as_view_mut())
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.slice = None;
    }

    /// How many values there is room for.
    pub(crate) fn len(&self) -> usize {
        self.slice.as_ref().map_or(0, CudaSlice::len)
    }

    /// What has been written, to be read.
    pub(crate) fn view(&self) -> Result<CudaView<'_, T>, Error> {
        let slice = self.slice.as_ref().ok_or(Error::NotWritten { what: self.what })?;
        Ok(slice.as_view())
    }
}

/// Parts of a buffer, in the order asked for; none where one lies beyond its end, or overlaps another.
pub fn disjoint_mut<'a, T>(slice: &'a mut CudaSlice<T>, parts: &[Range<usize>]) -> Option<Vec<CudaViewMut<'a, T>>> {
    let overlap = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    let clash = |index: usize| parts[..index].iter().any(|before| overlap(before, &parts[index]));
    if (0..parts.len()).any(|index| parts[index].end > slice.len() || clash(index)) {
        return None;
    }
    let mut view = |part: &Range<usize>| {
        let view = slice.try_slice_mut(part.clone())?;
        // SAFETY: the buffer is borrowed for 'a by the caller's reference alone, which is not used again before the views are gone,
        // and no two of these overlap. What else a view holds, of the buffer's events and stream, is shared.
        Some(unsafe { mem::transmute::<CudaViewMut<'_, T>, CudaViewMut<'a, T>>(view) })
    };
    parts.iter().map(&mut view).collect()
}
