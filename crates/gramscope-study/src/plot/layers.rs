//! What the names of layers tell a picture: which consecutive layers belong together, and which names fit on an axis.
//!
//! Names are read as dotted paths, `stage2.block1.conv1`. Layers that share the first component and follow each other
//! are a stage; where all names do not fit, the names of blocks (`stage2.block1`) stand for their layers, and where
//! those do not fit either, those of stages.

/// Consecutive layers that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Index of the first layer.
    pub(crate) start: usize,
    /// Number of layers, at least 1.
    pub(crate) len: usize,
    /// What they have in common, for reading.
    pub(crate) label: String,
}

/// More parts than this are no longer a division that helps the eye.
const MOST_STAGES: usize = 16;

/// The stages of a network: where `known` has a stage for every layer, a new one begins wherever that changes; else
/// they are maximal runs of layers with the same first component, and layers without a dot that follow each other
/// (`pool`, `logits`) count as one. A single group where the names show no coarse division.
pub(crate) fn stages(names: &[String], known: &[usize]) -> Vec<Group> {
    let starts = if known.len() == names.len() {
        changes(known.iter())
    } else {
        let starts = changes(names.iter().map(|name| first_component(name)));
        let coarse = starts.len() <= MOST_STAGES && starts.len() * 2 <= names.len() + 1;
        if coarse { starts } else { vec![0] }
    };
    let ends = starts.iter().skip(1).copied().chain([names.len()]);
    let groups = starts.iter().zip(ends).map(|(&start, end)| {
        let members = &names[start..end];
        Group { start, len: end - start, label: common_label(members) }
    });
    groups.collect()
}

fn first_component(name: &str) -> Option<&str> {
    name.split_once('.').map(|(first, _)| first)
}

/// 0 and every index whose key differs from the one before it.
fn changes<K: PartialEq>(keys: impl Iterator<Item = K>) -> Vec<usize> {
    let mut starts = vec![0];
    let mut previous = None;
    for (index, key) in keys.enumerate() {
        if previous.as_ref().is_some_and(|before| *before != key) {
            starts.push(index);
        }
        previous = Some(key);
    }
    starts
}

/// The first component all share, else "first–last".
fn common_label(names: &[String]) -> String {
    let shared = names.first().and_then(|name| first_component(name));
    match shared {
        Some(component) if names.iter().all(|name| first_component(name) == shared) => component.to_owned(),
        _ => span(names),
    }
}

/// "first" or "first–last".
fn span(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [first, .., last] => format!("{first}–{last}"),
    }
}

/// Labels for an axis with a label's centre at least `gap` after the one before it: every layer's name where that
/// fits, else the names of the blocks or stages around them, else as many names as fit.
///
/// `centre(start, len)` says where the middle of `len` layers from `start` lies; it grows with `start`.
pub(crate) fn axis_labels(names: &[String], centre: impl Fn(usize, usize) -> f64, gap: f64) -> Vec<(f64, String)> {
    let depth = names.iter().map(|name| name.split('.').count()).max().unwrap_or(0);
    let mut best: (f64, Vec<(f64, String)>) = (-1.0, Vec::new());
    for dropped in 0..depth {
        let groups = merge_by(names, |name| without_last(name, dropped));
        let fitting = thin_out(&groups, &centre, gap);
        let share = fitting.len() as f64 / groups.len() as f64;
        if share > best.0 {
            best = (share, fitting);
        }
        // A few names lost beside short neighbours (`pool` and `logits`) cost less than a coarser division.
        if best.0 >= 0.7 {
            break;
        }
    }
    best.1
}

/// `name` without its last `dropped` components, but with at least one.
fn without_last(name: &str, dropped: usize) -> &str {
    let mut kept = name;
    for _ in 0..dropped {
        match kept.rsplit_once('.') {
            Some((front, _)) => kept = front,
            None => break,
        }
    }
    kept
}

/// Maximal runs of layers with the same key, labelled with it.
fn merge_by<'a>(names: &'a [String], key: impl Fn(&'a str) -> &'a str) -> Vec<Group> {
    let starts = changes(names.iter().map(|name| key(name)));
    let ends = starts.iter().skip(1).copied().chain([names.len()]);
    let groups = starts.iter().zip(ends);
    groups.map(|(&start, end)| Group { start, len: end - start, label: key(&names[start]).to_owned() }).collect()
}

