//! Reading a run directory.

use std::path::{Path, PathBuf};

use candle_core::Device;
use gramscope_nn::{NamedTensors, ResNet};

use crate::checkpoint::{self, Checkpoint};
use crate::directory::RunDirectory;
use crate::error::{Error, Result};
use crate::metrics::{self, EpochMetrics};
use crate::predictions::{self, Predictions};
use crate::settings::RunConfig;

/// An existing run directory: config.toml, metrics.jsonl, checkpoints/ and, when it is finished, predictions.safetensors.
///
/// It stands for its network as it is now, or was after a kept epoch ([`Self::at`]).
#[derive(Clone, Debug)]
pub struct Run {
    directory: RunDirectory,
    config: RunConfig,
    /// The kept epoch that is meant; the newest checkpoint where there is none.
    epoch: Option<usize>,
    batch_statistics: bool,
}

/// Between a run's directory and an epoch, in what names one of its kept epochs.
const EPOCH_MARK: char = '@';

impl Run {
    /// Opens the run in `dir`.
    ///
    /// # Errors
    /// [`Error::NotARun`] where there is none, or what is wrong with its config.toml.
    pub fn open(dir: &Path) -> Result<Self> {
        let directory = RunDirectory::new(dir);
        let missing = |missing: String| Error::NotARun { dir: dir.to_path_buf(), missing };
        if !dir.is_dir() {
            let found = if dir.exists() { "it is a file" } else { "there is no such directory" };
            return Err(missing(found.to_owned()));
        }
        if !directory.config().is_file() {
            return Err(missing("it has no config.toml".to_owned()));
        }
        let config = RunConfig::read(&directory.config())?;
        Ok(Self { directory, config, epoch: None, batch_statistics: false })
    }

    /// Opens what `name` stands for: a run's directory, or `DIR@EPOCH`, the run as it was kept after an epoch. A directory
    /// whose name looks like that goes first.
    ///
    /// # Errors
    /// Those of [`Self::open`] and [`Self::at`].
    pub fn named(name: &Path) -> Result<Self> {
        let kept = || {
            let (dir, epoch) = name.to_str()?.rsplit_once(EPOCH_MARK)?;
            Some((Path::new(dir), epoch.parse().ok()?))
        };
        match kept() {
            Some((dir, epoch)) if !name.exists() => Self::open(dir)?.at(epoch),
            _ => Self::open(name),
        }
    }

    /// This run as it was kept after `epoch`, from 1.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] where that epoch was not kept; the message says which were.
    pub fn at(&self, epoch: usize) -> Result<Self> {
        let path = self.directory.kept(epoch);
        if path.is_file() {
            return Ok(Self { epoch: Some(epoch), ..self.clone() });
        }
        let kept: Vec<String> = self.kept_epochs()?.iter().map(usize::to_string).collect();
        Err(no_checkpoint(
            path,
            &match kept.as_slice() {
                [] => "no epoch of this run was kept: set checkpoint_every before training".to_owned(),
                kept => format!("the epochs that were kept are {}", kept.join(", ")),
            },
        ))
    }

    /// This run with a network that normalises with the statistics of each batch ([`ResNet::with_batch_statistics`]).
    pub fn with_batch_statistics(self) -> Self {
        Self { batch_statistics: true, ..self }
    }

    /// The kept epoch whose network it stands for, if it is one's.
    pub fn kept_epoch(&self) -> Option<usize> {
        self.epoch
    }

    /// Whether its network normalises with the statistics of each batch.
    pub fn has_batch_statistics(&self) -> bool {
        self.batch_statistics
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        self.directory.root()
    }

    /// The directory's name, with `@EPOCH` for a kept epoch.
    pub fn name(&self) -> String {
        let name = self.directory.name();
        self.epoch.map_or(name.clone(), |epoch| format!("{name}{EPOCH_MARK}{epoch}"))
    }

