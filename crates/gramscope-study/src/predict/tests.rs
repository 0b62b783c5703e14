#![allow(clippy::unwrap_used)]

use super::*;
use crate::Saved;
use crate::family::tests::member;

/// Made networks of two groups, `a-s0` to `a-s2` and `b-s0`, and their members; more images than a slab has, three classes, of
/// which the last has no image.
fn networks() -> (Vec<Member>, Vec<Predicted>) {
    let (images, classes) = (SLAB + 3, 3);
    let labels: Vec<u32> = (0..images as u32).map(|image| image % 2).collect();
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 22) as f32
    };
    let of = |(name, settings): (&str, (usize, f64, u64))| {
        let logits = (0..images * classes).map(|_| random()).collect();
        let predictions = Predictions { classes, class_names: Vec::new(), logits, labels: labels.clone() };
        (member(name, settings, (0.5, 0.5)), Predicted { name: name.to_owned(), predictions })
    };
    [("a-s0", (8, 1.0, 0)), ("a-s1", (8, 1.0, 1)), ("a-s2", (8, 1.0, 2)), ("b-s0", (14, 1.0, 0))]
        .map(of)
        .into_iter()
        .unzip()
}

/// A made result of two groups of two runs; `name` is that of the first group.
pub(crate) fn made(name: &str) -> PredictResult {
    let group = |group: &str, accuracies: [f64; 2]| {
        let moments = Moments::of(&accuracies);
        Group {
            group: group.to_owned(),
            runs: vec![format!("{group}-s0"), format!("{group}-s1")],
            n: 2,
            mean: moments.mean,
            sd: moments.standard_deviation(),
            standard_error: moments.standard_error(),
            accuracies: accuracies.to_vec(),
        }
    };
    let class_accuracy = vec![0.5, 0.9, 0.5, 0.8, 0.5, 0.2, 0.5, 0.1];
    let labels = [0, 1, 0, 1, 1];
    let groups = vec![group(name, [0.75, 0.625]), group("other", [0.25, 0.375])];
    let maps = |side: usize| Maps {
        side,
        agreement: (0..side * side).map(|at| at as f64 / 16.0).collect(),
        kl: vec![0.5; side * side],
        hellinger: vec![0.25; side * side],
        entropy: (0..side * side).map(|at| if at == 0 { f64::NAN } else { 1.0 }).collect(),
    };
    let info = PredictInfo {
        runs: groups.iter().flat_map(|group| group.runs.clone()).collect(),
        halves: Some(Halves {
            group: name.to_owned(),
            first: vec![format!("{name}-s0")],
            second: vec![format!("{name}-s1")],
            mean_absolute_difference: 0.2,
        }),
        between: Some(Classwise {
            a: name.to_owned(),
            b: "other".to_owned(),
            mean_absolute_difference: 0.4,
            classes: differences(
                [&vec![0, 1], &vec![2, 3]],
                &class_accuracy,
                &labels,
                &["cat", "dog"].map(|name| Some(name.to_owned())),
            ),
        }),
        groups,
        data: "builtin".to_owned(),
        images: 5,
        classes: 2,
        versions: Versions::current(),
    };
    PredictResult {
        info,
        runs: maps(4),
        groups: maps(2),
        example_accuracy: vec![0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0, 0.5, 1.0, 0.0],
        half_accuracy: vec![0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        class_accuracy,
    }
}

#[test]
fn maps_are_means_over_all_images_and_pairs() {
    let (members, networks) = networks();
    let mut last = 0;
    let (maps, correct) = compare(&networks, &mut |done, total| {
        assert!(done > last && done <= total);
        last = done;
    })
    .unwrap();
    let images = SLAB + 3;
    assert_eq!(last, images);
    let all: Vec<_> =
        networks.iter().map(|network| Distributions::new(&network.predictions.logits, 3).unwrap()).collect();
    for row in 0..4 {
        for column in 0..4 {
            let whole = Likeness::of(&all[row], &all[column]);
            let expected = [whole.agreement, whole.kl, whole.hellinger, whole.entropy];
            for (matrix, sum) in maps.all().into_iter().zip(expected) {
                // Sums of some 500 numbers in another order.
                let difference = (matrix[row * 4 + column] - sum / images as f64).abs();
                assert!(difference <= 1e-13, "({row}, {column}): off by {difference}");
            }
        }
        assert_eq!((maps.agreement[row * 5], maps.kl[row * 5], maps.hellinger[row * 5]), (1.0, 0.0, 0.0));
    }
    let groups = grouped(&members);
    assert_eq!(groups, [("depth 8, width 1".to_owned(), vec![0, 1, 2]), ("depth 14, width 1".to_owned(), vec![3])]);
    let means = over_groups(&maps, &groups);
    let kl = |row: usize, column: usize| maps.kl[row * 4 + column];
    let within = (kl(0, 1) + kl(1, 0) + kl(0, 2) + kl(2, 0) + kl(1, 2) + kl(2, 1)) / 6.0;
    assert!((means.kl[0] - within).abs() <= 1e-14);
    assert!((means.kl[1] - (kl(0, 3) + kl(1, 3) + kl(2, 3)) / 3.0).abs() <= 1e-14);
    assert!((means.kl[2] - (kl(3, 0) + kl(3, 1) + kl(3, 2)) / 3.0).abs() <= 1e-14);
    assert!(means.all().iter().all(|matrix| matrix[3].is_nan()), "a group of one run has no pair");

    let labels = &networks[0].predictions.labels;
    let accuracies = by_class(&correct, labels, 3);
    for run in 0..4 {
        let right = (0..images).filter(|&image| labels[image] == 1 && correct[run][image]).count();
        assert_eq!(accuracies[run * 3 + 1], right as f64 / (images / 2) as f64);
        assert!(accuracies[run * 3 + 2].is_nan(), "a class without images");
    }
    let fractions = of_examples(&correct, &[0, 2]);
    assert_eq!(fractions[7], f64::from(u8::from(correct[0][7]) + u8::from(correct[2][7])) / 2.0);
    let tests = differences([&groups[0].1, &groups[1].1], &accuracies, labels, &class_names(&networks));
    assert!(tests.iter().all(|class| class.p_adjusted.is_nan()), "one run has no spread");
    assert_eq!(tests.iter().map(|class| class.images).collect::<Vec<_>>(), [images / 2 + 1, images / 2, 0]);
}

#[test]
fn a_network_that_diverged_is_named() {
    let (_, mut networks) = networks();
    for bad in [f32::NAN, f32::INFINITY] {
        networks[2].predictions.logits[3 * (SLAB + 1) + 2] = bad;
        let error = compare(&networks, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("a-s2") && error.contains(&format!("image {}", SLAB + 1)), "{error}");
    }
    assert!(Distributions::new(&[0.0, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY], 2).is_err_and(|row| row == 1));
}

#[test]
fn halves_are_equally_large_and_from_a_group_that_has_them() {
    let groups = |sizes: &[usize]| -> Vec<(String, Vec<usize>)> {
        let mut next = 0..;
        sizes.iter().map(|&size| (size.to_string(), next.by_ref().take(size).collect())).collect()
    };
    assert_eq!(halves(&groups(&[5]), None), Some((0, [vec![0, 2], vec![1, 3]])));
    assert_eq!(halves(&groups(&[1, 4, 2]), Some([0, 2])), Some((2, [vec![5], vec![6]])));
    assert_eq!(halves(&groups(&[1, 1]), Some([0, 1])), None);
}

#[test]
fn groups_to_compare_are_the_named_ones_or_the_outermost() {
    let groups = ["a", "b", "c"].map(|name| (name.to_owned(), vec![0]));
    assert_eq!(compared(&groups, None).unwrap(), Some([0, 2]));
    assert_eq!(compared(&groups[..1], None).unwrap(), None);
    assert_eq!(compared(&groups, Some(["b", "a"])).unwrap(), Some([1, 0]));
    for wrong in [["a", "d"], ["a", "a"]] {
        assert!(matches!(compared(&groups, Some(wrong)), Err(Error::Incomparable { mend: [Setting::Between], .. })));
    }
}

#[test]
fn what_is_written_is_read_and_every_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let result = made("one");
    result.write(dir.path()).unwrap();
    for name in [MAPS_PICTURE, EXAMPLES_PICTURE, CLASSES_PICTURE] {
        assert!(image::open(dir.path().join(name)).unwrap().width() > 500, "{name}");
    }
    let read = PredictResult::load(dir.path()).unwrap();
    // The second class has a test, the first none: as text, so that NaN equals NaN.
    assert_eq!(format!("{read:?}"), format!("{result:?}"));
    assert!(result.info.between.as_ref().unwrap().undefined().map(|class| class.class).eq([0]));
    for name in [INFO, ACCURACIES, CLASSES] {
        let path = dir.path().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('5', "6", 1)).unwrap();
        assert!(PredictResult::load(dir.path()).is_err(), "damage of {name} goes unnoticed");
        std::fs::write(&path, text).unwrap();
    }
    PredictResult::load(dir.path()).unwrap();
    // A result without a second group replaces it, its picture too.
    let mut single = result;
    (single.info.between, single.info.halves) = (None, None);
    single.write(dir.path()).unwrap();
    assert!(!dir.path().join(CLASSES_PICTURE).exists() && !dir.path().join(EXAMPLES_PICTURE).exists());
    assert_eq!(std::fs::read_to_string(dir.path().join(CLASSES)).unwrap().trim(), "[]");
}

