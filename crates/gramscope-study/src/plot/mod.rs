//! Pictures as PNG files: heatmaps of comparisons, one a file or many on a sheet, first principal components and the images
//! that dominate them, training curves, accuracy against depth and width, of linear probes and without blocks.
//!
//! Every picture is drawn with a font that lies in the repository and is written atomically.

mod accuracy;
mod canvas;
mod cells;
mod chart;
pub(crate) mod colour;
mod components;
mod curves;
mod dominant;
mod experiments;
mod family;
mod heatmap;
pub(crate) mod layers;
mod sheet;

use std::path::Path;

pub use accuracy::{FamilyMember, accuracy};
pub use components::principal_components;
pub(crate) use components::principal_components_png;
pub use curves::training_curves;
pub use dominant::dominant_sheet;
pub use experiments::{ablations, probes};
pub(crate) use experiments::{ablations_png, probes_png};
pub(crate) use family::warn_about;
pub use family::{ACCURACY, CURVES, family_pictures, run_pictures};
pub use heatmap::heatmap;
pub(crate) use heatmap::{blocks, mean};
pub use sheet::{SheetMap, sheet};

use gramscope_train::atomic;

use crate::results::{PairInfo, PairResult};
use crate::{Error, Result};

/// Whether a result compares a model with itself.
pub(crate) fn is_within(info: &PairInfo) -> bool {
    info.model_x == info.model_y
}

/// Fails for a result that no map can be drawn of.
fn check_drawable(result: &PairResult, path: &Path) -> Result<()> {
    let (columns, rows) = (result.info.layers_x.len(), result.info.layers_y.len());
    let values = result.similarity.cka.len();
    if columns == 0 || rows == 0 || values != columns * rows {
        let problem = format!("a map of {columns} by {rows} layers cannot be drawn from {values} values");
        return Err(Error::file(path, problem));
    }
    Ok(())
}

fn encode(canvas: &canvas::Canvas, path: &Path) -> Result<Vec<u8>> {
    canvas.encode().map_err(|reason| Error::file(path, format!("cannot be encoded as PNG: {reason}")))
}

fn save(canvas: &canvas::Canvas, path: &Path) -> Result<()> {
    let bytes = encode(canvas, path)?;
    atomic::write(path, &bytes).map_err(Error::io("write", path))
}
