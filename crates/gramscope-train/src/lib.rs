//! Data sets, augmentation, the recipe, the training loop, checkpoints and run directories.

pub mod data;
