//! Where a network's parameters lie in one buffer, and its statistics in another.

use std::collections::HashMap;
use std::ops::Range;

use crate::network::Parameter;
use crate::program::Program;
use crate::{Error, Result};

/// A layer's weights and biases.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
}

/// A batch norm's parameters, and its means and variances, one after the other, among all statistics.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) gamma: Range<usize>,
    pub(super) beta: Range<usize>,
    pub(super) statistics: Range<usize>,
}

/// Where everything lies. What has the weight decay comes first, so that one launch steps all parameters.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) convolutions: Vec<Weights>,
    pub(super) norms: Vec<Norm>,
    pub(super) logits: Weights,
    /// Parameters with weight decay.
    pub(super) decaying: usize,
    /// Parameters.
    pub(super) parameters: usize,
    /// Means and variances.
    pub(super) statistics: usize,
    /// Of each tensor of the network's state, by name, its place in its buffer.
    places: HashMap<String, Place>,
}

/// A place in one of the two buffers.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Parameter(Range<usize>),
    Statistic(Range<usize>),
}

impl Layout {
    /// Of the network that `program` is made from, whose parameters are `parameters`.
    pub(super) fn new(program: &Program, parameters: &[Parameter]) -> Self {
        let mut end = 0;
        let mut place_all = |decays: bool| -> Vec<(String, Range<usize>)> {
            let chosen = parameters.iter().filter(|parameter| parameter.decays == decays);
            let place = |parameter: &Parameter| {
                let start = end;
                end += parameter.var.elem_count();
                (parameter.name.clone(), start..end)
            };
            chosen.map(place).collect()
        };
        let mut named = place_all(true);
        let decaying = named.last().map_or(0, |(_, range)| range.end);
        named.extend(place_all(false));
        let by_name: HashMap<&str, &Range<usize>> = named.iter().map(|(name, range)| (name.as_str(), range)).collect();
        let of = |name: &str, part: &str| by_name[format!("{name}.{part}").as_str()].clone();
        let weights = |name: &str| Weights { weight: of(name, "weight"), bias: of(name, "bias") };
        let (mut statistics, mut running) = (0, Vec::new());
        let norms = program.norms.iter().map(|norm| {
            let (start, channels) = (statistics, norm.channels);
            statistics += 2 * channels;
            running.push((format!("{}.running_mean", norm.name), Place::Statistic(start..start + channels)));
            running.push((format!("{}.running_var", norm.name), Place::Statistic(start + channels..statistics)));
            let (gamma, beta) = (of(&norm.name, "weight"), of(&norm.name, "bias"));
            Norm { gamma, beta, statistics: start..statistics }
        });
        let norms = norms.collect();
        let convolutions = program.convolutions.iter().map(|convolution| weights(&convolution.name)).collect();
        let logits = weights("logits");
        let places = named.into_iter().map(|(name, range)| (name, Place::Parameter(range))).chain(running).collect();
        Self { convolutions, norms, logits, decaying, parameters: end, statistics, places }
    }

    /// Where the tensor of this name lies.
    pub(super) fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).ok_or_else(|| Error::SurplusState { names: vec![name.to_owned()] })
    }
}
