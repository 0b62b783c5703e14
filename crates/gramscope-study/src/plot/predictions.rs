//! The pictures of predictions, as files and for the report.

use std::path::Path;

use super::canvas::Canvas;
use super::{encode, likeness, prediction_groups, save};
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

/// All pictures there are, each with what it shows, as the bytes of PNG files; `path` is for messages.
pub(crate) fn prediction_pngs(result: &PredictResult, path: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let pictures = [
        ("How alike the predictions are", Some(likeness::draw(result))),
        ("Accuracy image by image", prediction_groups::examples(result)),
        ("Accuracy class by class", prediction_groups::classes(result)),
    ];
    let pictures = pictures.into_iter().filter_map(|(what, canvas)| Some((what, canvas?)));
    pictures.map(|(what, canvas)| Ok((what, encode(&canvas, path)?))).collect()
}
