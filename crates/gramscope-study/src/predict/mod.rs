//! What networks predict: accuracy with its spread, how alike predictions are, on which images and classes groups of networks
//! differ (figures 7 and 8 of Nguyen, Raghu and Kornblith 2021), from the logits that finished runs have saved.
//!
//! Runs that differ in their seed alone are a group. Everything is float64.
//!
//! - *Accuracy* of a group: mean, standard deviation (n - 1) and standard error over its runs. A group of one run has no
//!   spread: NaN.
//! - *Maps* over pairs of runs, means over the test images, p and q the two softmax distributions of an image, natural
//!   logarithms: agreement (the same class is most probable), KL(p, q) = sum p ln(p / q) with p the row's run and q the column's
//!   (not symmetric: half the sum of the map and its transpose is), Hellinger distance sqrt(1/2 sum (sqrt p - sqrt q)^2), and
//!   entropy of (p + q) / 2, on the diagonal the run's own.
//! - *Maps over pairs of groups*: within a group the mean over all ordered pairs of different runs, between two the mean over
//!   all pairs. Within a group of one run NaN.
//! - *Images*: for each, the fraction of a group's runs that are right; of two groups, and beside them of two halves of one
//!   group, which shows how much is chance. Halves have fewer runs than groups, hence more noise: where the groups lie
//!   further apart even so, they differ.
//! - *Classes*: accuracy on the images of each class, a value a run; the two groups are compared by Welch's t test, because
//!   groups of different sizes vary differently, corrected by Holm's method for the number of classes ([`crate::statistics`]).

pub mod divergences;
mod files;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use std::collections::HashSet;

use gramscope_train::data::DataName;
use gramscope_train::{Predictions, Run};
use rayon::prelude::*;

use crate::family::{self, Member};
use crate::provenance::Versions;
use crate::statistics::{Moments, cohens_d, hedges_g, holm, welch};
use crate::{Error, Result, Setting, names, tree};
use divergences::{Distributions, Likeness};
pub use files::{
    ACCURACIES, ClassDifference, Classwise, EXAMPLES_PICTURE, Group, Halves, INFO, MAPS_PICTURE, NUMBERS, PredictInfo,
};
pub use files::{CLASSES, CLASSES_PICTURE};
pub use words::sentences;

/// Below this, an adjusted p value is called significant.
pub const SIGNIFICANT: f64 = 0.05;
/// Images whose distributions are in memory at a time.
const SLAB: usize = 512;

/// What was found, and its numbers.
#[derive(Clone, Debug)]
pub struct PredictResult {
    /// Of what, and what is said in numbers of it.
    pub info: PredictInfo,
    /// Over pairs of runs.
    pub runs: Maps,
    /// Over pairs of groups.
    pub groups: Maps,
    /// The fraction of each group's runs that are right, row-major \[groups, images\].
    pub example_accuracy: Vec<f64>,
    /// The same of the two halves of [`PredictInfo::halves`], \[2, images\]; NaN without them.
    pub half_accuracy: Vec<f64>,
    /// Accuracy on the images of each class, row-major \[runs, classes\]; NaN for a class without images.
    pub class_accuracy: Vec<f64>,
}

/// Four square matrices, row-major; see the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    /// Rows, and columns.
    pub side: usize,
    /// The fraction of images of which both say the same class.
    pub agreement: Vec<f64>,
    /// Of the row's distribution from the column's, in nats.
    pub kl: Vec<f64>,
    /// From 0 to 1.
    pub hellinger: Vec<f64>,
    /// Of the mean of both distributions, in nats.
    pub entropy: Vec<f64>,
}

impl Maps {
    fn undefined(side: usize) -> Self {
        let [agreement, kl, hellinger, entropy] = std::array::from_fn(|_| vec![f64::NAN; side * side]);
        Self { side, agreement, kl, hellinger, entropy }
    }

    fn all(&self) -> [&Vec<f64>; 4] {
        [&self.agreement, &self.kl, &self.hellinger, &self.entropy]
    }

    fn all_mut(&mut self) -> [&mut Vec<f64>; 4] {
        [&mut self.agreement, &mut self.kl, &mut self.hellinger, &mut self.entropy]
    }
}

/// A run's name and predictions.
struct Predicted {
    name: String,
    predictions: Predictions,
}

