//! The CPU's way from an activation to a panel row, and from panels to sums of HSIC.

mod centre;
mod gram;
mod pairs;

pub(crate) use pairs::Panels;

/// An activation holds NaN or an infinity, in `example` first.
#[derive(Debug)]
pub(crate) struct NonFinite {
    pub(crate) example: usize,
}

/// Everything that is allocated once and used for every activation.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    gram: Vec<f64>,
    slab: Vec<f64>,
}
