//! Which layers' panel rows are in memory when: all at once, or in rounds where there is not room for all.
//!
//! Layers, those of all models one after the other, are cut into strips that lie in one tile each. Where the rows of all do
//! not fit, a round holds as many strips as there is room for, from where the round before left off, and all later layers
//! pass by a strip at a time and are multiplied with what is held. So a batch is observed once a round, from the layers that
//! the round holds on: with k rounds (k + 1) / 2 times in all.

use std::ops::Range;

use crate::error::Error;

/// Layers in a tile of the matrix of all pairs, on the host.
pub(crate) const TILE: usize = 16;

/// Where a panel row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowPlace {
    /// Among those that stay for the round.
    Held(usize),
    /// Among those of the strip that passes by.
    Passing(usize),
}

/// Consecutive layers of a model, all in one tile, and where their rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strip {
    model: usize,
    first: usize,
    count: usize,
    place: RowPlace,
}

impl Strip {
    /// The layers.
    pub(crate) fn layers(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    /// The place of the row of the strip's layer number `offset`.
    pub(crate) fn row(&self, offset: usize) -> RowPlace {
        match self.place {
            RowPlace::Held(first) => RowPlace::Held(first + offset),
            RowPlace::Passing(first) => RowPlace::Passing(first + offset),
        }
    }
}

/// Layers of one model that are to be multiplied with layers of another, or of the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// The number of the pair of models.
    pub(crate) pair: usize,
    pub(crate) x: Strip,
    pub(crate) y: Strip,
    /// It is a pair of a model with itself: only layers (i, j) with j <= i are wanted.
    pub(crate) symmetric: bool,
}

/// The rounds of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    layers: Vec<usize>,
    pairs: Vec<(usize, usize)>,
    /// All strips, in order of models and layers.
    strips: Vec<Cut>,
    /// For each round the strips it holds.
    held: Vec<Range<usize>>,
    round: usize,
    /// Layers in a strip, at most.
    width: usize,
    /// The same where there is room.
    tile: usize,
}

/// A strip wherever its rows are.
#[derive(Clone, Copy, Debug)]
struct Cut {
    model: usize,
    first: usize,
    count: usize,
    /// Layers before it, of all models.
    before: usize,
}

impl Rounds {
    /// The rounds of models with `layers[m]` layers each, of which `pairs` are compared, where memory holds `rows` panel rows.
    /// None where that is less than two of several.
    fn new(layers: &[usize], pairs: &[(usize, usize)], rows: usize, tile: usize) -> Option<Self> {
        let total: usize = layers.iter().sum();
        let (width, room) = match rows {
            _ if rows >= total => (tile, total),
            _ if rows >= 2 * tile => (tile, rows - tile),
            2.. => {
                let width = 1 << (rows / 2).ilog2();
                (width, rows - width)
            }
            _ => return None,
        };
        Some(Self { tile, ..Self::with_room(layers, pairs, width, room) })
    }

    /// With strips of `width` layers, and room for `room` of them at once beside the one that passes by.
    fn with_room(layers: &[usize], pairs: &[(usize, usize)], width: usize, room: usize) -> Self {
        let strips = cut(layers, width);
        let mut held: Vec<Range<usize>> = Vec::new();
        let mut free = 0;
        for (index, strip) in strips.iter().enumerate() {
            match held.last_mut() {
                Some(range) if strip.count <= free => range.end = index + 1,
                _ => {
                    held.push(index..index + 1);
                    free = room;
                }
            }
            free -= strip.count;
        }
        Self { layers: layers.to_vec(), pairs: pairs.to_vec(), strips, held, round: 0, width, tile: width }
    }

    /// One round for everything, in tiles of `tile` layers, a power of two.
    pub(crate) fn all_at_once(layers: &[usize], pairs: &[(usize, usize)], tile: usize) -> Self {
        Self::with_room(layers, pairs, tile, layers.iter().sum())
    }

    /// The rounds of a batch whose panel rows have `length` entries, where panels may take `limit` bytes.
    ///
    /// # Errors
    /// [`Error::PanelLimit`].
    pub(crate) fn for_batch(&self, length: usize, limit: u64) -> Result<Self, Error> {
        let row = (length as u64).saturating_mul(size_of::<f32>() as u64).max(1);
        let rows = usize::try_from(limit / row).unwrap_or(usize::MAX);
        let needed = row.saturating_mul(2);
        self.with_rows(rows).ok_or(Error::PanelLimit { needed, limit })
    }

    /// The rounds of a batch where memory holds `rows` panel rows; none where that is less than two of several.
    pub(crate) fn with_rows(&self, rows: usize) -> Option<Self> {
        Self::new(&self.layers, &self.pairs, rows, self.tile)
    }

    /// Whether there is only one.
    pub(crate) fn only_one(&self) -> bool {
        self.held.len() == 1
    }