/// Analyses the predictions of `runs`. `between` names the two groups that are compared; without it they are the first and the
/// last, from small to large. `progress` is told how many images of how many are done.
///
/// # Errors
/// [`Error::Incomparable`] for runs with different test images or classes, for a run whose logits are no numbers, and for
/// groups that are not there; what reading says.
pub fn predict(
    runs: &[Run],
    between: Option<[&str; 2]>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PredictResult> {
    let members = family::members(runs)?;
    family::warn_of_one_seed(&members);
    let groups = grouped(&members);
    let compared = compared(&groups, between)?;
    let networks = read(runs, &members)?;
    let Predictions { labels, classes, .. } = &networks[0].predictions;
    let (maps, correct) = compare(&networks, progress)?;
    let class_accuracy = by_class(&correct, labels, *classes);
    let accuracies: Vec<f64> = correct.iter().map(|correct| share(correct.iter().copied())).collect();
    let of_groups =
        groups.iter().map(|(name, runs)| Group::new(name, runs, &networks, &accuracies)).collect::<Vec<_>>();
    let example_accuracy: Vec<f64> = groups.iter().flat_map(|(_, runs)| of_examples(&correct, runs)).collect();
    let halves = halves(&groups, compared);
    let half_accuracy = match &halves {
        Some((_, [first, second])) => [of_examples(&correct, first), of_examples(&correct, second)].concat(),
        None => vec![f64::NAN; 2 * labels.len()],
    };
    let between = compared.map(|[a, b]| {
        let [of_a, of_b] = [a, b].map(|group| &example_accuracy[group * labels.len()..][..labels.len()]);
        Classwise {
            a: groups[a].0.clone(),
            b: groups[b].0.clone(),
            mean_absolute_difference: mean_absolute_difference(of_a, of_b),
            classes: differences([&groups[a].1, &groups[b].1], &class_accuracy, labels, &class_names(&networks)),
        }
    });
    let names = |runs: &[usize]| runs.iter().map(|&run| networks[run].name.clone()).collect();
    let (first_half, second_half) = half_accuracy.split_at(labels.len());
    let info = PredictInfo {
        runs: networks.iter().map(|network| network.name.clone()).collect(),
        groups: of_groups,
        halves: halves.map(|(group, [first, second])| Halves {
            group: groups[group].0.clone(),
            first: names(&first),
            second: names(&second),
            mean_absolute_difference: mean_absolute_difference(first_half, second_half),
        }),
        between,
        data: members[0].data.clone(),
        images: labels.len(),
        classes: *classes,
        versions: Versions::current(),
    };
    let groups = over_groups(&maps, &groups);
    Ok(PredictResult { info, runs: maps, groups, example_accuracy, half_accuracy, class_accuracy })
}

/// The names of the groups and the members in each, in their order.
fn grouped(members: &[Member]) -> Vec<(String, Vec<usize>)> {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (run, member) in members.iter().enumerate() {
        let name = member.architecture();
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, runs)) => runs.push(run),
            None => groups.push((name, vec![run])),
        }
    }
    groups
}

/// The two groups that are compared.
fn compared(groups: &[(String, Vec<usize>)], between: Option<[&str; 2]>) -> Result<Option<[usize; 2]>> {
    let Some([a, b]) = between else {
        return Ok((groups.len() > 1).then(|| [0, groups.len() - 1]));
    };
    let place = |wanted: &str| {
        groups.iter().position(|(name, _)| name == wanted).ok_or_else(|| {
            let names: Vec<_> = groups.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let problem = format!("there is no group \"{wanted}\"; the groups are {}", names.join(", "));
            Error::incomparable(problem).mended_by(&[Setting::Between])
        })
    };
    match (place(a)?, place(b)?) {
        (a, b) if a == b => {
            Err(Error::incomparable("a group is compared with another: name two").mended_by(&[Setting::Between]))
        }
        (a, b) => Ok(Some([a, b])),
    }
}

