//! The accumulator: mean cosine similarities of layers of one shape, from their activations, batch by batch. It knows nothing
//! of networks and files.
//!
//! The rows of an example in all layers of a shape are a matrix [layers, features], whose product with its own transpose,
//! divided by the lengths on its diagonal, has the cosines. Rows and products are float64. Examples are worked on in parallel
//! and added in their order, so that neither the number of threads nor the size of the batches changes a bit.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};
use gramscope_cka::{Activation, Values};
use half::{bf16, f16};
use rayon::prelude::*;

/// Bytes of the map of an example: a square of float64 while it is computed, and its triangle until it is added.
const MAP_ENTRY: usize = 12;

/// Sums over the examples so far, a shape at a time.
pub(super) struct Cosines {
    shapes: Vec<Shape>,
    /// For each layer, its shape and its place among the layers of that shape.
    places: Vec<(usize, usize)>,
    /// The rows of the last shape that was complete, whose memory the next one takes: an allocator keeps what it is given back
    /// for a while, and there would be two.
    spare: Vec<f64>,
}

/// The layers of one shape.
struct Shape {
    /// Their numbers, ascending.
    layers: Vec<usize>,
    features: usize,
    /// The batch at work, [examples, layers, features], of which every value is written; empty between batches.
    rows: Vec<f64>,
    /// Layers of the batch that have been seen.
    seen: usize,
    /// Sums of defined cosines, and how many they are of: for each layer, those with the layers up to itself.
    sums: Vec<f64>,
    counts: Vec<u64>,
}

impl Cosines {
    /// No examples yet, of layers of these shapes.
    pub(super) fn new(shapes: &[Vec<usize>]) -> Self {
        let mut found: Vec<(&[usize], Vec<usize>)> = Vec::new();
        let mut places = Vec::with_capacity(shapes.len());
        for (layer, shape) in shapes.iter().enumerate() {
            let index = found.iter().position(|(known, _)| known == shape).unwrap_or(found.len());
            if index == found.len() {
                found.push((shape, Vec::new()));
            }
            let layers = &mut found[index].1;
            places.push((index, layers.len()));
            layers.push(layer);
        }
        Self {
            shapes: found.into_iter().map(|(shape, layers)| Shape::new(shape, layers)).collect(),
            places,
            spare: Vec::new(),
        }
    }

    /// All layers, those of one shape together.
    pub(super) fn by_shape(&self) -> impl Iterator<Item = usize> + Clone {
        self.shapes.iter().flat_map(|shape| shape.layers.iter().copied())
    }

    /// The most bytes that an example takes at once where layers are observed in this order, batch after batch.
    pub(super) fn bytes(&self, order: impl Iterator<Item = usize> + Clone) -> u64 {
        let mut seen = vec![0; self.shapes.len()];
        // What each shape has taken, and what lies idle: the memory of the shape before, which may be far larger.
        let mut taken = vec![0; self.shapes.len()];
        let (mut spare, mut held, mut most) = (0, 0, 0);
        // The first shape of a batch finds the memory of the last one of the batch before.
        for layer in order.clone().chain(order) {
            let index = self.places[layer].0;
            let shape = &self.shapes[index];
            let count = shape.layers.len();
            if seen[index] == 0 {
                let rows = (count * shape.features * size_of::<f64>()) as u64;
                taken[index] = rows.max(std::mem::take(&mut spare));
                held += taken[index];
            }
            seen[index] += 1;
            let complete = seen[index] == count;
            most = most.max(held + spare + if complete { (MAP_ENTRY * count * count) as u64 } else { 0 });
            if complete {
                held -= taken[index];
                spare = taken[index];
                seen[index] = 0;
            }
        }
        most
    }

    /// Takes in the activation of `layer` over `batch`, from 0. Every layer is to be observed once a batch.
    ///
    /// # Errors
    /// [`gramscope_cka::Error::NonFinite`].
    pub(super) fn observe(
        &mut self,
        layer: usize,
        batch: usize,
        view: Activation<'_>,
    ) -> Result<(), gramscope_cka::Error> {
        let (shape, place) = self.places[layer];
        self.shapes[shape].observe(place, view, &mut self.spare).map_err(|example| gramscope_cka::Error::NonFinite {
            model: 0,
            layer,
            batch,
            example,
        })
    }

