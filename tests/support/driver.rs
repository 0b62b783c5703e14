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

/// The same, run to its end.
pub fn run(folder: &Path, machine: &str, arguments: &[&str]) -> Output {
    command_on(folder, machine, arguments).output().unwrap()
}
