//! What results say of where they come from: the data, and what computed them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gramscope_cuda::Device;
use gramscope_nn::{Backend, Processor};
use gramscope_train::data::DataName;
use serde::{Deserialize, Serialize};

/// The format that this program writes and reads.
pub const FORMAT: u32 = 1;

/// Where the examples of a comparison came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "source")]
pub enum DataInfo {
    /// Test images fed to networks.
    Images {
        /// Name of the data set.
        name: String,
        /// Where it lies, for a data set of the user's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<PathBuf>,
        /// How many different images.
        examples: usize,
        /// Passes over them, each in a fresh order.
        passes: usize,
        /// Seed of those orders, and of the noise.
        seed: u64,
        /// Whether every pixel was replaced by noise.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        noise: bool,
    },
    /// Stored activations.
    Activations {
        /// The file of the rows.
        file_x: PathBuf,
        /// The file of the columns.
        file_y: PathBuf,
        /// Examples in each.
        examples: usize,
        /// Passes over them, each in a fresh order; none where batches are those of the files' own order, once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shuffled: Option<ShuffledPasses>,
    },
}

/// Passes over stored examples, each in a fresh order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShuffledPasses {
    /// How many.
    pub passes: usize,
    /// Seed of those orders.
    pub seed: u64,
}

impl DataInfo {
    /// What networks were fed: the data set, where it lies, and whether its pixels were replaced by noise. None where activations were
    /// read.
    pub(crate) fn source(&self) -> Option<(&str, Option<&Path>, bool)> {
        match self {
            Self::Images { name, dir, noise, .. } => {
                // A data set that has a name is the same wherever it lies.
                let folder = *name == DataName::Folder.to_string();
                Some((name, dir.as_deref().filter(|_| folder), *noise))
            }
            Self::Activations { .. } => None,
        }
    }
}

/// Where examples came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "source")]
pub enum ExampleSource {
    /// Test images fed to a network.
    Images {
        /// Name of the data set.
        name: String,
        /// Where it lies, for a data set of the user's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<PathBuf>,
    },
    /// Stored activations.
    Activations {
        /// The file.
        file: PathBuf,
    },
}

/// What computed a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of Gramscope.
    pub gramscope: String,
    /// Version of the format of the files.
    pub format: u32,
    /// What ran the networks, where there were any. Files leave the CPU out.
    #[serde(default, skip_serializing_if = "Backend::is_cpu")]
    pub backend: Backend,
    /// Name of the GPU that ran networks or compared layers; none where the CPU did everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Versions {
    /// This build, on the CPU.
    pub fn current() -> Self {
        Self { gramscope: env!("CARGO_PKG_VERSION").to_owned(), format: FORMAT, backend: Backend::Cpu, gpu: None }
    }

    /// This build, with networks where `processor` says.
    pub fn on(processor: &Processor) -> Self {
        Self { backend: processor.backend(), ..Self::with_gpu(processor.gpu().map(Arc::as_ref)) }
    }

    /// This build, comparing on `gpu`, where there is one, what it was handed.
    pub fn with_gpu(gpu: Option<&Device>) -> Self {
        Self { gpu: gpu.map(|gpu| gpu.name().to_owned()), ..Self::current() }
    }
}
