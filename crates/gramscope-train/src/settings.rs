//! The settings of a run: what a plan, the command line and config.toml say, checked.
//!
//! The defaults are those of Nguyen, Raghu and Kornblith 2021 (*Do wide and deep networks learn the same things?*).

use std::fmt;
use std::path::{Path, PathBuf};

use gramscope_nn::{Backend, Family, FirstComponentPenalty, ResNetConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::data::{DataConfig, DataError};
use crate::error::{Error, Result};
use crate::nearest::{LIKELY_KEY, nearest};
use crate::reading;

/// The format of config.toml that this program writes and reads.
pub const CONFIG_VERSION: u32 = 1;

/// Every setting of a training run, but for its data: the \[train\] table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// The family of networks: `cifar` (the default) or `imagenet`.
    #[serde(skip_serializing_if = "is_default")]
    pub family: Family,
    /// Number of weighted layers; see [`Family`]. Default 38, the deepest of the paper's grid of widths.
    pub depth: usize,
    /// Factor on channel counts, all of them or the third stage's; see [`Family`]. Default 1.
    pub width: f64,
    /// With additions and shortcuts. Default true.
    pub residual: bool,
    /// With two residual branches in every block, mixed at random ([`gramscope_nn::ops::mixing`]). Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub shake_shake: bool,
    /// Seed of initial weights, order and augmentation. Default 0; at most 2^63 - 1, TOML's largest integer.
    pub seed: u64,
    /// Passes over the training images. Default 300.
    pub epochs: usize,
    /// Images a step. Default 128.
    pub batch_size: usize,
    /// Learning rate of the first epoch. Default 0.01.
    pub learning_rate: f64,
    /// Share of the velocity that a step keeps. Default 0.9.
    pub momentum: f64,
    /// Factor on the sum of squared convolution and linear weights in the loss. Default 1e-4.
    pub weight_decay: f64,
    /// Share of the training images that is used, class-balanced. Default 1.
    pub fraction: f64,
    /// Pixels reflected around an image before the random crop. Default 4; 0 turns cropping off.
    pub crop_padding: usize,
    /// Flips images left to right at random. Default true.
    pub flip: bool,
    /// Strength of the colour distortion ([`crate::colour`]), 0 to 1. Default 0, which is none.
    #[serde(skip_serializing_if = "is_default")]
    pub colour_distortion: f64,
    /// Replaces every training label by one drawn uniformly, the same in every epoch; test labels stay. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub random_labels: bool,
    /// The directory of a finished run whose weights and batch-norm statistics this one starts with. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Of that run, only the stem and the first so many stages. Default: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_stages: Option<usize>,
    /// Factor on what the first principal components of the blocks' outputs explain beyond the threshold, in the loss
    /// ([`gramscope_nn::FirstComponentPenalty`]). Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub first_pc_penalty: f64,
    /// The fraction of the variance that a first principal component may explain before it costs anything. Default 0.2.
    #[serde(skip_serializing_if = "is_default_threshold")]
    pub first_pc_threshold: f64,
    /// Keeps the weights of every so many-th epoch. Default: none are kept but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<usize>,
}

/// What Nguyen, Raghu and Kornblith allow a first component, a fifth of the variance.
const FIRST_PC_THRESHOLD: f64 = 0.2;

/// Settings that came later are written only where they say something, so that a config.toml without them stays as it is.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_threshold(value: &f64) -> bool {
    *value == FIRST_PC_THRESHOLD
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            family: Family::Cifar,
            depth: 38,
            width: 1.0,
            residual: true,
            shake_shake: false,
            seed: 0,
            epochs: 300,
            batch_size: 128,
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 1e-4,
            fraction: 1.0,
            crop_padding: 4,
            flip: true,
            colour_distortion: 0.0,
            random_labels: false,
            init_from: None,
            init_stages: None,
            first_pc_penalty: 0.0,
            first_pc_threshold: FIRST_PC_THRESHOLD,
            checkpoint_every: None,
        }
    }
}

impl TrainSettings {
    /// What a sweep calls a run of them, before what else varies: "resnet14-w3-s0".
    #[must_use]
    pub fn short_name(&self) -> String {
        format!("resnet{}-w{}-s{}", self.depth, self.width, self.seed)
    }

