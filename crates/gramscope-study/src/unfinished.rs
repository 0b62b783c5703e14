//! What long work leaves while it goes on, so that the same work, begun again after an interruption, goes on from there.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytemuck::{Pod, pod_collect_to_vec};
use gramscope_train::atomic;
use gramscope_train::digest::hexadecimal;
use gramscope_train::sealed::{self, SealedFile, Stored};
use md5::{Digest, Md5};
use safetensors::Dtype;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, saved};

/// What the file's name begins and ends with; between them is a digest of the work, so that several share a directory.
const NAME: [&str; 2] = ["unfinished-", ".safetensors"];

/// The state is written after so much work.
const EVERY: Duration = Duration::from_secs(60);
/// Where writing it takes longer than this, as many times more seldom: the sums of thousands of layers are large.
const QUICK: Duration = Duration::from_secs(3);

/// Where the state of work lies while it goes on.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The directory, that of the results; it is made with the first state.
    dir: PathBuf,
    /// How long the work goes on before its state is written again, where writing takes no more than three seconds; where it takes
    /// longer, as many times as long.
    every: Duration,
    /// The files of all work that has used this, once they are known to be there.
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Unfinished {
    /// In `dir`, every minute.
    pub fn within(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), every: EVERY, files: Arc::default() }
    }

    /// In `dir`, after every batch.
    #[cfg(test)]
    pub(crate) fn always(dir: &Path) -> Self {
        Self { every: Duration::ZERO, ..Self::within(dir) }
    }

    /// Removes what work has left or gone on from: once its results are written, nobody needs it. A file that cannot be removed is
    /// logged as a warning.
    pub fn remove(&self) {
        let files = mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner));
        files.iter().for_each(|file| remove(file));
    }

    /// Removes what any work has left there: for directories that nothing else uses.
    pub(crate) fn clear(&self) {
        self.left().iter().for_each(|file| remove(file));
    }

    /// The files of all work there.
    fn left(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let is_ours = |name: &str| name.starts_with(NAME[0]) && name.ends_with(NAME[1]);
        let entries = entries.filter_map(|entry| entry.ok());
        entries.filter(|entry| is_ours(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
    }

    fn is_used_by(&self, file: PathBuf) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(file);
    }
}

fn remove(file: &Path) {
    match fs::remove_file(file) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{}: nobody needs it any more, but it stays: {reason}", file.display());
        }
        _ => {}
    }
}

/// What work is: all that its state depends on, in a form that other work has another of.
pub(crate) trait Task: Clone + PartialEq + Serialize + DeserializeOwned {
    /// The kind of its file.
    const KIND: &'static str;

    /// Batches that it consists of.
    fn batches(&self) -> usize;
}

/// How far work has come.
pub(crate) trait State {
    /// Batches that are over.
    fn batches(&self) -> usize;

    /// All that what follows depends on; no two of one name.
    fn numbers(&self) -> Vec<Numbers<'_>>;
}

/// Numbers of a state.
pub(crate) struct Numbers<'a> {
    name: String,
    dtype: Dtype,
    /// Little-endian.
    bytes: Cow<'a, [u8]>,
}

impl<'a> Numbers<'a> {
    /// Those of this `name` and type, little-endian.
    pub(crate) fn new(name: impl Into<String>, dtype: Dtype, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.into(), dtype, bytes: bytes.into() }
    }

    fn stored(&self) -> Stored<'_> {
        let Self { name, dtype, bytes } = self;
        (name, *dtype, vec![8 * bytes.len() / dtype.bitsize()], bytes)
    }
}

/// What the file says of itself.
#[derive(Serialize, Deserialize)]
struct About<T> {
    batches: usize,
    task: T,
}

/// The state that earlier work left.
pub(crate) struct Kept<'a, T> {
    /// Batches that were over.
    pub(crate) batches: usize,
    /// What work it is of.
    pub(crate) task: &'a T,
    file: SealedFile,
}

impl<T> Kept<'_, T> {
    /// The numbers of this `name`, so many.
    ///
    /// # Errors
    /// [`Error::File`] where they are not there, or not so many; [`Error::Io`].
    pub(crate) fn numbers<N: Pod>(&self, name: &str, count: usize) -> Result<Vec<N>> {
        let path = self.file.path();
        let wrong = || Error::file(path, format!("it has no {name}, or another than was written"));
        let tensor = self.file.tensors().get(name).ok_or_else(wrong)?;
        let bytes = self.file.read(tensor).map_err(Error::io("read", path))?;
        if bytes.len() == count * size_of::<N>() { Ok(pod_collect_to_vec(&bytes)) } else { Err(wrong()) }
    }
}

/// Keeps the state of work that goes on.
pub(crate) struct Keeper<'a, T> {
    place: Option<&'a Unfinished>,
    /// What the work is, which takes a while to tell.
    task: OnceCell<T>,
    tell: Box<dyn Fn() -> Result<T> + 'a>,
    /// Whether it has been written, or was there.
    has_kept: bool,
    due: Instant,
    /// Whether it could not be written the last time, which has been said then.
    failed: bool,
}

