//! What a comparison leaves while it is at work, so that the same one, begun again after an interruption, goes on from there.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, pod_collect_to_vec};
use gramscope_cka::{Comparison, LayerSum, Options, Totals};
use gramscope_train::digest::hexadecimal;
use gramscope_train::sealed::{self, SealedFile, Stored};
use md5::{Digest, Md5};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::{Batches, in_whole};
use crate::provenance::{ShuffledPasses, Versions};
use crate::{Error, Result, saved};

/// What the file's name begins and ends with; between them is a digest of what is compared, so that comparisons share a directory.
const NAME: [&str; 2] = ["unfinished-", ".safetensors"];
const KIND: &str = "unfinished comparison";

/// Sums are written after so much work.
const EVERY: Duration = Duration::from_secs(60);
/// Where writing them takes longer than this, as many times more seldom: those of thousands of layers are large.
const QUICK: Duration = Duration::from_secs(3);

/// Bits of what is stored of a layer's state.
const HAS_UNIT: u8 = 1;
const IS_UNDEFINED: u8 = 2;

/// Where the sums of a comparison lie while it is at work.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The directory, that of the results; it is made with the first sums.
    dir: PathBuf,
    /// How long the comparison is at work before they are written again, where writing takes no more than three seconds; where it takes
    /// longer, as many times as long.
    every: Duration,
    /// The file, once it is known to be there.
    file: Arc<OnceLock<PathBuf>>,
}

impl Unfinished {
    /// In `dir`, every minute.
    pub fn within(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), every: EVERY, file: Arc::default() }
    }

    /// In `dir`, after every batch.
    #[cfg(test)]
    pub(crate) fn always(dir: &Path) -> Self {
        Self { every: Duration::ZERO, ..Self::within(dir) }
    }

    /// Removes those that a comparison has left or gone on from: once its results are written, nobody needs them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self) -> Result<()> {
        let Some(file) = self.file.get() else { return Ok(()) };
        match fs::remove_file(file) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", file)(reason)),
            _ => Ok(()),
        }
    }

    /// Whether sums of some comparison lie there.
    fn holds_any(&self) -> bool {
        let name = |entry: io::Result<fs::DirEntry>| Some(entry.ok()?.file_name().to_string_lossy().into_owned());
        let Ok(entries) = fs::read_dir(&self.dir) else { return false };
        entries.filter_map(name).any(|name| name.starts_with(NAME[0]) && name.ends_with(NAME[1]))
    }
}

/// What is compared with what, and how: all that the sums depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    /// A digest of each network, or what tells a file from its next version.
    pub(super) models: Vec<String>,
    /// The layers of each.
    pub(super) layers: Vec<Vec<String>>,
    pub(super) pairs: Vec<(usize, usize)>,
    pub(super) how: How,
    /// A digest of the images that are fed, in the order of the data; none where files are read.
    pub(super) images: Option<String>,
    pub(super) batches: BatchesTaken,
    pub(super) versions: Versions,
}

/// How layers are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct How {
    estimator: String,
    kernel: String,
    gram: String,
    normalised_examples: bool,
}

impl From<Options> for How {
    fn from(Options { estimator, kernel, gram, normalise_examples }: Options) -> Self {
        Self {
            estimator: estimator.to_string(),
            kernel: kernel.to_string(),
            gram: gram.to_string(),
            normalised_examples: normalise_examples,
        }
    }
}

/// Which minibatches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BatchesTaken {
    /// Examples that they are cut from, those that are in none included: an order is one of all.
    examples: usize,
    of_pass: Vec<Range<usize>>,
    /// None where they are those of a file's order, once.
    shuffled: Option<ShuffledPasses>,
}

impl BatchesTaken {
    pub(super) fn new(examples: usize, batches: &Batches, shuffled: Option<ShuffledPasses>) -> Self {
        Self { examples, of_pass: batches.ranges.clone(), shuffled }
    }

    /// How many there are in all passes.
    fn count(&self) -> usize {
        self.of_pass.len() * self.shuffled.map_or(1, |shuffled| shuffled.passes)
    }
}

impl Task {
    /// The name of the file of its sums.
    fn file_name(&self) -> String {
        let text = serde_json::to_vec(self).expect("numbers and text can always be written");
        let digest = hexadecimal(Md5::new_with_prefix(text));
        format!("{}{}{}", NAME[0], &digest[..12], NAME[1])
    }
}

/// What the file says of itself.
#[derive(Serialize, Deserialize)]
struct About {
    batches: usize,
    task: Task,
}

/// Keeps the sums of a comparison at work.
pub(super) struct Keeper<'a> {
    place: Option<&'a Unfinished>,
    /// What is compared, which takes a while to say.
    task: OnceCell<Task>,
    said: Box<dyn Fn() -> Result<Task> + 'a>,
    due: Instant,
    /// Whether they could not be written the last time, which has been said then.
    failed: bool,
}

impl<'a> Keeper<'a> {
    /// Of a comparison whose sums lie at `place`, or nowhere.
    pub(super) fn new(place: Option<&'a Unfinished>, task: impl Fn() -> Result<Task> + 'a) -> Self {
        let due = Instant::now() + place.map_or(EVERY, |place| place.every);
        Self { place, task: OnceCell::new(), said: Box::new(task), due, failed: false }
    }

    fn task(&self) -> Result<&Task> {
        match self.task.get() {
            Some(task) => Ok(task),
            None => (self.said)().map(|task| self.task.get_or_init(|| task)),
        }
    }

