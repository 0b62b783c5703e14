//! A family of runs: trained as a whole, and as its pictures, its report and its findings look at it, ordered and with what
//! tells its members apart.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gramscope_nn::{Backend, Processor};
use gramscope_train::data::DataName;
use gramscope_train::sweep::{self, Plan, sweep};
use gramscope_train::{EpochMetrics, Run, TrainSettings};
use serde_json::{Map, Value, json};

use crate::pair::PairInfo;
use crate::{Error, Result, plot};

/// Trains what `plan` lists and is not finished yet, each run below `dir`, and draws the family; returns the runs in the plan's order.
///
/// # Errors
/// What [`sweep`] says; a run that failed, after the others have been trained, or that another process is training.
pub(crate) fn train(
    plan: &Plan,
    dir: &Path,
    processors: &[Processor],
    stop: &AtomicBool,
    progress: &mut sweep::Progress<'_>,
) -> Result<Vec<Run>> {
    let summary = sweep(plan, dir, processors, stop, progress)?;
    if let Some((name, reason)) = summary.first_failure() {
        return Err(Error::Untrained { run: name.to_owned(), reason: reason.clone() });
    }
    if let Some(name) = summary.first_elsewhere() {
        let problem = format!("{name} is being trained by another process; wait until it ends, or stop it");
        return Err(Error::incomparable(problem));
    }
    let runs = plan.runs().iter().map(|(name, _)| Run::open(&dir.join(name))).collect::<Result<Vec<_>, _>>()?;
    plot::family_pictures(dir, &runs);
    Ok(runs)
}

/// A run with its place in the family.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its directory,
    pub(crate) dir: PathBuf,
    /// and what that is called.
    pub(crate) name: String,
    /// Where it was among the runs that it was found in.
    pub(crate) place: usize,
    /// Name of its data set.
    pub(crate) data: String,
    /// How it was trained.
    pub(crate) settings: TrainSettings,
    /// What trained it.
    pub(crate) backend: Backend,
    /// The settings beside depth, width and seed in which the family differs, as this run has them ("fraction 0.1"); empty
    /// where there are none.
    pub(crate) variant: String,
    /// What happened in its epochs.
    pub(crate) epochs: Vec<EpochMetrics>,
}

impl Member {
    /// What all seeds of it share, for reading: "depth 14, width 1" and the variant.
    pub(crate) fn architecture(&self) -> String {
        let TrainSettings { depth, width, .. } = self.settings;
        let separator = if self.variant.is_empty() { "" } else { ", " };
        format!("depth {depth}, width {width}{separator}{}", self.variant)
    }
}

/// How the two models of a result are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relation {
    /// They are one model.
    Within,
    /// They are runs that differ in their seed alone.
    Seeds,
    /// They differ in more, or it is not known in what.
    Across,
}

/// How the models of `info` are related, as far as the members tell. A name that several members have tells nothing.
pub(crate) fn relation(members: &[Member], info: &PairInfo) -> Relation {
    if info.model_x == info.model_y {
        return Relation::Within;
    }
    match (named(members, &info.model_x), named(members, &info.model_y)) {
        (Some(x), Some(y)) if (&x.data, x.architecture()) == (&y.data, y.architecture()) => Relation::Seeds,
        _ => Relation::Across,
    }
}

/// The member of this name, if there is exactly one.
pub(crate) fn named<'a>(members: &'a [Member], name: &str) -> Option<&'a Member> {
    let mut found = members.iter().filter(|member| member.name == name);
    found.next().filter(|_| found.next().is_none())
}

/// The runs from the smallest to the largest: by data, depth, width, variant, seed, name.
///
/// # Errors
/// Metrics that cannot be read.
pub(crate) fn members(runs: &[Run]) -> Result<Vec<Member>> {
    let mut members = in_order_of(runs)?;
    members.sort_by(order);
    Ok(members)
}

/// Warns of two runs that have their seed in common with everything else: a spread over seeds knows nothing of that.
pub(crate) fn warn_of_one_seed(members: &[Member]) {
    let made = |member: &Member| (member.data.clone(), member.architecture(), member.settings.seed);
    for (place, member) in members.iter().enumerate() {
        if let Some(other) = members[..place].iter().find(|other| made(other) == made(member)) {
            let (one, other) = (&other.name, &member.name);
            tracing::warn!(
                "{one} and {other} have the same seed and the same settings, and count as two seeds all the same"
            );
            return;
        }
    }
}

/// The runs in their own order.
///
/// # Errors
/// Metrics that cannot be read.
pub(crate) fn in_order_of(runs: &[Run]) -> Result<Vec<Member>> {
    let tables = runs.iter().map(settings_table).collect::<Result<Vec<_>>>()?;
    let member = |(place, (run, variant)): (usize, (&Run, String))| {
        let config = run.config();
        Ok(Member {
            dir: run.dir().to_owned(),
            name: run.name(),
            place,
            data: config.data.name.to_string(),
            settings: config.train.clone(),
            backend: config.backend,
            variant,
            epochs: run.metrics()?,
        })
    };
    runs.iter().zip(variants(&tables)).enumerate().map(member).collect()
}

