//! The CPU's way from an activation to a panel row, and from panels to sums of HSIC.

mod centre;
mod columns;
mod distances;
mod eigen;
mod gram;
mod pairs;
mod principal;
mod rbf;
mod row;

pub(crate) use gram::Workspace;
pub(crate) use pairs::{Panels, pair_products};
pub(crate) use principal::{Principal, PrincipalError, PrincipalRows, Principals};
pub(crate) use row::centred_row;

/// An activation holds NaN or an infinity, in `example` first.
#[derive(Debug)]
pub(crate) struct NonFinite {
    pub(crate) example: usize,
}