    /// Everything that was set.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The epochs so far.
    ///
    /// # Errors
    /// [`Error::Metrics`] for a line that is no epoch's.
    pub fn metrics(&self) -> Result<Vec<EpochMetrics>> {
        metrics::read(&self.directory.metrics())
    }

    /// Whether the last epoch has been trained and its predictions written, both are as they were written, and every epoch has its
    /// line.
    pub fn is_finished(&self) -> bool {
        let lines = metrics::read_whole(&self.directory.metrics());
        lines.is_ok_and(|lines| lines.len() >= self.config.train.epochs) && self.is_trained()
    }

    /// Whether the last epoch has been trained and its predictions written, and both are as they were written.
    pub(crate) fn is_trained(&self) -> bool {
        let epochs = self.config.train.epochs;
        let newest = || checkpoint::newest(&self.directory.every_checkpoint()?);
        let done = || newest().ok().flatten().is_some_and(|last| last.position.epochs == epochs);
        predictions::check(&self.directory.predictions()).is_ok() && done()
    }

    /// What it says of the test images, in the order of the data.
    ///
    /// # Errors
    /// [`Error::NoPredictions`] before its last epoch's end, [`Error::Damaged`] where they are not what was written.
    pub fn predictions(&self) -> Result<Predictions> {
        predictions::load(&self.directory.predictions())
    }

    /// The network as the newest good checkpoint has it, where a damaged one is named in a warning and passed over, and a run whose
    /// training is not over too; or as it was kept after the epoch that is meant.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] before the first epoch's end, [`Error::Checkpoint`] where none can be used, [`Error::LostWeights`] where
    /// that of the last of all epochs, which was trained, cannot.
    pub fn network(&self, device: &Device) -> Result<ResNet> {
        self.restore(&self.checkpoint()?, device)
    }

    /// The checkpoint that [`Self::network`] is of.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint> {
        if let Some(epoch) = self.epoch {
            return checkpoint::load(&self.directory.kept(epoch));
        }
        let newest = checkpoint::newest(&self.directory.every_checkpoint()?)?;
        let newest = newest.ok_or_else(|| no_checkpoint(self.directory.latest(), "train it for an epoch first"))?;
        let (trained, all) = (newest.position.epochs, self.config.train.epochs);
        if trained < all {
            if self.metrics()?.len() >= all {
                return Err(Error::LostWeights { dir: self.dir().to_path_buf(), epochs: all, found: trained });
            }
            let run = self.dir().display();
            tracing::warn!("{run}: its training is not over, {trained} of {all} epochs are: taken as it is now");
        }
        Ok(newest)
    }

    /// The epochs whose networks were kept, ascending.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be listed.
    pub fn kept_epochs(&self) -> Result<Vec<usize>> {
        self.directory.kept_epochs()
    }

    /// The network that `checkpoint` holds.
    fn restore(&self, checkpoint: &Checkpoint, device: &Device) -> Result<ResNet> {
        let unusable = |problem: String| Error::Checkpoint { path: checkpoint.path().to_path_buf(), problem };
        let state = checkpoint.state();
        let classes = state
            .shapes()
            .into_iter()
            .find(|(name, _)| *name == "logits.bias")
            .map(|(_, shape)| shape.iter().product());
        let classes = classes.ok_or_else(|| unusable("it has no logits.bias".to_owned()))?;
        let side = self.config.data.image_side.ok_or_else(|| unusable("config.toml has no image_side".to_owned()))?;
        let config = self.config.train.network(classes, side);
        let network = ResNet::from_state(&config, &state, device);
        let network = network.map_err(|problem| unusable(problem.to_string()))?;
        Ok(if self.batch_statistics { network.with_batch_statistics() } else { network })
    }
}

fn no_checkpoint(path: PathBuf, advice: &str) -> Error {
    Error::NoCheckpoint { path, advice: advice.to_owned() }
}
