//! The pictures that training leaves: those of a run in its directory, those of a family in the directory of its runs.

use std::collections::HashSet;
use std::path::Path;

use gramscope_train::Run;

use super::{FamilyMember, SheetMap, accuracy, colour, sheet, training_curves, warn_about};
use crate::Result;
use crate::family::{Member, members};
use crate::pair::PairResult;
use crate::saved::prepare;

/// File of the training curves, in a run's directory or a family's.
pub const CURVES: &str = "curves.png";
/// File of a family's accuracy against depth and width.
pub const ACCURACY: &str = "accuracy.png";

/// Draws RUN/curves.png. A picture that cannot be drawn costs no run: it is logged as a warning.
pub fn run_pictures(run: &Run) {
    let curves = || training_curves(&[(run.name(), run.metrics()?)], &run.dir().join(CURVES));
    warn_about(curves());
}

/// Draws DIR/curves.png and DIR/accuracy.png about the runs of a family, the latter after their last epochs. Where there
/// are more runs than colours that the eye keeps apart, those that differ in their seed alone share one. What cannot be
/// drawn is logged as a warning. What a killed process left of earlier ones is cleared away.
pub fn family_pictures(dir: &Path, runs: &[Run]) {
    warn_about(prepare(dir));
    match members(runs) {
        Ok(members) => {
            let apart = members.len() <= colour::QUALITATIVE.len();
            let name = |member: &Member| if apart { member.name.clone() } else { member.architecture() };
            let curves: Vec<_> = members.iter().map(|member| (name(member), member.epochs.clone())).collect();
            let family: Vec<_> = members.iter().filter_map(accuracy_of).collect();
            warn_about(training_curves(&curves, &dir.join(CURVES)));
            warn_about(accuracy(&family, &dir.join(ACCURACY)));
        }
        Err(reason) => warn_about(Err(reason)),
    }
}

/// Draws every network's own map among `maps` on one sheet, from the smallest network to the largest. Where there are several
/// seeds, a column is an architecture and a row a seed; else a column is a depth and width, and a row what else varies.
///
/// # Errors
/// Metrics that cannot be read; those of [`sheet`].
pub(crate) fn family_maps(runs: &[Run], maps: &[PairResult], path: &Path) -> Result<()> {
    let mut members = members(runs)?;
    let distinct = |key: &dyn Fn(&Member) -> String| members.iter().map(key).collect::<HashSet<_>>().len();
    let columns = if distinct(&|member| member.settings.seed.to_string()) > 1 {
        let columns = distinct(&Member::architecture);
        members.sort_by_key(|member| member.settings.seed);
        columns
    } else {
        let columns = distinct(&|member| format!("{} {}", member.settings.depth, member.settings.width));
        let mut variants: Vec<String> = members.iter().map(|member| member.variant.clone()).collect();
        variants.dedup();
        members.sort_by_key(|member| variants.iter().position(|variant| *variant == member.variant));
        columns
    };
    let own = members.iter().filter_map(|member| {
        let of = |map: &&PairResult| map.info.model_x == member.name && map.info.model_y == member.name;
        let last = member.epochs.last()?;
        let accuracies =
            format!("{:.0}% training, {:.0}% test", 100.0 * last.train_accuracy, 100.0 * last.test_accuracy);
        // What a sweep adds to a name stands in the line below it, where there is more room.
        let short = Some(member.settings.short_name())
            .filter(|short| !member.variant.is_empty() && member.name.starts_with(short.as_str()));
        let lines = vec![member.variant.clone(), accuracies];
        Some(SheetMap { result: maps.iter().find(of)?, title: short.unwrap_or_else(|| member.name.clone()), lines })
    });
    sheet(&own.collect::<Vec<_>>(), columns, path)
}

fn accuracy_of(member: &Member) -> Option<FamilyMember> {
    Some(FamilyMember {
        depth: member.settings.depth,
        width: member.settings.width,
        variant: member.variant.clone(),
        test_accuracy: member.epochs.last()?.test_accuracy,
    })
}