    /// The keys of the \[train\] table, in the order of the fields.
    pub const KEYS: [&'static str; 21] = [
        "family",
        "depth",
        "width",
        "residual",
        "shake_shake",
        "seed",
        "epochs",
        "batch_size",
        "learning_rate",
        "momentum",
        "weight_decay",
        "fraction",
        "crop_padding",
        "flip",
        "colour_distortion",
        "random_labels",
        "init_from",
        "init_stages",
        "first_pc_penalty",
        "first_pc_threshold",
        "checkpoint_every",
    ];

    /// Checks what can be checked without the data.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] for the first setting that is out of range, [`ConfigError::Network`] for a depth or width
    /// that makes no network.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Classes and side come from the data; any valid ones do for checking depth and width.
        self.network(2, 1).validate().map_err(ConfigError::Network)?;
        let largest_seed = i64::MAX as u64;
        let checks: [(&'static str, bool, String, &'static str); 12] = [
            ("seed", self.seed <= largest_seed, self.seed.to_string(), "must be at most 9223372036854775807"),
            (
                "epochs",
                (1..=u32::MAX as usize).contains(&self.epochs),
                self.epochs.to_string(),
                "must be from 1 to 4294967295",
            ),
            ("batch_size", self.batch_size >= 1, self.batch_size.to_string(), "must be at least 1"),
            (
                "learning_rate",
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
                self.learning_rate.to_string(),
                "must be a positive number",
            ),
            ("momentum", (0.0..1.0).contains(&self.momentum), self.momentum.to_string(), "must be from 0 to below 1"),
            (
                "weight_decay",
                self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
                self.weight_decay.to_string(),
                "must be 0 or a positive number",
            ),
            (
                "fraction",
                self.fraction > 0.0 && self.fraction <= 1.0,
                self.fraction.to_string(),
                "must be above 0 and at most 1",
            ),
            (
                "colour_distortion",
                (0.0..=1.0).contains(&self.colour_distortion),
                self.colour_distortion.to_string(),
                "must be from 0 to 1",
            ),
            (
                "init_stages",
                self.init_stages.is_none_or(|stages| stages <= self.family.stages() && self.init_from.is_some()),
                self.init_stages.map_or("not set".to_owned(), |stages| stages.to_string()),
                "must be from 0 (the stem alone) to the network's number of stages, and needs init_from",
            ),
            (
                "first_pc_penalty",
                self.first_pc_penalty >= 0.0 && self.first_pc_penalty.is_finite(),
                self.first_pc_penalty.to_string(),
                "must be 0 or a positive number",
            ),
            (
                "first_pc_threshold",
                (0.0..1.0).contains(&self.first_pc_threshold),
                self.first_pc_threshold.to_string(),
                "must be from 0 to below 1",
            ),
            (
                "checkpoint_every",
                self.checkpoint_every.is_none_or(|every| (1..=u32::MAX as usize).contains(&every)),
                self.checkpoint_every.map_or("not set".to_owned(), |every| every.to_string()),
                "must be from 1 to 4294967295, or be left out to keep no epoch but the last",
            ),
        ];
        match checks.into_iter().find(|(_, valid, ..)| !valid) {
            Some((key, _, value, rule)) => Err(ConfigError::Setting { key, value, rule }),
            None => Ok(()),
        }
    }

    /// The network these settings ask for, for images of this many classes and pixels a side.
    pub fn network(&self, classes: usize, image_side: usize) -> ResNetConfig {
        let Self { family, depth, width, residual, shake_shake, .. } = *self;
        ResNetConfig { family, depth, width, residual, shake_shake, classes, image_side }
    }

    /// What is added to the loss, if anything.
    pub fn penalty(&self) -> Option<FirstComponentPenalty> {
        let Self { first_pc_penalty: weight, first_pc_threshold: threshold, .. } = *self;
        (weight > 0.0).then_some(FirstComponentPenalty { weight, threshold })
    }
}

/// Keys of the \[data\] table, in the order of the fields of [`DataConfig`].
pub(crate) const DATA_KEYS: [&str; 5] = ["name", "dir", "train_images", "test_images", "image_side"];

/// All there is to say about a run: config.toml.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunConfig {
    /// Format of the file, [`CONFIG_VERSION`].
    pub version: u32,
    /// What trains it, which is no setting: it is recorded when the run begins. Files leave the CPU out.
    #[serde(skip_serializing_if = "is_default")]
    pub backend: Backend,
    /// Which images.
    pub data: DataConfig,
    /// Which network, and how it is trained.
    pub train: TrainSettings,
}

