//! Which data set, where it lies, and how much of it.

use std::fmt;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use super::{DataError, builtin, cifar, folder};
use crate::nearest::{LIKELY_NAME, nearest};

/// The kinds of data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataName {
    /// Drawn by the program ([`super::builtin`]).
    #[default]
    Builtin,
    /// CIFAR-10, official binary format ([`super::cifar`]).
    Cifar10,
    /// CIFAR-100, official binary format ([`super::cifar`]).
    Cifar100,
    /// A folder of images ([`super::folder`]).
    Folder,
}

impl DataName {
    /// As written in a plan and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Folder => "folder",
        }
    }
}

impl fmt::Display for DataName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The \[data\] table of a plan and of a run's config.toml. Unknown keys are errors. The default is the built-in data
/// set at its default size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Which kind of data set.
    pub name: DataName,
    /// Where it lies. `folder` needs it; `cifar10` and `cifar100` are looked for in the cache without it; `builtin` has
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// `builtin`: training images to draw (default 10,000). Others: use only a class-balanced prefix of so many (default
    /// all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_images: Option<usize>,
    /// `builtin`: test images to draw (default 2,000). Others: use only a class-balanced prefix of so many (default
    /// all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_images: Option<usize>,
    /// Height and width of the images in pixels: `builtin` draws and `folder` resizes to it (default 32); CIFAR is 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_side: Option<usize>,
}

/// Image sides that make sense for networks that halve them twice or more, and that memory can take.
const SIDES: std::ops::RangeInclusive<usize> = 8..=1024;
const DEFAULT_SIDE: usize = 32;

impl DataConfig {
    /// What `--data` means: `builtin`, `cifar10`, `cifar100`, or else a directory, whose layout is recognised. A name
    /// goes before a directory of that name (write `./cifar10` for the latter).
    ///
    /// # Errors
    /// [`DataError::UnknownName`] when there is no such directory, [`DataError::UnknownLayout`] when it holds nothing
    /// known; the message lists what was looked for.
    pub fn resolve_argument(argument: &str) -> Result<Self, DataError> {
        let named = [DataName::Builtin, DataName::Cifar10, DataName::Cifar100];
        for name in named {
            if argument == name.as_str() {
                return Self { name, ..Self::default() }.resolved();
            }
        }
        let dir = Path::new(argument);
        if !dir.is_dir() {
            let nearest = nearest(argument, named.into_iter().map(DataName::as_str), LIKELY_NAME);
            return Err(DataError::UnknownName { argument: argument.to_owned(), nearest });
        }
        let name = recognise(dir)?;
        Self { name, dir: Some(dir.to_path_buf()), ..Self::default() }.resolved()
    }

    /// This configuration with its defaults filled in and its directory made absolute, as it belongs in config.toml: two
    /// configurations mean the same data exactly when they are then equal. A CIFAR directory stays empty where the cache
    /// is meant, so that a run can be read on another machine.
    ///
    /// # Errors
    /// [`DataError::Setting`] for a setting that is out of range or has no meaning for this data set.
    pub fn resolved(&self) -> Result<Self, DataError> {
        let mut config = self.clone();
        for (key, images) in [("train_images", config.train_images), ("test_images", config.test_images)] {
            if images == Some(0) {
                return Err(setting(key, "is 0, but a split needs at least one image".to_owned()));
            }
        }
        match config.name {
            DataName::Builtin => {
                if config.dir.is_some() {
                    let problem = "does not apply to the built-in data; set `name` to cifar10, cifar100 or folder";
                    return Err(setting("dir", problem.to_owned()));
                }
                config.train_images.get_or_insert(builtin::TRAIN_IMAGES);
                config.test_images.get_or_insert(builtin::TEST_IMAGES);
            }
            DataName::Cifar10 | DataName::Cifar100 => {
                if config.image_side.is_some_and(|side| side != cifar::SIDE) {
                    let problem = format!("must be {} for {}, or be left out", cifar::SIDE, config.name);
                    return Err(setting("image_side", problem));
                }
            }
            DataName::Folder => {
                if config.dir.is_none() {
                    let problem = "is missing: name = \"folder\" needs a directory with train/ and test/";
                    return Err(setting("dir", problem.to_owned()));
                }
            }
        }
        let side = *config.image_side.get_or_insert(DEFAULT_SIDE);
        if !SIDES.contains(&side) {
            let problem = format!("is {side}, but must lie between {} and {}", SIDES.start(), SIDES.end());
            return Err(setting("image_side", problem));
        }
        if let Some(dir) = &mut config.dir {
            *dir = std::path::absolute(&dir).map_err(DataError::io("find", dir))?;
        }
        Ok(config)
    }

    /// The same data with images of this size, for networks that take no other. CIFAR's stay as they are.
    #[must_use]
    pub fn at_side(&self, side: usize) -> Self {
        match self.name {
            DataName::Cifar10 | DataName::Cifar100 => self.clone(),
            DataName::Builtin | DataName::Folder => Self { image_side: Some(side), ..self.clone() },
        }
    }

    /// Height and width of the images in pixels.
    pub fn side(&self) -> usize {
        self.image_side.unwrap_or(DEFAULT_SIDE)
    }
}

/// The directory that downloads are stored in: `$XDG_CACHE_HOME/gramscope/data`, or `~/.cache/gramscope/data`.
///
/// # Errors
/// [`DataError::NoCache`] for a user without a home directory.
pub fn cache_dir() -> Result<PathBuf, DataError> {
    Ok(cache()?.join("data"))
}

