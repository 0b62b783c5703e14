//! Very small runs for tests.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gramscope_nn::Processor;
use gramscope_train::data::{self, DataConfig};
use gramscope_train::{Run, RunConfig, Start, TrainSettings, train};

/// A ResNet-8 that learns for one epoch.
pub(crate) fn tiny(seed: u64) -> TrainSettings {
    TrainSettings { depth: 8, width: 0.2, seed, epochs: 1, batch_size: 10, ..TrainSettings::default() }
}

/// Images whose side is even in no stage: 20 to learn from, and so many for tests.
pub(crate) fn small_data(test_images: usize) -> DataConfig {
    DataConfig { train_images: Some(20), test_images: Some(test_images), image_side: Some(9), ..DataConfig::default() }
}

/// The run of these settings on `data`, which is trained in `dir`.
pub(crate) fn trained(dir: &Path, settings: TrainSettings, data: DataConfig) -> Run {
    let config = RunConfig::new(data, settings);
    let dataset = data::load(&config.data).unwrap();
    train(&config, &dataset, dir, &Processor::Cpu, Start::Fresh, &AtomicBool::new(false), &mut |_| ()).unwrap()
}
