//! Panels and sums on the host.

use crate::activation::Activation;
use crate::cpu;
use crate::error::Error;
use crate::options::Options;
use crate::sums::{self, LayerSum, Row, Weight};
use crate::totals::{Totals, hsic_factor, packed_length};

/// The panels of the batch that is open and the sums over those before, on the host.
#[derive(Debug)]
pub(crate) struct Host {
    options: Options,
    models: Vec<Model>,
    pairs: Vec<Pair>,
    workspace: cpu::Workspace,
}

#[derive(Debug)]
struct Model {
    sums: Vec<LayerSum>,
    /// What each layer of the batch that is open came to.
    rows: Vec<Row>,
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

impl Host {
    pub(crate) fn new(layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Self {
        let model = |&layers: &usize| Model {
            sums: vec![LayerSum::default(); layers],
            rows: vec![Row::Zero; layers],
            panel: Vec::new(),
        };
        let pair = |&(x, y): &(usize, usize)| Pair { x, y, sums: vec![0.0; layers[x] * layers[y]] };
        Self {
            options,
            models: layers.iter().map(model).collect(),
            pairs: pairs.iter().map(pair).collect(),
            workspace: cpu::Workspace::default(),
        }
    }

    /// Makes room for a batch.
    ///
    /// # Errors
    /// [`Error::TooManyExamples`].
    pub(crate) fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        let row = packed_length(examples, self.options.estimator);
        for model in &mut self.models {
            let length = row.and_then(|row| row.checked_mul(model.rows.len()));
            model.panel.resize(length.ok_or(Error::TooManyExamples { examples })?, 0.0);
        }
        Ok(())
    }

    /// Turns an activation into its row.
    ///
    /// # Errors
    /// The first example that is not finite.
    pub(crate) fn observe(
        &mut self,
        model: usize,
        layer: usize,
        activation: Activation<'_>,
    ) -> Result<(), cpu::NonFinite> {
        let Model { rows, panel, .. } = &mut self.models[model];
        let length = panel.len() / rows.len();
        let row = &mut panel[layer * length..][..length];
        rows[layer] = cpu::centred_row(activation, self.options, &mut self.workspace, row)?;
        Ok(())
    }

    /// Adds the HSIC of all pairs of layers to the sums.
    pub(crate) fn end_batch(&mut self, examples: usize) {
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
    }

    pub(crate) fn finish(self) -> Totals {
        Totals {
            layers: self.models.into_iter().map(|model| model.sums).collect(),
            pairs: self.pairs.into_iter().map(|pair| pair.sums).collect(),
        }
    }
}

impl Model {
    /// Adds every layer's HSIC with itself to its sum.
    fn add_own(&mut self, factor: f64) -> Vec<Weight> {
        self.sums.iter_mut().zip(&self.rows).map(|(sum, row)| sum.add(*row, factor)).collect()
    }
}
