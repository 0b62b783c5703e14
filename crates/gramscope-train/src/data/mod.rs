//! Data sets: built in, CIFAR, image folders; all of them end as bytes in memory.
//!
//! A [`DataConfig`] says which data set and how much of it; [`load`] reads it into a [`Dataset`] of two [`Split`]s, whose
//! images are 8-bit RGB, height x width x channel (NHWC), one after the other. Everything that chooses a part of a
//! split (a training fraction, a limit on the number of images) takes a class-balanced prefix that does not depend on
//! any seed, so that a smaller part always lies inside a larger one.

pub mod builtin;
pub mod cifar;
mod config;
mod dataset;
mod drawing;
mod error;
pub mod fetch;
pub mod folder;
mod picture;

use std::path::Path;

pub(crate) use config::cache;
pub use config::{DataConfig, DataName, cache_dir};
pub use dataset::{Dataset, Split, Summary, balanced_prefix};
pub use error::DataError;
pub use picture::write_contact_sheet;

/// Whether the files of `name` that lie in `dir` are all there and as long as they should be; of data without such files there is
/// nothing to check.
///
/// # Errors
/// [`DataError::Missing`], [`DataError::WrongSize`]; a file that cannot be looked at.
pub fn check_files(name: DataName, dir: &Path) -> Result<(), DataError> {
    match name {
        DataName::Cifar10 => cifar::CIFAR10.check(dir),
        DataName::Cifar100 => cifar::CIFAR100.check(dir),
        DataName::Builtin | DataName::Folder => Ok(()),
    }
}

/// Reads (or draws) the data set that `config` asks for.
///
/// `cifar10` and `cifar100` without a directory are read from [`cache_dir`], where [`fetch::fetch`] stores them.
///
/// # Errors
/// Everything that can be wrong with the configuration ([`DataConfig::resolved`]) or with the files.
pub fn load(config: &DataConfig) -> Result<Dataset, DataError> {
    let config = config.resolved()?;
    match config.name {
        DataName::Builtin => builtin::load(&config),
        DataName::Cifar10 => cifar::load(&cifar::CIFAR10, &config),
        DataName::Cifar100 => cifar::load(&cifar::CIFAR100, &config),
        DataName::Folder => folder::load(&config),
    }
}
