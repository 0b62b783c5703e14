//! The machine that the driver pretends to run on.

use std::ffi::{CStr, c_int, c_uint};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::status::{Answer, INVALID_VALUE};

/// The attribute that is the most shared memory a block may ask for, in bytes.
const SHARED_ATTRIBUTE: c_uint = 97;

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
    /// What it is drawn from how far streams get on while nobody waits for them. Without it they do nothing then.
    pub(crate) order: Option<u64>,
    /// Where a line a kernel is written, its name and the bytes of device memory that are allocated; the same of "graph" before those
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
            order: text.split(',').find_map(|pair| pair.strip_prefix("order=")?.parse().ok()),
            trace: text.split(',').find_map(|pair| pair.strip_prefix("trace=")).map(PathBuf::from),
        }
    }

    /// Notes a launch where that is wanted, while so many bytes are allocated.
    pub(crate) fn note_launch(&self, kernel: &CStr, allocated: usize) {
        self.note(&format!("{} {allocated}", kernel.to_string_lossy()));
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

    /// The most shared memory a block may ask for, in bytes: it goes with the capability (CUDA's programming guide, compute
    /// capabilities), and where that is not known neither is this.
    pub(crate) fn shared_bytes(&self) -> Option<usize> {
        match self.capability {
            75 => Some(64 << 10),
            80 | 87 => Some(163 << 10),
            86 | 89 | 120 => Some(99 << 10),
            90 | 100 => Some(227 << 10),
            _ => None,
        }
    }

    /// An attribute of the driver's enumeration CUdevice_attribute: those that are asked for, and of the others none.
    pub(crate) fn attribute(&self, attribute: c_uint) -> Answer<c_int> {
        match attribute {
            // Multiprocessors: few, so that features are split, and blocks are not many.
            16 => Ok(3),
            // Second-level cache.
            38 => Ok(1 << 20),
            75 => Ok(self.capability / 10),
            76 => Ok(self.capability % 10),
            SHARED_ATTRIBUTE => {
                let bytes = self.shared_bytes().ok_or(INVALID_VALUE)?;
                c_int::try_from(bytes).map_err(|_| INVALID_VALUE)
            }
            // Memory pools.
            115 => Ok(1),
            _ => Err(INVALID_VALUE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_what_the_text_says() {
        let machine = Machine::parse("capability=75,memory=1,unknown=3");
        assert_eq!((machine.version, machine.devices, machine.memory), (13_000, 1, 1 << 20));
        assert_eq!((machine.attribute(75), machine.attribute(76)), (Ok(7), Ok(5)));
        assert_eq!((machine.attribute(0), machine.attribute(8)), (Err(INVALID_VALUE), Err(INVALID_VALUE)));
    }

    /// What is not known of a capability is not made up.
    #[test]
    fn shared_memory_is_that_of_the_capability() {
        let shared = |capability: &str| Machine::parse(capability).attribute(SHARED_ATTRIBUTE);
        assert_eq!(
            (shared(""), shared("capability=80"), shared("capability=86")),
            (Ok(232_448), Ok(166_912), Ok(101_376))
        );
        assert_eq!(shared("capability=71"), Err(INVALID_VALUE));
    }
}
