//! From an activation to its first principal component, and to the panel rows with and without it. Everything is float64.

use faer::MatRef;

use super::centre::{Precision, centre, means};
use super::eigen::{Leading, leading};
use super::gram::{Entries, Sums, sums};
use super::{Unusable, Workspace};
use crate::activation::Activation;
use crate::options::Estimator;
use crate::scale::{exponent_of, ldexp};
use crate::sums::Row;

/// What is left of a matrix without its first component is nothing but rounding where its length is no larger share of the
/// first eigenvalue than this: products of float64 leave some 1e-15 of that, and CKA would be off by more than 1e-6.
pub(crate) const SMALLEST_REST: f64 = 1e-9;

/// A layer's first principal component.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// l_1.
    pub(crate) eigenvalue: f64,
    /// l_1 / tr K'.
    pub(crate) fraction: f64,
    /// l_2 / l_1.
    pub(crate) second_over_first: f64,
    /// v_1.
    pub(crate) vector: Vec<f64>,
    /// l_1 in the units of the matrix it was found in.
    scaled: f64,
}

/// A layer's panel rows: its centred, packed Gram matrix, and the same without the first component.
#[derive(Debug)]
pub(crate) struct PrincipalRows<'a> {
    pub(crate) whole: &'a mut [f32],
    pub(crate) rest: &'a mut [f32],
}

/// Why a layer has no component.
#[derive(Debug)]
pub(crate) enum PrincipalError {
    Unusable(Unusable),
    /// The eigenvalues of its Gram matrix could not be found.
    NoEigenvalues,
}

/// Buffers that are used again for every layer.
#[derive(Debug, Default)]
pub(crate) struct Principals {
    workspace: Workspace,
    centred: CentredGram,
}

impl Principals {
    /// The layer's first component; none where the layer is constant.
    pub(crate) fn first(&mut self, activation: Activation<'_>) -> Result<Option<Principal>, PrincipalError> {
        self.centred.fill(activation, &mut self.workspace).map_err(PrincipalError::Unusable)?;
        self.centred.first()
    }

    /// The layer's first component, and its panel rows; says what these are.
    pub(crate) fn rows(
        &mut self,
        activation: Activation<'_>,
        estimator: Estimator,
        rows: PrincipalRows<'_>,
    ) -> Result<(Option<Principal>, [Row; 2]), PrincipalError> {
        let sums = self.centred.fill(activation, &mut self.workspace).map_err(PrincipalError::Unusable)?;
        let whole = centre(sums, activation.examples(), estimator, Precision::Double, rows.whole).row;
        let (principal, rest) = self.centred.first_and_rest(estimator, rows.rest)?;
        Ok((principal, [whole, rest]))
    }

    /// The first component of a layer whose Gram matrix `[n, n]` is known, and the layer's panel row without it; says what that
    /// is.
    #[cfg(feature = "cuda")]
    pub(crate) fn rest_of_gram(
        &mut self,
        entries: &mut [f64],
        n: usize,
        estimator: Estimator,
        row: &mut [f32],
    ) -> Result<(Option<Principal>, Row), PrincipalError> {
        self.centred.fill_from(&Sums { entries, exponent: 0, reach: 0.0 }, n);
        self.centred.first_and_rest(estimator, row)
    }
}

/// K' = HKH, the Gram matrix of the features less their means.
#[derive(Debug, Default)]
struct CentredGram {
    /// n x n; the trace lies in 1..2, or is 0.
    entries: Vec<f64>,
    trace: f64,
    /// The entries are to be multiplied by 2^`exponent`.
    exponent: i32,
}

impl CentredGram {
    /// Fills the matrix from `activation`; also returns the sums it was made of.
    fn fill<'a>(&mut self, activation: Activation<'_>, workspace: &'a mut Workspace) -> Result<Sums<'a>, Unusable> {
        let n = activation.examples();
        let sums = sums(activation, Entries::Double, workspace)?;
        self.fill_from(&sums, n);
        Ok(sums)
    }

    /// Fills the matrix from sums over all features.
    fn fill_from(&mut self, sums: &Sums<'_>, n: usize) {
        let means = means(sums.entries, n, false);
        self.entries.resize(n * n, 0.0);
        for i in 0..n {
            for j in 0..=i {
                let value = sums.entries[i * n + j] - means[i] - means[j];
                self.entries[i * n + j] = value;
                self.entries[j * n + i] = value;
            }
        }
        self.trace = (0..n).map(|i| self.entries[i * n + i]).sum();
        self.exponent = sums.exponent;
        if self.trace > 0.0 {
            let exponent = exponent_of(self.trace);
            let scale = ldexp(1.0, -exponent);
            self.entries.iter_mut().for_each(|value| *value *= scale);
            self.trace *= scale;
            self.exponent += exponent;
        }
    }

    /// Its first component; none where it is zero.
    fn first(&self) -> Result<Option<Principal>, PrincipalError> {
        if !(self.trace > 0.0) {
            return Ok(None);
        }
        let n = self.entries.len().isqrt();
        let k = MatRef::from_row_major_slice(&self.entries, n, n);
        // The matrix is its own transpose, and by columns faer is faster.
        let Leading { first, second, vector } = leading(k.transpose()).ok_or(PrincipalError::NoEigenvalues)?;
        Ok(Some(Principal {
            eigenvalue: ldexp(first, self.exponent),
            fraction: first / self.trace,
            second_over_first: second / first,
            vector,
            scaled: first,
        }))
    }

    /// Its first component, and the panel row of what is left without it, in `row`.
    fn first_and_rest(
        &mut self,
        estimator: Estimator,
        row: &mut [f32],
    ) -> Result<(Option<Principal>, Row), PrincipalError> {
        let principal = self.first()?;
        let rest = match &principal {
            Some(principal) => self.without(principal, estimator, row),
            None => Row::Zero,
        };
        Ok((principal, rest))
    }

    /// Fills `row` with the centred, packed K' - l_1 v_1 v_1^T, of which K' becomes the scratch space.
    fn without(&mut self, principal: &Principal, estimator: Estimator, row: &mut [f32]) -> Row {
        let n = principal.vector.len();
        for (entries, v) in self.entries.chunks_exact_mut(n).zip(&principal.vector) {
            let v = principal.scaled * v;
            for (entry, w) in entries.iter_mut().zip(&principal.vector) {
                *entry -= v * w;
            }
        }
        let rest = Sums { entries: &mut self.entries, exponent: 0, reach: 0.0 };
        match centre(rest, n, estimator, Precision::Double, row).row {
            Row::Centred { exponent, norm }
                if ldexp((2.0 * norm).sqrt(), exponent) > SMALLEST_REST * principal.scaled =>
            {
                Row::Centred { exponent: exponent + self.exponent, norm }
            }
            _ => {
                row.fill(0.0);
                Row::Zero
            }
        }
    }
}