fn thin_out(groups: &[Group], centre: &impl Fn(usize, usize) -> f64, gap: f64) -> Vec<(f64, String)> {
    let mut kept: Vec<(f64, String)> = Vec::new();
    for group in groups {
        let at = centre(group.start, group.len);
        if kept.last().is_none_or(|(before, _)| at - before >= gap) {
            kept.push((at, group.label.clone()));
        }
    }
    kept
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The layer names of a residual network of the family with `blocks` blocks a stage: 21 blocks + 7 of them.
    pub(crate) fn residual_names(blocks: usize) -> Vec<String> {
        let mut names: Vec<String> = ["stem.conv", "stem.bn", "stem.relu"].map(String::from).to_vec();
        for stage in 1..=3 {
            for block in 1..=blocks {
                let shortcut = (stage > 1 && block == 1).then_some("shortcut");
                let parts = ["conv1", "bn1", "relu1", "conv2", "bn2"].into_iter();
                for part in parts.chain(shortcut).chain(["add", "relu2"]) {
                    names.push(format!("stage{stage}.block{block}.{part}"));
                }
            }
        }
        names.extend(["pool", "logits"].map(String::from));
        names
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn stages_of_the_residual_family() {
        let names = residual_names(6);
        assert_eq!(names.len(), 133);
        let stages = stages(&names, &[]);
        let found: Vec<(usize, usize, &str)> = stages.iter().map(|g| (g.start, g.len, g.label.as_str())).collect();
        let expected =
            [(0, 3, "stem"), (3, 42, "stage1"), (45, 43, "stage2"), (88, 43, "stage3"), (131, 2, "pool–logits")];
        assert_eq!(found, expected);
    }

    #[test]
    fn known_stages_win_unless_they_do_not_fit() {
        let names = owned(&["a", "b", "c", "d"]);
        let starts = |known: &[usize]| stages(&names, known).iter().map(|stage| stage.start).collect::<Vec<_>>();
        assert_eq!(starts(&[0, 1, 1, 4]), [0, 1, 3]);
        assert_eq!(starts(&[0, 1]), [0]);
        assert_eq!(stages(&names, &[0, 1, 1, 4])[1].label, "b–c");
    }

    #[test]
    fn names_without_structure_are_one_stage() {
        for names in [owned(&["a", "b", "c"]), owned(&["a.x", "b.x", "c.x", "d.x"]), owned(&["only"])] {
            let stages = stages(&names, &[]);
            assert_eq!(stages.len(), 1, "{names:?}");
            assert_eq!((stages[0].start, stages[0].len), (0, names.len()));
        }
        assert!(stages(&[], &[])[0].len == 0);
    }

    #[test]
    fn every_stage_division_covers_every_layer_once() {
        let names = owned(&["conv1", "bn1", "layer1.0.a", "layer1.0.b", "layer2.0.a", "layer2.1.a", "fc"]);
        let stages = stages(&names, &[]);
        let mut next = 0;
        for stage in &stages {
            assert_eq!(stage.start, next);
            next += stage.len;
        }
        assert_eq!(next, names.len());
        assert_eq!(stages[0].label, "conv1–bn1");
    }

    #[test]
    fn labels_become_coarser_as_room_shrinks_and_never_collide() {
        let names = residual_names(6);
        for (pixels, expected) in [(20.0, "stage1.block1.conv1"), (7.0, "stage1.block1"), (1.0, "stage1")] {
            let labels = axis_labels(&names, |start, len| pixels * (start as f64 + len as f64 / 2.0), 14.0);
            assert!(labels.iter().any(|(_, label)| label == expected), "{pixels}: {labels:?}");
            for pair in labels.windows(2) {
                assert!(pair[1].0 - pair[0].0 >= 14.0, "{pixels}: {pair:?}");
            }
        }
    }

    #[test]
    fn flat_names_are_thinned_out() {
        let names: Vec<String> = (0..500).map(|layer| format!("layer{layer}")).collect();
        let labels = axis_labels(&names, |start, len| 2.0 * (start as f64 + len as f64 / 2.0), 14.0);
        assert_eq!(labels.len(), 72); // every seventh of 500
        assert_eq!(labels[1].1, "layer7");
        assert!(axis_labels(&[], |_, _| 0.0, 14.0).is_empty());
    }
}
