//! Reading a run directory.

use std::path::Path;

use candle_core::Device;
use gramscope_nn::ResNet;

use crate::checkpoint;
use crate::directory::RunDirectory;
use crate::error::{Error, Result};
use crate::metrics::{self, EpochMetrics};
use crate::settings::RunConfig;

/// An existing run directory: config.toml, metrics.jsonl, checkpoints/ and, when it is finished, predictions.safetensors.
#[derive(Clone, Debug)]
pub struct Run {
    directory: RunDirectory,
    config: RunConfig,
}

impl Run {
    /// Opens the run in `dir`.
    ///
    /// # Errors
    /// [`Error::NotARun`] where there is none, or what is wrong with its config.toml.
    pub fn open(dir: &Path) -> Result<Self> {
        let directory = RunDirectory::new(dir);
        let missing = |missing: String| Error::NotARun { dir: dir.to_path_buf(), missing };
        if !dir.is_dir() {
            return Err(missing("there is no such directory".to_owned()));
        }
        if !directory.config().is_file() {
            return Err(missing("it has no config.toml".to_owned()));
        }
        let config = RunConfig::read(&directory.config())?;
        Ok(Self { directory, config })
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        self.directory.root()
    }

    /// The directory's name.
    pub fn name(&self) -> String {
        self.directory.name()
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

    /// Whether the last epoch has been trained and its predictions written.
    pub fn is_finished(&self) -> bool {
        let last = checkpoint::load(&self.directory.latest(), &Device::Cpu).map(|checkpoint| checkpoint.epoch);
        self.directory.predictions().is_file() && last.is_ok_and(|epoch| epoch == self.config.train.epochs)
    }

    /// The network as the last checkpoint has it.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] before the first epoch's end, [`Error::Checkpoint`] for one that cannot be used.
    pub fn network(&self, device: &Device) -> Result<ResNet> {
        self.load(&self.directory.latest(), "train it for an epoch first", device)
    }

    /// The network as it was kept after `epoch`.
    ///
    /// # Errors
    /// As [`Self::network`].
    pub fn network_at(&self, epoch: usize, device: &Device) -> Result<ResNet> {
        self.load(&self.directory.kept(epoch), "epochs are kept with --checkpoint-every", device)
    }

    /// The epochs whose networks were kept, ascending.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be listed.
    pub fn kept_epochs(&self) -> Result<Vec<usize>> {
        self.directory.kept_epochs()
    }

    fn load(&self, path: &Path, advice: &str, device: &Device) -> Result<ResNet> {
        if !path.is_file() {
            return Err(Error::NoCheckpoint { path: path.to_path_buf(), advice: advice.to_owned() });
        }
        let checkpoint = checkpoint::load(path, device)?;
        let unusable = |problem: String| Error::Checkpoint { path: path.to_path_buf(), problem };
        let Some(bias) = checkpoint.state.get("logits.bias") else {
            return Err(unusable("it has no logits.bias".to_owned()));
        };
        let side = self.config.data.image_side.ok_or_else(|| unusable("config.toml has no image_side".to_owned()))?;
        let train = &self.config.train;
        let network = ResNet::new(&train.network(bias.elem_count(), side), train.seed, device)?;
        network.load_state(&checkpoint.state).map_err(|problem| unusable(problem.to_string()))?;
        Ok(network)
    }
}
