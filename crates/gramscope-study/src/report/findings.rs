//! Findings in words, computed from the runs and the results.

use gramscope_train::Run;

use crate::Result;
use crate::results::PairResult;

/// CKA from which two layers count as nearly equal here.
const NEARLY_EQUAL: f64 = 0.9;

/// What was found, a sentence each: accuracies, the largest block of nearly equal layers, the same architecture across
/// seeds, and the capacity that has the largest block.
///
/// # Errors
/// Metrics that cannot be read.
pub fn findings(runs: &[Run], results: &[PairResult]) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    sentences.extend(accuracies(runs)?);
    sentences.extend(blocks(results));
    sentences.extend(seeds(runs, results));
    Ok(sentences)
}

fn accuracies(runs: &[Run]) -> Result<Option<String>> {
    let mut accuracies = Vec::new();
    for run in runs {
        if let Some(last) = run.metrics()?.last() {
            accuracies.push((last.test_accuracy, last.train_accuracy, run.name()));
        }
    }
    accuracies.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(worst), Some(best)) = (accuracies.first(), accuracies.last()) else { return Ok(None) };
    Ok(Some(format!(
        "Test accuracy runs from {:.1}% ({}) to {:.1}% ({}).",
        100.0 * worst.0,
        worst.2,
        100.0 * best.0,
        best.2
    )))
}

/// The networks with the largest and the smallest block.
fn blocks(results: &[PairResult]) -> Option<String> {
    let mut shares: Vec<_> = results
        .iter()
        .filter(|result| result.info.model_x == result.info.model_y)
        .filter_map(|result| Some((largest_block(result)?, result.info.model_x.as_str())))
        .collect();
    shares.sort_by(|(a, _), (b, _)| a.share().total_cmp(&b.share()));
    let ((smallest, narrow), (largest, wide)) = (shares.first()?, shares.last()?);
    Some(format!(
        "In {wide}, {} of {} block outputs in a row ({} to {}) have pairwise CKA of at least {NEARLY_EQUAL}; in {narrow}, {} \
         of {}.",
        largest.length, largest.of, largest.first, largest.last, smallest.length, smallest.of
    ))
}

/// A range of block outputs whose CKA with each other is at least [`NEARLY_EQUAL`].
struct Range {
    length: usize,
    of: usize,
    first: String,
    last: String,
}

impl Range {
    fn share(&self) -> f64 {
        self.length as f64 / self.of as f64
    }
}

/// The longest such range. Only the outputs of the stem and of whole blocks are looked at: inside a residual block,
/// representations alternate between those before and after the addition.
fn largest_block(result: &PairResult) -> Option<Range> {
    let layers = &result.info.layers_x;
    let outputs: Vec<usize> =
        (0..layers.len()).filter(|&i| layers[i] == "stem.relu" || layers[i].ends_with(".relu2")).collect();
    let cka = |a: usize, b: usize| result.similarity.cka[outputs[a] * layers.len() + outputs[b]];
    let mut best = 0..0;
    let mut start = 0;
    for end in 0..outputs.len() {
        // Moving the start past the last layer that differs keeps all pairs of start..=end nearly equal.
        if let Some(differs) = (start..end).rev().find(|&earlier| !(cka(earlier, end) >= NEARLY_EQUAL)) {
            start = differs + 1;
        }
        if end + 1 - start > best.len() {
            best = start..end + 1;
        }
    }
    let (first, last) = (*outputs.get(best.start)?, *outputs.get(best.end.checked_sub(1)?)?);
    Some(Range { length: best.len(), of: outputs.len(), first: layers[first].clone(), last: layers[last].clone() })
}

/// Mean CKA of corresponding layers of networks that differ in their seed alone.
fn seeds(runs: &[Run], results: &[PairResult]) -> Vec<String> {
    let settings = |name: &str| {
        let run = runs.iter().find(|run| run.name() == name)?;
        let mut settings = run.config().train.clone();
        settings.seed = 0;
        Some(settings)
    };
    let pairs = results.iter().filter(|result| {
        let info = &result.info;
        info.model_x != info.model_y && settings(&info.model_x) == settings(&info.model_y)
    });
    let mut means: Vec<(f64, String)> = pairs
        .filter_map(|result| {
            let layers = result.similarity.layers_x;
            let diagonal = (0..layers).map(|i| result.similarity.cka[i * layers + i]).filter(|value| value.is_finite());
            let (sum, count) = diagonal.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
            (count > 0).then(|| (sum / count as f64, format!("{} and {}", result.info.model_x, result.info.model_y)))
        })
        .collect();
    means.sort_by(|a, b| a.0.total_cmp(&b.0));
    match (means.first(), means.last()) {
        (Some(least), Some(most)) if means.len() > 1 => vec![format!(
            "Across seeds, corresponding layers are most alike in {} (mean CKA {:.3}) and least in {} ({:.3}).",
            most.1, most.0, least.1, least.0
        )],
        (Some(only), _) => {
            vec![format!("Across seeds, corresponding layers of {} have a mean CKA of {:.3}.", only.1, only.0)]
        }
        _ => Vec::new(),
    }
}
