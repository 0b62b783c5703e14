//! Running the binary on a driver that runs the kernels' own sources under emulation, and on a cuDNN of plain loops beside it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::{command, text};

/// Links the fake driver and the fake cuDNN into this program's build, which puts their shared libraries beside it.
use gramscope_fake_cudnn as _;
use gramscope_fake_driver as _;

/// A folder with the fake driver under the names that the program looks for.
pub fn driver() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    link(folder.path(), "libgramscope_fake_driver.so", &["libcuda.so", "libcuda.so.1"]);
    folder
}

/// The same with the fake cuDNN.
pub fn driver_and_cudnn() -> TempDir {
    let folder = driver();
    link(folder.path(), "libgramscope_fake_cudnn.so", &["libcudnn.so.9"]);
    folder
}

fn link(folder: &Path, library: &str, names: &[&str]) {
    let library = std::env::current_exe().unwrap().with_file_name(library);
    assert!(library.is_file(), "{} has not been built", library.display());
    for name in names {
        symlink(&library, folder.join(name)).unwrap();
    }
}

/// Set where a test runs on the fake driver.
const INSIDE: &str = "GRAMSCOPE_TEST_ON_FAKE_DRIVER";

/// Where this is set, a seed: the order is drawn from it in which streams do what they are told, instead of as late as may be.
const ORDER: &str = "GRAMSCOPE_TEST_ORDER";

/// What the fake driver is told of the machine.
fn described(machine: &str) -> String {
    std::env::var(ORDER).map_or_else(|_| machine.to_owned(), |order| format!("{machine},order={order}"))
}

/// Runs this program's test of this name again, on the driver in `folder`, which the loader must find when a process starts.
/// Returns what that noted; none inside, where the test is to do its work.
pub fn on_fake_driver(folder: &TempDir, test: &str) -> Option<Trace> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").env("LD_LIBRARY_PATH", folder.path());
    command.env("GRAMSCOPE_FAKE_DRIVER", described(&format!("trace={}", trace.display())));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
    assert_content(&output);
    Some(Trace::read(&trace))
}

/// The binary, where libraries are looked for in `folder` first, on the machine that `machine` describes.
pub fn command_on(folder: &Path, machine: &str, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("LD_LIBRARY_PATH", folder).env("GRAMSCOPE_FAKE_DRIVER", described(machine));
    command
}

/// What the fake driver has noted.
pub struct Trace {
    kernels: Vec<String>,
    /// The most bytes of device memory that were in use at a launch.
    pub most_bytes: u64,
    /// Bytes that were copied from the host.
    pub uploaded: u64,
    /// Bytes that were copied to the host.
    pub downloaded: u64,
    /// How often the host waited for all that a stream had been told.
    pub waits: usize,
}

impl Trace {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // Without a profiler every line is a launch, a copy or a wait.
        let lines = text.lines().map(|line| line.split_once(' ').unwrap());
        let lines: Vec<(&str, u64)> = lines.map(|(what, bytes)| (what, bytes.parse().unwrap())).collect();
        let all = |event: &'static str| lines.iter().filter(move |(what, _)| *what == event);
        let launches = || lines.iter().filter(|(what, _)| !["upload", "download", "synchronise"].contains(what));
        Self {
            kernels: launches().map(|(name, _)| (*name).to_owned()).collect(),
            most_bytes: launches().map(|&(_, used)| used).max().unwrap_or(0),
            uploaded: all("upload").map(|(_, bytes)| bytes).sum(),
            downloaded: all("download").map(|(_, bytes)| bytes).sum(),
            waits: all("synchronise").count(),
        }
    }

    pub fn count(&self, kernel: &str) -> usize {
        self.kernels.iter().filter(|name| *name == kernel).count()
    }

    /// How many launches there were.
    pub fn launches(&self) -> usize {
        self.kernels.len()
    }
}

/// The same, run to its end.
pub fn run(folder: &Path, machine: &str, arguments: &[&str]) -> Output {
    let output = command_on(folder, machine, arguments).output().unwrap();
    assert_content(&output);
    output
}

/// The driver has seen nothing that no program may do: what it sees when a program has waited for the last time, nobody else is told.
pub fn assert_content(output: &Output) {
    let said = text(&output.stderr);
    assert!(!said.contains("fake driver:"), "{said}");
}

/// The bytes that a message asks for at least, to a tenth of a KiB or MiB more.
pub fn needed(message: &str) -> u64 {
    let mut words = message.split("at least ").nth(1).unwrap().split(' ');
    let number: f64 = words.next().unwrap().parse().unwrap();
    let unit = match words.next().unwrap() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        unit => panic!("{unit}"),
    };
    (number * f64::from(unit)) as u64
}
