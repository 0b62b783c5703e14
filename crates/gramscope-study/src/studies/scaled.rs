//! A study at a scale: which networks are trained on how much data.

use gramscope_cka::Estimator;
use gramscope_nn::Family;
use gramscope_train::data::{self, DataConfig, DataName};
use gramscope_train::sweep::Plan;
use gramscope_train::{RunConfig, TrainSettings};
use toml::{Table, Value};

use super::plan::{Measures, StudyPlan};
use super::scale::Scale;
use crate::{Error, Result, Setting};

/// Passes over the test images that the paper makes for CKA.
const PASSES: usize = 10;

/// A study's families and settings at a scale.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScaledStudy {
    /// The networks of all families.
    pub(crate) networks: Plan,
    /// Passes over the test images for CKA.
    pub(crate) passes: usize,
    scale: Scale,
    data: DataConfig,
}

impl ScaledStudy {
    /// `plan` at `scale`, on its own data or on `other`.
    ///
    /// # Errors
    /// [`Error::Incomparable`] for families that make no networks, that make one twice, or whose minibatch is larger than
    /// their data; [`Error::Data`] for data that cannot be read.
    pub(crate) fn new(plan: &StudyPlan, scale: Scale, other: Option<&DataConfig>) -> Result<Self> {
        let wrong = |problem: String| Error::incomparable(format!("the study {}: {problem}", plan.name));
        let data = match other {
            // As many images as the plan asks for, where it does.
            Some(other) => DataConfig {
                train_images: plan.data.train_images.or(other.train_images),
                test_images: plan.data.test_images.or(other.test_images),
                ..other.clone()
            },
            None => plan.data.clone(),
        };
        let data = scaled_data(&data, scale)?;
        let unwritable = |reason: toml::ser::Error| wrong(reason.to_string());
        let data_table = Table::try_from(&data).map_err(unwritable)?;
        let mut families = Vec::new();
        let networks = |train: Table, family: Table| {
            let tables = [("data", data_table.clone()), ("train", train), ("family", family)];
            let file: Table = tables.into_iter().map(|(name, table)| (name.to_owned(), Value::Table(table))).collect();
            let text = toml::to_string(&file).map_err(unwritable)?;
            Plan::parse(&text).map_err(|problem| wrong(problem.to_string()))
        };
        for family in &plan.family {
            // What is wrong with a plan is so at any scale, whatever a smaller one makes of it.
            networks(plan.train.clone(), family.clone())?;
            let kind = network_family(&plan.train, family);
            let mut shared = scaled_train(&plan.train, kind, scale);
            shared.retain(|key, _| !family.contains_key(key));
            families.push(networks(shared, scaled_family(family, kind, scale, plan.least_seeds))?);
        }
        let networks = Plan::joined(families).map_err(|problem| wrong(problem.to_string()))?;
        let study = Self { networks, passes: scale.share_of(PASSES), scale, data };
        study.check_minibatches().map_err(|problem| wrong(problem).mended_by(&[Setting::Scale]))?;
        study.check_measures(&plan.measure).map_err(|problem| wrong(problem.to_string()))?;
        Ok(study)
    }

    /// Every network of every family: the name of its directory and its settings.
    pub(crate) fn runs(&self) -> &[(String, RunConfig)] {
        self.networks.runs()
    }

    /// The data, with as many images as this scale has.
    pub(crate) fn data(&self) -> &DataConfig {
        &self.data
    }

    /// Fails where a network would have no whole minibatch to learn from.
    fn check_minibatches(&self) -> std::result::Result<(), String> {
        for (name, config) in self.runs() {
            let images = self.data.train_images.unwrap_or(usize::MAX) as f64 * config.train.fraction;
            if images < config.train.batch_size as f64 {
                let mend = match self.scale {
                    Scale::FULL => "lower batch_size, or train on more images".to_owned(),
                    scale => format!("choose a larger scale than {}", scale.value()),
                };
                let batch = config.train.batch_size;
                return Err(format!("{name} would train on {images:.0} images in minibatches of {batch}; {mend}"));
            }
        }
        Ok(())
    }

