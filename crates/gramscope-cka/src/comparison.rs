//! All layers of one or several models, compared batch by batch.

use std::ops::Range;
use std::sync::Arc;

use crate::activation::{Activation, Values};
use crate::cpu;
use crate::error::Error;
use crate::host::Host;
use crate::normalise;
use crate::options::{DeviceMemory, Estimator, Options};
use crate::rounds::Rounds;
use crate::similarity::Similarity;
use crate::totals::packed_length;

/// All layers of one or several models compared batch by batch: the front door.
///
/// A batch is begun, every layer of every model is observed once, in any order, and the batch is ended. Batches may differ
/// in size. After an error the comparison is where it was before the call that failed.
///
/// Where panels are limited, a batch may take several rounds: the layers that [`Self::wanted`] names are observed in order,
/// model after model, and [`Self::next_round`] says whether another round follows.
#[derive(Debug)]
pub struct Comparison {
    options: Options,
    pairs: Vec<(usize, usize)>,
    /// For each model and layer, whether it has been observed in the batch that is open.
    observed: Vec<Vec<bool>>,
    place: Place,
    /// The values of a normalised activation.
    normalised: Vec<f64>,
    /// The examples of the batch that is open.
    open: Option<usize>,
    batches: usize,
}

/// Where panels and sums are.
#[derive(Debug)]
enum Place {
    Host(Box<Host>),
    #[cfg(feature = "cuda")]
    Device(Box<crate::device::OnDevice>),
}

impl Comparison {
    /// A comparison of models with `layers[m]` layers each. `pairs` are the models to be compared, `(m, m)` standing for
    /// the layers of one model among themselves.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::NoPairs`], [`Error::UnknownModel`], [`Error::Bandwidth`].
    pub fn new(layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Result<Self, Error> {
        check(layers, pairs, options)?;
        Ok(Self::at(Place::Host(Box::new(Host::new(layers, pairs, options))), layers, pairs, options))
    }

    /// The same on `device`, or on the host where there is none. On a GPU activations are uploaded unless they are there
    /// already (`Comparison::observe_on_device`), and nothing comes back but the sums and a flag a layer, a batch later. So
    /// that a value that is not finite is reported by the end of the batch after it, or by [`Comparison::finish`].
    ///
    /// # Errors
    /// Those of [`Comparison::new`], and [`Error::Device`].
    pub fn on(
        device: Option<Arc<gramscope_cuda::Device>>,
        layers: &[usize],
        pairs: &[(usize, usize)],
        options: Options,
    ) -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        if let Some(device) = device {
            check(layers, pairs, options)?;
            let place = Place::Device(Box::new(crate::device::OnDevice::new(device, layers, pairs, options)?));
            return Ok(Self::at(place, layers, pairs, options));
        }
        #[cfg(not(feature = "cuda"))]
        drop(device);
        Self::new(layers, pairs, options)
    }