fn order(a: &Member, b: &Member) -> Ordering {
    let (x, y) = (&a.settings, &b.settings);
    (a.data.cmp(&b.data))
        .then(x.depth.cmp(&y.depth))
        .then(x.width.total_cmp(&y.width))
        .then_with(|| by_numbers(&a.variant, &b.variant))
        .then(x.seed.cmp(&y.seed))
        .then(a.name.cmp(&b.name))
}

/// Word by word, numbers by their size: "train images 40" comes before "train images 100".
fn by_numbers(a: &str, b: &str) -> Ordering {
    let number = |word: &str| word.trim_end_matches(',').parse::<f64>().ok();
    let word = |(a, b): (&str, &str)| match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    };
    let (mut first, mut second) = (a.split(' '), b.split(' '));
    let differing = first.by_ref().zip(second.by_ref()).map(word).find(|order| order.is_ne());
    differing.unwrap_or_else(|| a.cmp(b))
}

/// The settings that can make two runs of equal depth, width and seed differ.
fn settings_table(run: &Run) -> Result<Map<String, Value>> {
    let unwritable = |reason: serde_json::Error| Error::incomparable(format!("settings of {}: {reason}", run.name()));
    let mut table = table(&run.config().train).map_err(unwritable)?;
    table.insert("epoch".to_owned(), run.kept_epoch().into());
    let data = &run.config().data;
    table.insert("data".to_owned(), data.name.as_str().into());
    table.insert("train_images".to_owned(), data.train_images.into());
    table.insert("image_side".to_owned(), data.image_side.into());
    // A data set that has a name is the same wherever it lies.
    let dir = data.dir.as_deref().filter(|_| data.name == DataName::Folder);
    table.insert("dir".to_owned(), dir.map(|dir| dir.to_string_lossy()).into());
    table.insert("backend".to_owned(), run.config().backend.to_string().into());
    Ok(table)
}

/// How a run was trained, beside depth, width, seed and what has no part in its weights.
fn table(settings: &TrainSettings) -> serde_json::Result<Map<String, Value>> {
    // What a config.toml leaves out where it says nothing.
    let said = json!({
        "family": settings.family,
        "shake_shake": settings.shake_shake,
        "colour_distortion": settings.colour_distortion,
        "random_labels": settings.random_labels,
        "first_pc_penalty": settings.first_pc_penalty,
        "first_pc_threshold": settings.first_pc_threshold,
    });
    let mut table = Map::new();
    for part in [said, serde_json::to_value(settings)?] {
        table.extend(serde_json::from_value::<Map<String, Value>>(part)?);
    }
    for key in ["depth", "width", "seed", "checkpoint_every"] {
        table.remove(key);
    }
    Ok(table)
}

