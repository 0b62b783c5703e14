//! Running the binary on a driver that runs the kernels' own sources under emulation.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::command;

/// Links the fake driver into this program's build, which puts its shared library beside it.
use gramscope_fake_driver as _;

/// A folder with the fake driver under the names that the program looks for.
pub fn driver() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libgramscope_fake_driver.so");
    assert!(library.is_file(), "{} has not been built", library.display());
    for name in ["libcuda.so", "libcuda.so.1"] {
        symlink(&library, folder.path().join(name)).unwrap();
    }
    folder
}

/// The binary, where libraries are looked for in `folder` first, on the machine that `machine` describes.
pub fn command_on(folder: &Path, machine: &str, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("LD_LIBRARY_PATH", folder).env("GRAMSCOPE_FAKE_DRIVER", machine);
    command
}

/// What the fake driver has noted.
pub struct Trace {
    kernels: Vec<String>,
    /// The most bytes of device memory that were in use at a launch.
    pub most_bytes: u64,
    /// Bytes that were copied from the host.
    pub uploaded: u64,
}

impl Trace {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // Without a profiler every line is a launch or an upload.
        let lines = text.lines().map(|line| line.split_once(' ').unwrap());
        let lines: Vec<(&str, u64)> = lines.map(|(what, bytes)| (what, bytes.parse().unwrap())).collect();
        let (uploads, launches): (Vec<_>, Vec<_>) = lines.into_iter().partition(|(what, _)| *what == "upload");
        Self {
            kernels: launches.iter().map(|(name, _)| (*name).to_owned()).collect(),
            most_bytes: launches.iter().map(|&(_, used)| used).max().unwrap_or(0),
            uploaded: uploads.iter().map(|(_, bytes)| bytes).sum(),
        }
    }

    pub fn count(&self, kernel: &str) -> usize {
        self.kernels.iter().filter(|name| *name == kernel).count()
    }
}

/// The same, run to its end.
pub fn run(folder: &Path, machine: &str, arguments: &[&str]) -> Output {
    command_on(folder, machine, arguments).output().unwrap()
}