    fn at(place: Place, layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Self {
        let observed = layers.iter().map(|&layers| vec![false; layers]).collect();
        Self { options, pairs: pairs.to_vec(), observed, place, normalised: Vec::new(), open: None, batches: 0 }
    }

    /// Lets panels on the host take no more than so many bytes, from the next batch on; batches then take several rounds where
    /// that is less than [`Self::panel_bytes`]. The results are the same, bit for bit. For panels on a GPU there is
    /// [`Self::plan_device_memory`].
    pub fn limit_panels(&mut self, bytes: u64) {
        match &mut self.place {
            Place::Host(host) => host.limit_panels(bytes),
            #[cfg(feature = "cuda")]
            Place::Device(_) => {}
        }
    }

    /// Says how much of a GPU's memory may be taken, and what else it is needed for, from the next batch on; where the panel does
    /// not fit, batches take several rounds, with the same results, bit for bit. For a comparison on the host nothing.
    pub fn plan_device_memory(&mut self, memory: DeviceMemory) {
        #[cfg(feature = "cuda")]
        if let Place::Device(device) = &mut self.place {
            device.plan_memory(memory);
        }
        #[cfg(not(feature = "cuda"))]
        let _ = memory;
    }

    /// Begins a batch of `examples`.
    ///
    /// # Errors
    /// [`Error::BatchOpen`], [`Error::TooFewExamples`], [`Error::TooManyExamples`], [`Error::PanelLimit`],
    /// [`Error::NoMemory`], [`Error::Device`].
    pub fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(Error::BatchOpen { batch: self.batches });
        }
        let estimator = self.options.estimator;
        let minimum = estimator.minimum_examples();
        if examples < minimum {
            return Err(Error::TooFewExamples { examples, minimum, estimator });
        }
        match &mut self.place {
            Place::Host(host) => host.begin_batch(examples)?,
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.begin_batch(examples)?,
        }
        for observed in &mut self.observed {
            observed.fill(false);
        }
        self.open = Some(examples);
        Ok(())
    }

    /// Takes in one layer's output over the batch; nothing of it is kept but its centred Gram matrix.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::UnknownModel`], [`Error::UnknownLayer`], [`Error::WrongExamples`],
    /// [`Error::ObservedTwice`], [`Error::OutOfTurn`], [`Error::NonFinite`], [`Error::Unread`], [`Error::Device`].
    pub fn observe(&mut self, model: usize, layer: usize, activation: Activation<'_>) -> Result<(), Error> {
        self.check_place(model, layer, activation.examples())?;
        let batch = self.batches;
        let unusable = |unusable: cpu::Unusable| unusable.of(model, layer, batch);
        let activation = if self.options.normalise_examples {
            let values = activation.values().ok_or(Error::NormalisedInMemory { model, layer })?;
            normalise::examples(values, activation.features(), &mut self.normalised);
            Activation::new(Values::F64(&self.normalised), activation.examples())?
        } else {
            activation
        };
        match &mut self.place {
            Place::Host(host) => host.observe(model, layer, activation).map_err(unusable)?,
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.observe(model, layer, activation)?.map_err(unusable)?,
        }
        self.observed[model][layer] = true;
        Ok(())
    }

    /// Whether [`Self::observe_on_device`] may be called: it compares on a GPU, and does not normalise.
    #[cfg(feature = "cuda")]
    pub fn takes_device_values(&self) -> bool {
        matches!(self.place, Place::Device(_)) && !self.options.normalise_examples
    }

    /// The same for outputs that are on the GPU already, of layers in ascending order, where `examples` rows of equal length lie
    /// one after the other in each. They are read by what is enqueued here on the device's stream, a few launches for all of
    /// them; nothing is waited for. Layers that are handed over together divide the GPU among them, by their features. Those
    /// that are not to be observed, for which None stands, are counted, so that what becomes of a layer does not depend, to the
    /// bit, on which of the others are wanted. After an error nothing can be made of the batch any more: some of the layers may have
    /// been taken in.
    ///
    /// # Errors
    /// Those of [`Comparison::observe`] and [`Activation::new`]; [`Error::NotOnDevice`] if this is a comparison on the host,
    /// [`Error::NormalisedOnHost`] if it normalises.
    #[cfg(feature = "cuda")]
    pub fn observe_on_device(
        &mut self,
        model: usize,
        together: &[(Option<usize>, &gramscope_cuda::Values<'_>)],
        examples: usize,
    ) -> Result<(), Error> {
        if self.options.normalise_examples {
            return Err(Error::NormalisedOnHost);
        }
        let sharing = together.iter().map(|(_, values)| values.len()).sum::<usize>() / examples.max(1);
        let layers: Vec<_> = together.iter().filter_map(|&(layer, values)| Some((layer?, values))).collect();
        for &(layer, values) in &layers {
            crate::activation::check_shape(values.len(), examples)?;
            self.check_place(model, layer, examples)?;
            self.observed[model][layer] = true;
        }
        match &mut self.place {
            Place::Host(_) => Err(Error::NotOnDevice),
            Place::Device(device) => device.observe_values(model, &layers, sharing),
        }
    }

    /// Whether `layer` of `model` can be observed now, with so many examples.
    fn check_place(&self, model: usize, layer: usize, found: usize) -> Result<(), Error> {
        let expected = self.open.ok_or(Error::NoBatchOpen)?;
        let (batch, models) = (self.batches, self.observed.len());
        let observed = self.observed.get(model).ok_or(Error::UnknownModel { model, models })?;
        match observed.get(layer) {
            None => Err(Error::UnknownLayer { model, layer, layers: observed.len() }),
            Some(true) => Err(Error::ObservedTwice { model, layer, batch }),
            Some(false) if found != expected => Err(Error::WrongExamples { model, layer, batch, expected, found }),
            Some(false) if self.is_out_of_turn(model, layer) => Err(Error::OutOfTurn { model, layer }),
            Some(false) => Ok(()),
        }
    }

    fn is_out_of_turn(&self, model: usize, layer: usize) -> bool {
        self.rounds().is_some() && self.first_missing() != Some((model, layer))
    }

    /// The first layer that this round wants and that has not been observed in it.
    fn first_missing(&self) -> Option<(usize, usize)> {
        let missing = |(model, observed): (usize, &Vec<bool>)| {
            self.wanted(model).find(|&layer| !observed[layer]).map(|layer| (model, layer))
        };
        self.observed.iter().enumerate().find_map(missing)
    }

    /// The rounds of the batch that is open, where there are several.
    fn rounds(&self) -> Option<&Rounds> {
        let rounds = match &self.place {
            Place::Host(host) => host.rounds(),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.rounds(),
        };
        Some(rounds).filter(|rounds| !rounds.only_one())
    }

    /// The layers of `model` that are to be observed in this round of the batch: all, where there is no limit on panels.
    ///
    /// # Panics
    /// If there is no such model.
    pub fn wanted(&self, model: usize) -> Range<usize> {
        self.rounds().map_or(0..self.observed[model].len(), |rounds| rounds.wanted(model))
    }

    /// How many layers all rounds of the batch that is open want together.
    pub fn observations(&self) -> usize {
        self.rounds().map_or_else(|| self.observed.iter().map(Vec::len).sum(), Rounds::observations)
    }

    /// Ends a round of the batch. If true, another begins, for whose layers ([`Self::wanted`]) the same examples are to be
    /// observed again; if false, this was the last, and the batch is to be ended.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::NotObserved`]; on a GPU [`Error::Device`].
    pub fn next_round(&mut self) -> Result<bool, Error> {
        self.check_round()?;
        if self.rounds().is_none_or(Rounds::is_last) {
            return Ok(false);
        }
        match &mut self.place {
            Place::Host(host) => host.next_round(),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.next_round()?,
        };
        for observed in &mut self.observed {
            observed.fill(false);
        }
        Ok(true)
    }

    /// Whether every layer of the round has been observed.
    fn check_round(&self) -> Result<(), Error> {
        if self.open.is_none() {
            return Err(Error::NoBatchOpen);
        }
        match self.first_missing() {
            Some((model, layer)) => Err(Error::NotObserved { model, layer, batch: self.batches }),
            None => Ok(()),
        }
    }

    /// Ends the batch: adds the HSIC of all pairs of layers to the sums.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::NotObserved`], [`Error::MoreRounds`]; on a GPU also [`Error::Device`] and, of the batch before,
    /// [`Error::NonFinite`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        self.check_round()?;
        if self.rounds().is_some_and(|rounds| !rounds.is_last()) {
            return Err(Error::MoreRounds { batch: self.batches });
        }
        match &mut self.place {
            Place::Host(host) => {
                host.next_round();
            }
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.end_batch()?,
        }
        self.open = None;
        self.batches += 1;
        Ok(())
    }

    /// The number of batches ended so far.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// The similarities, one per pair, in the order in which the pairs were given.
    ///
    /// # Errors
    /// [`Error::NoBatches`]; [`Error::BatchOpen`] if a batch has not been ended; on a GPU [`Error::Device`] and, of the last
    /// batch, [`Error::NonFinite`].
    pub fn finish(self) -> Result<Vec<Similarity>, Error> {
        if self.open.is_some() {
            return Err(Error::BatchOpen { batch: self.batches });
        }
        if self.batches == 0 {
            return Err(Error::NoBatches);
        }
        let totals = match self.place {
            Place::Host(host) => host.finish(),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.finish()?,
        };
        let similarity = |(index, &pair)| totals.similarity(index, pair, self.batches);
        Ok(self.pairs.iter().enumerate().map(similarity).collect())
    }

    /// The most bytes that a comparison of batches of `examples` needs beside panels and sums, whatever the features, and what
    /// it needs more where activations are not in memory ([`Activation::stored`]).
    pub fn workspace_bytes(examples: usize) -> [u64; 2] {
        [cpu::workspace_bytes(examples), cpu::read_bytes(examples)]
    }

    /// The most bytes that the panels of models with `layers[m]` layers take for batches of `examples`: nearly all the
    /// memory a comparison needs.
    pub fn panel_bytes(layers: &[usize], examples: usize) -> u64 {
        let layers: u64 = layers.iter().map(|&layers| layers as u64).sum();
        let row = packed_length(examples, Estimator::Biased).map_or(u64::MAX, |row| row as u64);
        layers.saturating_mul(row).saturating_mul(size_of::<f32>() as u64)
    }
}

/// Whether there is something to compare.
fn check(layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Result<(), Error> {
    options.kernel.validate()?;
    if let Some(model) = layers.iter().position(|&layers| layers == 0) {
        return Err(Error::NoLayers { model });
    }
    if pairs.is_empty() {
        return Err(Error::NoPairs);
    }
    match pairs.iter().flat_map(|(x, y)| [x, y]).find(|&&model| model >= layers.len()) {
        Some(&model) => Err(Error::UnknownModel { model, models: layers.len() }),
        None => Ok(()),
    }
}
