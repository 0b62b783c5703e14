//! What a comparison leaves while it is at work, so that the same one, begun again after an interruption, goes on from there.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, pod_collect_to_vec};
use gramscope_cka::{Comparison, LayerSum, Options, Totals};
use gramscope_train::sealed::{self, SealedFile, Stored};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::{Batches, in_whole};
use crate::provenance::{ShuffledPasses, Versions};
use crate::{Error, Result, Setting, saved};

/// The name of the file.
const FILE: &str = "unfinished.safetensors";
const KIND: &str = "unfinished comparison";

/// Sums are written after so much work, unless told otherwise.
const EVERY: Duration = Duration::from_secs(60);
/// Where writing them takes longer than this, as many times more seldom: those of thousands of layers are large.
const QUICK: Duration = Duration::from_secs(3);

/// Bits of what is stored of a layer's state.
const HAS_UNIT: u8 = 1;
const IS_UNDEFINED: u8 = 2;

/// Where the sums of a comparison lie while it is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The directory, that of the results; it is made with the first sums.
    pub dir: PathBuf,
    /// How long the comparison is at work before they are written again, where writing takes no more than three seconds; where it takes
    /// longer, as many times as long.
    pub every: Duration,
}

impl Unfinished {
    /// In `dir`, every minute.
    pub fn within(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), every: EVERY }
    }

    /// Where they lie.
    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Removes them: once the results are written, nobody needs them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(self.path()) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &self.path())(reason)),
            _ => Ok(()),
        }
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
    /// Those of a pass: examples of the first and the last, and how many there are.
    of_pass: [usize; 3],
    /// None where they are those of a file's order, once.
    shuffled: Option<ShuffledPasses>,
}

impl BatchesTaken {
    pub(super) fn new(batches: &Batches, shuffled: Option<ShuffledPasses>) -> Self {
        Self { of_pass: [batches.largest(), batches.last(), batches.ranges.len()], shuffled }
    }
}

impl Task {
    /// What `other` has otherwise, in words; none where it is the same.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let differences = [
            (self.versions != other.versions, "on another machine or with another version of this program"),
            (self.models.len() != other.models.len(), "of another number of models"),
            (self.layers != other.layers, "of other layers"),
            (self.models != other.models, "of models that have changed since"),
            (self.pairs != other.pairs, "of other pairs"),
            (self.how != other.how, "with another estimator, kernel or accuracy, or otherwise normalised"),
            (self.images != other.images, "of other images"),
            (self.batches != other.batches, "over other batches or passes, or with another seed"),
        ];
        differences.into_iter().find_map(|(differs, what)| differs.then_some(what))
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
    /// [`Error::File`] where the sums of another comparison lie there, or anything else; what saying what is compared may say.
    pub(super) fn take_up(&self, comparison: &mut Comparison) -> Result<()> {
        let Some(path) = self.place.map(Unfinished::path).filter(|path| path.exists()) else { return Ok(()) };
        let refused = |problem: String| Error::file(&path, problem).mended_by(&[Setting::Out]);
        let found: About = sealed::describe(&path, KIND).map_err(|reason| {
            refused(format!("not the sums of an unfinished comparison, so none can be kept there: {reason}"))
        })?;
        if let Some(what) = self.task()?.difference(&found.task) {
            return Err(refused(format!(
                "holds the sums of an unfinished comparison {what}; finish that one by the same command as before, remove the file, \
                 or choose another place"
            )));
        }
        match read(&path) {
            Ok(totals) => comparison.go_on_from(totals).map_err(in_whole),
            Err(reason) => {
                tracing::warn!("{reason}; the comparison begins anew");
                Ok(())
            }
        }
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
        let begun = Instant::now();
        let totals = comparison.totals().map_err(in_models)?;
        let written = write(place, self.task()?, &totals);
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

/// Replaces the sums that lie at `place`.
fn write(place: &Unfinished, task: &Task, totals: &Totals) -> Result<()> {
    saved::prepare(&place.dir)?;
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
    Ok(sealed::write(&place.path(), KIND, &about, &tensors)?)
}

fn state(sum: &LayerSum) -> u8 {
    u8::from(sum.unit.is_some()) * HAS_UNIT + u8::from(sum.undefined) * IS_UNDEFINED
}

/// What the sums of a pair of models are called.
fn pair_name(pair: usize) -> String {
    format!("pair{pair}")
}

/// Reads what [`write`] wrote.
fn read(path: &Path) -> Result<Totals> {
    let (About { batches, task }, file): (About, SealedFile) = sealed::open(path, KIND)?;
    let bytes = |name: &str| {
        let tensor = file.tensors().get(name).ok_or_else(|| Error::file(path, format!("it has no {name}")))?;
        file.read(tensor).map_err(Error::io("read", path))
    };
    let (own, units, states) = (bytes("own")?, bytes("units")?, bytes("states")?);
    let (own, units): (Vec<f64>, Vec<i32>) = (pod_collect_to_vec(&own), pod_collect_to_vec(&units));
    let mut sums = iter::zip(own, iter::zip(units, states)).map(|(own, (unit, state))| LayerSum {
        unit: (state & HAS_UNIT != 0).then_some(unit),
        own,
        undefined: state & IS_UNDEFINED != 0,
    });
    let layers = task.layers.iter().map(|layers| sums.by_ref().take(layers.len()).collect()).collect();
    let pairs = (0..task.pairs.len()).map(|pair| Ok(pod_collect_to_vec(&bytes(&pair_name(pair))?)));
    Ok(Totals { batches, layers, pairs: pairs.collect::<Result<_>>()? })
}
