//! cuDNN's shared library: its functions, looked for when they are first needed.
//!
//! The few functions that are used are declared here, with plain numbers for its enumerations: what a newer cuDNN answers may be
//! none of those that a binding knows, and a Rust enumeration of an unknown value would be undefined behaviour.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use crate::error::{Error, Version};

/// The names under which it is installed.
const LIBRARIES: [&str; 2] = ["libcudnn.so.9", "libcudnn.so"];
/// The oldest version that is used: the first of its graph interface as it is now.
const OLDEST: usize = 90_000;
/// Bytes of its last error's description that are asked for.
const MESSAGE_BYTES: usize = 1024;

/// A cuDNN status that is no error.
const SUCCESS: c_int = 0;

/// Defines the functions.
macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        /// cuDNN's functions.
        #[allow(non_snake_case, reason = "cuDNN's names")]
        pub(super) struct Functions {
            $($(#[$doc])* pub(super) $name: unsafe extern "C" fn($($argument: $type),*) $(-> $result)?,)*
        }

        impl Functions {
            fn load(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $(
                        // SAFETY: cuDNN's function of this name has this signature, in every version from 9 on.
                        $name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }?,
                    )*
                })
            }
        }
    };
}

functions! {
    /// Its version: 92101 is 9.21.1.
    fn cudnnGetVersion() -> usize;
    /// The name of a status.
    fn cudnnGetErrorString(status: c_int) -> *const c_char;
    /// What it has to say of the last error of this thread.
    fn cudnnGetLastErrorString(message: *mut c_char, bytes: usize);
    /// A handle on the current device.
    fn cudnnCreate(handle: *mut *mut c_void) -> c_int;
    /// Forgets a handle.
    fn cudnnDestroy(handle: *mut c_void) -> c_int;
    /// The stream that a handle works on.
    fn cudnnSetStream(handle: *mut c_void, stream: *mut c_void) -> c_int;
    /// A descriptor of a kind.
    fn cudnnBackendCreateDescriptor(kind: c_int, descriptor: *mut *mut c_void) -> c_int;
    /// Forgets a descriptor.
    fn cudnnBackendDestroyDescriptor(descriptor: *mut c_void) -> c_int;
    /// Sets an attribute.
    fn cudnnBackendSetAttribute(
        descriptor: *mut c_void, attribute: c_int, kind: c_int, count: i64, values: *const c_void
    ) -> c_int;
    /// Asks for an attribute.
    fn cudnnBackendGetAttribute(
        descriptor: *mut c_void, attribute: c_int, kind: c_int, room: i64, count: *mut i64, values: *mut c_void
    ) -> c_int;
    /// Closes a descriptor.
    fn cudnnBackendFinalize(descriptor: *mut c_void) -> c_int;
    /// Enqueues a plan.
    fn cudnnBackendExecute(handle: *mut c_void, plan: *mut c_void, pack: *mut c_void) -> c_int;
}

/// cuDNN, loaded.
pub(super) struct Library {
    functions: Functions,
    version: usize,
    /// What the functions are in.
    _library: libloading::Library,
}

impl Library {
    /// The library, loaded once a process and kept to its end.
    ///
    /// # Errors
    /// [`Error::NoCudnn`], [`Error::CudnnTooOld`].
    pub(super) fn get() -> Result<&'static Self, Error> {
        static LIBRARY: OnceLock<Result<Library, Error>> = OnceLock::new();
        LIBRARY.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, Error> {
        let mut reason = String::new();
        for name in LIBRARIES {
            // SAFETY: loading cuDNN runs its initialisers, which is what every program that uses it does.
            let loaded = unsafe { libloading::Library::new(name) };
            match loaded.and_then(|library| Ok((Functions::load(&library)?, library))) {
                // SAFETY: the function asks for nothing.
                Ok((functions, library)) => match unsafe { (functions.cudnnGetVersion)() } {
                    version @ OLDEST.. => return Ok(Self { functions, version, _library: library }),
                    found => return Err(Error::CudnnTooOld { found: short(found) }),
                },
                // The loader's own words are behind the error.
                Err(error) if reason.is_empty() => {
                    reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                }
                Err(_) => {}
            }
        }
        Err(Error::NoCudnn { reason })
    }

    pub(super) fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Its version, in words.
    pub(super) fn version(&self) -> String {
        format!("{}.{}", short(self.version), self.version % 100)
    }

    /// An error where `status` is one, met while `action`.
    pub(super) fn check(&self, action: &str, status: c_int) -> Result<(), Error> {
        if status == SUCCESS {
            return Ok(());
        }
        let mut bytes = [0_u8; MESSAGE_BYTES];
        // SAFETY: a name is a constant string of cuDNN's; the description is written to at most the bytes that are given.
        let name = unsafe {
            (self.functions.cudnnGetLastErrorString)(bytes.as_mut_ptr().cast(), MESSAGE_BYTES);
            CStr::from_ptr((self.functions.cudnnGetErrorString)(status))
        };
        let description = CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned();
        let name = name.to_string_lossy();
        let message = if description.is_empty() { name.into_owned() } else { format!("{name}: {description}") };
        Err(Error::Cudnn { action: action.to_owned(), message })
    }
}

/// The first two numbers of a version.
fn short(version: usize) -> Version {
    let number = |number: usize| u32::try_from(number).unwrap_or(0);
    // Up to version 8 the first number counted thousands.
    let major = if version < 10_000 { version / 1000 } else { version / 10_000 };
    Version { major: number(major), minor: number(version / 100 % if version < 10_000 { 10 } else { 100 }) }
}
