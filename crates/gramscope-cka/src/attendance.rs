//! Which layers a batch has seen, round by round, and whose turn it is.

use crate::error::Error;
use crate::rounds::Rounds;

/// For each model and layer, whether it has been observed in this round of the batch.
#[derive(Debug)]
pub(crate) struct Attendance(Vec<Vec<bool>>);

impl Attendance {
    /// Of models with `layers[m]` layers each, none of which has been observed.
    pub(crate) fn new(layers: &[usize]) -> Self {
        Self(layers.iter().map(|&layers| vec![false; layers]).collect())
    }

    /// How many layers each model has.
    pub(crate) fn layers(&self) -> Vec<usize> {
        self.0.iter().map(Vec::len).collect()
    }

    /// Begins a round.
    pub(crate) fn clear(&mut self) {
        self.0.iter_mut().for_each(|observed| observed.fill(false));
    }

    /// Notes a layer that there is.
    pub(crate) fn add(&mut self, model: usize, layer: usize) {
        self.0[model][layer] = true;
    }

    /// Whether there is such a layer, and `found` examples of it where the batch has `expected`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], [`Error::UnknownLayer`], [`Error::WrongExamples`].
    pub(crate) fn check_layer(
        &self,
        (model, layer): (usize, usize),
        batch: usize,
        (expected, found): (usize, usize),
    ) -> Result<(), Error> {
        let observed = self.0.get(model).ok_or(Error::UnknownModel { model, models: self.0.len() })?;
        if layer >= observed.len() {
            return Err(Error::UnknownLayer { model, layer, layers: observed.len() });
        }
        if found != expected {
            return Err(Error::WrongExamples { model, layer, batch, expected, found });
        }
        Ok(())
    }

    /// Whether it is the turn of a layer that there is.
    ///
    /// # Errors
    /// [`Error::ObservedTwice`], [`Error::OutOfTurn`].
    pub(crate) fn check_turn(
        &self,
        rounds: &Rounds,
        (model, layer): (usize, usize),
        batch: usize,
    ) -> Result<(), Error> {
        if self.0[model][layer] {
            return Err(Error::ObservedTwice { model, layer, batch });
        }
        // In one round every order will do.
        if !rounds.only_one() && self.first_missing(rounds) != Some((model, layer)) {
            return Err(Error::OutOfTurn { model, layer });
        }
        Ok(())
    }

    /// Whether every layer that the round wants has been observed.
    ///
    /// # Errors
    /// [`Error::NotObserved`].
    pub(crate) fn check_round(&self, rounds: &Rounds, batch: usize) -> Result<(), Error> {
        match self.first_missing(rounds) {
            Some((model, layer)) => Err(Error::NotObserved { model, layer, batch }),
            None => Ok(()),
        }
    }

    fn first_missing(&self, rounds: &Rounds) -> Option<(usize, usize)> {
        let missing = |(model, observed): (usize, &Vec<bool>)| {
            rounds.wanted(model).find(|&layer| !observed[layer]).map(|layer| (model, layer))
        };
        self.0.iter().enumerate().find_map(missing)
    }
}
