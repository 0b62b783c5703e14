//! Findings in words, computed from the runs and the results.

use crate::family::{Member, Relation, named, relation};
use crate::results::PairResult;

/// CKA from which two layers count as nearly equal here.
const NEARLY_EQUAL: f64 = 0.9;
/// Share by which training accuracy must exceed test accuracy before it is worth a sentence.
const WIDE_GAP: f64 = 0.1;

/// What was found, a sentence or two each: accuracies, the widest gap between training and test images, the longest
/// stretch of nearly equal layers, how alike two seeds are, and how well the layers of different networks match. What
/// there is nothing to say about is left out.
pub(crate) fn findings<'a>(members: &[Member], results: impl IntoIterator<Item = &'a PairResult>) -> Vec<String> {
    let results: Vec<_> = results.into_iter().map(|result| (relation(members, &result.info), result)).collect();
    let of = |wanted: Relation| {
        results.iter().filter(move |(relation, _)| *relation == wanted).map(|&(_, result)| result).collect::<Vec<_>>()
    };
    let found = [
        accuracies(members),
        gap(members),
        stretches(members, &of(Relation::Within)),
        seeds(&of(Relation::Seeds)),
        matches(&of(Relation::Across)),
    ];
    found.into_iter().flatten().collect()
}

/// The least and the greatest of the values, each with what it belongs to. `None` where none is finite.
fn extremes<T>(values: impl IntoIterator<Item = (f64, T)>) -> Option<[(f64, T); 2]>
where
    T: Clone,
{
    let mut values: Vec<_> = values.into_iter().filter(|(value, _)| value.is_finite()).collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some([values.first()?.clone(), values.last()?.clone()])
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.filter(|value| value.is_finite()).fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn accuracies(members: &[Member]) -> Option<String> {
    let trained: Vec<_> =
        members.iter().filter_map(|member| Some((member.epochs.last()?.test_accuracy, member))).collect();
    let count = trained.len();
    let [(worst, low), (best, high)] = extremes(trained)?;
    let (worst, best, low, high) = (100.0 * worst, 100.0 * best, &low.name, &high.name);
    Some(match count {
        1 => format!("{high} reaches a test accuracy of {best:.1}%."),
        _ => format!("Test accuracy of the {count} networks: from {worst:.1}% ({low}) to {best:.1}% ({high})."),
    })
}

fn gap(members: &[Member]) -> Option<String> {
    let gaps = members.iter().filter_map(|member| {
        let last = member.epochs.last()?;
        Some((last.train_accuracy - last.test_accuracy, (member, last)))
    });
    let [_, (widest, (member, last))] = extremes(gaps)?;
    (widest >= WIDE_GAP).then(|| {
        format!(
            "{} fits the images it was trained on much better than new ones: {:.1}% of them are right in its last epoch, \
             and {:.1}% of the test images.",
            member.name,
            100.0 * last.train_accuracy,
            100.0 * last.test_accuracy
        )
    })
}

/// The networks with the longest and the shortest stretch for their depth; and where there are several architectures with
/// several seeds, the means.
fn stretches(members: &[Member], within: &[&PairResult]) -> Option<String> {
    let stretches: Vec<_> =
        within.iter().filter_map(|result| Some((longest_stretch(result)?, &result.info.model_x))).collect();
    let [(shortest, (short, narrow)), (longest, (long, wide))] =
        extremes(stretches.iter().map(|(stretch, name)| (stretch.share(), (stretch, name))))?;
    if longest == 0.0 {
        return Some(format!(
            "In no network are two neighbouring block outputs alike (CKA of at least {NEARLY_EQUAL})."
        ));
    }
    let mut text = format!(
        "Nearly equal representations (every pair with a CKA of at least {NEARLY_EQUAL}) take up the largest share of {wide}: \
         {} of {} block outputs in a row, from {} to {}.",
        long.length, long.of, long.first, long.last
    );
    if shortest == 0.0 {
        text += &format!(" In {narrow}, no two neighbouring outputs are that alike.");
    } else if shortest < longest {
        text += &format!(" They take up the smallest share of {narrow}: {} of {}.", short.length, short.of);
    }
    let mut architectures: Vec<(String, Vec<f64>)> = Vec::new();
    for (stretch, name) in &stretches {
        let Some(member) = named(members, name) else { continue };
        let architecture = member.architecture();
        match architectures.iter_mut().find(|(known, _)| *known == architecture) {
            Some((_, shares)) => shares.push(stretch.share()),
            None => architectures.push((architecture, vec![stretch.share()])),
        }
    }
    let means = architectures.iter().filter_map(|(name, shares)| Some((mean(shares.iter().copied())?, name)));
    if let Some([(least, small), (most, large)]) = extremes(means)
        && least < most
        && architectures.len() < stretches.len()
    {
        text += &format!(
            " Averaged over seeds, the share goes from {:.0}% ({small}) to {:.0}% ({large}).",
            100.0 * least,
            100.0 * most
        );
    }
    Some(text)
}

/// A range of block outputs, at least two, whose CKA with each other is at least [`NEARLY_EQUAL`].
struct Stretch {
    /// 0 where there is none.
    length: usize,
    of: usize,
    first: String,
    last: String,
}

impl Stretch {
    fn share(&self) -> f64 {
        self.length as f64 / self.of as f64
    }
}

/// The longest such range. Only the outputs of the stem and of whole blocks are looked at: inside a residual block,
/// representations alternate between those before and after the addition.
fn longest_stretch(result: &PairResult) -> Option<Stretch> {
    let layers = &result.info.layers_x;
    let outputs: Vec<usize> =
        (0..layers.len()).filter(|&i| layers[i] == "stem.relu" || layers[i].ends_with(".relu2")).collect();
    let alike = |a: usize, b: usize| result.similarity.cka[outputs[a] * layers.len() + outputs[b]] >= NEARLY_EQUAL;
    let mut best = 0..0;
    let mut start = 0;
    for end in 0..outputs.len() {
        // Moving the start past the last layer that differs keeps all pairs of start..=end nearly equal.
        if let Some(differs) = (start..end).rev().find(|&earlier| !alike(earlier, end)) {
            start = differs + 1;
        }
        if end + 1 - start > best.len() {
            best = start..end + 1;
        }
    }
    let (first, last) = (*outputs.get(best.start)?, *outputs.get(best.end.checked_sub(1)?)?);
    let length = if best.len() < 2 { 0 } else { best.len() };
    Some(Stretch { length, of: outputs.len(), first: layers[first].clone(), last: layers[last].clone() })
}

/// Mean CKA of corresponding layers of networks that differ in their seed alone.
fn seeds(pairs: &[&PairResult]) -> Option<String> {
    let means = pairs.iter().filter(|result| result.info.layers_x == result.info.layers_y).filter_map(|result| {
        let layers = result.similarity.layers_x;
        Some((mean((0..layers).map(|i| result.similarity.cka[i * layers + i]))?, both(result)))
    });
    let [(least, unlike), (most, alike)] = extremes(means)?;
    Some(if unlike == alike {
        format!("Trained from two seeds, corresponding layers have a mean CKA of {most:.3} ({alike}).")
    } else {
        format!(
            "Trained from two seeds, corresponding layers have a mean CKA from {least:.3} ({unlike}) to {most:.3} ({alike})."
        )
    })
}

/// How well a layer of one network is matched by the layer of the other that is most like it.
fn matches(pairs: &[&PairResult]) -> Option<String> {
    let [(least, unlike), (most, alike)] =
        extremes(pairs.iter().filter_map(|result| Some((mean_best_match(result)?, both(result)))))?;
    Some(if unlike == alike {
        format!("The best match of a layer in the other network has a mean CKA of {most:.3} ({alike}).")
    } else {
        format!(
            "Between different networks, the best match of a layer has a mean CKA from {least:.3} ({unlike}) to {most:.3} \
             ({alike})."
        )
    })
}

/// Over the layers of both models, the mean of the largest CKA with a layer of the other model.
fn mean_best_match(result: &PairResult) -> Option<f64> {
    let (rows, columns) = (result.similarity.layers_x, result.similarity.layers_y);
    let cka = &result.similarity.cka;
    // f64::max passes over NaN; a layer with nothing but NaN stays infinite and is left out of the mean.
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    let by_row = (0..rows).map(|x| largest(&mut (0..columns).map(|y| cka[x * columns + y])));
    let by_column = (0..columns).map(|y| largest(&mut (0..rows).map(|x| cka[x * columns + y])));
    mean(by_row.chain(by_column))
}

fn both(result: &PairResult) -> String {
    format!("{} and {}", result.info.model_x, result.info.model_y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::tests::member;
    use crate::results::tests::made;

    /// A made result whose layers have these names and these values, row-major.
    fn result(models: (&str, &str), layers: (&[&str], &[&str]), cka: Vec<f64>) -> PairResult {
        let mut result = made(models.0, models.1);
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        (result.info.layers_x, result.info.layers_y) = (names(layers.0), names(layers.1));
        (result.similarity.layers_x, result.similarity.layers_y) = (layers.0.len(), layers.1.len());
        assert_eq!(cka.len(), layers.0.len() * layers.1.len());
        result.similarity.cka = cka;
        result
    }

    const OUTPUTS: [&str; 5] =
        ["stem.conv", "stem.relu", "stage1.block1.relu2", "stage2.block1.relu2", "stage3.block1.relu2"];

    /// A symmetric map over [`OUTPUTS`] from the values above the diagonal, row by row.
    fn symmetric(name: &str, above: [f64; 10]) -> PairResult {
        let mut cka = vec![1.0; 25];
        let pairs = (0..5).flat_map(|row| (row + 1..5).map(move |column| (row, column)));
        for ((row, column), value) in pairs.zip(above) {
            cka[row * 5 + column] = value;
            cka[column * 5 + row] = value;
        }
        result((name, name), (&OUTPUTS, &OUTPUTS), cka)
    }

    #[test]
    fn nothing_to_say_is_no_sentence() {
        assert!(findings(&[], []).is_empty());
        let undefined = result(("a", "b"), (&["one"], &["two"]), vec![f64::NAN]);
        assert!(findings(&[], [&undefined, &result(("a", "a"), (&["one"], &["one"]), vec![1.0])]).is_empty());
        let mut untrained = member("a", (8, 1.0, 0), (0.5, 0.5));
        untrained.epochs.clear();
        assert!(findings(&[untrained], []).is_empty());
    }

    #[test]
    fn accuracies_name_the_best_the_worst_and_the_widest_gap() {
        let small = member("small", (8, 0.5, 0), (0.5, 0.45));
        let large = member("large", (14, 3.0, 0), (0.987, 0.4));
        assert_eq!(findings(std::slice::from_ref(&small), []), ["small reaches a test accuracy of 45.0%."]);
        let both = findings(&[small, large], []);
        assert_eq!(both[0], "Test accuracy of the 2 networks: from 40.0% (large) to 45.0% (small).");
        assert!(
            both[1].starts_with("large fits") && both[1].contains("98.7%") && both[1].contains("40.0%"),
            "{}",
            both[1]
        );
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn a_stretch_needs_every_pair_and_ends_at_an_undefined_layer() {
        let (high, low, nan) = (0.95, 0.5, f64::NAN);
        // The convolution (the first four values) is no block output and does not count.
        for (above, length, first) in [
            ([low, low, low, low, high, high, high, high, high, high], 4, "stem.relu"),
            // The ends of the four differ: three in a row remain, the earlier ones.
            ([low, low, low, low, high, high, low, high, high, high], 3, "stem.relu"),
            // Neighbours are alike, but none is like the next but one.
            ([high, high, high, high, high, low, low, high, low, high], 2, "stem.relu"),
            // The second block output is undefined.
            ([low, low, low, low, nan, high, high, nan, nan, high], 2, "stage2.block1.relu2"),
            ([low; 10], 0, "stem.relu"),
        ] {
            let found = longest_stretch(&symmetric("a", above)).expect("there are block outputs");
            assert_eq!((found.length, found.of, found.first.as_str()), (length, 4, first), "{above:?}");
        }
    }

    #[test]
    fn stretches_are_averaged_over_seeds() {
        let long = [0.95; 10];
        let short = [0.5; 10];
        let one_pair = [0.5, 0.5, 0.5, 0.5, 0.95, 0.5, 0.5, 0.5, 0.5, 0.5];
        let members = [
            member("small-s0", (8, 1.0, 0), (0.5, 0.5)),
            member("small-s1", (8, 1.0, 1), (0.5, 0.5)),
            member("large-s0", (14, 3.0, 0), (0.5, 0.5)),
            member("large-s1", (14, 3.0, 1), (0.5, 0.5)),
        ];
        let maps = [
            symmetric("small-s0", short),
            symmetric("small-s1", one_pair),
            symmetric("large-s0", long),
            symmetric("large-s1", one_pair),
        ];
        let text = stretches(&members, &maps.iter().collect::<Vec<_>>()).expect("there are block outputs");
        assert!(
            text.contains("the largest share of large-s0: 4 of 4 block outputs in a row, from stem.relu to "),
            "{text}"
        );
        assert!(text.contains("In small-s0, no two neighbouring outputs"), "{text}");
        // (0/4 + 2/4) / 2 and (4/4 + 2/4) / 2.
        assert!(text.ends_with("from 25% (depth 8, width 1) to 75% (depth 14, width 3)."), "{text}");
        let text = stretches(&members, &[&maps[1], &maps[2]]).expect("there are block outputs");
        assert!(text.ends_with("the smallest share of small-s1: 2 of 4."), "{text}");
        let text = stretches(&members, &[&maps[0]]).expect("there are block outputs");
        assert!(text.starts_with("In no network"), "{text}");
    }

    #[test]
    fn seeds_are_compared_along_the_diagonal() {
        let members: Vec<_> = [("a", 0), ("b", 1), ("c", 2)]
            .map(|(name, seed)| member(name, (8, 1.0, seed), (0.5, 0.5)))
            .into_iter()
            .collect();
        let layers: (&[&str], &[&str]) = (&["one", "two"], &["one", "two"]);
        let ab = result(("a", "b"), layers, vec![0.2, 0.9, 0.9, 0.4]);
        let bc = result(("b", "c"), layers, vec![0.8, 0.0, 0.0, f64::NAN]);
        let one = findings(&members, [&ab]);
        assert_eq!(one[1], "Trained from two seeds, corresponding layers have a mean CKA of 0.300 (a and b).");
        let two = findings(&members, [&bc, &ab]);
        assert!(two[1].ends_with("a mean CKA from 0.300 (a and b) to 0.800 (b and c)."), "{}", two[1]);
    }

    #[test]
    fn different_networks_are_compared_by_best_matches() {
        // Rows: 0.6 and 0.8; columns: 0.6, 0.8 and nothing.
        let nan = f64::NAN;
        let pair = result(("a", "b"), (&["one", "two"], &["p", "q", "dead"]), vec![0.6, 0.2, nan, 0.1, 0.8, nan]);
        let found = mean_best_match(&pair).expect("there are values");
        assert!((found - 0.7).abs() < 1e-12, "{found}");
        assert_eq!(
            findings(&[], [&pair]),
            ["The best match of a layer in the other network has a mean CKA of 0.700 (a and b)."]
        );
    }
}