    /// Has `comparison` go on from the sums that an earlier one of the same left. Damaged ones are named in a warning and passed over.
    ///
    /// # Errors
    /// What saying what is compared may say; on a GPU, what its driver says.
    pub(super) fn take_up(&self, comparison: &mut Comparison) -> Result<()> {
        let Some(place) = self.place.filter(|place| place.holds_any()) else { return Ok(()) };
        let path = place.dir.join(self.task()?.file_name());
        if !path.exists() {
            return Ok(());
        }
        let damage = match read(&path, self.task()?).map(|totals| comparison.go_on_from(totals)) {
            Ok(Ok(())) => None,
            Ok(Err(reason @ gramscope_cka::Error::OtherTotals)) => Some(format!("{}: {reason}", path.display())),
            Ok(Err(reason)) => return Err(in_whole(reason)),
            Err(reason) => Some(reason.to_string()),
        };
        if let Some(damage) = damage {
            tracing::warn!("{damage}; the comparison begins anew");
        }
        place.file.get_or_init(|| path);
        Ok(())
    }

    /// Writes the sums of `comparison`, of which a batch has just ended, where it is time to. What stands in the way of that is named in
    /// a warning, the first time: results may still be written.
    ///
    /// # Errors
    /// What of its last batch only shows now; what saying what is compared may say.
    pub(super) fn batch_ended(
        &mut self,
        comparison: &mut Comparison,
        in_models: impl FnOnce(gramscope_cka::Error) -> Error,
    ) -> Result<()> {
        let Some(place) = self.place.filter(|_| Instant::now() >= self.due) else { return Ok(()) };
        let task = self.task()?;
        let path = place.file.get_or_init(|| place.dir.join(task.file_name()));
        let begun = Instant::now();
        let totals = comparison.totals().map_err(in_models)?;
        let written = write(path, task, &totals);
        if let Err(reason) = &written
            && !self.failed
        {
            tracing::warn!("an interruption would cost what has been compared: {reason}");
        }
        self.failed = written.is_err();
        let slow = begun.elapsed().div_duration_f64(QUICK).max(1.0);
        self.due = Instant::now() + place.every.mul_f64(slow);
        Ok(())
    }
}

/// Replaces the sums that lie at `path`.
fn write(path: &Path, task: &Task, totals: &Totals) -> Result<()> {
    saved::prepare(path.parent().unwrap_or(Path::new(".")))?;
    let sums = || totals.layers.iter().flatten();
    let own: Vec<f64> = sums().map(|sum| sum.own).collect();
    let units: Vec<i32> = sums().map(|sum| sum.unit.unwrap_or(0)).collect();
    let states: Vec<u8> = sums().map(state).collect();
    let names: Vec<String> = (0..totals.pairs.len()).map(pair_name).collect();
    let pairs = iter::zip(&names, iter::zip(&task.pairs, &totals.pairs)).map(|(name, (&(x, y), values))| {
        let shape = [x, y].map(|model| totals.layers[model].len()).to_vec();
        (name.as_str(), Dtype::F64, shape, cast_slice(values))
    });
    let layers = own.len();
    let tensors: Vec<Stored<'_>> = pairs
        .chain([
            ("own", Dtype::F64, vec![layers], cast_slice(&own)),
            ("units", Dtype::I32, vec![layers], cast_slice(&units)),
            ("states", Dtype::U8, vec![layers], states.as_slice()),
        ])
        .collect();
    let about = About { batches: totals.batches, task: task.clone() };
    Ok(sealed::write(path, KIND, &about, &tensors)?)
}

fn state(sum: &LayerSum) -> u8 {
    u8::from(sum.unit.is_some()) * HAS_UNIT + u8::from(sum.undefined) * IS_UNDEFINED
}

/// What the sums of a pair of models are called.
fn pair_name(pair: usize) -> String {
    format!("pair{pair}")
}

/// Reads what [`write`] wrote of the same `task`.
fn read(path: &Path, task: &Task) -> Result<Totals> {
    let (about, file): (About, SealedFile) = sealed::open(path, KIND)?;
    if about.task != *task || about.batches > task.batches.count() {
        return Err(Error::file(path, "it holds the sums of another comparison"));
    }
    let layers: usize = task.layers.iter().map(Vec::len).sum();
    let bytes = |name: &str, length: usize| {
        let wrong = || Error::file(path, format!("it has no {name}, or another than was written"));
        let tensor = file.tensors().get(name).ok_or_else(wrong)?;
        let bytes = file.read(tensor).map_err(Error::io("read", path))?;
        if bytes.len() == length { Ok(bytes) } else { Err(wrong()) }
    };
    let own: Vec<f64> = pod_collect_to_vec(&bytes("own", layers * size_of::<f64>())?);
    let units: Vec<i32> = pod_collect_to_vec(&bytes("units", layers * size_of::<i32>())?);
    let states = bytes("states", layers)?;
    let mut sums = iter::zip(own, iter::zip(units, states)).map(|(own, (unit, state))| LayerSum {
        unit: (state & HAS_UNIT != 0).then_some(unit),
        own,
        undefined: state & IS_UNDEFINED != 0,
    });
    let of_models = task.layers.iter().map(|layers| sums.by_ref().take(layers.len()).collect()).collect();
    let pairs = task.pairs.iter().enumerate().map(|(pair, &(x, y))| {
        let entries = [x, y].map(|model| task.layers[model].len());
        Ok(pod_collect_to_vec(&bytes(&pair_name(pair), entries[0] * entries[1] * size_of::<f64>())?))
    });
    Ok(Totals { batches: about.batches, layers: of_models, pairs: pairs.collect::<Result<_>>()? })
}
