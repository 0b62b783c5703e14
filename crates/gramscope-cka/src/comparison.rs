//! All layers of one or several models, compared batch by batch.

use crate::activation::Activation;
use crate::cpu;
use crate::error::Error;
use crate::options::{Estimator, Options};
use crate::similarity::Similarity;
use crate::sums::{self, LayerSum, Row, Weight};

/// All layers of one or several models compared batch by batch: the front door.
///
/// A batch is begun, every layer of every model is observed once, in any order, and the batch is ended. Batches may differ
/// in size. After an error the comparison is where it was before the call that failed.
#[derive(Debug)]
pub struct Comparison {
    options: Options,
    models: Vec<Model>,
    pairs: Vec<Pair>,
    workspace: cpu::Workspace,
    /// The examples of the batch that is open.
    open: Option<usize>,
    batches: usize,
}

#[derive(Debug)]
struct Model {
    sums: Vec<LayerSum>,
    /// What has been observed in the batch that is open.
    rows: Vec<Option<Row>>,
    /// `[layers, packed length]`: the centred Gram matrices of the batch that is open.
    panel: Vec<f32>,
}

#[derive(Debug)]
struct Pair {
    x: usize,
    y: usize,
    /// `[layers of x, layers of y]`: HSIC summed over batches, in the layers' units.
    sums: Vec<f64>,
}

impl Comparison {
    /// A comparison of models with `layers[m]` layers each. `pairs` are the models to be compared, `(m, m)` standing for
    /// the layers of one model among themselves.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::NoPairs`], [`Error::UnknownModel`], [`Error::Bandwidth`].
    pub fn new(layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Result<Self, Error> {
        options.kernel.validate()?;
        if let Some(model) = layers.iter().position(|&layers| layers == 0) {
            return Err(Error::NoLayers { model });
        }
        if pairs.is_empty() {
            return Err(Error::NoPairs);
        }
        if let Some(&model) = pairs.iter().flat_map(|(x, y)| [x, y]).find(|&&model| model >= layers.len()) {
            return Err(Error::UnknownModel { model, models: layers.len() });
        }
        let model = |&layers: &usize| Model {
            sums: vec![LayerSum::default(); layers],
            rows: vec![None; layers],
            panel: Vec::new(),
        };
        let pair = |&(x, y): &(usize, usize)| Pair { x, y, sums: vec![0.0; layers[x] * layers[y]] };
        Ok(Self {
            options,
            models: layers.iter().map(model).collect(),
            pairs: pairs.iter().map(pair).collect(),
            workspace: cpu::Workspace::default(),
            open: None,
            batches: 0,
        })
    }

    /// Begins a batch of `examples`.
    ///
    /// # Errors
    /// [`Error::BatchOpen`], [`Error::TooFewExamples`], [`Error::TooManyExamples`].
    pub fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(Error::BatchOpen { batch: self.batches });
        }
        let estimator = self.options.estimator;
        let minimum = estimator.minimum_examples();
        if examples < minimum {
            return Err(Error::TooFewExamples { examples, minimum, estimator });
        }
        let row = packed_length(examples, estimator);
        for model in &mut self.models {
            let length = row.and_then(|row| row.checked_mul(model.rows.len()));
            model.panel.resize(length.ok_or(Error::TooManyExamples { examples })?, 0.0);
            model.rows.fill(None);
        }
        self.open = Some(examples);
        Ok(())
    }

    /// Takes in one layer's output over the batch; nothing of it is kept but its centred Gram matrix.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::UnknownModel`], [`Error::UnknownLayer`], [`Error::WrongExamples`],
    /// [`Error::ObservedTwice`], [`Error::NonFinite`].
    pub fn observe(&mut self, model: usize, layer: usize, activation: Activation<'_>) -> Result<(), Error> {
        let expected = self.open.ok_or(Error::NoBatchOpen)?;
        let (batch, models) = (self.batches, self.models.len());
        let observed = self.models.get_mut(model).ok_or(Error::UnknownModel { model, models })?;
        let layers = observed.rows.len();
        match observed.rows.get(layer) {
            None => return Err(Error::UnknownLayer { model, layer, layers }),
            Some(Some(_)) => return Err(Error::ObservedTwice { model, layer, batch }),
            Some(None) => {}
        }
        let found = activation.examples();
        if found != expected {
            return Err(Error::WrongExamples { model, layer, batch, expected, found });
        }
        let length = observed.panel.len() / layers;
        let row = &mut observed.panel[layer * length..][..length];
        let summary = cpu::centred_row(activation, self.options, &mut self.workspace, row)
            .map_err(|cpu::NonFinite { example }| Error::NonFinite { model, layer, batch, example })?;
        observed.rows[layer] = Some(summary);
        Ok(())
    }

    /// Ends the batch: adds the HSIC of all pairs of layers to the sums.
    ///
    /// # Errors
    /// [`Error::NoBatchOpen`], [`Error::NotObserved`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        let examples = self.open.ok_or(Error::NoBatchOpen)?;
        for (model, observed) in self.models.iter().enumerate() {
            if let Some(layer) = observed.rows.iter().position(Option::is_none) {
                return Err(Error::NotObserved { model, layer, batch: self.batches });
            }
        }
        let factor = hsic_factor(examples, self.options.estimator);
        let weights: Vec<Vec<Weight>> = self.models.iter_mut().map(|model| model.add_own(factor)).collect();
        for pair in &mut self.pairs {
            let (x, y) = (&self.models[pair.x], &self.models[pair.y]);
            let (weights_x, weights_y) = (&weights[pair.x], &weights[pair.y]);
            let layers_y = weights_y.len();
            let add = |i: usize, j: usize, product: f64, sum: &mut f64| {
                *sum = sums::add_product(*sum, factor * product, weights_x[i], weights_y[j]);
            };
            let panels = cpu::Panels { x: &x.panel, y: &y.panel, symmetric: pair.x == pair.y };
            cpu::pair_products(panels, [weights_x.len(), layers_y], &mut pair.sums, &add);
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
    /// [`Error::NoBatches`]; [`Error::BatchOpen`] if a batch has not been ended.
    pub fn finish(self) -> Result<Vec<Similarity>, Error> {
        if self.open.is_some() {
            return Err(Error::BatchOpen { batch: self.batches });
        }
        if self.batches == 0 {
            return Err(Error::NoBatches);
        }
        Ok(self.pairs.iter().map(|pair| pair.similarity(&self.models, self.batches)).collect())
    }

    /// The most bytes that the panels of models with `layers[m]` layers take for batches of `examples`: nearly all the
    /// memory a comparison needs.
    pub fn panel_bytes(layers: &[usize], examples: usize) -> u64 {
        let layers: u64 = layers.iter().map(|&layers| layers as u64).sum();
        let row = packed_length(examples, Estimator::Biased).map_or(u64::MAX, |row| row as u64);
        layers.saturating_mul(row).saturating_mul(size_of::<f32>() as u64)
    }
}