/// Our part of the user's cache.
pub(crate) fn cache() -> Result<PathBuf, DataError> {
    let strategy = etcetera::choose_base_strategy().map_err(|_| DataError::NoCache)?;
    Ok(strategy.cache_dir().join("gramscope"))
}

fn setting(key: &'static str, problem: String) -> DataError {
    DataError::Setting { key, problem }
}

/// Tells by its files which kind of data set `dir` holds.
fn recognise(dir: &Path) -> Result<DataName, DataError> {
    if cifar::CIFAR10.find(dir).is_some() {
        return Ok(DataName::Cifar10);
    }
    if cifar::CIFAR100.find(dir).is_some() {
        return Ok(DataName::Cifar100);
    }
    if folder::looks_like(dir) {
        return Ok(DataName::Folder);
    }
    let looked_for = format!(
        "neither CIFAR-10 ({}) nor CIFAR-100 ({}) in the binary format, here or in {}/ or {}/, nor an image folder \
         (train/ and test/ with a folder a class){}",
        cifar::CIFAR10.file_names(),
        cifar::CIFAR100.file_names(),
        cifar::CIFAR10.folder,
        cifar::CIFAR100.folder,
        cifar::other_edition(dir).unwrap_or_default(),
    );
    Err(DataError::UnknownLayout { dir: dir.to_path_buf(), looked_for })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn layout(files: &[&str]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    fn resolve(dir: &TempDir) -> Result<DataConfig, DataError> {
        DataConfig::resolve_argument(dir.path().to_str().unwrap())
    }

    #[test]
    fn names_are_resolved_with_their_defaults() {
        let builtin = DataConfig::resolve_argument("builtin").unwrap();
        assert_eq!(builtin.name, DataName::Builtin);
        assert_eq!(
            (builtin.train_images, builtin.test_images, builtin.image_side),
            (Some(10_000), Some(2_000), Some(32))
        );
        let cifar = DataConfig::resolve_argument("cifar100").unwrap();
        assert_eq!((cifar.name, cifar.dir, cifar.train_images), (DataName::Cifar100, None, None));
    }

    #[test]
    fn directories_are_recognised_by_their_files() {
        for (file, name) in [
            ("data_batch_1.bin", DataName::Cifar10),
            ("cifar-10-batches-bin/test_batch.bin", DataName::Cifar10),
            ("train.bin", DataName::Cifar100),
            ("cifar-100-binary/train.bin", DataName::Cifar100),
        ] {
            let dir = layout(&[file]);
            let config = resolve(&dir).unwrap();
            assert_eq!(config.name, name, "{file}");
            assert_eq!(config.dir.as_deref(), Some(dir.path()));
        }
        assert_eq!(resolve(&layout(&["train/cat/1.png", "test/cat/1.png"])).unwrap().name, DataName::Folder);
    }

    #[test]
    fn unknown_arguments_say_what_was_looked_for() {
        let message = DataConfig::resolve_argument("cifar-10").unwrap_err().to_string();
        assert!(message.contains("'cifar-10' (did you mean cifar10?)"), "{message}");
        let message = DataConfig::resolve_argument("no/such/place").unwrap_err().to_string();
        assert!(!message.contains("did you mean"), "{message}");
        let message = resolve(&layout(&["train/cat/1.png"])).unwrap_err().to_string();
        for expected in ["data_batch_1.bin", "train.bin", "cifar-10-batches-bin", "test/ with a folder a class"] {
            assert!(message.contains(expected), "{expected} is missing from: {message}");
        }
        let message = resolve(&layout(&["cifar-10-batches-py/data_batch_1"])).unwrap_err().to_string();
        assert!(message.contains("Python version"), "{message}");
    }

    #[test]
    fn resolving_twice_changes_nothing() {
        let relative = DataConfig { name: DataName::Folder, dir: Some("pictures".into()), ..DataConfig::default() };
        for config in [DataConfig::default(), relative] {
            let resolved = config.resolved().unwrap();
            assert_eq!(resolved.resolved().unwrap(), resolved);
            assert!(resolved.dir.is_none_or(|dir| dir.is_absolute()));
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        let base = DataConfig::default;
        for (config, key) in [
            (DataConfig { dir: Some("x".into()), ..base() }, "dir"),
            (DataConfig { name: DataName::Folder, ..base() }, "dir"),
            (DataConfig { name: DataName::Cifar10, image_side: Some(64), ..base() }, "image_side"),
            (DataConfig { image_side: Some(7), ..base() }, "image_side"),
            (DataConfig { image_side: Some(1025), ..base() }, "image_side"),
            (DataConfig { train_images: Some(0), ..base() }, "train_images"),
            (DataConfig { test_images: Some(0), ..base() }, "test_images"),
        ] {
            let error = config.resolved().unwrap_err();
            assert!(matches!(error, DataError::Setting { key: found, .. } if found == key), "{key}: {error}");
        }
    }

    #[test]
    fn the_table_survives_toml_and_refuses_unknown_keys() {
        let config: DataConfig = toml::from_str("name = \"cifar10\"\ntrain_images = 500").unwrap();
        assert_eq!(config, DataConfig { name: DataName::Cifar10, train_images: Some(500), ..DataConfig::default() });
        assert_eq!(toml::from_str::<DataConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<DataConfig>("nmae = \"cifar10\"").is_err());
        assert!(toml::from_str::<DataConfig>("name = \"mnist\"").is_err());
    }
}