    /// Goes on to the next; false where this was the last.
    pub(crate) fn advance(&mut self) -> bool {
        let more = self.round + 1 < self.held.len();
        self.round += usize::from(more);
        more
    }

    /// Whether this is the last.
    pub(crate) fn is_last(&self) -> bool {
        self.round + 1 == self.held.len()
    }

    /// The most rows that a round holds.
    pub(crate) fn held_rows(&self) -> usize {
        self.held.iter().map(|held| self.strips[held.clone()].iter().map(|strip| strip.count).sum()).max().unwrap_or(0)
    }

    /// The most rows that pass by at a time.
    pub(crate) fn passing_rows(&self) -> usize {
        if self.only_one() { 0 } else { self.width }
    }

    /// How many layers all rounds want together.
    pub(crate) fn observations(&self) -> usize {
        let mut rounds = Self { round: 0, ..self.clone() };
        let mut observations = 0;
        loop {
            observations += (0..self.layers.len()).map(|model| rounds.wanted(model).len()).sum::<usize>();
            if !rounds.advance() {
                return observations;
            }
        }
    }

    /// The layers of `model` that this round wants.
    pub(crate) fn wanted(&self, model: usize) -> Range<usize> {
        let held = &self.strips[self.held[self.round].clone()];
        let own = held.iter().filter(|strip| strip.model == model);
        let bounds = own.fold(None, |bounds: Option<Range<usize>>, strip| {
            Some(bounds.map_or(strip.first, |bounds| bounds.start)..strip.first + strip.count)
        });
        let later = held.last().is_some_and(|last| model >= last.model)
            && held.iter().any(|strip| self.compared(strip.model, model));
        let end = if later { self.layers[model] } else { 0 };
        match bounds {
            Some(bounds) => bounds.start..bounds.end.max(end),
            None => 0..end,
        }
    }

    /// Where the row of a layer that this round wants is.
    pub(crate) fn place(&self, model: usize, layer: usize) -> RowPlace {
        self.strip(self.strip_of(model, layer)).row(layer % self.width)
    }

    /// The tiles that can be multiplied once the row of this layer is there, if it is the last of a strip that passes by.
    pub(crate) fn tiles_with(&self, model: usize, layer: usize) -> Vec<Tile> {
        let index = self.strip_of(model, layer);
        let passing = self.strip(index);
        if self.held[self.round].contains(&index) || layer + 1 != passing.layers().end {
            return Vec::new();
        }
        self.held[self.round].clone().flat_map(|held| self.tiles(&self.strip(held), &passing)).collect()
    }

    /// The tiles among the layers that are held.
    pub(crate) fn tiles_held(&self) -> Vec<Tile> {
        let held = self.held[self.round].clone();
        let pairs = held.clone().flat_map(|a| (a..held.end).map(move |b| (a, b)));
        pairs.flat_map(|(a, b)| self.tiles(&self.strip(a), &self.strip(b))).collect()
    }

    /// The layers of `model` that stay for the round.
    #[cfg(feature = "cuda")]
    pub(crate) fn held_of(&self, model: usize) -> Range<usize> {
        let strips = self.strips[self.held[self.round].clone()].iter().filter(|strip| strip.model == model);
        let bounds = strips.map(|strip| strip.first..strip.first + strip.count);
        bounds.reduce(|all, strip| all.start..strip.end).unwrap_or(0..0)
    }

    /// The strip that passes by and ends with this layer; none where the layer stays, or others of its strip are to come.
    #[cfg(feature = "cuda")]
    pub(crate) fn passing_up_to(&self, model: usize, layer: usize) -> Option<Range<usize>> {
        let index = self.strip_of(model, layer);
        let layers = self.strip(index).layers();
        (!self.held[self.round].contains(&index) && layer + 1 == layers.end).then_some(layers)
    }

    /// The number of each pair of models, and its models.
    #[cfg(feature = "cuda")]
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, (usize, usize))> {
        self.pairs.iter().copied().enumerate()
    }

    /// The tiles that an earlier strip and a later one, or the same, make for all pairs.
    fn tiles(&self, earlier: &Strip, later: &Strip) -> Vec<Tile> {
        let mut tiles = Vec::new();
        for (pair, &(x, y)) in self.pairs.iter().enumerate() {
            let symmetric = x == y;
            let tile = |x: &Strip, y: &Strip| Tile { pair, x: x.clone(), y: y.clone(), symmetric };
            if (later.model, earlier.model) == (x, y) {
                tiles.push(tile(later, earlier));
            }
            if !symmetric && (earlier.model, later.model) == (x, y) {
                tiles.push(tile(earlier, later));
            }
        }
        tiles
    }

    fn compared(&self, a: usize, b: usize) -> bool {
        self.pairs.iter().any(|&pair| pair == (a, b) || pair == (b, a))
    }

    fn strip_of(&self, model: usize, layer: usize) -> usize {
        self.strips.partition_point(|strip| (strip.model, strip.first) <= (model, layer)) - 1
    }

    fn strip(&self, index: usize) -> Strip {
        let Cut { model, first, count, before } = self.strips[index];
        let held = &self.held[self.round];
        let place = if held.contains(&index) {
            RowPlace::Held(before - self.strips[held.start].before)
        } else {
            RowPlace::Passing(0)
        };
        Strip { model, first, count, place }
    }
}

