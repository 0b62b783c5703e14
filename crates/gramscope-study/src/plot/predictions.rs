//! The pictures of predictions.

use std::path::Path;

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

/// Draws the images' accuracies in one group against those in the other, beside those in two halves of one; nothing where there is
/// neither.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn example_accuracies(result: &PredictResult, path: &Path) -> Result<()> {
    prediction_groups::examples(result).map_or(Ok(()), |canvas| save(&canvas, path))
}

/// Draws the classes' differences of accuracy between the two groups; nothing where there are no two.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn class_differences(result: &PredictResult, path: &Path) -> Result<()> {
    prediction_groups::classes(result).map_or(Ok(()), |canvas| save(&canvas, path))
}
