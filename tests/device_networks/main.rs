//! Networks on a GPU, through the binary: its driver runs the kernels' own sources under emulation, so that programs,
//! launchers, training and comparing are checked from end to end, against the CPU, without a GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

mod convolutions;
mod measuring;
mod memory;
mod observing;
mod probing;
mod resuming;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod training;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use gramscope_train::Run;

use support::driver::{driver, run};
use support::text;

/// A family of one network on images of 9 x 9, so that no side is even all the way.
const PLAN: &str = "[data]\nname = \"builtin\"\ntrain_images = 40\ntest_images = 16\nimage_side = 9\n\
    [train]\nepochs = 2\nbatch_size = 8\nlearning_rate = 0.02\ncrop_padding = 2\n";

/// Trains a plan of one run and returns its directory.
fn train(dir: &Path, name: &str, plan: &str, device: &[&str]) -> PathBuf {
    let (path, out) = (dir.join(format!("{name}.toml")), dir.join(name));
    fs::write(&path, plan).unwrap();
    let mut arguments = vec!["sweep", path.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device"];
    arguments.extend(device);
    let output = run(driver().path(), "", &arguments);
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    only_folder(&out)
}

fn only_folder(dir: &Path) -> PathBuf {
    let folders: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

fn state(run: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = Run::open(run).unwrap().network(&Device::Cpu).unwrap().state();
    tensors.into_iter().map(|(name, tensor)| (name, tensor.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

/// The largest difference of two runs' tensors, each relative to the largest value of its tensor or, where that is smaller, to
/// a hundredth.
fn difference(a: &Path, b: &Path) -> f64 {
    let (a, b) = (state(a), state(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let of = |(name, values): (&String, &Vec<f32>)| {
        let scale = values.iter().fold(0.01_f64, |largest, &value| largest.max(f64::from(value.abs())));
        let differences = values.iter().zip(&b[name]).map(|(a, b)| f64::from((a - b).abs()) / scale);
        // NaN must stay.
        differences.fold(0.0_f64, |largest, next| if next > largest || next.is_nan() { next } else { largest })
    };
    a.iter().map(of).fold(0.0, |largest, next| if next > largest || next.is_nan() { next } else { largest })
}
