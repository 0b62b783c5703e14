//! Panels and sums on the host.

use crate::activation::Activation;
use crate::cpu;
use crate::error::Error;
use crate::options::Options;
use crate::rounds::{Panel, Rounds, TILE, Tile};
use crate::sums::{self, LayerSum, Weight};
use crate::totals::{Totals, hsic_factor, packed_length};

/// The panels of the batch that is open and the sums over those before, on the host.
#[derive(Debug)]
pub(crate) struct Host {
    options: Options,
    models: Vec<Model>,
    pairs: Vec<Pair>,
    workspace: cpu::Workspace,
    panel: Panel,
    /// Of the batch that is open, or the one before.
    rounds: Rounds,
    /// What an inner product is to be multiplied by in that batch.
    factor: f64,
    /// Bytes that the panel may take.
    limit: u64,
}

#[derive(Debug)]
struct Model {
    sums: Vec<LayerSum>,
    /// Of each layer that has been observed in the batch that is open, the weights of its terms.
    weights: Vec<Option<Weight>>,
}

#[derive(Debug)]
struct Pair {
    x: usize,
    y: usize,
    layers_y: usize,
    /// `[layers of x, layers of y]`: HSIC summed over batches, in the layers' units.
    sums: Vec<f64>,
}

impl Host {
    pub(crate) fn new(layers: &[usize], pairs: &[(usize, usize)], options: Options) -> Self {
        let model = |&layers: &usize| Model { sums: vec![LayerSum::default(); layers], weights: vec![None; layers] };
        let pair =
            |&(x, y): &(usize, usize)| Pair { x, y, layers_y: layers[y], sums: vec![0.0; layers[x] * layers[y]] };
        Self {
            options,
            models: layers.iter().map(model).collect(),
            pairs: pairs.iter().map(pair).collect(),
            workspace: cpu::Workspace::default(),
            panel: Panel::default(),
            rounds: Rounds::all_at_once(layers, pairs, TILE),
            factor: 0.0,
            limit: u64::MAX,
        }
    }

    /// Lets panels take no more than so many bytes from the next batch on.
    pub(crate) fn limit_panels(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Makes room for a batch.
    ///
    /// # Errors
    /// [`Error::TooManyExamples`], [`Error::PanelLimit`], [`Error::NoMemory`].
    pub(crate) fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        let length = packed_length(examples, self.options.estimator).ok_or(Error::TooManyExamples { examples })?;
        let rounds = self.rounds.for_batch(length, self.limit)?;
        self.panel.resize(&rounds, length)?;
        self.rounds = rounds;
        self.factor = hsic_factor(examples, self.options.estimator);
        for model in &mut self.models {
            model.weights.fill(None);
        }
        Ok(())
    }

    /// The rounds of the batch that is open.
    pub(crate) fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    /// Turns an activation into its row.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn observe(
        &mut self,
        model: usize,
        layer: usize,
        activation: Activation<'_>,
    ) -> Result<(), cpu::Unusable> {
        let place = self.panel.row_mut(self.rounds.place(model, layer));
        let row = cpu::centred_row(activation, self.options, &mut self.workspace, place)?;
        let Model { sums, weights } = &mut self.models[model];
        weights[layer].get_or_insert_with(|| sums[layer].add(row, self.factor));
        self.add(&self.rounds.tiles_with(model, layer));
        Ok(())
    }

    /// Ends a round; false if it was the last of the batch.
    pub(crate) fn next_round(&mut self) -> bool {
        self.add(&self.rounds.tiles_held());
        self.rounds.advance()
    }

    /// Adds the HSIC of pairs of layers to the sums.
    fn add(&mut self, tiles: &[Tile]) {
        let weight = |model: usize, layer: usize| self.models[model].weights[layer].unwrap_or(Weight::NONE);
        cpu::add_products(&self.panel, tiles, |tile, i, j, product| {
            let Pair { x, y, layers_y, sums } = &mut self.pairs[tile.pair];
            let sum = &mut sums[i * *layers_y + j];
            *sum = sums::add_product(*sum, self.factor * product, weight(*x, i), weight(*y, j));
        });
    }

    /// The sums over so many `batches`, of which none is open.
    pub(crate) fn totals(&self, batches: usize) -> Totals {
        Totals {
            batches,
            layers: self.models.iter().map(|model| model.sums.clone()).collect(),
            pairs: self.pairs.iter().map(|pair| pair.sums.clone()).collect(),
        }
    }

    /// Goes on from `totals` of the same layers and pairs.
    pub(crate) fn go_on_from(&mut self, totals: Totals) {
        for (model, sums) in self.models.iter_mut().zip(totals.layers) {
            model.sums = sums;
        }
        for (pair, sums) in self.pairs.iter_mut().zip(totals.pairs) {
            pair.sums = sums;
        }
    }
}
