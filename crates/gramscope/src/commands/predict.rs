//! `gramscope predict`: what groups of runs predict, and where two of them differ.

use std::path::PathBuf;

use clap::Args;
use gramscope_study::predict::{self, Group, PredictResult};

use crate::console::{Console, Unit};

/// What `gramscope predict --help` ends with.
pub(crate) const HELP: &str = "\
Runs that differ in their seed alone are one group, named by what they share.

Examples:
  gramscope predict family --out family/predict
  gramscope predict runs/* --between 'depth 62, width 1' 'depth 14, width 2' --out predict

Writes predict.npz (float64 arrays agreement, kl, hellinger, entropy over runs, the same over groups with group_ before their
names, example_accuracy, half_accuracy, class_accuracy), predict.json, accuracies.json (each group's accuracy with its spread),
classes.json (Welch's t test of every class, p values corrected by Holm's method, effect sizes), and the pictures
predict-maps.png, examples.png and classes.png. kl has KL(p, q) with p the row's run and q the column's, in nats.";

#[derive(Args, Debug)]
pub(crate) struct PredictArguments {
    /// Run directories, or directories of runs: finished ones that were tested on the same images
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// The two groups that are compared image by image and class by class [default: the first and the last, from small to large]
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    pub(crate) between: Option<Vec<String>>,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Analyses what the arguments name and writes the result.
pub(crate) fn run(arguments: &PredictArguments, console: &Console) -> anyhow::Result<()> {
    predict::check(&arguments.out)?;
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
    predict::write(&arguments.out, &result)?;
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
        let untested: Vec<_> = between.undefined().map(|class| class.class.to_string()).collect();
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
    let (runs, groups, images) = (info.runs.len(), info.groups.len(), info.images);
    let out = arguments.out.display();
    console.result(&format!("{runs} runs in {groups} groups, {images} test images -> {out}"));
}
