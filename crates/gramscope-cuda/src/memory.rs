//! Device memory that is used again and again and grows when more is needed.

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
