//! `gramscope predict`: what groups of runs predict, and where two of them differ.

use gramscope_study::Saved;
use gramscope_study::predict::{self, Group, PredictResult};

use crate::arguments::PredictArguments;
use crate::console::{Console, Unit};
use crate::words::counted;

/// Analyses what the arguments name and writes the result.
pub(crate) fn run(arguments: &PredictArguments, console: &Console) -> anyhow::Result<()> {
    PredictResult::check(&arguments.out)?;
    let runs = super::opened(&arguments.runs, false)?;
    let between = match arguments.between.as_deref() {
        Some([a, b]) => Some([a.as_str(), b.as_str()]),
        _ => None,
    };
    let mut bar = console.progress(Unit::Images, 0);
    let result = predict::predict(&runs, between, &mut |done, total| {
        bar.set_total(total as u64);
        bar.update(done as u64, "comparing", "of all pairs of runs");
    })?;
    drop(bar);
    result.write(&arguments.out)?;
    report(&result, arguments, console);
    Ok(())
}

/// What was found, and warnings for what has no spread or no test.
fn report(result: &PredictResult, arguments: &PredictArguments, console: &Console) {
    let info = &result.info;
    let single: Vec<_> = info.groups.iter().filter(|group| group.n == 1).map(|group| group.group.as_str()).collect();
    if !single.is_empty() {
        tracing::warn!(
            "one run only, so its spread and its agreement with itself are undefined (NaN): {}",
            single.join("; ")
        );
    }
    if let Some(between) = &info.between {
        let untested: Vec<_> = between.undefined().map(ToString::to_string).collect();
        if !untested.is_empty() {
            let classes = untested.join(", ");
            tracing::warn!(
                "no test (NaN), because nothing varies there, or for want of seeds or images: class {classes}"
            );
        }
        let chosen = if arguments.between.is_none() && info.groups.len() > 2 { ", the first and the last" } else { "" };
        console.result(&format!("compared: {} and {}{chosen}", between.a, between.b));
    }
    for Group { group, n, mean, sd, standard_error, .. } in &info.groups {
        let [mean, sd, error] = [mean, sd, standard_error].map(|share| 100.0 * share);
        console.result(&format!("{group}: accuracy {mean:.2}%, sd {sd:.2}, standard error {error:.2}, n = {n}"));
    }
    for sentence in predict::sentences(result).iter().skip(1) {
        console.result(sentence);
    }
    let (runs, groups) = (counted(info.runs.len(), "run", "runs"), counted(info.groups.len(), "group", "groups"));
    let images = counted(info.images, "test image", "test images");
    console.result(&format!("{runs} in {groups}, {images} -> {}", arguments.out.display()));
}
