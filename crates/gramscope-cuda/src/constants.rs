//! The numbers that kernels and launch geometry share, to be compared when kernels are loaded.

/// The array that every family exports.
pub(crate) const SYMBOL: &str = "gs_constants";

include!(concat!(env!("OUT_DIR"), "/constants.rs"));