impl RunConfig {
    /// The configuration of a run with these settings on these data, trained by the CPU.
    pub fn new(data: DataConfig, train: TrainSettings) -> Self {
        Self { version: CONFIG_VERSION, backend: Backend::Cpu, data, train }
    }

    /// The same trained by `backend`.
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Checks the settings, and that they are for images of this size.
    ///
    /// # Errors
    /// Those of [`TrainSettings::validate`], and [`ConfigError::Setting`] for a padding that an image cannot be reflected into.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.train.validate()?;
        let padding = self.train.crop_padding;
        match padding < self.data.side() {
            true => Ok(()),
            false => Err(ConfigError::Setting {
                key: "crop_padding",
                value: padding.to_string(),
                rule: "must be smaller than the images' side",
            }),
        }
    }

    /// This configuration with the defaults of its data filled in ([`DataConfig::resolved`]) and its paths made absolute,
    /// checked.
    ///
    /// # Errors
    /// Those of [`Self::validate`] and [`DataConfig::resolved`].
    pub fn resolved(&self) -> Result<Self> {
        self.validate()?;
        let mut train = self.train.clone();
        if let Some(dir) = &mut train.init_from {
            *dir = std::path::absolute(&dir).map_err(Error::io("find", dir))?;
        }
        Ok(Self::new(self.data.resolved()?, train).with_backend(self.backend))
    }

    /// Reads the text of a config.toml.
    ///
    /// # Errors
    /// [`ConfigError`]: no TOML, an unknown key, a value of the wrong kind, or another format's version.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut file = parse_table(text)?;
        let version = file.get("version").cloned().unwrap_or(Value::Boolean(false));
        if version != Value::Integer(CONFIG_VERSION.into()) {
            return Err(ConfigError::Version { found: version.to_string() });
        }
        check_keys(&file, None, &["version", "backend", "data", "train"])?;
        let run = Self::new(
            typed(&take_table(&mut file, "data")?, "data", &DATA_KEYS)?,
            typed(&take_table(&mut file, "train")?, "train", &TrainSettings::KEYS)?,
        );
        Ok(run.with_backend(take_backend(&mut file)?))
    }

    /// Reads a config.toml.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = reading::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&text).map_err(|problem| Error::ConfigFile { path: path.to_path_buf(), problem })
    }

    /// The text of a config.toml.
    ///
    /// # Errors
    /// [`ConfigError::Unwritable`] where TOML has no way to write a value, such as a path that is not Unicode.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        // A table refuses numbers that are too large for TOML, of which text would be made that cannot be read again.
        let written = Table::try_from(self).and_then(|_| toml::to_string(self));
        written.map_err(|error| ConfigError::Unwritable { problem: error.to_string() })
    }

    /// The first setting in which `asked` differs from this configuration, in the order of config.toml.
    ///
    /// # Errors
    /// [`ConfigError::Unwritable`], as [`Self::to_toml`].
    pub fn first_difference(&self, asked: &Self) -> Result<Option<Difference>, ConfigError> {
        let table = |config: &Self| {
            Table::try_from(config).map_err(|error| ConfigError::Unwritable { problem: error.to_string() })
        };
        let (stored, asked) = (table(self)?, table(asked)?);
        let keys = DATA_KEYS.map(|key| ("data", key)).into_iter().chain(TrainSettings::KEYS.map(|key| ("train", key)));
        for (name, key) in keys {
            let value = |config: &Table| config.get(name).and_then(|table| table.get(key)).cloned();
            let (stored, asked) = (value(&stored), value(&asked));
            if stored != asked {
                let text = |value: Option<Value>| value.map_or("not set".to_owned(), |value| value.to_string());
                return Ok(Some(Difference { key, stored: text(stored), asked: text(asked) }));
            }
        }
        Ok(None)
    }
}

/// A setting in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting's key.
    pub key: &'static str,
    /// Its value in the run that exists.
    pub stored: String,
    /// Its value in what was asked for.
    pub asked: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, stored, asked } = self;
        write!(f, "{key} is {stored} there and {asked} here")
    }
}

