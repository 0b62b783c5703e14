//! What can go wrong between asking for a device and reading results back.

use std::fmt;

/// The oldest CUDA version a driver may have: that of the interface this crate is built against.
pub const OLDEST_DRIVER: Version = Version { major: 13, minor: 0 };

/// The least compute capability a device may have: the kernels use its asynchronous copies and TF32 products.
pub const LEAST_CAPABILITY: Version = Version { major: 8, minor: 0 };

/// A CUDA version or a compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// What comes before the point.
    pub major: u32,
    /// What comes after it.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Bytes that there are, for people: rounded down to a tenth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(
    /// The number.
    pub u64,
);

/// Bytes that are needed, for people: rounded up to a tenth, so that who gives as many gives enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesNeeded(
    /// The number.
    pub u64,
);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bytes(formatter, self.0, |unit| u128::from(self.0) * 10 / unit)
    }
}

impl fmt::Display for BytesNeeded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bytes(formatter, self.0, |unit| (u128::from(self.0) * 10).div_ceil(unit))
    }
}

/// Writes a number in the first unit of which there are fewer than 1,024.
fn write_bytes(formatter: &mut fmt::Formatter<'_>, bytes: u64, tenths_of: impl Fn(u128) -> u128) -> fmt::Result {
    if bytes < 1024 {
        return write!(formatter, "{bytes} bytes");
    }
    let units = [(1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")];
    let fits = |(unit, _): &(u128, &str)| tenths_of(*unit) < 10_240;
    let (unit, name) = units.into_iter().find(fits).unwrap_or(units[2]);
    let tenths = tenths_of(unit);
    write!(formatter, "{}.{} {name}", tenths / 10, tenths % 10)
}

/// How a kernel was launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
}

impl fmt::Display for Dimensions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes } = self;
        write!(formatter, "grid {gx} x {gy} x {gz}, block {bx} x {by} x {bz}, {shared_bytes} bytes of shared memory")
    }
}

/// Why a device could not be used, or a kernel not launched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The feature `cuda` is off.
    #[error("this gramscope was built without CUDA; build it with --features cuda, or use the CPU")]
    NotBuilt,
    /// No libcuda on this machine.
    #[error("this machine has no NVIDIA driver (no libcuda.so.1 was found); install one, or use the CPU")]
    NoDriver,
    /// The driver is older than the interface.
    #[error(
        "the NVIDIA driver supports CUDA {found}, and {OLDEST_DRIVER} is needed; update the driver, or use the CPU"
    )]
    DriverTooOld {
        /// The CUDA version that the driver supports.
        found: Version,
    },
    /// A driver, but no device.
    #[error("the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES may hide it); use the CPU")]
    NoDevices,
    /// A device number that does not exist.
    #[error("there is no cuda:{number}; this machine has {count} GPU(s), counted from cuda:0")]
    NoSuchDevice {
        /// The number asked for.
        number: usize,
        /// How many devices there are.
        count: usize,
    },
    /// A device that the kernels do not run on.
    #[error(
        "cuda:{number} ({name}) has compute capability {capability}, and the kernels need {LEAST_CAPABILITY} or more; use \
         another GPU, or the CPU"
    )]
    Unsupported {
        /// Its number.
        number: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: Version,
    },
    /// Device memory does not suffice.
    #[error(
        "{what} needs {needed} of device memory, and {free} is free; smaller batches or fewer layers \
         need less", needed = BytesNeeded(*needed), free = Bytes(*free)
    )]
    OutOfMemory {
        /// What the memory is for.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What is wanted does not fit into the device memory it may take, in however many parts.
    #[error(
        "{what} need at least {needed} of device memory and may take {limit}, of which {free} is free; smaller \
         batches, fewer examples or fewer layers need less, and a larger limit allows more",
        needed = BytesNeeded(*needed), limit = Bytes(*limit), free = Bytes(*free)
    )]
    MemoryLimit {
        /// What the memory is for.
        what: String,
        /// The bytes that it needs at least.
        needed: u64,
        /// The bytes that it may take.
        limit: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The driver refused something that has no case of its own.
    #[error("{action}: the NVIDIA driver says {message}")]
    Driver {
        /// What was being done.
        action: String,
        /// The driver's name and description of the error.
        message: String,
    },
    /// No cuDNN on this machine.
    #[error(
        "there is no cuDNN 9 to load ({reason}); install it and put its folder on the library path, or leave the convolutions to \
         gramscope's own kernels"
    )]
    NoCudnn {
        /// What the loader says.
        reason: String,
    },
    /// A cuDNN whose interface is another.
    #[error(
        "cuDNN 9 or later is needed, and {found} is what was found; update it, or leave the convolutions to gramscope's own kernels"
    )]
    CudnnTooOld {
        /// Its version.
        found: Version,
    },
    /// cuDNN refused something.
    #[error("{action}: cuDNN says {message}")]
    Cudnn {
        /// What was being done.
        action: String,
        /// cuDNN's name and description of the error.
        message: String,
    },
    /// What cuDNN's engines were chosen before could not be found or kept.
    #[error("{message}")]
    Choices {
        /// What is wrong, and what would mend it.
        message: String,
    },
    /// A constant that kernels and launchers share differs between them: the build is inconsistent.
    #[error(
        "the kernels of {family} were compiled with {device:?} and are launched with {host:?}; build gramscope anew"
    )]
    Constants {
        /// The family.
        family: &'static str,
        /// What the kernels were compiled with.
        device: Vec<usize>,
        /// What the launchers assume.
        host: Vec<usize>,
    },
    /// An argument of a launcher is out of range.
    #[error("{kernel}: {argument} is {found}, and must be {expected}")]
    Argument {
        /// The kernel.
        kernel: &'static str,
        /// The argument.
        argument: &'static str,
        /// What it was.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// Two buffers of a launch overlap, one of them written.
    #[error("{kernel}: {first} and {second} overlap; give each memory of its own")]
    Overlap {
        /// The kernel.
        kernel: &'static str,
        /// A buffer.
        first: &'static str,
        /// Another.
        second: &'static str,
    },
    /// A layer holds NaN or infinity. Everything is counted from 0.
    #[error("layer {layer} of model {model} holds NaN or infinity in batch {batch}, example {example} of the batch")]
    NonFinite {
        /// The model.
        model: usize,
        /// The layer.
        layer: usize,
        /// The batch.
        batch: usize,
        /// The first example of the batch that holds such a value.
        example: usize,
    },
    /// A buffer was read before it was written.
    #[error("{what} was read before it was written")]
    NotWritten {
        /// What the buffer is for.
        what: &'static str,
    },
    /// The driver refused a launch.
    #[error("{kernel} ({dimensions}): the NVIDIA driver says {message}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// How it was launched.
        dimensions: Dimensions,
        /// The driver's name and description of the error.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        for (bytes, there, needed) in [
            (64, "64 bytes", "64 bytes"),
            (300 << 10, "300.0 KiB", "300.0 KiB"),
            ((1 << 20) - 1, "1023.9 KiB", "1.0 MiB"),
            ((5 << 20) + 1, "5.0 MiB", "5.1 MiB"),
            (3 << 30, "3.0 GiB", "3.0 GiB"),
            (u64::MAX, "17179869183.9 GiB", "17179869184.0 GiB"),
        ] {
            assert_eq!(
                (Bytes(bytes).to_string(), BytesNeeded(bytes).to_string()),
                (there.to_owned(), needed.to_owned())
            );
        }
    }
}
