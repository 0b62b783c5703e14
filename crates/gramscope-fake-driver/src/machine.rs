//! The machine that the driver pretends to run on.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use crate::{LAUNCH_FAILED, SUCCESS};

/// Shared memory a block, in bytes, unless another number is asked for: a Hopper's.
const SHARED_BYTES: usize = 232_448;

/// Device, driver, memory.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The CUDA version, as the driver counts: 13000 is 13.0.
    pub(crate) version: c_int,
    pub(crate) devices: c_int,
    /// The compute capability, as 90 for 9.0.
    capability: c_int,
    /// In bytes.
    pub(crate) memory: usize,
    /// Shared memory a block, in bytes.
    pub(crate) shared: usize,
    /// Where a line a kernel is written, its name and the bytes of device memory that are in use; the same of "graph" before those
    /// of a graph; one a copy from the host, "upload" and its bytes, or to the host, "download" and its bytes; one a wait for a stream,
    /// "synchronise 0"; and one for each end of a profiler's range.
    trace: Option<PathBuf>,
}

/// The machine that the environment asks for.
pub(crate) fn machine() -> &'static Machine {
    static MACHINE: LazyLock<Machine> =
        LazyLock::new(|| Machine::parse(&std::env::var("GRAMSCOPE_FAKE_DRIVER").unwrap_or_default()));
    &MACHINE
}

impl Machine {
    fn parse(text: &str) -> Self {
        let value = |key: &str, default: usize| {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).find_map(|(_, value)| value.parse().ok()).unwrap_or(default)
        };
        let small = |key: &str, default: usize| c_int::try_from(value(key, default)).unwrap_or(c_int::MAX);
        Self {
            version: small("version", 13_000),
            devices: small("devices", 1),
            capability: small("capability", 90),
            memory: value("memory", 4096) << 20,
            shared: value("shared", SHARED_BYTES),
            trace: text.split(',').find_map(|pair| pair.strip_prefix("trace=")).map(PathBuf::from),
        }
    }

    /// Notes a launch where that is wanted.
    pub(crate) fn note_launch(&self, kernel: &CStr) {
        if self.trace.is_some() {
            self.note(&format!("{} {}", kernel.to_string_lossy(), crate::memory::used()));
        }
    }

    /// Notes a copy from the host where that is wanted.
    pub(crate) fn note_upload(&self, bytes: usize) {
        self.note(&format!("upload {bytes}"));
    }

    /// Notes a copy to the host where that is wanted.
    pub(crate) fn note_download(&self, bytes: usize) {
        self.note(&format!("download {bytes}"));
    }

    /// Writes a line to the trace, where one is wanted.
    pub(crate) fn note(&self, line: &str) {
        let Some(path) = &self.trace else { return };
        let file = OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            eprintln!("fake driver: {}: {error}", path.display());
        }
    }

    /// An attribute of the driver's enumeration CUdevice_attribute.
    pub(crate) fn attribute(&self, attribute: c_uint) -> Option<c_int> {
        Some(match attribute {
            // Multiprocessors: few, so that features are split, and blocks are not many.
            16 => 3,
            // Second-level cache.
            38 => 1 << 20,
            75 => self.capability / 10,
            76 => self.capability % 10,
            97 => c_int::try_from(self.shared).ok()?,
            // Memory pools.
            115 => 1,
            _ => return None,
        })
    }
}

/// Kernels that have been asked for; a function's handle is the address of its name.
static KERNELS: Mutex<Vec<&'static CStr>> = Mutex::new(Vec::new());

/// The kernel of this name, where the emulation has one.
pub(crate) fn kernel(name: &CStr) -> Option<&'static CStr> {
    if !gramscope_emulation::has(name) {
        return None;
    }
    let mut kernels = KERNELS.lock().ok()?;
    if let Some(known) = kernels.iter().find(|known| **known == name) {
        return Some(known);
    }
    let kept: &'static CStr = Box::leak(CString::from(name).into_boxed_c_str());
    kernels.push(kept);
    Some(kept)
}

/// The name behind a function's handle.
pub(crate) fn name(function: usize) -> Option<&'static CStr> {
    let kernels = KERNELS.lock().ok()?;
    kernels.iter().copied().find(|known| known.as_ptr() as usize == function)
}

/// Runs a kernel.
///
/// # Safety
/// `arguments` leads to the kernel's arguments.
pub(crate) unsafe fn run(
    kernel: &CStr,
    geometry: [u32; 6],
    shared_bytes: usize,
    arguments: *const *const c_void,
) -> c_int {
    machine().note_launch(kernel);
    // SAFETY: the caller's promise.
    match unsafe { gramscope_emulation::launch(kernel, geometry, shared_bytes, arguments) } {
        Ok(()) => SUCCESS,
        Err(error) => {
            eprintln!("fake driver: {error}");
            LAUNCH_FAILED
        }
    }
}

/// Where the array of constants is, and how many bytes it has: the numbers of kernels/common/constants.cuh in their order,
/// as the kernels here were compiled with them.
pub(crate) fn constants() -> (usize, usize) {
    static CONSTANTS: LazyLock<(usize, usize)> = LazyLock::new(|| {
        let source = include_str!("../../../kernels/common/constants.cuh");
        let value =
            |line: &str| line.strip_prefix("constexpr int ")?.split_once(" = ")?.1.strip_suffix(';')?.parse().ok();
        let values: Vec<u32> = source.lines().filter_map(value).collect();
        let bytes = size_of_val(values.as_slice());
        (crate::memory::keep(&values), bytes)
    });
    *CONSTANTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_what_the_text_says() {
        let machine = Machine::parse("capability=75,memory=1,unknown=3");
        assert_eq!((machine.version, machine.devices, machine.memory), (13_000, 1, 1 << 20));
        assert_eq!((machine.attribute(75), machine.attribute(76), machine.attribute(0)), (Some(7), Some(5), None));
    }

    #[test]
    fn kernels_are_known_by_name() {
        let naive = kernel(c"gs_ucenter_naive");
        assert_eq!(naive.and_then(|known| name(known.as_ptr() as usize)), Some(c"gs_ucenter_naive"));
        assert_eq!(kernel(c"gs_no_such_kernel"), None);
        assert_eq!(name(1), None);
    }
}
