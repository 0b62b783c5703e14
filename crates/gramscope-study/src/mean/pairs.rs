//! Means over all pairs of runs of the same two architectures: the seeds of one with those of the other.

use std::path::PathBuf;

use gramscope_train::Run;

use super::{Mean, of_maps};
use crate::family::{self, Member};
use crate::names::run_names;
use crate::pair::{NUMBERS, PairResult};
use crate::{Error, Result, tree};

/// Directory of such means, below that of the results.
pub const PAIRS: &str = "mean";

/// Averages `results`, written to `directories`, over the pairs of each two architectures among `runs`, which were compared:
/// maps within a network, maps between networks that differ in their seed alone, and maps between two architectures (turned
/// so that the rows are always those of the one whose run comes first). What there is one map of is left out. Each mean comes
/// with the name of a directory for it, in the order of the results.
///
/// # Errors
/// What telling the runs apart may say, and [`Error::Incomparable`] where a result is of none of the runs, or a run is there twice.
pub fn over_pairs(runs: &[Run], results: &[PairResult], directories: &[PathBuf]) -> Result<Vec<(String, Mean)>> {
    tree::check_distinct(runs)?;
    family::warn_of_one_seed(&family::in_order_of(runs)?);
    let groups = groups(runs, results, directories)?.into_iter().filter(|(_, maps)| maps.len() > 1);
    groups.map(|(name, maps)| Ok((name, of_maps(&maps)?))).collect()
}

/// Maps of the same layers with the files that their numbers lie in.
pub(crate) type Maps = Vec<(PairResult, PathBuf)>;

/// What [`over_pairs`] averages, and single maps: each group with its name, in the order of the results.
///
/// # Errors
/// As there.
pub(crate) fn groups(runs: &[Run], results: &[PairResult], directories: &[PathBuf]) -> Result<Vec<(String, Maps)>> {
    let members = family::in_order_of(runs)?;
    let mut groups: Vec<(String, Maps)> = Vec::new();
    let names = run_names(runs);
    let place = |name: &String| {
        let unknown = || Error::incomparable(format!("{name} is not among the runs that were compared"));
        names.iter().position(|known| known == name).ok_or_else(unknown)
    };
    for (result, directory) in results.iter().zip(directories) {
        let (x, y) = (place(&result.info.model_x)?, place(&result.info.model_y)?);
        let first = |run: usize| members.iter().position(|member| alike(member, &members[run]));
        let (x, y, result) = if first(x) <= first(y) { (x, y, result.clone()) } else { (y, x, result.transposed()) };
        let group = match (x == y, alike(&members[x], &members[y])) {
            (true, _) => plain(&members[x]),
            (false, true) => format!("{}__seeds", plain(&members[x])),
            (false, false) => format!("{}__{}", plain(&members[x]), plain(&members[y])),
        };
        let map = (result, directory.join(NUMBERS));
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, maps)) => maps.push(map),
            None => groups.push((group, vec![map])),
        }
    }
    Ok(groups)
}

fn alike(one: &Member, other: &Member) -> bool {
    (&one.data, one.architecture()) == (&other.data, other.architecture())
}

/// The architecture as a name for a directory: `depth14-width1`, `depth14-width1-fraction0.25`.
fn plain(member: &Member) -> String {
    let kept = |character: char| character.is_alphanumeric() || "._".contains(character);
    let parts = member.architecture();
    let parts = parts.split(", ").map(|part| part.chars().filter(|&character| kept(character)).collect::<String>());
    parts.collect::<Vec<_>>().join("-")
}
