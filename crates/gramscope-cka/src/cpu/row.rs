//! From an activation to its panel row: in float32 where that is accurate enough, else in float64.

use super::centre::{Centred, Precision, centre};
use super::gram::{Entries, Sums, sums};
use super::{Unusable, Workspace, rbf};
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
) -> Result<Row, Unusable> {
    let n = activation.examples();
    if let Kernel::Rbf { bandwidth } = options.kernel {
        // Distances leave no room for float32: the exponential carries their absolute error into every entry.
        let Sums { entries, .. } = sums(activation, Entries::Distances, workspace)?;
        if !rbf::rbf(entries, n, bandwidth) {
            row.fill(0.0);
            return Ok(Row::Undefined);
        }
        let kernel = Sums { entries, exponent: 0, reach: 0.0 };
        return Ok(centre(kernel, n, options.estimator, Precision::Double, row).row);
    }
    if options.gram == Gram::Fast || n >= DOUBLE_BELOW {
        let products = sums(activation, Entries::Single, workspace)?;
        let Centred { row: summary, kappa } = centre(products, n, options.estimator, Precision::Single, row);
        if kappa <= largest_kappa(options.gram) {
            return Ok(summary);
        }
    }
    let products = sums(activation, Entries::Double, workspace)?;
    Ok(centre(products, n, options.estimator, Precision::Double, row).row)
}

/// The kappa up to which float32 will do. Its error in CKA is about 5e-9 kappa at n = 256 and grows to 2e-7 kappa at n = 4:
/// 32 keeps 1e-6 from n = 32 on, and 4096 keeps 1e-3. Independent features have a kappa of 23, the root of a slab.
fn largest_kappa(gram: Gram) -> f64 {
    match gram {
        Gram::Exact => 32.0,
        Gram::Fast => 4096.0,
    }
}