impl Model {
    /// Adds every layer's HSIC with itself to its sum.
    fn add_own(&mut self, factor: f64) -> Vec<Weight> {
        let rows = self.rows.iter().map(|row| row.unwrap_or(Row::Zero));
        self.sums.iter_mut().zip(rows).map(|(sum, row)| sum.add(row, factor)).collect()
    }

    /// The layers without a similarity.
    fn undefined(&self) -> Vec<usize> {
        (0..self.sums.len()).filter(|&layer| self.sums[layer].is_undefined()).collect()
    }
}

impl Pair {
    fn similarity(&self, models: &[Model], batches: usize) -> Similarity {
        let (x, y) = (&models[self.x], &models[self.y]);
        let (layers_x, layers_y) = (x.sums.len(), y.sums.len());
        let entry = |index: usize| {
            let (i, j) = (index / layers_y, index % layers_y);
            // Of a symmetric pair one triangle is computed; its diagonal is known in float64 already.
            let (i, j) = if self.x == self.y { (i.max(j), i.min(j)) } else { (i, j) };
            let own = self.x == self.y && i == j;
            let sum = if own { x.sums[i].own_in_units() } else { self.sums[i * layers_y + j] };
            sums::similarity(sum, &x.sums[i], &y.sums[j], batches)
        };
        let (cka, hsic_xy) = (0..layers_x * layers_y).map(entry).unzip();
        let own = |model: &Model| model.sums.iter().map(|sum| sum.own(batches)).collect();
        Similarity {
            layers_x,
            layers_y,
            batches,
            cka,
            hsic_xy,
            hsic_xx: own(x),
            hsic_yy: own(y),
            undefined_x: x.undefined(),
            undefined_y: y.undefined(),
        }
    }
}

/// The length of a panel row: the strict triangle, and the diagonal where the estimator uses it.
fn packed_length(examples: usize, estimator: Estimator) -> Option<usize> {
    let above = examples.checked_mul(examples.checked_sub(1)?)? / 2;
    match estimator {
        Estimator::Unbiased => Some(above),
        Estimator::Biased => above.checked_add(examples),
    }
}

/// What the inner product of two packed rows is to be multiplied by to give HSIC: 2 because a triangle stands for the
/// whole, over n(n-3) or (n-1)^2.
fn hsic_factor(examples: usize, estimator: Estimator) -> f64 {
    let n = examples as f64;
    match estimator {
        Estimator::Unbiased => 2.0 / (n * (n - 3.0)),
        Estimator::Biased => 2.0 / ((n - 1.0) * (n - 1.0)),
    }
}
