//! What the root tests share: running the binary and making small inputs for it.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

pub mod activations;
#[cfg(feature = "cuda")]
pub mod driver;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test, with `arguments`, at rest until started.
pub fn command<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gramscope"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn gramscope<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    command(arguments).output().unwrap()
}

/// Runs the binary and expects exit code 0; returns stdout.
pub fn succeeds<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = gramscope(arguments);
    assert!(output.status.success(), "exit {:?}: {}", output.status.code(), text(&output.stderr));
    text(&output.stdout)
}

/// Runs the binary, expects it to fail with `code` and with every one of `parts` on stderr, in one message and without
/// a panic or a backtrace.
pub fn fails<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>, code: i32, parts: &[&str]) -> String {
    let output = gramscope(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing from: {stderr}");
    }
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!stderr.contains(word), "{word:?} in: {stderr}");
    }
    assert_eq!(stderr.matches("error:").count(), 1, "not one message: {stderr}");
    stderr
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file below `dir`, sorted, relative to it.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Flags of a run that trains in a second: `--depth 8 --width 0.25` on a few built-in images.
pub const TINY: [&str; 14] = [
    "--data",
    "builtin",
    "--train-images",
    "60",
    "--test-images",
    "40",
    "--depth",
    "8",
    "--width",
    "0.25",
    "--epochs",
    "2",
    "--batch-size",
    "20",
];

/// Trains the tiny run with `seed` into `out`.
pub fn train_tiny(out: &Path, seed: u32) {
    let seed = seed.to_string();
    let out = out.to_str().unwrap();
    succeeds(["train"].into_iter().chain(TINY).chain(["--seed", &seed, "--out", out]));
}

/// Writes float32 tensors, (name, examples, features, values), as a safetensors file.
pub fn write_activations(path: &Path, layers: &[(&str, usize, usize, Vec<f32>)]) {
    let views = layers.iter().map(|(name, examples, features, values)| {
        let bytes = bytemuck::cast_slice(values);
        (
            *name,
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![*examples, *features], bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Numbers that look random enough for activations: a pure function of `seed` and the position.
pub fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0xD1B5_4A32_D192_ED03);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| uniform() + uniform() + uniform() - 1.5).collect()
}