    /// Fails where something cannot be measured of these networks, so that this is known before they are trained.
    fn check_measures(&self, measures: &Measures) -> Result<()> {
        let first = |cannot: &dyn Fn(&TrainSettings) -> bool| {
            self.runs().iter().find(|(_, config)| cannot(&config.train)).map(|(name, _)| name)
        };
        if let Some(pairs) = &measures.cka {
            let settings: Vec<&TrainSettings> = self.runs().iter().map(|(_, config)| &config.train).collect();
            pairs.among_settings(&settings)?;
        }
        let problem = if measures.epochs
            && let Some(name) = first(&|train| train.checkpoint_every.is_none_or(|every| every >= train.epochs))
        {
            format!(
                "epochs in [measure]: {name} would keep no epoch before its last; set a checkpoint_every below epochs"
            )
        } else if measures.ablate
            && let Some(name) = first(&|train| !train.residual)
        {
            format!(
                "ablate in [measure]: without its convolutions nothing would be left of a block of {name}, which has no residual \
                     connections"
            )
        } else if let (Some(images), least) = (self.data.test_images, Estimator::Unbiased.minimum_examples())
            && images < least
            && (measures.cka.is_some() || measures.epochs)
        {
            format!("CKA of {images} test images: the unbiased estimator needs at least {least}")
        } else {
            return Ok(());
        };
        Err(Error::incomparable(problem))
    }

    /// How large it is, in words.
    pub(crate) fn describe(&self) -> String {
        let range = |of: fn(&TrainSettings) -> usize| {
            let values = self.runs().iter().map(|(_, config)| of(&config.train));
            match (values.clone().min().unwrap_or(0), values.max().unwrap_or(0)) {
                (least, most) if least == most => most.to_string(),
                (least, most) => format!("{least} to {most}"),
            }
        };
        let shrunk = match self.scale {
            Scale::FULL => String::new(),
            scale => format!("; depths and widths {:.2} times the paper's", scale.side()),
        };
        format!(
            "scale {}: {}, {} training images, {} epochs, minibatches of {}{shrunk}",
            self.scale.value(),
            self.data.name,
            self.data.train_images.map_or("all".to_owned(), |images| images.to_string()),
            range(|train| train.epochs),
            range(|train| train.batch_size),
        )
    }
}

/// The data with a share of its images; both numbers are those of the data itself where the configuration has none.
fn scaled_data(config: &DataConfig, scale: Scale) -> Result<DataConfig> {
    let config = config.resolved()?;
    let (train, test) = match (config.train_images, config.test_images, config.name) {
        (Some(train), Some(test), _) => (train, test),
        (train, test, DataName::Cifar10 | DataName::Cifar100) => (train.unwrap_or(50_000), test.unwrap_or(10_000)),
        (train, test, _) => {
            let found = data::load(&config)?;
            (train.unwrap_or(found.train.len()), test.unwrap_or(found.test.len()))
        }
    };
    let (train_images, test_images) = (Some(scale.share_of(train)), Some(scale.test_images(test)));
    Ok(DataConfig { train_images, test_images, ..config })
}

/// The settings of \[train\]; those that shrink are put there even where the plan leaves them at their defaults.
fn scaled_train(train: &Table, networks: Family, scale: Scale) -> Table {
    let default = TrainSettings::default();
    let mut table = train.clone();
    for (key, default) in [("epochs", default.epochs), ("batch_size", default.batch_size), ("depth", default.depth)] {
        table.entry(key).or_insert(integer(default));
    }
    table.entry("width").or_insert(Value::Float(default.width));
    for (key, value) in &mut table {
        *value = scaled(key, value, networks, scale);
    }
    table
}

/// The family of networks that the lists of a \[family\] say, or \[train\]; of several in one list the first.
fn network_family(train: &Table, family: &Table) -> Family {
    let listed = family.get("family").and_then(|values| values.get(0));
    listed.or(train.get("family")).and_then(|name| name.clone().try_into().ok()).unwrap_or_default()
}

/// The lists of \[family\]; values that become equal stand there once.
fn scaled_family(family: &Table, networks: Family, scale: Scale, least_seeds: usize) -> Table {
    let shrink = |(key, value): (&String, &Value)| {
        let Value::Array(values) = value else { return (key.clone(), value.clone()) };
        let mut kept: Vec<Value> = Vec::new();
        for value in values {
            let value = scaled(key, value, networks, scale);
            if !kept.contains(&value) {
                kept.push(value);
            }
        }
        if key == "seed" {
            kept.truncate(scale.seeds(values.len(), least_seeds));
        }
        (key.clone(), Value::Array(kept))
    };
    family.iter().map(shrink).collect()
}