/// The predictions of all runs in the members' order, which fit together.
fn read(runs: &[Run], members: &[Member]) -> Result<Vec<Predicted>> {
    tree::check_distinct(runs)?;
    let mut taken = HashSet::new();
    let mut networks: Vec<Predicted> = Vec::new();
    for member in members {
        let run = &runs[member.place];
        if run.kept_epoch().is_some() {
            let problem =
                format!("{}: what a run predicts is kept of its end alone; name it without the epoch", run.name());
            return Err(Error::incomparable(problem));
        }
        let predictions = run.predictions()?;
        let name = names::unused(&member.name, &mut taken);
        let first = networks.first().map(|first| (&first.name, &first.predictions));
        if let Some((other, expected)) = first {
            let differs = if predictions.classes != expected.classes {
                Some(format!("{} and {} classes", expected.classes, predictions.classes))
            } else if predictions.labels.len() != expected.labels.len() {
                Some(format!("{} and {} test images", expected.labels.len(), predictions.labels.len()))
            } else if predictions.labels != expected.labels || member.data != members[0].data {
                Some("different test images".to_owned())
            } else {
                None
            };
            if let Some(what) = differs {
                let problem = format!("{other} and {name} have {what}; give runs that were tested on the same data");
                return Err(Error::incomparable(problem));
            }
        }
        if predictions.labels.is_empty() || predictions.classes == 0 {
            return Err(Error::incomparable(format!("{name} has predictions of no image")));
        }
        networks.push(Predicted { name, predictions });
    }
    if networks.is_empty() {
        return Err(Error::incomparable("there is no run whose predictions could be looked at".to_owned()));
    }
    warn_of_two_folders(runs);
    Ok(networks)
}

/// Images of two folders have equal labels where their classes have as many of them, whatever they show.
fn warn_of_two_folders(runs: &[Run]) {
    let folder = |run: &Run| Some(&run.config().data).filter(|data| data.name == DataName::Folder)?.dir.clone();
    let mut folders = runs.iter().filter_map(|run| Some((run.name(), folder(run)?)));
    let Some((name, first)) = folders.next() else { return };
    if let Some((other, second)) = folders.find(|(_, folder)| *folder != first) {
        tracing::warn!(
            "{name} was tested on the images of {}, {other} on those of {}: the comparison holds where they are the same images",
            first.display(),
            second.display()
        );
    }
}

/// Each class's name, where there are names and all runs that know them agree: those of older runs know none.
fn class_names(networks: &[Predicted]) -> Vec<Option<String>> {
    let mut known = networks.iter().map(|network| &network.predictions.class_names).filter(|names| !names.is_empty());
    match known.next().filter(|&first| known.all(|names| names == first)) {
        Some(names) => names.iter().cloned().map(Some).collect(),
        None => vec![None; networks[0].predictions.classes],
    }
}

/// The maps over all pairs of networks, and which images each gets right.
fn compare(networks: &[Predicted], progress: &mut dyn FnMut(usize, usize)) -> Result<(Maps, Vec<Vec<bool>>)> {
    let Predictions { labels, classes, .. } = &networks[0].predictions;
    let side = networks.len();
    let pairs = (0..side).flat_map(|row| (row..side).map(move |column| (row, column, Likeness::default())));
    let mut pairs: Vec<_> = pairs.collect();
    let mut correct = vec![Vec::with_capacity(labels.len()); side];
    // Slab by slab, so that distributions of all images, of many times the size of the logits, never exist at once.
    for start in (0..labels.len()).step_by(SLAB) {
        let labels = &labels[start..labels.len().min(start + SLAB)];
        let distributions = networks.par_iter().map(|Predicted { name, predictions }| {
            let logits = &predictions.logits[start * classes..][..labels.len() * classes];
            Distributions::new(logits, *classes).map_err(|image| {
                let problem = "are NaN or infinite, so it says nothing: it diverged; train it again, or leave it out";
                Error::incomparable(format!("{name}: the logits of test image {} {problem}", start + image))
            })
        });
        let distributions = distributions.collect::<Result<Vec<_>>>()?;
        for (correct, network) in correct.iter_mut().zip(&distributions) {
            correct.extend(network.decisions().iter().zip(labels).map(|(said, label)| said == label));
        }
        pairs.par_iter_mut().for_each(|(row, column, sums)| {
            sums.add(Likeness::of(&distributions[*row], &distributions[*column]));
        });
        progress(start + labels.len(), networks[0].predictions.labels.len());
    }
    let images = labels.len() as f64;
    let mut maps = Maps::undefined(side);
    for (row, column, sums) in pairs {
        let Likeness { agreement, kl, kl_back, hellinger, entropy } = sums;
        for (at, kl) in [(column * side + row, kl_back), (row * side + column, kl)] {
            for (matrix, sum) in maps.all_mut().into_iter().zip([agreement, kl, hellinger, entropy]) {
                matrix[at] = sum / images;
            }
        }
    }
    Ok((maps, correct))
}

