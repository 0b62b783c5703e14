//! What can be said in words of linear probes and of deleted blocks, two sentences each.

use crate::ablate::{AblateResult, AblatedStage};
use crate::probe::ProbeResult;

/// A change of accuracy below this counts as none.
const LITTLE: f64 = 0.01;

/// The best probe; and how additions change what can be read off, or how many probes diverged.
pub(crate) fn of_probes(result: &ProbeResult) -> String {
    let Some((layer, accuracy)) = result.best() else {
        return "No probe has a value: all of them diverged.".to_owned();
    };
    let (last, epochs) = (100.0 * accuracy, result.info.epochs);
    let mut text = format!(
        "A linear probe reads {last:.1}% of the test images right off {layer}, the best layer ({epochs} epochs)."
    );
    if !result.info.diverged.is_empty() {
        text += &format!(" {} of {} probes diverged.", result.info.diverged.len(), result.layers.len());
    } else if let Some((gained, additions)) = gained_by_additions(result) {
        text += &format!(
            " Right after an addition the probe is better than right before it in {gained} of {additions} blocks."
        );
    }
    text
}

/// Of so many blocks with probes on both sides of the addition, those in which the later probe does better.
fn gained_by_additions(result: &ProbeResult) -> Option<(usize, usize)> {
    let layers = &result.layers;
    let changes: Vec<f64> = layers
        .iter()
        .filter_map(|after| {
            let branch_end = format!("{}.{}", after.layer.strip_suffix(".add")?, result.branch_end());
            let before = layers.iter().find(|layer| layer.layer == branch_end)?;
            Some(after.accuracy_test? - before.accuracy_test?)
        })
        .collect();
    (!changes.is_empty()).then(|| (changes.iter().filter(|&&change| change > 0.0).count(), changes.len()))
}

/// "1, 2 and 3".
fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// How many blocks each stage can lose from its end before accuracy falls; and the stage that costs most as a whole.
pub(crate) fn of_ablations(result: &AblateResult) -> String {
    let Some(baseline) = result.baseline() else { return "Nothing was deleted.".to_owned() };
    let spared = |entries: &[AblatedStage]| {
        entries.iter().take_while(|entry| entry.accuracy >= baseline - LITTLE).count().saturating_sub(1)
    };
    let (counts, stages): (Vec<_>, Vec<_>) =
        result.by_stage().map(|entries| (spared(entries).to_string(), entries[0].stage.to_string())).unzip();
    let mut text = format!(
        "Of {:.1}%, less than {:.0} point is lost without the last {} blocks of stages {}.",
        100.0 * baseline,
        100.0 * LITTLE,
        listed(&counts),
        listed(&stages)
    );
    let whole = result.by_stage().filter_map(<[_]>::last);
    let worst = whole.min_by(|a, b| a.accuracy.total_cmp(&b.accuracy));
    if let Some(worst) = worst.filter(|worst| worst.accuracy < baseline) {
        let (stage, count, left) = (worst.stage, worst.deleted, 100.0 * worst.accuracy);
        text += &format!(" Deleting all {count} blocks of a stage costs most in stage {stage}: {left:.1}% are left.");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ablate, probe};

    #[test]
    fn probes_in_words() {
        let mut result = probe::tests::made("run");
        let text = of_probes(&result);
        assert!(
            text.starts_with("A linear probe reads 75.0% of the test images right off stage2.block1.add"),
            "{text}"
        );
        assert!(text.ends_with("1 of 6 probes diverged."), "{text}");
        result.info.diverged.clear();
        assert!(of_probes(&result).ends_with("in 2 of 2 blocks."), "{}", of_probes(&result));
        result.layers.iter_mut().for_each(|layer| layer.accuracy_test = None);
        assert!(of_probes(&result).starts_with("No probe"));
    }

    /// 75% is the whole; stage 3 can lose its last block, and stage 1 as a whole leaves 12.5%.
    #[test]
    fn ablations_in_words() {
        let text = of_ablations(&ablate::tests::made("run"));
        assert!(text.contains("Of 75.0%") && text.contains("the last 0, 0 and 1 blocks"), "{text}");
        assert!(text.ends_with("Deleting all 2 blocks of a stage costs most in stage 1: 12.5% are left."), "{text}");
        // Where nothing costs anything, nothing costs most.
        let mut result = ablate::tests::made("run");
        result.stages.iter_mut().for_each(|entry| entry.accuracy = 0.1 + 0.01 * entry.deleted as f64);
        assert!(of_ablations(&result).ends_with("blocks of stages 1, 2 and 3."), "{}", of_ablations(&result));
    }
}
