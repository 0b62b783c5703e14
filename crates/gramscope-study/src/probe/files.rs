//! probe.json, probe-about.json and probe.png.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::provenance::{ExampleSource, Versions};
use crate::saved::{ListFiles, Saved, Staged};
use crate::{Error, Result, plot};

/// File of the accuracies: a list with an entry a layer.
pub const PROBES: &str = "probe.json";
/// File that says what the accuracies are of.
pub const INFO: &str = "probe-about.json";
/// File of the picture.
pub const PICTURE: &str = "probe.png";

const FILES: ListFiles = ListFiles { kind: "linear probes", rows: PROBES, info: INFO };

/// The linear probes of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// What was probed, and how.
    pub info: ProbeInfo,
    /// The probed layers, first layer first.
    pub layers: Vec<ProbedLayer>,
}

impl ProbeResult {
    /// The layer whose probe does best on the test images (the first of equals), and its accuracy; none where all diverged.
    pub fn best(&self) -> Option<(&str, f64)> {
        let accuracies = self.layers.iter().filter_map(|layer| Some((layer.layer.as_str(), layer.accuracy_test?)));
        accuracies.rev().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The last part of the names of what goes into a block's addition, as far as the probed layers tell it: the mixture of
    /// two branches, or a block's last batch norm.
    pub(crate) fn branch_end(&self) -> &'static str {
        let probed = |end: &&str| self.layers.iter().any(|layer| layer.part() == *end);
        ["mix", "bn3"].into_iter().find(probed).unwrap_or("bn2")
    }
}

/// How well a layer's probe does: an entry of probe.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbedLayer {
    /// Name of the layer.
    pub layer: String,
    /// Share of the training images that were right as the last epoch ran; none where the probe diverged.
    pub accuracy_train: Option<f64>,
    /// Share of the test images that are right with the final weights; none where the probe diverged.
    pub accuracy_test: Option<f64>,
}

impl ProbedLayer {
    /// The last part of its name.
    pub(crate) fn part(&self) -> &str {
        self.layer.rsplit('.').next().unwrap_or_default()
    }
}

/// What was probed, and how: probe-about.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// Name of the model.
    pub model: String,
    /// Places of the probed layers among all layers of the network, from 0.
    pub indices: Vec<usize>,
    /// Stage of every layer of the network (0 stem, 1 to 3, 4 head).
    pub stages: Vec<usize>,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images a step.
    pub batch_size: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Whether the maximum over 2 x 2 pixels was taken first.
    pub pool: bool,
    /// Seed of the orders.
    pub seed: u64,
    /// Training images.
    pub train_images: usize,
    /// Test images.
    pub test_images: usize,
    /// Probes whose loss was no finite number.
    pub diverged: Vec<Diverged>,
    /// Where the images came from.
    pub data: ExampleSource,
    /// What computed this.
    pub versions: Versions,
}

/// A probe whose loss was no finite number, and where that was first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// Name of the layer.
    pub layer: String,
    /// The epoch, from 1; one more than there were for the test images.
    pub epoch: usize,
    /// The batch, from 1.
    pub batch: usize,
}

impl Saved for ProbeResult {
    const SEALED: &'static [&'static str] = &[FILES.rows, FILES.info];
    const PICTURES: &'static [&'static str] = &[PICTURE];

    fn stage(&self, dir: &Path) -> Result<Staged> {
        FILES.stage(dir, &self.info, &self.layers)
    }

    fn load(dir: &Path) -> Result<Self> {
        let (info, layers): (ProbeInfo, Vec<ProbedLayer>) = FILES.load(dir)?;
        if info.indices.len() != layers.len() {
            return Err(Error::file(dir, format!("{PROBES} and {INFO} speak of different layers")));
        }
        Ok(Self { info, layers })
    }

    fn is_in(dir: &Path) -> bool {
        FILES.are_in::<ProbeInfo, ProbedLayer>(dir)
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        plot::probes(self, &dir.join(PICTURE))
    }
}
