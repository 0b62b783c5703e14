//! Sparsity of a network: how much of every ReLU's output is zero, and which of its units are dead (Nguyen, Raghu and
//! Kornblith 2021, appendix D.8).
//!
//! A unit is a channel; its output is zero at some examples and positions. One that is zero at all of them, for all images
//! looked at, is dead. Counts are whole numbers, so that nothing is rounded before the last division.

mod files;

use gramscope_cka::{Activation, Values};
use gramscope_nn::Processor;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;
use regex::Regex;

pub use files::{INFO, NUMBERS, PICTURE, Sparsity, SparsityInfo};

use crate::compare::{BatchNeeds, Limit, MemoryLimits, Model, Pass, Progress, TestImages, forward_bytes, in_layer};
use crate::provenance::Versions;
use crate::{Error, Result};

/// Images that go through the network together, where there is memory for them.
const BATCH: usize = 250;
/// The names of the layers that are looked at.
const RELU: &str = r"\.relu\d*$";

/// Over which images.
#[derive(Clone, Debug, Default)]
pub struct SparsityOptions {
    /// How many test images, the first in order, class-balanced; all unless told otherwise.
    pub examples: Option<usize>,
    /// Feed this data's test images instead of those of the data that the run was trained on.
    pub data: Option<DataConfig>,
    /// The memory that may be taken.
    pub memory: MemoryLimits,
}

/// The sparsity of every ReLU of `run` over test images of its data, or of other data.
///
/// # Errors
/// [`Error::Incomparable`] for more images than there are; [`Error::NonFinite`] for NaN or infinity in an activation; memory
/// that is too little for one image; and what the run or its data may say.
pub fn sparsity(
    run: &Run,
    options: &SparsityOptions,
    processor: &Processor,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Sparsity> {
    let limit = options.examples.map_or(Limit::None, Limit::Exactly);
    let data = TestImages::of_runs(std::slice::from_ref(run), options.data.as_ref(), limit)?;
    let relu = Regex::new(RELU).map_err(|reason| Error::incomparable(reason.to_string()))?;
    let model = Model::open_one(run, Some(&relu), &data, processor)?;
    let mut layers: Vec<Units> = model.channels().into_iter().map(Units::new).collect();
    let (name, names) = (&model.info.name, &model.info.layers);
    let bytes = |images| Ok(forward_bytes(std::slice::from_ref(&model), images, false));
    let needs = BatchNeeds::of_images("the activations of an image in a ReLU", &model, &data, &bytes)?;
    let pass = Pass::observing(&model, &data, &needs, options.memory, BATCH)?;
    pass.each_layer(progress, &mut |batch, layer, activation| {
        layers[layer].count(layer, batch, activation).map_err(in_layer(name, &names[layer], batch))
    })?;
    let info = SparsityInfo {
        units: layers.iter().map(|units| units.zeros.len()).collect(),
        examples: data.len(),
        data: data.example_source(),
        versions: Versions::on(model.processor()),
        model: model.info.name,
        layers: model.info.layers,
        stages: model.info.stages,
    };
    Ok(Sparsity {
        info,
        zeros: layers.iter().map(Units::fraction).collect(),
        dead: layers.iter().map(|units| units.dead() as f64).collect(),
        unit_zeros: layers.iter().flat_map(Units::fractions).collect(),
    })
}

/// How often each unit of a layer was zero.
struct Units {
    zeros: Vec<u64>,
    /// Examples times positions.
    seen: u64,
}

impl Units {
    fn new(units: usize) -> Self {
        Self { zeros: vec![0; units], seen: 0 }
    }

    /// Takes in the activation of `layer` over `batch`, channels last.
    fn count(&mut self, layer: usize, batch: usize, view: Activation<'_>) -> Result<(), gramscope_cka::Error> {
        match view.values().expect("what a network has just computed is in memory") {
            Values::F32(x) => self.count_in(x, |value| value == 0.0, f32::is_finite),
            Values::F64(x) => self.count_in(x, |value| value == 0.0, f64::is_finite),
            Values::F16(x) => self.count_in(x, |value| value.to_f32() == 0.0, half::f16::is_finite),
            Values::Bf16(x) => self.count_in(x, |value| value.to_f32() == 0.0, half::bf16::is_finite),
        }
        .map_err(|place| gramscope_cka::Error::NonFinite {
            model: 0,
            layer,
            batch,
            example: place / view.features(),
        })
    }

    /// The same of `x`, or else the place of the first value that is not finite.
    fn count_in<T: Copy>(
        &mut self,
        x: &[T],
        is_zero: impl Fn(T) -> bool,
        is_finite: impl Fn(T) -> bool,
    ) -> Result<(), usize> {
        if let Some(place) = x.iter().position(|&value| !is_finite(value)) {
            return Err(place);
        }
        for values in x.chunks_exact(self.zeros.len()) {
            for (zeros, &value) in self.zeros.iter_mut().zip(values) {
                *zeros += u64::from(is_zero(value));
            }
            self.seen += 1;
        }
        Ok(())
    }

    fn fraction(&self) -> f64 {
        self.zeros.iter().sum::<u64>() as f64 / (self.seen * self.zeros.len() as u64) as f64
    }

    fn fractions(&self) -> impl Iterator<Item = f64> {
        self.zeros.iter().map(|&zeros| zeros as f64 / self.seen as f64)
    }

    fn dead(&self) -> usize {
        self.zeros.iter().filter(|&&zeros| zeros == self.seen).count()
    }
}

#[cfg(test)]
pub(crate) mod tests;
