//! From an activation to its panel row: in float32 where that is accurate enough, else in float64.

use super::gram::{Arithmetic, gram};
use super::{NonFinite, Workspace, centre, rbf};
use crate::activation::Activation;
use crate::options::{Gram, Kernel, Options};
use crate::sums::Row;

/// Batches below this size are computed in float64 by [`Gram::Exact`]: float32 costs about 2e-7 kappa at n = 4.
const DOUBLE_BELOW: usize = 32;

/// Fills `row` with the centred, packed Gram matrix of `activation`.
pub(crate) fn centred_row(
    activation: Activation<'_>,
    options: Options,
    workspace: &mut Workspace,
    row: &mut [f32],
) -> Result<Row, NonFinite> {
    // The exponential of the RBF kernel carries rounding of the squared norms into every entry, whatever kappa says.
    let rbf = matches!(options.kernel, Kernel::Rbf { .. });
    let double = options.gram == Gram::Exact && (activation.examples() < DOUBLE_BELOW || rbf);
    if !double {
        let (summary, kappa) = row_in(Arithmetic::Single, activation, options, workspace, row)?;
        if kappa <= largest_kappa(options.gram) {
            return Ok(summary);
        }
    }
    Ok(row_in(Arithmetic::Double, activation, options, workspace, row)?.0)
}

/// The kappa up to which float32 will do. Its error in CKA is about 5e-9 kappa at n = 256 and grows to 2e-7 kappa at n = 4:
/// 32 keeps 1e-6 from n = 32 on, and 4096 keeps 1e-3.
fn largest_kappa(gram: Gram) -> f64 {
    match gram {
        Gram::Exact => 32.0,
        Gram::Fast => 4096.0,
    }
}

/// The row and its kappa.
fn row_in(
    arithmetic: Arithmetic,
    activation: Activation<'_>,
    options: Options,
    workspace: &mut Workspace,
    row: &mut [f32],
) -> Result<(Row, f64), NonFinite> {
    let n = activation.examples();
    let k = gram(activation, arithmetic, workspace)?;
    if let Kernel::Rbf { bandwidth } = options.kernel
        && !rbf::rbf(k, n, bandwidth)
    {
        row.fill(0.0);
        return Ok((Row::Undefined, 0.0));
    }
    Ok(centre::centre(k, n, options.estimator, arithmetic == Arithmetic::Double, row))
}
