//! What a comparison leaves while it goes on: its sums.

use std::iter;
use std::ops::Range;

use bytemuck::{cast_slice, pod_collect_to_vec};
use gramscope_cka::{LayerSum, Options, Totals};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::Batches;
use crate::Result;
use crate::provenance::{ShuffledPasses, Versions};
use crate::unfinished::{Kept, Numbers, State, Task};

/// Bits of what is stored of a layer's state.
const HAS_UNIT: u8 = 1;
const IS_UNDEFINED: u8 = 2;

/// What is compared with what, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ComparisonTask {
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

impl Task for ComparisonTask {
    const KIND: &'static str = "unfinished comparison";

    fn batches(&self) -> usize {
        self.batches.of_pass.len() * self.batches.shuffled.map_or(1, |shuffled| shuffled.passes)
    }
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
}

impl State for Totals {
    fn batches(&self) -> usize {
        self.batches
    }

    fn numbers(&self) -> Vec<Numbers<'_>> {
        let sums = || self.layers.iter().flatten();
        let own: Vec<f64> = sums().map(|sum| sum.own).collect();
        let units: Vec<i32> = sums().map(|sum| sum.unit.unwrap_or(0)).collect();
        let states: Vec<u8> = sums().map(state).collect();
        let of_layers = [
            Numbers::new("own", Dtype::F64, pod_collect_to_vec(&own)),
            Numbers::new("units", Dtype::I32, pod_collect_to_vec(&units)),
            Numbers::new("states", Dtype::U8, states),
        ];
        let of_pairs = self.pairs.iter().enumerate();
        let of_pairs = of_pairs.map(|(pair, sums)| Numbers::new(pair_name(pair), Dtype::F64, cast_slice(sums)));
        of_pairs.chain(of_layers).collect()
    }
}

fn state(sum: &LayerSum) -> u8 {
    u8::from(sum.unit.is_some()) * HAS_UNIT + u8::from(sum.undefined) * IS_UNDEFINED
}

/// What the sums of a pair of models are called.
fn pair_name(pair: usize) -> String {
    format!("pair{pair}")
}

/// The sums that were kept.
pub(super) fn totals(kept: &Kept<'_, ComparisonTask>) -> Result<Totals> {
    let ComparisonTask { layers, pairs, .. } = kept.task;
    let count = layers.iter().map(Vec::len).sum();
    let own: Vec<f64> = kept.numbers("own", count)?;
    let units: Vec<i32> = kept.numbers("units", count)?;
    let states: Vec<u8> = kept.numbers("states", count)?;
    let mut sums = iter::zip(own, iter::zip(units, states)).map(|(own, (unit, state))| LayerSum {
        unit: (state & HAS_UNIT != 0).then_some(unit),
        own,
        undefined: state & IS_UNDEFINED != 0,
    });
    let of_models = layers.iter().map(|layers| sums.by_ref().take(layers.len()).collect()).collect();
    let of_pair =
        |(pair, &(x, y)): (usize, &(usize, usize))| kept.numbers(&pair_name(pair), layers[x].len() * layers[y].len());
    let pairs = pairs.iter().enumerate().map(of_pair).collect::<Result<_>>()?;
    Ok(Totals { batches: kept.batches, layers: of_models, pairs })
}
