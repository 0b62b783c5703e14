//! The CPU's way from an activation to a panel row, and from panels to sums of HSIC.

mod centre;
mod columns;
mod eigen;
mod gram;
mod matrix;
mod micropanels;
mod principal;
mod rbf;
mod row;
mod tiles;
mod vectors;

use std::io;

#[cfg(feature = "cuda")]
pub(crate) use eigen::set_upright;
pub(crate) use gram::{Workspace, read_bytes, workspace_bytes};
#[cfg(feature = "cuda")]
pub(crate) use principal::SMALLEST_REST;
pub(crate) use principal::{Principal, PrincipalError, PrincipalRows, Principals};
pub(crate) use row::centred_row;
pub(crate) use tiles::add_products;

use crate::error::Error;

/// Why an activation is of no use.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It holds NaN or an infinity, in `example` first.
    NonFinite { example: usize },
    /// It could not be read.
    Unread(io::Error),
}

impl Unusable {
    /// The error that says whose it is.
    pub(crate) fn of(self, model: usize, layer: usize, batch: usize) -> Error {
        match self {
            Self::NonFinite { example } => Error::NonFinite { model, layer, batch, example },
            Self::Unread(error) => Error::Unread { model, layer, batch, kind: error.kind(), reason: error.to_string() },
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Unread(error)
    }
}
