//! All layers of one or several models, compared batch by batch.

#[cfg(feature = "cuda")]
mod device;
mod host;

use std::ops::Range;
use std::sync::Arc;

use crate::activation::{Activation, Values};
use crate::attendance::Attendance;
use crate::cpu;
use crate::error::Error;
use crate::normalise;
use crate::options::{Estimator, Memory, Options};
use crate::rounds::Rounds;
use crate::similarity::Similarity;
use crate::totals::{Totals, packed_length};
use host::Host;

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
    observed: Attendance,
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
    Device(Box<device::OnDevice>),
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
            let place = Place::Device(Box::new(device::OnDevice::new(device, layers, pairs, options)?));
            return Ok(Self::at(place, layers, pairs, options));
        }
        #[cfg(not(feature = "cuda"))]
        drop(device);
        Self::new(layers, pairs, options)
    }

    fn at(place: Place, layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Self {
        let (pairs, observed) = (pairs.to_vec(), Attendance::new(layers));
        Self { options, pairs, observed, place, normalised: Vec::new(), open: None, batches: 0 }
    }

    /// Says how much memory may be taken, from the next batch on. Where the panel does not fit, batches take several rounds, with the
    /// same results, bit for bit.
    pub fn limit_memory(&mut self, memory: Memory) {
        match &mut self.place {
            Place::Host(host) => host.limit_panels(memory.panels),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.plan_memory(memory.device),
        }
    }

    /// Begins a batch of `examples`.
    ///
    /// # Errors
    /// [`Error::BatchOpen`], [`Error::TooFewExamples`], [`Error::TooManyExamples`], [`Error::PanelLimit`],
    /// [`Error::NoMemory`], [`Error::Device`].
    pub fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        self.check_closed()?;
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
        self.observed.clear();
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
        self.observed.add(model, layer);
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
            self.observed.add(model, layer);
        }
        match &mut self.place {
            Place::Host(_) => Err(Error::NotOnDevice),
            Place::Device(device) => device.observe_values(model, &layers, sharing),
        }
    }

    /// Whether `layer` of `model` can be observed now, with so many examples.
    fn check_place(&self, model: usize, layer: usize, found: usize) -> Result<(), Error> {
        let expected = self.open.ok_or(Error::NoBatchOpen)?;
        self.observed.check_layer((model, layer), self.batches, (expected, found))?;
        self.observed.check_turn(self.rounds(), (model, layer), self.batches)
    }

    /// The rounds of the batch that is open, or of the one before.
    fn rounds(&self) -> &Rounds {
        match &self.place {
            Place::Host(host) => host.rounds(),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.rounds(),
        }
    }

    /// The layers of `model` that are to be observed in this round of the batch: all, where memory has room for all; none of a model
    /// that there is not.
    pub fn wanted(&self, model: usize) -> Range<usize> {
        self.rounds().wanted(model)
    }

    /// How many layers all rounds of the batch that is open want together.
    pub fn observations(&self) -> usize {
        self.rounds().observations()
    }

    /// Ends a round of the batch. If true, another begins, for whose layers ([`Self::wanted`]) the same examples are to be
    /// observed again; if false, this was the last, and the batch is to be ended.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::NotObserved`]; on a GPU [`Error::Device`].
    pub fn next_round(&mut self) -> Result<bool, Error> {
        self.check_round()?;
        if self.rounds().is_last() {
            return Ok(false);
        }
        match &mut self.place {
            Place::Host(host) => host.next_round(),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.next_round()?,
        };
        self.observed.clear();
        Ok(true)
    }

    /// Whether every layer of the round has been observed.
    fn check_round(&self) -> Result<(), Error> {
        self.open.ok_or(Error::NoBatchOpen)?;
        self.observed.check_round(self.rounds(), self.batches)
    }

    /// Ends the batch: adds the HSIC of all pairs of layers to the sums.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::NotObserved`], [`Error::MoreRounds`]; on a GPU also [`Error::Device`] and, of the batch before,
    /// [`Error::NonFinite`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        self.check_round()?;
        if !self.rounds().is_last() {
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
    pub fn finish(mut self) -> Result<Vec<Similarity>, Error> {
        let totals = self.totals()?;
        if totals.batches == 0 {
            return Err(Error::NoBatches);
        }
        let Self { pairs, place, .. } = self;
        // Panels, and sums that `totals` is a copy of.
        drop(place);
        Ok(pairs.into_iter().enumerate().map(|(index, pair)| totals.similarity(index, pair)).collect())
    }

    /// The sums over the batches that have ended, for another comparison of the same layers and pairs to go on from.
    ///
    /// # Errors
    /// [`Error::BatchOpen`] if a batch has not been ended; on a GPU [`Error::Device`] and, of the last batch, [`Error::NonFinite`].
    pub fn totals(&mut self) -> Result<Totals, Error> {
        self.check_closed()?;
        match &mut self.place {
            Place::Host(host) => Ok(host.totals(self.batches)),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.totals(self.batches),
        }
    }

    /// Goes on from `totals` ([`Self::totals`]) in the place of its own sums: the batches that follow give the same bits as if this
    /// comparison had observed those before, too, where both are on the same kind of machine.
    ///
    /// # Errors
    /// [`Error::BatchOpen`] if a batch has not been ended, [`Error::OtherTotals`] for sums of other layers or pairs; on a GPU
    /// [`Error::Device`].
    pub fn go_on_from(&mut self, totals: Totals) -> Result<(), Error> {
        self.check_closed()?;
        if !totals.are_of(&self.observed.layers(), &self.pairs) {
            return Err(Error::OtherTotals);
        }
        let batches = totals.batches;
        match &mut self.place {
            Place::Host(host) => host.go_on_from(totals),
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.go_on_from(totals)?,
        }
        self.batches = batches;
        Ok(())
    }

    /// Fails where a batch has not been ended.
    fn check_closed(&self) -> Result<(), Error> {
        match self.open {
            Some(_) => Err(Error::BatchOpen { batch: self.batches }),
            None => Ok(()),
        }
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