/// The value of a setting at a scale; one of the wrong kind stays, to be refused by name.
fn scaled(key: &str, value: &Value, networks: Family, scale: Scale) -> Value {
    let count = value.as_integer().and_then(|count| usize::try_from(count).ok());
    match (key, count) {
        ("epochs" | "checkpoint_every", Some(count)) => integer(scale.share_of(count)),
        ("batch_size", Some(count)) => integer(scale.batch_size(count)),
        ("depth", Some(depth)) => integer(scale.depth(networks, depth)),
        ("width", _) => {
            let width = value.as_float().or(value.as_integer().map(|width| width as f64));
            width.map_or(value.clone(), |width| Value::Float(scale.width(width)))
        }
        _ => value.clone(),
    }
}

fn integer(count: usize) -> Value {
    i64::try_from(count).map_or(Value::String(count.to_string()), Value::Integer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn plan(text: &str) -> StudyPlan {
        toml::from_str(&format!("title = \"t\"\n{text}[measure]\ncka = \"within\"\n")).unwrap()
    }

    fn study(text: &str, scale: f64) -> Result<ScaledStudy> {
        ScaledStudy::new(&plan(text), Scale::new(scale).unwrap(), None)
    }

    #[test]
    fn at_full_size_a_study_is_what_it_says() {
        let text = "[data]\nname = \"cifar10\"\n[[family]]\ndepth = [14, 38]\nwidth = [1, 10]\nseed = [0, 1, 2]\n";
        let study = study(text, 1.0).unwrap();
        assert_eq!(study.runs().len(), 12);
        assert!(study.runs().iter().all(|(_, config)| config.train.epochs == 300 && config.train.batch_size == 128));
        assert_eq!((study.data.train_images, study.data.test_images, study.passes), (Some(50_000), Some(10_000), 10));
        assert!(!study.describe().contains("times"), "{}", study.describe());
    }

    /// Whether the family is named for all or in one list of networks, it says how depths shrink: 6 blocks to 2.
    #[test]
    fn bottlenecks_shrink_by_their_own_rule() {
        for text in [
            "[train]\nfamily = \"imagenet\"\ndepth = 50\n[[family]]\nseed = [0]\n",
            "[train]\ndepth = 50\n[[family]]\nfamily = [\"imagenet\"]\nseed = [0]\n",
            "[train]\nfamily = \"imagenet\"\n[[family]]\ndepth = [50]\nseed = [0]\n",
        ] {
            let study = study(&format!("[data]\nname = \"cifar10\"\n{text}"), 0.05).unwrap();
            assert_eq!(study.runs()[0].1.train.depth, 38, "{text}");
        }
    }

    #[test]
    fn a_smaller_one_has_less_of_everything() {
        let text = "[data]\nname = \"cifar10\"\n[[family]]\ndepth = [32, 38, 164]\nwidth = [1]\nseed = [0, 1, 2]\n";
        let study = study(text, 0.05).unwrap();
        let names: Vec<&str> = study.runs().iter().map(|(name, _)| name.as_str()).collect();
        // Two depths become one, and two of the three seeds stay.
        assert_eq!(names, ["resnet14-w0.25-s0", "resnet14-w0.25-s1", "resnet62-w0.25-s0", "resnet62-w0.25-s1"]);
        assert_eq!((study.data.train_images, study.data.test_images, study.passes), (Some(2500), Some(1024), 1));
        let (_, config) = &study.runs()[0];
        assert_eq!((config.train.epochs, config.train.batch_size), (15, 32));
        let said = study.describe();
        for part in ["scale 0.05", "cifar10", "2500 training images", "15 epochs", "of 32", "0.37 times"] {
            assert!(said.contains(part), "{part:?} is missing from {said:?}");
        }
    }

    #[test]
    fn families_that_make_no_study_are_refused() {
        let message = |text: &str, scale| study(text, scale).unwrap_err().to_string();
        assert!(message("[[family]]\ndepth = [15]\n", 0.1).contains("resnet15"));
        assert!(message("[[family]]\ndepth = [8]\n[[family]]\ndepth = [8, 14]\n", 1.0).contains("resnet8-w1-s0"));
        assert!(message("[[family]]\ndepth = [8]\nfraction = [1, 0.01]\n", 0.05).contains("a larger scale"));
        assert!(message("[[family]]\ndepht = [8]\n", 1.0).contains("depht"));
    }
}
