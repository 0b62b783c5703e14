//! Pictures as PNG files: heatmaps of comparisons, one a file or many on a sheet, first principal components and the images
//! that dominate them, cosine similarities, predictions, sparsity, training curves, accuracy against depth and width, of linear probes and
//! without blocks.
//!
//! Every picture is drawn with a font that lies in the repository and is written atomically.

mod accuracy;
mod canvas;
mod cells;
mod chart;
pub(crate) mod colour;
mod components;
mod cosine;
mod curves;
mod dominant;
mod epochs;
mod experiments;
mod family;
mod heatmap;
pub(crate) mod layers;
mod likeness;
mod prediction_groups;
mod predictions;
mod sheet;
mod sparsity;
mod tiles;

use std::path::Path;

pub use accuracy::{FamilyMember, accuracy};
pub use components::principal_components;
pub use cosine::cosines;
pub use curves::training_curves;
pub use dominant::dominant_sheet;
pub(crate) use epochs::epochs;
pub use experiments::{ablations, probes};
pub(crate) use family::family_maps;
pub use family::{ACCURACY, CURVES, family_pictures, run_pictures};
pub use heatmap::heatmap;
pub(crate) use heatmap::{blocks, mean};
pub use predictions::{class_differences, example_accuracies, prediction_maps};
pub use sheet::{SheetMap, sheet};
pub use sparsity::sparsity;
pub(crate) use tiles::{Tiles, tiles};

use gramscope_train::atomic;

use crate::pair::{PairInfo, PairResult};
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

/// Logs what is wrong with a picture: it must not cost the numbers that it shows.
pub(crate) fn warn_about(drawn: Result<()>) {
    if let Err(reason) = drawn {
        tracing::warn!("a picture is missing: {reason}");
    }
}

fn save(canvas: &canvas::Canvas, path: &Path) -> Result<()> {
    let unable = |reason| Error::file(path, format!("cannot be encoded as PNG: {reason}"));
    let bytes = canvas.encode().map_err(unable)?;
    atomic::write(path, &bytes).map_err(Error::io("write", path))
}