    /// Mean cosines and the number of examples that each is of, both [layers, layers]; NaN where that is 0.
    pub(super) fn finish(self) -> (Vec<f64>, Vec<f64>) {
        let side = self.places.len();
        let (mut means, mut counts) = (vec![f64::NAN; side * side], vec![0.0; side * side]);
        for shape in &self.shapes {
            debug_assert_eq!(shape.seen, 0, "a batch is not complete");
            let pairs =
                shape.layers.iter().enumerate().flat_map(|(at, &x)| shape.layers[..=at].iter().map(move |&y| (x, y)));
            for ((x, y), (&sum, &count)) in pairs.zip(shape.sums.iter().zip(&shape.counts)) {
                for at in [x * side + y, y * side + x] {
                    means[at] = sum / count as f64;
                    counts[at] = count as f64;
                }
            }
        }
        (means, counts)
    }
}

impl Shape {
    fn new(shape: &[usize], layers: Vec<usize>) -> Self {
        let pairs = layers.len() * (layers.len() + 1) / 2;
        let features = shape.iter().product();
        Self { layers, features, rows: Vec::new(), seen: 0, sums: vec![0.0; pairs], counts: vec![0; pairs] }
    }

    /// Takes in the activation of the layer at `place`; or else the first example that is not finite. Rows begin in `spare` and
    /// end there.
    fn observe(&mut self, place: usize, view: Activation<'_>, spare: &mut Vec<f64>) -> Result<(), usize> {
        if self.seen == 0 {
            self.begin_batch(view.examples(), std::mem::take(spare));
        }
        match view.values().expect("what is handed over is in memory") {
            Values::F32(x) => self.fill(place, x, f64::from),
            Values::F64(x) => self.fill(place, x, |value| value),
            Values::F16(x) => self.fill(place, x, f16::to_f64),
            Values::Bf16(x) => self.fill(place, x, bf16::to_f64),
        }?;
        self.seen += 1;
        if self.seen == self.layers.len() {
            self.add_batch();
            *spare = std::mem::take(&mut self.rows);
        }
        Ok(())
    }

    /// Makes room for so many examples, in `memory` if it is enough.
    fn begin_batch(&mut self, examples: usize, mut memory: Vec<f64>) {
        let values = examples * self.layers.len() * self.features;
        if memory.capacity() < values {
            // Before the new one is there.
            drop(memory);
            memory = Vec::with_capacity(values);
        }
        memory.resize(values, 0.0);
        self.rows = memory;
    }

    fn fill<S: Copy + Sync>(&mut self, place: usize, x: &[S], to_f64: impl Fn(S) -> f64 + Sync) -> Result<(), usize> {
        let features = self.features;
        let rows = self.rows.par_chunks_exact_mut(self.layers.len() * features);
        let bad = rows
            .zip_eq(x.par_chunks_exact(features))
            .position_first(|(rows, x)| !scale_into(&mut rows[place * features..][..features], x, &to_f64));
        bad.map_or(Ok(()), Err)
    }

    /// Adds the cosines of the batch, in the order of its examples.
    fn add_batch(&mut self) {
        let layers = self.layers.len();
        let rows = self.rows.par_chunks_exact(layers * self.features);
        let examples: Vec<_> = rows.map(|rows| cosines(rows, layers)).collect();
        for cosine in examples {
            for ((sum, count), cosine) in self.sums.iter_mut().zip(&mut self.counts).zip(cosine) {
                if !cosine.is_nan() {
                    *sum += cosine;
                    *count += 1;
                }
            }
        }
        self.seen = 0;
    }
}

/// Fills `row` with `x`, divided by its largest absolute value so that no square leaves the range; returns whether it is finite.
fn scale_into<S: Copy>(row: &mut [f64], x: &[S], to_f64: impl Fn(S) -> f64) -> bool {
    row.iter_mut().zip(x).for_each(|(value, &x)| *value = to_f64(x));
    let largest = row.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    if largest > 0.0 {
        row.iter_mut().for_each(|value| *value /= largest);
    }
    row.iter().all(|value| value.is_finite())
}

/// The cosines of every row of an example with itself and the rows before it; NaN for a row of zeros.
fn cosines(rows: &[f64], layers: usize) -> Vec<f64> {
    let rows = MatRef::from_row_major_slice(rows, layers, rows.len() / layers);
    let mut product = Mat::zeros(layers, layers);
    triangular::matmul(
        product.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        rows,
        BlockStructure::Rectangular,
        rows.transpose(),
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
    let pairs = (0..layers).flat_map(|i| (0..=i).map(move |j| (i, j)));
    // A row of zeros gives 0 / 0.
    pairs.map(|(i, j)| product[(i, j)] / (product[(i, i)] * product[(j, j)]).sqrt()).collect()
}

#[cfg(test)]
mod tests;
