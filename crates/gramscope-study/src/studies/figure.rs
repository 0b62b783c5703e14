//! A study's figure: what was measured, put together under what it is and how large it was.

use std::path::Path;

use gramscope_train::Run;

use super::StudyInfo;
use super::measure::Measured;
use crate::Result;
use crate::plot::{self, Tiles};

/// Networks that are shown one by one.
const MOST_NETWORKS: usize = 6;

/// Draws the figure: a row for each network that was measured alone, then what was measured of all together.
pub(super) fn draw(info: &StudyInfo, runs: &[Run], measured: &Measured, path: &Path) -> Result<()> {
    let mut rows = Vec::new();
    let alone = runs.iter().zip(&measured.networks).filter(|(_, network)| !network.pictures.is_empty());
    let left_out = alone.clone().count().saturating_sub(MOST_NETWORKS);
    for (run, network) in alone.take(MOST_NETWORKS) {
        rows.push(Tiles { title: title(run)?, pictures: network.pictures.clone() });
    }
    if !measured.pictures.is_empty() {
        rows.push(Tiles { title: String::new(), pictures: measured.pictures.clone() });
    }
    let after = info
        .figure
        .as_ref()
        .map_or_else(String::new, |figure| format!("After figure {figure} of Nguyen, Raghu and Kornblith (2021)"));
    let more = match left_out {
        0 => String::new(),
        count => format!("; {count} more networks in the report"),
    };
    plot::tiles(&info.title, [&format!("{after}{more}"), &info.size], &rows, path)
}

/// The run with its accuracies.
fn title(run: &Run) -> Result<String> {
    let name = run.name();
    let metrics = run.metrics()?;
    let Some(last) = metrics.last() else { return Ok(name) };
    Ok(format!("{name}: {:.1}% training, {:.1}% test", 100.0 * last.train_accuracy, 100.0 * last.test_accuracy))
}
