//! All layers of one or several models, compared batch by batch.

use std::sync::Arc;

use crate::activation::{Activation, Values};
use crate::cpu;
use crate::error::Error;
use crate::host::Host;
use crate::normalise;
use crate::options::{Estimator, Options};
use crate::similarity::Similarity;
use crate::totals::packed_length;

/// All layers of one or several models compared batch by batch: the front door.
///
/// A batch is begun, every layer of every model is observed once, in any order, and the batch is ended. Batches may differ
/// in size. After an error the comparison is where it was before the call that failed.
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
    Host(Host),
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
        Ok(Self::at(Place::Host(Host::new(layers, pairs, options)), layers, pairs, options))
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

    /// Begins a batch of `examples`.
    ///
    /// # Errors
    /// [`Error::BatchOpen`], [`Error::TooFewExamples`], [`Error::TooManyExamples`], [`Error::Device`].
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
    /// [`Error::ObservedTwice`], [`Error::NonFinite`], [`Error::Device`].
    pub fn observe(&mut self, model: usize, layer: usize, activation: Activation<'_>) -> Result<(), Error> {
        self.check_place(model, layer, activation.examples())?;
        let batch = self.batches;
        let non_finite = |cpu::NonFinite { example }| Error::NonFinite { model, layer, batch, example };
        let activation = if self.options.normalise_examples {
            normalise::examples(activation, &mut self.normalised);
            Activation::new(Values::F64(&self.normalised), activation.examples())?
        } else {
            activation
        };
        match &mut self.place {
            Place::Host(host) => host.observe(model, layer, activation).map_err(non_finite)?,
            #[cfg(feature = "cuda")]
            Place::Device(device) => device.observe(model, layer, activation)?.map_err(non_finite)?,
        }
        self.observed[model][layer] = true;
        Ok(())
    }

    /// The same for an output that is on the GPU already, where `examples` rows of equal length lie one after the other.
    /// It is read by what is enqueued here on the device's stream; nothing is waited for.
    ///
    /// # Errors
    /// Those of [`Comparison::observe`] and [`Activation::new`]; [`Error::NotOnDevice`] if this is a comparison on the host,
    /// [`Error::NormalisedOnHost`] if it normalises.
    #[cfg(feature = "cuda")]
    pub fn observe_on_device(
        &mut self,
        model: usize,
        layer: usize,
        values: &gramscope_cuda::Values<'_>,
        examples: usize,
    ) -> Result<(), Error> {
        crate::activation::check_shape(values.len(), examples)?;
        self.check_place(model, layer, examples)?;
        if self.options.normalise_examples {
            return Err(Error::NormalisedOnHost);
        }
        match &mut self.place {
            Place::Host(_) => return Err(Error::NotOnDevice),
            Place::Device(device) => device.observe_values(model, layer, values)?,
        }
        self.observed[model][layer] = true;
        Ok(())
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
            Some(false) => Ok(()),
        }
    }

    /// Ends the batch: adds the HSIC of all pairs of layers to the sums.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::NotObserved`]; on a GPU also [`Error::Device`] and, of the batch before,
    /// [`Error::NonFinite`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        let examples = self.open.ok_or(Error::NoBatchOpen)?;
        for (model, observed) in self.observed.iter().enumerate() {
            if let Some(layer) = observed.iter().position(|&observed| !observed) {
                return Err(Error::NotObserved { model, layer, batch: self.batches });
            }
        }
        match &mut self.place {
            Place::Host(host) => host.end_batch(examples),
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
