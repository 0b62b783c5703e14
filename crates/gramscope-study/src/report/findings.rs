//! Findings in words, computed from the runs and the results.

use crate::blocks::{self, Blocks};
use crate::family::{Member, Relation, named, relation};
use crate::pair::PairResult;
use crate::statistics::mean;

/// Share by which training accuracy must exceed test accuracy before it is worth a sentence.
const WIDE_GAP: f64 = 0.1;

/// What was found, a sentence or two each: accuracies, the widest gap between training and test images, block structure,
/// how alike two seeds are, and how well the layers of different networks match. What there is nothing to say about is
/// left out, and so are maps of noise, of normalised activations and the like.
pub(crate) fn findings<'a>(members: &[Member], results: impl IntoIterator<Item = &'a PairResult>) -> Vec<String> {
    let plain = results.into_iter().filter(|result| result.info.is_plain());
    let results: Vec<_> = plain.map(|result| (relation(members, &result.info), result)).collect();
    let of = |wanted: Relation| {
        results.iter().filter(move |(relation, _)| *relation == wanted).map(|&(_, result)| result).collect::<Vec<_>>()
    };
    let found = [
        accuracies(members),
        gap(members),
        block_structure(members, &of(Relation::Within)),
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

/// The network with the clearest block structure and how many have none; and where there are several architectures with
/// several seeds, the means. Maps that are too small for a block are left out.
fn block_structure(members: &[Member], within: &[&PairResult]) -> Option<String> {
    let found: Vec<_> =
        within.iter().filter_map(|result| Some((blocks::of(result)?, result.info.model_x.as_str()))).collect();
    let [_, (highest, (clearest, name))] =
        extremes(found.iter().map(|(blocks, name)| (blocks.score, (blocks, *name))))?;
    let Some(block) = clearest.largest() else {
        return Some(match found.len() {
            1 => format!("{name} has no block of nearly equal layers that stand out from the rest."),
            count => {
                format!(
                    "None of {count} maps within networks has a block of nearly equal layers that stand out from the rest."
                )
            }
        });
    };
    let which = match clearest.blocks.len() {
        1 => "a block".to_owned(),
        count => format!("{count} blocks, the largest"),
    };
    let mut text = format!(
        "Block structure is clearest in {name} (score {highest:.2}): {which} of {:.1}% of its layers, from {} to {}, with a \
         mean CKA of {:.3}.",
        100.0 * block.share,
        block.first_name,
        block.last_name,
        block.mean_cka
    );
    match found.iter().filter(|(blocks, _)| blocks.blocks.is_empty()).count() {
        0 => {}
        1 => text += " One map has no block.",
        without => text += &format!(" {without} of {} maps within networks have no block.", found.len()),
    }
    if let Some(means) = mean_scores(members, &found) {
        text += &means;
    }
    Some(text)
}

/// The architectures with the least and the greatest mean score, where there are several, with several seeds.
fn mean_scores(members: &[Member], found: &[(Blocks, &str)]) -> Option<String> {
    let mut architectures: Vec<(String, Vec<f64>)> = Vec::new();
    for (blocks, name) in found {
        let Some(member) = named(members, name) else { continue };
        let architecture = member.architecture();
        match architectures.iter_mut().find(|(known, _)| *known == architecture) {
            Some((_, scores)) => scores.push(blocks.score),
            None => architectures.push((architecture, vec![blocks.score])),
        }
    }
    let means = architectures.iter().filter_map(|(name, scores)| Some((mean(scores.iter().copied())?, name)));
    let [(least, small), (most, large)] = extremes(means)?;
    (least < most && architectures.len() < found.len())
        .then(|| format!(" Averaged over seeds, the score goes from {least:.2} ({small}) to {most:.2} ({large})."))
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
    use crate::pair::tests::made;

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

    /// A made map of 40 layers of which the first so many are a block.
    fn with_block(name: &str, block: usize) -> PairResult {
        let names: Vec<String> = (0..40).map(|layer| format!("layer{layer}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let value = |i: usize, j: usize| match (i == j, i < block && j < block) {
            (true, _) => 1.0,
            (false, true) => 0.9,
            (false, false) => 0.5,
        };
        let cka = (0..40).flat_map(|i| (0..40).map(move |j| value(i, j))).collect();
        result((name, name), (&names, &names), cka)
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
    fn blocks_are_named_and_averaged_over_seeds() {
        let members = [
            member("small-s0", (8, 1.0, 0), (0.5, 0.5)),
            member("small-s1", (8, 1.0, 1), (0.5, 0.5)),
            member("large-s0", (14, 3.0, 0), (0.5, 0.5)),
            member("large-s1", (14, 3.0, 1), (0.5, 0.5)),
        ];
        // Scores: share times (0.9 - 0.5) / (1 - 0.5), so 0, 0.2, 0.6, 0.4.
        let maps = [("small-s0", 0), ("small-s1", 10), ("large-s0", 30), ("large-s1", 20)];
        let maps = maps.map(|(name, block)| with_block(name, block));
        let text = block_structure(&members, &maps.iter().collect::<Vec<_>>()).expect("there are maps");
        assert!(
            text.starts_with(
                "Block structure is clearest in large-s0 (score 0.60): a block of 75.0% of its layers, from layer0 to \
                 layer29, with a mean CKA of 0.900."
            ),
            "{text}"
        );
        assert!(text.contains(" One map has no block."), "{text}");
        assert!(text.ends_with("from 0.10 (depth 8, width 1) to 0.50 (depth 14, width 3)."), "{text}");
        let text = block_structure(&members, &[&maps[1], &maps[2]]).expect("there are maps");
        assert!(text.ends_with("0.900."), "{text}");
        let text = block_structure(&members, &[&maps[0]]).expect("there is a map");
        assert!(text.starts_with("small-s0 has no block"), "{text}");
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