/// For each table, the keys whose values are not the same in all of them, with its own values.
fn variants(tables: &[Map<String, Value>]) -> Vec<String> {
    let Some(first) = tables.first() else { return Vec::new() };
    // A key that the first lacks may be all that tells another apart.
    let keys: BTreeSet<&String> = tables.iter().flat_map(Map::keys).collect();
    let differing: Vec<&String> =
        keys.into_iter().filter(|key| tables.iter().any(|table| table.get(*key) != first.get(*key))).collect();
    let describe = |table: &Map<String, Value>| {
        let parts = differing.iter().map(|key| {
            let value = match table.get(*key) {
                // As f64, so that 1.0 reads "1".
                Some(Value::Number(number)) => number.as_f64().map_or(number.to_string(), |value| value.to_string()),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => "not set".to_owned(),
                Some(other) => other.to_string(),
            };
            format!("{} {value}", key.replace('_', " "))
        });
        parts.collect::<Vec<_>>().join(", ")
    };
    tables.iter().map(describe).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use gramscope_nn::Family;

    use super::*;
    use crate::pair::tests::made;

    /// A made member, trained for two epochs to these accuracies.
    pub(crate) fn member(name: &str, (depth, width, seed): (usize, f64, u64), (train, test): (f64, f64)) -> Member {
        let epoch = |epoch| EpochMetrics {
            epoch,
            learning_rate: 0.01,
            train_loss: 1.0,
            train_accuracy: train,
            test_loss: 1.5,
            test_accuracy: test,
            images_per_second: 100.0,
            seconds: 2.0,
            gpu: None,
        };
        Member {
            name: name.to_owned(),
            dir: PathBuf::from(name),
            place: 0,
            data: "builtin".to_owned(),
            settings: TrainSettings { depth, width, seed, ..TrainSettings::default() },
            backend: Backend::Cpu,
            variant: String::new(),
            epochs: vec![epoch(1), epoch(2)],
        }
    }

    fn read(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    /// Settings of which a config.toml without them says nothing were not seen where the first run was without.
    #[test]
    fn every_setting_tells_two_runs_apart_whichever_comes_first() {
        let usual = TrainSettings::default();
        // Every field, so that a new one has its place here.
        let other = TrainSettings {
            family: Family::ImageNet,
            depth: 50,
            width: 2.0,
            residual: false,
            shake_shake: true,
            seed: 1,
            epochs: 1,
            batch_size: 1,
            learning_rate: 0.5,
            momentum: 0.5,
            weight_decay: 0.5,
            fraction: 0.5,
            crop_padding: 1,
            flip: false,
            colour_distortion: 0.5,
            random_labels: true,
            init_from: Some("run".into()),
            init_stages: Some(1),
            first_pc_penalty: 0.5,
            first_pc_threshold: 0.5,
            checkpoint_every: Some(1),
        };
        let keys = serde_json::to_value(&other).unwrap();
        let keys: Vec<_> = keys
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| !["depth", "width", "seed", "checkpoint_every"].contains(&key.as_str()))
            .map(|key| key.replace('_', " "))
            .collect();
        assert_eq!(keys.len(), 17);
        for order in [[&usual, &other], [&other, &usual]] {
            let found = variants(&order.map(|settings| table(settings).unwrap()));
            let named = |variant: &str| {
                let parts = variant.split(", ").map(|part| part.rsplit_once(' ').unwrap().0.trim_end_matches(" not"));
                parts.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(found.iter().map(|variant| named(variant)).collect::<Vec<_>>(), [keys.clone(), keys.clone()]);
            let at = |settings| order.iter().position(|&one| one == settings).unwrap();
            for (settings, said) in [
                (&usual, ["family cifar", "shake shake false", "init from not set"]),
                (&other, ["family imagenet", "shake shake true", "init from run"]),
            ] {
                for said in said {
                    assert!(found[at(settings)].contains(said), "{said:?} is missing from {:?}", found[at(settings)]);
                }
            }
        }
    }

    #[test]
    fn variants_name_what_differs_and_nothing_else() {
        let tables = [
            read(r#"{"batch_size": 32, "fraction": 1.0, "residual": true, "train_images": null, "data": "builtin"}"#),
            read(r#"{"batch_size": 32, "fraction": 0.1, "residual": false, "train_images": 7, "data": "cifar10"}"#),
        ];
        let [first, second] = variants(&tables).try_into().unwrap();
        for part in ["fraction 1", "residual true", "train images not set", "data builtin"] {
            assert!(first.split(", ").any(|found| found == part), "{part:?} is missing from {first:?}");
        }
        for part in ["fraction 0.1", "residual false", "train images 7", "data cifar10"] {
            assert!(second.split(", ").any(|found| found == part), "{part:?} is missing from {second:?}");
        }
        assert!(!first.contains("batch"));
        assert_eq!(variants(&tables[..1]), [""]);
        assert!(variants(&[]).is_empty());
    }

    #[test]
    fn members_go_from_small_to_large() {
        let mut members = [
            member("resnet14-w3-s0", (14, 3.0, 0), (1.0, 1.0)),
            member("resnet8-w1-s1", (8, 1.0, 1), (1.0, 1.0)),
            member("resnet14-w0.5-s0", (14, 0.5, 0), (1.0, 1.0)),
            member("resnet8-w1-s0", (8, 1.0, 0), (1.0, 1.0)),
        ];
        members.sort_by(order);
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["resnet8-w1-s0", "resnet8-w1-s1", "resnet14-w0.5-s0", "resnet14-w3-s0"]);
        let mut variants = ["train images 100, dir b", "train images 40", "train images 100, dir a", "fraction 1"];
        variants.sort_by(|a, b| by_numbers(a, b));
        assert_eq!(variants, ["fraction 1", "train images 40", "train images 100, dir a", "train images 100, dir b"]);
        assert_eq!(members[2].architecture(), "depth 14, width 0.5");
        members[2].variant = "fraction 0.1".to_owned();
        assert_eq!(members[2].architecture(), "depth 14, width 0.5, fraction 0.1");
    }

    #[test]
    fn relations_are_told_by_the_members() {
        let mut members: Vec<_> = [
            ("a", (8, 1.0, 0)),
            ("b", (8, 1.0, 1)),
            ("c", (14, 1.0, 1)),
            ("twice", (8, 1.0, 2)),
            ("twice", (8, 1.0, 3)),
        ]
        .map(|(name, settings)| member(name, settings, (1.0, 1.0)))
        .to_vec();
        let of = |members: &[Member], x, y| relation(members, &made(x, y).info);
        assert_eq!(of(&members, "a", "a"), Relation::Within);
        assert_eq!(of(&members, "a", "b"), Relation::Seeds);
        for (x, y) in [("a", "c"), ("a", "unknown"), ("a", "twice"), ("unknown", "other")] {
            assert_eq!(of(&members, x, y), Relation::Across, "{x} {y}");
        }
        members[1].variant = "fraction 0.1".to_owned();
        assert_eq!(of(&members, "a", "b"), Relation::Across);
    }
}