/// What can be wrong with settings and with the text they are read from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting out of range.
    #[error("{key} is {value}; it {rule}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A depth or width that makes no network.
    #[error("{0}")]
    Network(gramscope_nn::Error),
    /// Text that is not TOML.
    #[error("line {line} is not valid TOML: {problem}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A key that does not exist.
    #[error("{} has no key `{key}`; {}", place(.table), advice(.nearest, .known))]
    UnknownKey {
        /// The table; none at the top level.
        table: Option<&'static str>,
        /// The key.
        key: String,
        /// The key that looks most like it, if one does.
        nearest: Option<&'static str>,
        /// The keys that there are.
        known: &'static [&'static str],
    },
    /// A value of the wrong kind.
    #[error("`{key}` in [{table}] cannot be {value}: {problem}")]
    Value {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// A backend that this program does not have.
    #[error("`backend` cannot be {value}: {problem}")]
    Backend {
        /// The value.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// Something else than a table under a table's name.
    #[error("`{name}` must be a table, written as [{name}]")]
    NotATable {
        /// The name.
        name: &'static str,
    },
    /// A config.toml of another version.
    #[error(
        "the version of the run's format is {found}, but this program reads {CONFIG_VERSION}; use the program that wrote it"
    )]
    Version {
        /// The version, as written; `false` where there is none.
        found: String,
    },
    /// Settings that cannot be written as TOML.
    #[error("the settings cannot be written as TOML: {problem}")]
    Unwritable {
        /// What the writer said.
        problem: String,
    },
    /// A plan of no networks: nothing varies in it, and nothing says which one is meant.
    #[error(
        "it has no [family] with the lists that make one, such as depth = [14, 20]; gramscope train trains one network"
    )]
    NoFamily,
    /// Families that would train one run twice, in one directory.
    #[error("two of its families have a run {name}")]
    SharedRun {
        /// The run's name.
        name: String,
    },
    /// A key of a plan's \[family\] that is not a list of distinct values.
    #[error("`{key}` in [family] {problem}")]
    Family {
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A run of a plan that cannot be.
    #[error("the run {name} of this plan cannot be: {problem}")]
    Run {
        /// The run's directory name.
        name: String,
        /// What is wrong with its settings.
        problem: Box<ConfigError>,
    },
    /// A plan's data that cannot be.
    #[error("{0}")]
    Data(DataError),
}

fn place(table: &Option<&'static str>) -> String {
    table.map_or("the top level".to_owned(), |name| format!("[{name}]"))
}

fn advice(nearest: &Option<&'static str>, known: &[&str]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("it knows {}", known.join(", ")),
    }
}

/// Reads TOML text.
pub(crate) fn parse_table(text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
        ConfigError::Syntax { line, problem: error.message().replace('\n', " ") }
    })
}

/// The table `name` of `file`, empty where there is none.
pub(crate) fn take_table(file: &mut Table, name: &'static str) -> Result<Table, ConfigError> {
    match file.remove(name) {
        None => Ok(Table::new()),
        Some(Value::Table(table)) => Ok(table),
        Some(_) => Err(ConfigError::NotATable { name }),
    }
}

/// The `backend` of `file`, the CPU where it names none.
fn take_backend(file: &mut Table) -> Result<Backend, ConfigError> {
    let Some(value) = file.remove("backend") else { return Ok(Backend::Cpu) };
    value.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Backend {
        value: value.to_string(),
        problem: error.message().replace('\n', " "),
    })
}

/// Fails on the first key that is not among `known`, with the one that was most likely meant.
pub(crate) fn check_keys(
    table: &Table,
    name: Option<&'static str>,
    known: &'static [&'static str],
) -> Result<(), ConfigError> {
    let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let nearest = nearest(key, known.iter().copied(), LIKELY_KEY);
    Err(ConfigError::UnknownKey { table: name, key: key.clone(), nearest, known })
}

/// The settings of `table`, whose name and keys are for messages.
pub(crate) fn typed<T: DeserializeOwned>(
    table: &Table,
    name: &'static str,
    known: &'static [&'static str],
) -> Result<T, ConfigError> {
    check_keys(table, Some(name), known)?;
    for (key, value) in table {
        check_value::<T>(name, key, value)?;
    }
    Ok(table.clone().try_into().expect("every key has just been accepted alone"))
}

/// Fails unless `value` is of the kind that `key` of `T` takes. One key at a time, so that the message can name it; all
/// keys of `T` must have defaults.
pub(crate) fn check_value<T: DeserializeOwned>(
    table: &'static str,
    key: &str,
    value: &Value,
) -> Result<(), ConfigError> {
    let single = Table::from_iter([(key.to_owned(), value.clone())]);
    match single.try_into::<T>() {
        Ok(_) => Ok(()),
        Err(error) => {
            let problem = error.message().replace('\n', " ");
            Err(ConfigError::Value { table, key: key.to_owned(), value: value.to_string(), problem })
        }
    }
}
