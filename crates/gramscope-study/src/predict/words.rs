//! What was found, in words.

use super::{Classwise, PredictInfo, PredictResult, SIGNIFICANT};

/// Accuracies of the groups; how often two networks agree, within and between the compared groups; which classes differ.
pub fn sentences(result: &PredictResult) -> Vec<String> {
    let mut found = vec![accuracies(&result.info)];
    found.extend(agreement(result));
    if let Some(between) = &result.info.between {
        found.push(images(&result.info, between));
        found.push(classes(between));
    }
    found
}

fn accuracies(info: &PredictInfo) -> String {
    let of_group = |group: &super::Group| {
        let mean = 100.0 * group.mean;
        match group.n {
            1 => format!("{mean:.1}% for {} (one run, so no spread is known)", group.group),
            n => format!("{mean:.1}% for {} (sd {:.1}, {n} seeds)", group.group, 100.0 * group.sd),
        }
    };
    let best = |a: &&super::Group, b: &&super::Group| a.mean.total_cmp(&b.mean);
    match info.groups.as_slice() {
        [only] => format!("Test accuracy: {}.", of_group(only)),
        groups => {
            let least = groups.iter().min_by(best).map(of_group).unwrap_or_default();
            let most = groups.iter().max_by(best).map(of_group).unwrap_or_default();
            format!("Test accuracy of {} groups: from {least} to {most}.", groups.len())
        }
    }
}

fn agreement(result: &PredictResult) -> Option<String> {
    let (info, maps) = (&result.info, &result.groups);
    let place = |name: &str| info.groups.iter().position(|group| group.group == name);
    let percent = |row: usize, column: usize| 100.0 * maps.agreement[row * maps.side + column];
    let within = |group: usize| {
        let value = percent(group, group);
        (!value.is_nan())
            .then(|| format!("Two seeds of {} agree on {value:.1}% of the images", info.groups[group].group))
    };
    match &info.between {
        None => within(0).map(|text| text + "."),
        Some(between) => {
            let (a, b) = (place(&between.a)?, place(&between.b)?);
            let across = percent(a, b);
            Some(match within(a).or_else(|| within(b)) {
                Some(text) => format!("{text}, a network of {} and one of {} on {across:.1}%.", between.a, between.b),
                None => format!("{} and {} agree on {across:.1}% of the images.", between.a, between.b),
            })
        }
    }
}

fn images(info: &PredictInfo, between: &Classwise) -> String {
    let Classwise { a, b, mean_absolute_difference, .. } = between;
    let apart = 100.0 * mean_absolute_difference;
    let halves = info.halves.as_ref().map_or_else(String::new, |halves| {
        format!(", those of two halves of {} by {:.1}", halves.group, 100.0 * halves.mean_absolute_difference)
    });
    format!("Accuracies on single images differ by {apart:.1} points on average between {a} and {b}{halves}.")
}

fn classes(between: &Classwise) -> String {
    let tested = between.classes.len() - between.undefined().count();
    let significant: Vec<_> = between.classes.iter().filter(|class| class.p_adjusted < SIGNIFICANT).collect();
    let apart = |class: &super::ClassDifference| (class.mean_a - class.mean_b).abs();
    let Some(most) = significant.iter().max_by(|x, y| apart(x).total_cmp(&apart(y))) else {
        return match tested {
            0 => "No class can be tested: that takes two seeds a group, and accuracies that vary.".to_owned(),
            _ => format!("No class of {tested} differs significantly (Welch's test, p corrected by Holm's method)."),
        };
    };
    let (better, worse) = if most.mean_a > most.mean_b { (&between.a, &between.b) } else { (&between.b, &between.a) };
    format!(
        "{} of {tested} classes differ significantly (Welch's test, p < {SIGNIFICANT} after Holm's correction), most of all \
         class {most}: {better} is better than {worse} by {:.1} points (Hedges' g {:.1}).",
        significant.len(),
        100.0 * apart(most),
        most.hedges_g.abs()
    )
}
