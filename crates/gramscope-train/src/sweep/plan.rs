//! The plan of a family: a TOML file with what all runs share and what varies.

use std::collections::HashSet;
use std::path::Path;

use toml::{Table, Value};

use crate::data::DataConfig;
use crate::error::{Error, Result};
use crate::reading;
use crate::settings::{
    ConfigError, DATA_KEYS, RunConfig, TrainSettings, check_keys, check_value, parse_table, take_table, typed,
};

/// More runs than anyone trains: a plan's lists multiply, and a slip, or a stranger, fills the memory with them.
const LARGEST_FAMILY: usize = 10_000;
/// Bytes of a text, such as a path, of which every run may have a copy: as long as a path can be.
const LONGEST_TEXT: usize = 4096;

/// A family of runs: the product of the lists of \[family\], over what \[data\] and \[train\] say of all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    runs: Vec<(String, RunConfig)>,
}

impl Plan {
    /// Reads the plan at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::ConfigFile`] for what [`Self::parse`] finds.
    pub fn read(path: &Path) -> Result<Self> {
        let text = reading::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&text).map_err(|problem| Error::ConfigFile { path: path.to_path_buf(), problem })
    }

    /// Reads the text of a plan.
    ///
    /// # Errors
    /// No TOML; an unknown table or key, with the nearest one; a value of the wrong kind; no \[family\], or a key of it that is no
    /// list of distinct values, or stands in \[train\] too; settings that make no run; runs that would share a directory.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut file = parse_table(text)?;
        check_keys(&file, None, &["data", "train", "family"])?;
        let data = take_table(&mut file, "data")?;
        check_texts(&data, "data")?;
        let data: DataConfig = typed(&data, "data", &DATA_KEYS)?;
        let data = data.resolved().map_err(ConfigError::Data)?;
        let shared = take_table(&mut file, "train")?;
        check_texts(&shared, "train")?;
        typed::<TrainSettings>(&shared, "train", &TrainSettings::KEYS)?;
        let family = take_table(&mut file, "family")?;
        check_texts(&family, "family")?;
        check_keys(&family, Some("family"), &TrainSettings::KEYS)?;
        if family.is_empty() {
            return Err(ConfigError::NoFamily);
        }
        if let Some(key) = family.keys().find(|key| shared.contains_key(*key)) {
            let problem = "is set in [train] too, for all runs; leave it in one of them".to_owned();
            return Err(ConfigError::Family { key: key.clone(), problem });
        }
        let lists = lists(&family)?;
        let count: usize = lists.iter().map(|(_, values)| values.len()).product();
        let runs = (0..count).map(|index| {
            let table = chosen(&shared, &lists, index);
            let train: TrainSettings = typed(&table, "family", &TrainSettings::KEYS)?;
            let name = directory_name(&train, &table, &lists)?;
            let config = RunConfig::new(data.clone(), train);
            match config.validate() {
                Ok(()) => Ok((name, config)),
                Err(problem) => Err(ConfigError::Run { name, problem: Box::new(problem) }),
            }
        });
        let plan = Self { runs: runs.collect::<Result<Vec<_>, ConfigError>>()? };
        match plan.twice() {
            Some(name) => Err(ConfigError::Family {
                key: "init_from".to_owned(),
                problem: format!("has runs of one name, so that two of the plan would be {name}; rename one of them"),
            }),
            None => Ok(plan),
        }
    }

    /// The runs of several plans, those of the first one first.
    ///
    /// # Errors
    /// [`ConfigError::SharedRun`] where two of them have runs of one name.
    pub fn joined(plans: impl IntoIterator<Item = Self>) -> Result<Self, ConfigError> {
        let joined = Self { runs: plans.into_iter().flat_map(|plan| plan.runs).collect() };
        match joined.twice() {
            Some(name) => Err(ConfigError::SharedRun { name: name.to_owned() }),
            None => Ok(joined),
        }
    }

    /// A name that several runs have.
    fn twice(&self) -> Option<&str> {
        let mut taken = HashSet::new();
        self.runs.iter().map(|(name, _)| name.as_str()).find(|name| !taken.insert(*name))
    }

    /// Directory names and settings of the runs, the keys of \[train\] varying in their order, the last one fastest.
    pub fn runs(&self) -> &[(String, RunConfig)] {
        &self.runs
    }
}