/// Strips of at most `width` layers, a power of two.
fn cut(layers: &[usize], width: usize) -> Vec<Cut> {
    let mut strips = Vec::new();
    let mut before = 0;
    for (model, &layers) in layers.iter().enumerate() {
        for first in (0..layers).step_by(width) {
            let count = width.min(layers - first);
            strips.push(Cut { model, first, count, before });
            before += count;
        }
    }
    strips
}

/// Packed, centred Gram matrices: those that a round holds and those that pass by.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    length: usize,
    held: Vec<f32>,
    passing: Vec<f32>,
}

impl Panel {
    /// Makes room for what `rounds` have in memory at once, in rows of `length`.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(crate) fn resize(&mut self, rounds: &Rounds, length: usize) -> Result<(), Error> {
        self.length = length;
        for (rows, count) in [(&mut self.held, rounds.held_rows()), (&mut self.passing, rounds.passing_rows())] {
            let bytes = count as u64 * length as u64 * size_of::<f32>() as u64;
            let wanted = count.checked_mul(length).ok_or(Error::NoMemory { bytes })?;
            rows.try_reserve_exact(wanted.saturating_sub(rows.len())).map_err(|_| Error::NoMemory { bytes })?;
            rows.resize(wanted, 0.0);
        }
        Ok(())
    }

    /// The length of a row.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn row(&self, place: RowPlace) -> &[f32] {
        match place {
            RowPlace::Held(row) => &self.held[row * self.length..][..self.length],
            RowPlace::Passing(row) => &self.passing[row * self.length..][..self.length],
        }
    }

    pub(crate) fn row_mut(&mut self, place: RowPlace) -> &mut [f32] {
        match place {
            RowPlace::Held(row) => &mut self.held[row * self.length..][..self.length],
            RowPlace::Passing(row) => &mut self.passing[row * self.length..][..self.length],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The number of a pair of models, a layer of the one and a layer of the other.
    type Product = (usize, usize, usize);

    /// What all rounds multiply, and how many rows were in memory.
    fn multiplied(layers: &[usize], pairs: &[(usize, usize)], rows: usize) -> Option<(Vec<Product>, usize)> {
        let mut rounds = Rounds::new(layers, pairs, rows, TILE)?;
        let mut found = Vec::new();
        let mut take = |tiles: Vec<Tile>| {
            for tile in tiles {
                assert_eq!((tile.x.model, tile.y.model), pairs[tile.pair]);
                for (i, j) in tile.x.layers().flat_map(|i| tile.y.layers().map(move |j| (i, j))) {
                    if !tile.symmetric || j <= i {
                        found.push((tile.pair, i, j));
                    }
                }
            }
        };
        loop {
            for model in 0..layers.len() {
                for layer in rounds.wanted(model) {
                    take(rounds.tiles_with(model, layer));
                }
            }
            take(rounds.tiles_held());
            if !rounds.advance() {
                break;
            }
        }
        Some((found, rounds.held_rows() + rounds.passing_rows()))
    }

    #[test]
    fn every_pair_of_layers_is_multiplied_once_within_the_rows_there_are() {
        for layers in [vec![1], vec![37], vec![16, 16], vec![17, 1, 40], vec![5, 33, 2, 20]] {
            let total: usize = layers.iter().sum();
            let last = layers.len() - 1;
            for pairs in
                [vec![(0, 0)], vec![(0, last)], vec![(last, 0), (last, last)], vec![(0, 0), (0, last), (last, 0)]]
            {
                for rows in (2..40).chain([total, total + 1, 1000]) {
                    let (mut found, most) = multiplied(&layers, &pairs, rows).unwrap();
                    assert!(most <= rows.max(1), "{most} rows of {rows}");
                    let mut expected = Vec::new();
                    for (pair, &(x, y)) in pairs.iter().enumerate() {
                        let all = (0..layers[x]).flat_map(|i| (0..layers[y]).map(move |j| (pair, i, j)));
                        expected.extend(all.filter(|(_, i, j)| x != y || j <= i));
                    }
                    found.sort_unstable();
                    expected.sort_unstable();
                    expected.dedup();
                    assert_eq!(found, expected, "{layers:?}, {pairs:?}, {rows} rows");
                }
            }
        }
        assert!(Rounds::new(&[2], &[(0, 0)], 1, TILE).is_none());
        assert!(Rounds::new(&[1], &[(0, 0)], 1, TILE).is_some());
    }
}
