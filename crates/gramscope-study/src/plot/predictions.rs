//! The pictures of predictions.

use std::path::Path;

use super::canvas::Canvas;
use super::{likeness, prediction_groups, save};
use crate::Result;
use crate::predict::PredictResult;

/// Draws agreement, KL, Hellinger distance and entropy between all groups, or all runs of the only one, as a PNG at `path`.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn prediction_maps(result: &PredictResult, path: &Path) -> Result<()> {
    save(&likeness::draw(result), path)
}

/// Draws the images' accuracies in one group against those in the other, beside those in two halves of one. False where there
/// is nothing to draw.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn example_accuracies(result: &PredictResult, path: &Path) -> Result<bool> {
    drawn(prediction_groups::examples(result), path)
}

/// Draws the classes' differences of accuracy between the two groups. False where there are no two.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn class_differences(result: &PredictResult, path: &Path) -> Result<bool> {
    drawn(prediction_groups::classes(result), path)
}

fn drawn(canvas: Option<Canvas>, path: &Path) -> Result<bool> {
    canvas.map_or(Ok(false), |canvas| save(&canvas, path).map(|()| true))
}