/// The means of `maps` over the pairs of different runs of each pair of groups.
fn over_groups(maps: &Maps, groups: &[(String, Vec<usize>)]) -> Maps {
    let mut means = Maps::undefined(groups.len());
    for (mean, values) in means.all_mut().into_iter().zip(maps.all()) {
        for (row, (_, rows)) in groups.iter().enumerate() {
            for (column, (_, columns)) in groups.iter().enumerate() {
                let pairs = rows.iter().flat_map(|&x| columns.iter().map(move |&y| (x, y))).filter(|(x, y)| x != y);
                let found: Vec<f64> = pairs.map(|(x, y)| values[x * maps.side + y]).collect();
                mean[row * groups.len() + column] = found.iter().sum::<f64>() / found.len() as f64;
            }
        }
    }
    means
}

/// The fraction of true values; NaN of none.
fn share(values: impl Iterator<Item = bool>) -> f64 {
    let (count, all) = values.fold((0, 0), |(count, all), value| (count + usize::from(value), all + 1));
    count as f64 / f64::from(all)
}

/// For each image the fraction of `runs` that are right.
fn of_examples(correct: &[Vec<bool>], runs: &[usize]) -> Vec<f64> {
    (0..correct[0].len()).map(|image| share(runs.iter().map(|&run| correct[run][image]))).collect()
}

/// Accuracy on the images of each class, row-major \[runs, classes\].
fn by_class(correct: &[Vec<bool>], labels: &[u32], classes: usize) -> Vec<f64> {
    let mut counts = vec![0.0; classes];
    labels.iter().for_each(|&label| counts[label as usize] += 1.0);
    let of_run = |correct: &Vec<bool>| {
        let mut right = vec![0.0; classes];
        for (&label, _) in labels.iter().zip(correct).filter(|(_, correct)| **correct) {
            right[label as usize] += 1.0;
        }
        right.into_iter().zip(&counts).map(|(right, count)| right / count).collect::<Vec<f64>>()
    };
    correct.iter().flat_map(of_run).collect()
}

/// The accuracies of each of the classes, which may have a name, in one group against the other.
fn differences(
    groups: [&Vec<usize>; 2],
    class_accuracy: &[f64],
    labels: &[u32],
    classes: &[Option<String>],
) -> Vec<ClassDifference> {
    let of_class = |(class, name): (usize, &Option<String>)| {
        let [a, b] = groups.map(|runs| {
            Moments::of(&runs.iter().map(|&run| class_accuracy[run * classes.len() + class]).collect::<Vec<_>>())
        });
        let test = welch(&a, &b);
        ClassDifference {
            class,
            name: name.clone(),
            images: labels.iter().filter(|&&label| label as usize == class).count(),
            mean_a: a.mean,
            mean_b: b.mean,
            t: test.t,
            df: test.df,
            p: test.p,
            p_adjusted: f64::NAN,
            interval: test.interval,
            cohens_d: cohens_d(&a, &b),
            hedges_g: hedges_g(&a, &b),
        }
    };
    let mut found: Vec<_> = classes.iter().enumerate().map(of_class).collect();
    let adjusted = holm(&found.iter().map(|class| class.p).collect::<Vec<_>>());
    found.iter_mut().zip(adjusted).for_each(|(class, p)| class.p_adjusted = p);
    found
}

/// The group that is split, and its halves: the first of the compared ones with two or more runs, or the first of all. Every
/// other run goes to the other half; of an odd number the last is left out, so that both are equally noisy.
fn halves(groups: &[(String, Vec<usize>)], compared: Option<[usize; 2]>) -> Option<(usize, [Vec<usize>; 2])> {
    let candidates = compared.map_or(vec![0], |pair| pair.to_vec());
    let group = candidates.into_iter().find(|&group| groups[group].1.len() > 1)?;
    let pairs = || groups[group].1.chunks_exact(2);
    Some((group, [pairs().map(|pair| pair[0]).collect(), pairs().map(|pair| pair[1]).collect()]))
}

/// The mean over images of how far two accuracies lie apart.
fn mean_absolute_difference(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).sum::<f64>() / one.len() as f64
}
