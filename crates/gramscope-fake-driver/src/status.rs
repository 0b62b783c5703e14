//! The driver's results, as many as are given.

use std::ffi::{CStr, c_int};

/// Success, in the interface.
pub(crate) const SUCCESS: c_int = 0;

/// What came of a call, or the result that says why it was refused.
pub(crate) type Answer<T = ()> = Result<T, c_int>;

/// Defines results and their names.
macro_rules! statuses {
    ($($name:ident = $code:literal,)*) => {
        $(pub(crate) const $name: c_int = $code;)*

        /// The driver's name of a result.
        pub(crate) fn name(status: c_int) -> Answer<&'static CStr> {
            let text = match status {
                SUCCESS => "CUDA_SUCCESS\0",
                $($code => concat!("CUDA_ERROR_", stringify!($name), "\0"),)*
                _ => return Err(INVALID_VALUE),
            };
            CStr::from_bytes_with_nul(text.as_bytes()).map_err(|_| INVALID_VALUE)
        }
    };
}

statuses! {
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709,
    LAUNCH_FAILED = 719,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    STREAM_CAPTURE_INVALIDATED = 901,
    STREAM_CAPTURE_ISOLATION = 905,
    STREAM_CAPTURE_IMPLICIT = 906,
    STREAM_CAPTURE_WRONG_THREAD = 908,
}

/// What `work` came to, as the interface says it.
pub(crate) fn of(work: impl FnOnce() -> Answer) -> c_int {
    work().err().unwrap_or(SUCCESS)
}