impl<'a, T: Task> Keeper<'a, T> {
    /// Of work whose state lies at `place`, or nowhere.
    pub(crate) fn new(place: Option<&'a Unfinished>, task: impl Fn() -> Result<T> + 'a) -> Self {
        let due = Instant::now() + place.map_or(EVERY, |place| place.every);
        Self { place, task: OnceCell::new(), tell: Box::new(task), has_kept: false, due, failed: false }
    }

    fn task(&self) -> Result<&T> {
        match self.task.get() {
            Some(task) => Ok(task),
            None => (self.tell)().map(|task| self.task.get_or_init(|| task)),
        }
    }

    /// What `read` makes of the state that an earlier process left of the same work, where one did. A damaged one is named in a warning
    /// and passed over.
    ///
    /// # Errors
    /// One that cannot be read; what telling what the work is may say.
    pub(crate) fn take_up<R>(&mut self, read: impl FnOnce(&Kept<'_, T>) -> Result<R>) -> Result<Option<R>> {
        let Some(place) = self.place.filter(|place| !place.left().is_empty()) else { return Ok(None) };
        let task = self.task()?;
        let path = place.dir.join(file_name(task));
        if !path.exists() {
            return Ok(None);
        }
        let kept = match open(&path, task).and_then(|kept| read(&kept)) {
            // What is only out of reach may be whole.
            Err(reason @ (Error::Io { .. } | Error::Train(gramscope_train::Error::Io { .. }))) => return Err(reason),
            kept => kept.inspect_err(|damage| tracing::warn!("{damage}; the work begins anew")).ok(),
        };
        place.is_used_by(path);
        self.has_kept = true;
        Ok(kept)
    }

    /// A batch has just ended. Writes the state where it is time to, or where `stop` is set, after which the work is over. What stands in
    /// the way of the former is named in a warning, the first time: results may still be written.
    ///
    /// # Errors
    /// Once `stop` is set [`Error::Interrupted`], or what stands in the way of writing the state; what `state` says, and telling what the
    /// work is.
    pub(crate) fn batch_ended<S: State>(&mut self, stop: &AtomicBool, state: impl FnOnce() -> Result<S>) -> Result<()> {
        let asked_to_stop = stop.load(Ordering::Relaxed);
        if asked_to_stop || Instant::now() >= self.due {
            let written = self.keep(state)?;
            if asked_to_stop {
                return written.and(Err(Error::Interrupted));
            }
            if let Err(reason) = &written
                && !self.failed
            {
                tracing::warn!("an interruption would cost what has been done: {reason}");
            }
            self.failed = written.is_err();
        }
        Ok(())
    }

    /// The last batch has ended. Writes the state where work took so long that it had been written before: its results may yet be lost.
    ///
    /// # Errors
    /// What `state` says.
    pub(crate) fn ended<S: State>(&mut self, state: impl FnOnce() -> Result<S>) -> Result<()> {
        if self.has_kept {
            // The results are about to be written, or to fail for the same reason.
            let _ = self.keep(state)?;
        }
        Ok(())
    }

    /// Writes the state, where it has a place; what stands in the way of that.
    ///
    /// # Errors
    /// What `state` says, and telling what the work is.
    fn keep<S: State>(&mut self, state: impl FnOnce() -> Result<S>) -> Result<Result<()>> {
        let Some(place) = self.place else { return Ok(Ok(())) };
        let begun = Instant::now();
        let task = self.task()?;
        let path = place.dir.join(file_name(task));
        let written = write(&path, task, &state()?);
        place.is_used_by(path);
        self.has_kept = true;
        let slow = begun.elapsed().div_duration_f64(QUICK).max(1.0);
        self.due = Instant::now() + place.every.mul_f64(slow);
        Ok(written)
    }
}

/// The name of the file of its state.
fn file_name(task: &impl Task) -> String {
    let text = serde_json::to_vec(task).expect("numbers and text can always be written");
    let digest = hexadecimal(Md5::new_with_prefix(text));
    format!("{}{}{}", NAME[0], &digest[..12], NAME[1])
}

/// Replaces the state that lies at `path`.
fn write<T: Task>(path: &Path, task: &T, state: &impl State) -> Result<()> {
    saved::prepare(atomic::parent(path))?;
    let numbers = state.numbers();
    let about = About { batches: state.batches(), task: task.clone() };
    Ok(sealed::write(path, T::KIND, &about, &numbers.iter().map(Numbers::stored).collect::<Vec<_>>())?)
}

/// Opens what [`write`] wrote of the same `task`.
fn open<'a, T: Task>(path: &Path, task: &'a T) -> Result<Kept<'a, T>> {
    let (About { batches, task: found }, file): (About<T>, SealedFile) = sealed::open(path, T::KIND)?;
    if found != *task || batches > task.batches() {
        return Err(Error::file(path, format!("it is the {} of something else", T::KIND)));
    }
    Ok(Kept { batches, task, file })
}