/// Runs from before names were recorded know none, and are in nobody's way; runs that contradict each other leave numbers.
#[test]
fn classes_have_the_names_that_all_runs_agree_on() {
    let (_, mut networks) = networks();
    let names = |suffix: &str| ["cat", "dog", "fox"].map(|name| format!("{name}{suffix}")).to_vec();
    assert_eq!(class_names(&networks), [None, None, None]);
    networks[1].predictions.class_names = names("");
    networks[3].predictions.class_names = names("");
    assert_eq!(class_names(&networks), names("").into_iter().map(Some).collect::<Vec<_>>());
    networks[2].predictions.class_names = names("s");
    assert_eq!(class_names(&networks), [None, None, None]);
}

/// Without names nothing of them is written, so that what was written before they were known is read, seal and all.
#[test]
fn a_result_without_names_says_nothing_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let mut result = made("one");
    result.write(dir.path()).unwrap();
    assert!([INFO, CLASSES].iter().all(|name| text(name).contains("\"name\": \"dog\"")), "{}", text(CLASSES));
    result.info.between.as_mut().unwrap().classes.iter_mut().for_each(|class| class.name = None);
    result.write(dir.path()).unwrap();
    assert!([INFO, CLASSES].iter().all(|name| !text(name).contains("\"name\"")), "{}", text(CLASSES));
    PredictResult::load(dir.path()).unwrap();
}

#[test]
fn words_say_which_classes_differ() {
    let mut result = made("one");
    let text = sentences(&result);
    assert!(text[0].contains("from 31.2% for other (sd 8.8, 2 seeds) to 68.8% for one"), "{}", text[0]);
    assert!(text[3].contains("1 of 1 classes differ significantly"), "{}", text[3]);
    assert!(text[3].contains("class 1 (dog): one is better than other by 70.0"), "{}", text[3]);
    result.info.between.as_mut().unwrap().classes[1].name = None;
    assert!(sentences(&result)[3].contains("class 1: one is better"), "{}", sentences(&result)[3]);
    result.info.between.as_mut().unwrap().classes[1].p_adjusted = 0.06;
    assert!(sentences(&result)[3].contains("No class of 1 differs"));
    result.info.between.as_mut().unwrap().classes.truncate(1);
    assert!(sentences(&result)[3].contains("No class can be tested"));
}
