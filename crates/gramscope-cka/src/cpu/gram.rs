//! The Gram matrix of an activation.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};

use super::{NonFinite, Workspace, centre};
use crate::activation::{Activation, Values};
use crate::options::Options;
use crate::sums::Row;

impl Workspace {
    pub(crate) fn centred_gram(
        &mut self,
        activation: Activation<'_>,
        options: Options,
        row: &mut [f32],
    ) -> Result<Row, NonFinite> {
        let (n, p) = (activation.examples(), activation.features());
        let get = |i: usize, f: usize| match activation.values() {
            Values::F16(v) => v[i * p + f].to_f64(),
            Values::Bf16(v) => v[i * p + f].to_f64(),
            Values::F32(v) => f64::from(v[i * p + f]),
            Values::F64(v) => v[i * p + f],
        };
        let width = 256.min(p);
        self.slab.resize(n * width, 0.0);
        self.gram.clear();
        self.gram.resize(n * n, 0.0);
        for start in (0..p).step_by(width) {
            let width = width.min(p - start);
            for f in 0..width {
                let (mut sum, mut low, mut high) = (0.0, f64::INFINITY, f64::NEG_INFINITY);
                for i in 0..n {
                    let value = get(i, start + f);
                    if !value.is_finite() {
                        return Err(NonFinite { example: i });
                    }
                    sum += value;
                    low = low.min(value);
                    high = high.max(value);
                }
                let shift = ((sum - low - high) / (n as f64 - 2.0)).max(low).min(high);
                for i in 0..n {
                    self.slab[i * width + f] = get(i, start + f) - shift;
                }
            }
            let slab = MatRef::from_row_major_slice(&self.slab[..n * width], n, width);
            triangular::matmul(
                MatMut::from_row_major_slice_mut(&mut self.gram, n, n),
                BlockStructure::TriangularLower,
                Accum::Add,
                slab,
                BlockStructure::Rectangular,
                slab.transpose(),
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
        }
        Ok(centre::centre(&mut self.gram, n, options.estimator, row))
    }
}