/// The lists of \[family\] in the order of the keys, if their product is a family of a sensible size.
fn lists(family: &Table) -> Result<Vec<(&'static str, Vec<Value>)>, ConfigError> {
    let mut lists = Vec::new();
    let mut count: usize = 1;
    for key in TrainSettings::KEYS {
        let Some(values) = family.get(key) else { continue };
        let values = distinct_values(key, values)?;
        count = count.saturating_mul(values.len());
        if count > LARGEST_FAMILY {
            let problem = format!("makes the family larger than {LARGEST_FAMILY} runs; list fewer values");
            return Err(ConfigError::Family { key: key.to_owned(), problem });
        }
        lists.push((key, values));
    }
    Ok(lists)
}

/// The settings of run number `index`: the values of the last list change fastest.
fn chosen(shared: &Table, lists: &[(&'static str, Vec<Value>)], index: usize) -> Table {
    let mut table = shared.clone();
    let mut left = index;
    for (key, values) in lists.iter().rev() {
        table.insert((*key).to_owned(), values[left % values.len()].clone());
        left /= values.len();
    }
    table
}

/// Fails on a text that is too long to be copied to every run.
fn check_texts(table: &Table, name: &'static str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        if let Some(length) = values.iter().filter_map(Value::as_str).map(str::len).find(|&len| len > LONGEST_TEXT) {
            return Err(ConfigError::Value {
                table: name,
                key: key.clone(),
                value: format!("a text of {length} bytes"),
                problem: format!("no name or path is longer than {LONGEST_TEXT}"),
            });
        }
    }
    Ok(())
}

/// The values of a list, each as the setting has it.
fn distinct_values(key: &str, values: &Value) -> Result<Vec<Value>, ConfigError> {
    let wrong = |problem: &str| Err(ConfigError::Family { key: key.to_owned(), problem: problem.to_owned() });
    let Some(values) = values.as_array() else { return wrong("must be a list, such as [1, 2]") };
    if values.is_empty() {
        return wrong("is an empty list; give it a value, or leave it out");
    }
    let takes_fractions = check_value::<TrainSettings>("family", key, &Value::Float(0.5)).is_ok();
    // 1 and 1.0 are one width.
    let of_setting = |value: &Value| match value.as_integer() {
        Some(whole) if takes_fractions => Value::Float(whole as f64),
        _ => value.clone(),
    };
    let values: Vec<Value> = values.iter().map(of_setting).collect();
    let mut texts: Vec<String> = values.iter().map(Value::to_string).collect();
    texts.sort_unstable();
    if texts.windows(2).any(|pair| pair[0] == pair[1]) {
        return wrong("lists a value twice");
    }
    Ok(values)
}

