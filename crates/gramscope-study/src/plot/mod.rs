//! Pictures as PNG files: heatmaps of comparisons, training curves, accuracy against depth and width.
//!
//! Every picture is drawn with a font that lies in the repository and is written atomically.

mod accuracy;
mod canvas;
mod chart;
pub(crate) mod colour;
mod curves;
mod heatmap;
pub(crate) mod layers;

use std::path::Path;

pub use accuracy::{FamilyMember, accuracy};
pub use curves::training_curves;
use gramscope_train::atomic;
pub use heatmap::heatmap;

use crate::results::PairInfo;
use crate::{Error, Result};

/// Whether a result compares a model with itself.
pub(crate) fn is_within(info: &PairInfo) -> bool {
    info.model_x == info.model_y
}

fn save(canvas: &canvas::Canvas, path: &Path) -> Result<()> {
    let bytes = canvas.encode().map_err(|reason| Error::file(path, format!("cannot be encoded as PNG: {reason}")))?;
    atomic::write(path, &bytes).map_err(Error::io("write", path))
}
