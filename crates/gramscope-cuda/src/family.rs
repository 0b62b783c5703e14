//! How kernels are loaded: a family at a time, once a device.
//!
//! Which kernels a family has is declared where they are launched, with [`kernels!`].

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DriverError};
use cudarc::nvrtc::Ptx;

use crate::constants;
use crate::device::refused;
use crate::error::Error;
use crate::images::Image;

/// A kernel and its name.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) function: CudaFunction,
}

/// What a kernel's values are stored as, which its name ends in.
#[derive(Clone, Copy)]
pub(crate) enum Element {
    F16,
    Bf16,
    F32,
}

/// A family's kernels for each type that activations are stored as.
pub(crate) struct Typed<K> {
    pub(crate) f32: K,
    pub(crate) bf16: K,
}

impl<K> Typed<K> {
    /// Those that `load` finds in `family` for each type.
    pub(crate) fn load(family: &Family, load: impl Fn(&Family, Element) -> Result<K, Error>) -> Result<Self, Error> {
        Ok(Self { f32: load(family, Element::F32)?, bf16: load(family, Element::Bf16)? })
    }
}

/// Declares kernels of a family: a struct that has them, known to its module alone, and what loads it. `of an element`: it has those
/// for one type of stored values, and the names are what they begin with.
macro_rules! kernels {
    ($(#[$doc:meta])* $name:ident { $($see:vis $kernel:ident: $entry:literal),* $(,)? }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $($see $kernel: $crate::family::Kernel),*
        }

        impl $name {
            pub(super) fn load(family: &$crate::family::Family) -> Result<Self, $crate::error::Error> {
                Ok(Self { $($kernel: family.kernel($entry)?),* })
            }
        }
    };
    ($(#[$doc:meta])* $name:ident of an element { $($see:vis $kernel:ident: $entry:literal),* $(,)? }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $($see $kernel: $crate::family::Kernel),*
        }

        impl $name {
            pub(super) fn load(
                family: &$crate::family::Family,
                element: $crate::family::Element,
            ) -> Result<Self, $crate::error::Error> {
                use $crate::family::Element;
                Ok(Self {
                    $($kernel: family.kernel(match element {
                        Element::F16 => concat!($entry, "_f16"),
                        Element::Bf16 => concat!($entry, "_bf16"),
                        Element::F32 => concat!($entry, "_f32"),
                    })?),*
                })
            }
        }
    };
}
pub(crate) use kernels;

/// A family of kernels, loaded: a fatbin.
pub(crate) struct Family {
    name: &'static str,
    module: Arc<CudaModule>,
    /// What each may use of shared memory.
    shared_bytes: u32,
}

impl Family {
    /// Loads `image` into the context of `stream` and compares the constants it was compiled with with those that launch geometry is
    /// computed from; a driver that does not find them is not in the way, for the build takes both from one file.
    pub(crate) fn load(stream: &Arc<CudaStream>, image: &Image, shared_bytes: u32) -> Result<Self, Error> {
        let family = image.family;
        let loading = |error| loading(family, error);
        let module = stream.context().load_module(Ptx::from_binary(image.fatbin.to_vec())).map_err(loading)?;
        let family = Self { name: family, module, shared_bytes };
        let compiled = match family.module.get_global(constants::SYMBOL, stream) {
            // nvcc makes it a symbol of the module's own.
            Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => return Ok(family),
            compiled => compiled.map_err(loading)?,
        };
        let bytes = stream.clone_dtoh(&compiled).map_err(loading)?;
        stream.synchronize().map_err(loading)?;
        let device: Vec<usize> = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).collect();
        if device != constants::VALUES {
            return Err(Error::Constants { family: family.name, device, host: constants::VALUES.to_vec() });
        }
        Ok(family)
    }

    /// The kernel of this name, which may use as much shared memory as there is.
    pub(crate) fn kernel(&self, name: &'static str) -> Result<Kernel, Error> {
        let loading = |error| loading(self.name, error);
        let function = self.module.load_function(name).map_err(loading)?;
        // What a kernel has of its own counts towards the limit.
        let own = function.shared_size_bytes().map_err(loading)?;
        let limit = i32::try_from(self.shared_bytes).unwrap_or(i32::MAX).saturating_sub(own);
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit).map_err(loading)?;
        Ok(Kernel { name, function })
    }
}

fn loading(family: &str, error: DriverError) -> Error {
    refused(&format!("loading the kernels of {family}"), error)
}
