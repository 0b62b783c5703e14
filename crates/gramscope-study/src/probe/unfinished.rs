//! What probes leave while they learn: their parameters.

use bytemuck::{cast_slice, pod_collect_to_vec};
use gramscope_train::digest::hexadecimal;
use md5::{Digest, Md5};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::{Images, ProbeOptions, Standing};
use crate::Result;
use crate::compare::Model;
use crate::provenance::Versions;
use crate::unfinished::{Kept, Numbers, State, Task};

/// What is stored for a probe that has not diverged.
const LEARNS: u64 = u64::MAX;

/// Which probes learn what, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ProbeTask {
    /// A digest of the network.
    model: String,
    layers: Vec<String>,
    /// A digest of the images that are learned from and of their labels, in the order of the data.
    images: String,
    epochs: usize,
    /// Steps of an epoch.
    steps: usize,
    batch_size: usize,
    learning_rate: f64,
    momentum: f64,
    pool: bool,
    seed: u64,
    versions: Versions,
}

impl ProbeTask {
    /// Probes of `model` that learn from `images`.
    pub(super) fn new(model: &Model, images: &Images, options: &ProbeOptions) -> Result<Self> {
        let &ProbeOptions { epochs, batch_size, learning_rate, momentum, pool, seed, .. } = options;
        Ok(Self {
            model: model.digest()?,
            layers: model.info.layers.clone(),
            images: digest(images),
            epochs,
            steps: options.steps(images.train.len()),
            batch_size,
            learning_rate,
            momentum,
            pool,
            seed,
            versions: Versions::on(model.processor()),
        })
    }
}

impl Task for ProbeTask {
    const KIND: &'static str = "unfinished linear probes";

    fn batches(&self) -> usize {
        self.epochs * self.steps
    }
}

fn digest(Images { dataset, train, .. }: &Images) -> String {
    let mut digest = Md5::new_with_prefix(format!("{} {}", dataset.image_side, dataset.classes.len()));
    for &place in train {
        digest.update(dataset.train.label(place).to_le_bytes());
        digest.update(dataset.train.image(place));
    }
    hexadecimal(digest)
}

/// How far probes have come.
pub(super) struct Learning {
    /// Batches that they have learned from.
    pub(super) batches: usize,
    /// How they stood when the last epoch began.
    pub(super) begun: Vec<Standing>,
    /// How they stand.
    pub(super) standings: Vec<Standing>,
    /// What each has learned.
    pub(super) learned: Vec<Learned>,
}

/// What a probe has learned, in an order that is for the probe to choose.
pub(super) struct Learned {
    /// Weights and biases.
    pub(super) parameters: Vec<f32>,
    /// Their velocities.
    pub(super) velocities: Vec<f32>,
}

impl State for Learning {
    fn batches(&self) -> usize {
        self.batches
    }

    fn numbers(&self) -> Vec<Numbers<'_>> {
        let of_probes = self.learned.iter().enumerate().flat_map(|(probe, Learned { parameters, velocities })| {
            let [first, second] = names(probe);
            [(first, parameters), (second, velocities)]
        });
        let of_probes = of_probes.map(|(name, values)| Numbers::new(name, Dtype::F32, cast_slice(values)));
        let standings = [("begun", &self.begun), ("standings", &self.standings)].map(|(name, standings)| {
            let values: Vec<u64> = standings.iter().flat_map(stored).collect();
            Numbers::new(name, Dtype::U64, pod_collect_to_vec(&values))
        });
        of_probes.chain(standings).collect()
    }
}

/// What was kept of probes with so many parameters each.
pub(super) fn learning(kept: &Kept<'_, ProbeTask>, parameters: &[usize]) -> Result<Learning> {
    let standings = |name: &str| -> Result<Vec<Standing>> {
        let values: Vec<u64> = kept.numbers(name, 2 * parameters.len())?;
        Ok(values.as_chunks().0.iter().map(read).collect())
    };
    let learned = parameters.iter().enumerate().map(|(probe, &count)| {
        let [first, second] = names(probe);
        Ok(Learned { parameters: kept.numbers(&first, count)?, velocities: kept.numbers(&second, count)? })
    });
    Ok(Learning {
        batches: kept.batches,
        begun: standings("begun")?,
        standings: standings("standings")?,
        learned: learned.collect::<Result<_>>()?,
    })
}

/// What the parameters of a probe and their velocities are called.
fn names(probe: usize) -> [String; 2] {
    ["parameters", "velocities"].map(|what| format!("{what}{probe}"))
}

fn stored(&Standing { correct, diverged }: &Standing) -> [u64; 2] {
    [correct as u64, diverged.map_or(LEARNS, |batch| batch as u64)]
}

/// What [`stored`] made of it.
fn read(&[correct, diverged]: &[u64; 2]) -> Standing {
    Standing { correct: correct as usize, diverged: (diverged != LEARNS).then_some(diverged as usize) }
}
