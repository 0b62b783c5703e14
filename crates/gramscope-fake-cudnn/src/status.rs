//! cuDNN's statuses, and what there is to say of the last error.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};

pub(crate) const SUCCESS: c_int = 0;
pub(crate) const BAD_PARAM: c_int = 2000;
pub(crate) const NULL_POINTER: c_int = 2002;
pub(crate) const MISALIGNED: c_int = 2003;
pub(crate) const NOT_FINALISED: c_int = 2004;
pub(crate) const INSUFFICIENT: c_int = 2006;
pub(crate) const SHAPE_MISMATCH: c_int = 2008;
pub(crate) const ATTRIBUTE_TYPE: c_int = 2010;
pub(crate) const DESCRIPTOR_TYPE: c_int = 2012;
pub(crate) const NOT_SUPPORTED: c_int = 3000;
pub(crate) const EXECUTION_FAILED: c_int = 5000;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: c_int,
    message: String,
}

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Failure {
    pub(crate) fn new(status: c_int, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Keeps the message for whoever asks, and returns the status.
    pub(crate) fn keep(self) -> c_int {
        LAST.set(self.message);
        self.status
    }
}

/// What was kept last on this thread.
pub(crate) fn last() -> String {
    LAST.with_borrow(String::clone)
}

/// The name of a status.
pub(crate) fn name(status: c_int) -> &'static CStr {
    match status {
        SUCCESS => c"CUDNN_STATUS_SUCCESS",
        BAD_PARAM => c"CUDNN_STATUS_BAD_PARAM",
        NULL_POINTER => c"CUDNN_STATUS_BAD_PARAM_NULL_POINTER",
        MISALIGNED => c"CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER",
        NOT_FINALISED => c"CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED",
        INSUFFICIENT => c"CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT",
        SHAPE_MISMATCH => c"CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH",
        ATTRIBUTE_TYPE => c"CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE",
        DESCRIPTOR_TYPE => c"CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE",
        NOT_SUPPORTED => c"CUDNN_STATUS_NOT_SUPPORTED",
        EXECUTION_FAILED => c"CUDNN_STATUS_EXECUTION_FAILED",
        _ => c"CUDNN_UNKNOWN_STATUS",
    }
}
