//! Which data set, where it lies, and how much of it.

use std::fmt;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use super::{DataError, builtin, cifar, folder};

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

/// Image sides that networks of three stages and memory can take.
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
        for name in [DataName::Builtin, DataName::Cifar10, DataName::Cifar100] {
            if argument == name.as_str() {
                return Self { name, ..Self::default() }.resolved();
            }
        }
        let dir = Path::new(argument);
        if !dir.is_dir() {
            return Err(DataError::UnknownName { argument: argument.to_owned(), nearest: nearest_name(argument) });
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

    /// Height and width of the images in pixels.
    pub(super) fn side(&self) -> usize {
        self.image_side.unwrap_or(DEFAULT_SIDE)
    }
}

/// The directory that downloads are stored in: `$XDG_CACHE_HOME/gramscope/data`, or `~/.cache/gramscope/data`.
///
/// # Errors
/// [`DataError::NoCache`] for a user without a home directory.
pub fn cache_dir() -> Result<PathBuf, DataError> {
    let strategy = etcetera::choose_base_strategy().map_err(|_| DataError::NoCache)?;
    Ok(strategy.cache_dir().join("gramscope").join("data"))
}

fn setting(key: &'static str, problem: String) -> DataError {
    DataError::Setting { key, problem }
}

/// The known name that `argument` was most likely meant to be.
fn nearest_name(argument: &str) -> Option<&'static str> {
    const LIKELY: f64 = 0.8;
    let plain = argument.to_lowercase().replace(['-', '_'], "");
    [DataName::Builtin, DataName::Cifar10, DataName::Cifar100]
        .map(|name| (strsim::jaro(&plain, name.as_str()), name.as_str()))
        .into_iter()
        .filter(|&(likeness, _)| likeness >= LIKELY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
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