/// Such as `resnet14-w1-s0`, with every other setting that is listed, also where the list has one value: `resnet14-w1-s0-fraction0.25`.
/// A run keeps its name, and what it has trained, when a list grows.
///
/// # Errors
/// [`ConfigError::Family`] for a path whose end is no name, such as `runs/..`.
fn directory_name(
    train: &TrainSettings,
    table: &Table,
    lists: &[(&'static str, Vec<Value>)],
) -> Result<String, ConfigError> {
    let mut name = train.short_name();
    for (key, _) in lists.iter().filter(|(key, _)| !["depth", "width", "seed"].contains(key)) {
        let value = match &table[*key] {
            // A path: of two runs that are started from, the names tell enough.
            Value::String(path) => match Path::new(path).file_name() {
                Some(name) => name.to_string_lossy().into_owned(),
                None => {
                    let problem =
                        format!("lists {path:?}, which ends in no name; write the directory with its own name");
                    return Err(ConfigError::Family { key: (*key).to_owned(), problem });
                }
            },
            value => value.to_string(),
        };
        name.push_str(&format!("-{key}{value}"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_runs_are_the_product_of_the_lists() {
        let text =
            "[train]\nepochs = 2\n[family]\nseed = [1, 0]\ndepth = [8, 14]\nwidth = [1, 0.5]\nfraction = [1.0, 0.25]\n";
        let plan = Plan::parse(text).unwrap();
        let names: Vec<&str> = plan.runs().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 16);
        assert_eq!(
            names[..3],
            ["resnet8-w1-s1-fraction1.0", "resnet8-w1-s1-fraction0.25", "resnet8-w1-s0-fraction1.0"]
        );
        assert_eq!(names[15], "resnet14-w0.5-s0-fraction0.25");
        assert!(plan.runs().iter().all(|(_, config)| config.train.epochs == 2));
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len());
    }

    /// Otherwise the runs that are there would be trained again under other names.
    #[test]
    fn a_run_keeps_its_name_when_a_list_grows() {
        let names = |fractions: &str| {
            let plan = Plan::parse(&format!("[family]\ndepth = [8]\nfraction = [{fractions}]\n")).unwrap();
            plan.runs().iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let (before, after) = (names("0.25"), names("0.25, 1.0"));
        assert_eq!((names("1"), names("0.25, 1")), (names("1.0"), after.clone()));
        assert_eq!(before, ["resnet8-w1-s0-fraction0.25"]);
        assert_eq!(after, ["resnet8-w1-s0-fraction0.25", "resnet8-w1-s0-fraction1.0"]);
    }

    #[test]
    fn joined_plans_keep_their_order_and_share_no_run() {
        let plan = |text: &str| Plan::parse(text).unwrap();
        let (deep, small) = (plan("[family]\ndepth = [20]\nseed = [1, 0]\n"), plan("[family]\ndepth = [8]\n"));
        let joined = Plan::joined([deep.clone(), small.clone()]).unwrap();
        assert_eq!(joined.runs(), [deep.runs(), small.runs()].concat());
        let message = Plan::joined([deep, small.clone(), small]).unwrap_err().to_string();
        assert!(message.contains("resnet8-w1-s0"), "{message}");
    }

    #[test]
    fn a_family_that_no_one_can_train_is_refused_before_it_takes_memory() {
        let list = |count: usize| (0..count).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
        let text = format!("[family]\ndepth = [8]\nseed = [{}]\nepochs = [{}]\n", list(100_000), list(100_000));
        let message = Plan::parse(&text).unwrap_err().to_string();
        assert!(message.contains("10000 runs"), "{message}");
        let long = "a".repeat(4097);
        for text in
            [format!("[train]\ninit_from = \"{long}\"\n"), format!("[family]\ninit_from = [\"b\", \"{long}\"]\n")]
        {
            let message = Plan::parse(&text).unwrap_err().to_string();
            assert!(message.contains("init_from") && message.contains("4097 bytes"), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_a_plan_is_explained() {
        for (text, parts) in [
            ("[family]\ndepth = [15]\n", vec!["resnet15", "14", "20"]),
            ("[family]\ndepth = 14\n", vec!["depth", "list"]),
            ("[family]\ndepth = []\n", vec!["depth", "empty"]),
            ("[family]\nwidth = [1, 1.0]\n", vec!["width", "twice"]),
            ("[family]\ndepht = [14]\n", vec!["depht", "depth"]),
            ("[train]\nepochs = \"ten\"\n", vec!["epochs", "ten"]),
            ("[famili]\n", vec!["famili", "family"]),
            ("[family]\ninit_from = [\"a/run\", \"b/run\"]\n", vec!["init_from", "init_fromrun"]),
            ("[family]\ninit_from = [\"runs/..\"]\n", vec!["init_from", "\"runs/..\"", "no name"]),
            ("depth = \n", vec!["line 1"]),
            ("", vec!["no [family]", "depth = [14, 20]"]),
            ("[train]\nepochs = 2\n[family]\n", vec!["no [family]", "gramscope train"]),
            ("[train]\ndepth = 14\n[family]\ndepth = [8]\n", vec!["depth", "[train] too"]),
        ] {
            let message = Plan::parse(text).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{part:?} is missing from {message:?}");
            }
        }
    }
}
