#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use super::*;
use crate::Saved;
use crate::pair::tests::made;
use crate::pair::{INFO, NUMBERS};
use crate::saved::npz::npz;

/// A made map: the CKA of layers i < j as a function of both.
fn map(side: usize, value: impl Fn(usize, usize) -> f64) -> WithinMap {
    let cka = (0..side).flat_map(|i| {
        let value = &value;
        (0..side).map(move |j| if i == j { 1.0 } else { value(i.min(j), i.max(j)) })
    });
    WithinMap::new((0..side).map(|layer| format!("layer{layer}")).collect(), Vec::new(), cka.collect()).unwrap()
}

/// A number in -1..1 that looks random, a pure function of the seed and the pair.
fn noise(seed: u64, i: usize, j: usize) -> f64 {
    let mut state = seed ^ ((i as u64) << 32 | j as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..2 {
        state = (state ^ (state >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state ^= state >> 32;
    }
    (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// `inside` between the layers of `block`, `outside` elsewhere.
fn square(block: RangeInclusive<usize>, inside: f64, outside: f64) -> impl Fn(usize, usize) -> f64 {
    move |i, j| if block.contains(&i) && block.contains(&j) { inside } else { outside }
}

/// The map with these layers undefined.
fn without(map: &WithinMap, undefined: &[usize]) -> WithinMap {
    let side = map.layers().len();
    let dead = |index: usize| undefined.contains(&(index / side)) || undefined.contains(&(index % side));
    let cka = map.cka().iter().enumerate().map(|(index, &value)| if dead(index) { f64::NAN } else { value });
    WithinMap::new(map.layers().to_vec(), Vec::new(), cka.collect()).unwrap()
}

/// First and last layer of every block.
fn spans(map: &WithinMap) -> Vec<(usize, usize)> {
    find(map).blocks.iter().map(|block| (block.first, block.last)).collect()
}

/// Whether a layer lies in a branch, where of seven layers of a residual block the last two come after the addition.
fn in_branch(layer: usize) -> bool {
    layer % 7 < 5
}

#[test]
fn a_block_is_found_with_its_boundaries_and_numbers() {
    for (side, block) in [(60, 20..=44), (60, 0..=29), (60, 31..=59), (60, 1..=58), (11, 3..=9), (97, 40..=50)] {
        let found = find(&map(side, square(block.clone(), 0.95, 0.3)));
        let [one] = found.blocks.as_slice() else { panic!("{side} {block:?}: {found:?}") };
        assert_eq!((one.first, one.last), (*block.start(), *block.end()), "{side} {block:?}");
        assert_eq!(one.first_name, format!("layer{}", one.first));
        assert_eq!(one.last_name, format!("layer{}", one.last));
        let layers = block.clone().count();
        assert_eq!(one.layers, layers);
        // Sums of fewer than 97 squared numbers below 1.
        let tolerance = 1e-12;
        let share = layers as f64 / side as f64;
        for (value, expected) in
            [(one.mean_cka, 0.95), (one.margin, 0.65), (one.contrast, 0.65 / 0.7), (one.share, share)]
        {
            assert!((value - expected).abs() <= tolerance, "{side} {block:?}: {value} for {expected}");
        }
        assert!((found.score - share * 0.65 / 0.7).abs() <= tolerance);
    }
}

#[test]
fn the_checkerboard_does_not_hide_a_block() {
    // The block begins and ends with a layer after an addition.
    for (dark, period) in [(0.6, 7), (0.4, 7), (0.6, 2), (0.45, 2)] {
        let branch = |layer: usize| if period == 7 { in_branch(layer) } else { layer % 2 == 1 };
        let block = if period == 7 { 19..=62 } else { 20..=62 };
        let in_block = |i: usize, j: usize| block.contains(&i) && block.contains(&j);
        let board = map(90, |i, j| match (in_block(i, j), branch(i) || branch(j)) {
            (true, false) => 0.95,
            (true, true) => dark,
            (false, _) => 0.25,
        });
        let found = find(&board);
        assert_eq!(spans(&board), [(*block.start(), *block.end())], "{dark} {period}: {found:?}");
        assert!(found.blocks[0].mean_cka < 0.9, "the mean is that of all layers of the block");
        assert!(found.blocks[0].contrast > 0.85, "{found:?}");
        let noisy = map(90, |i, j| board.cka()[i * 90 + j] + 0.03 * noise(7, i, j));
        assert_eq!(spans(&noisy), [(*block.start(), *block.end())], "{dark} {period}");
    }
}

#[test]
fn a_checkerboard_of_two_kinds_of_layers_is_one_block() {
    // Layers of either kind are alike, layers of different kinds are not.
    for seed in 0..5 {
        let board = map(70, |i, j| match (square(20..=50, 1.0, 0.0)(i, j) > 0.5, (i + j) % 2) {
            (true, 0) => 0.93 + 0.04 * noise(seed, i, j),
            (true, _) => 0.6 + 0.04 * noise(seed, i, j),
            (false, _) => 0.25 + 0.04 * noise(seed, i, j),
        });
        assert_eq!(spans(&board), [(20, 50)], "seed {seed}: {:?}", find(&board));
    }
}

#[test]
fn a_checkerboard_may_begin_or_end_with_a_dark_line() {
    for (dark, outside) in [(0.6, 0.3), (0.7, 0.3), (0.5, 0.2)] {
        for block in [20..=49, 19..=48, 19..=49] {
            let value = |bright: bool| if bright { 0.95 } else { dark };
            let within = |i: usize, j: usize| block.contains(&i) && block.contains(&j);
            let one_kind = map(70, |i, j| if within(i, j) { value(i % 2 + j % 2 == 0) } else { outside });
            let two_kinds = map(70, |i, j| if within(i, j) { value((i + j) % 2 == 0) } else { outside });
            for board in [one_kind, two_kinds] {
                assert_eq!(spans(&board), [(*block.start(), *block.end())], "{dark} {outside}: {:?}", find(&board));
            }
        }
    }
}

#[test]
fn noise_does_not_move_the_boundaries() {
    // Uniform in +-0.1, so that many a layer looks skipped.
    for seed in 0..20 {
        let noisy = map(60, |i, j| square(20..=44, 0.88, 0.4)(i, j) + 0.1 * noise(seed, i, j));
        assert_eq!(spans(&noisy), [(20, 44)], "seed {seed}: {:?}", find(&noisy));
    }
}

#[test]
fn undefined_layers_neither_break_a_block_nor_count() {
    let whole = map(60, square(20..=44, 0.95, 0.3));
    let holes = without(&whole, &[0, 7, 25, 26, 33]);
    let found = find(&holes);
    assert_eq!(spans(&holes), [(20, 44)]);
    assert_eq!(found.blocks[0].layers, 22);
    assert!((found.blocks[0].share - 22.0 / 55.0).abs() < 1e-12);
    assert!((found.blocks[0].mean_cka - 0.95).abs() < 1e-12);
    // At its edges they are outside.
    assert_eq!(spans(&without(&whole, &[20, 21, 44])), [(22, 43)]);
}

#[test]
fn several_blocks_are_told_apart() {
    let (one, other) = (5..=24, 40..=69);
    let value = |i: usize, j: usize| square(one.clone(), 0.93, 0.2)(i, j).max(square(other.clone(), 0.97, 0.2)(i, j));
    assert_eq!(spans(&map(80, value)), [(5, 24), (40, 69)]);
    // Side by side, and half alike.
    let touching = |i: usize, j: usize| {
        let own = square(0..=29, 0.95, 0.5)(i, j).max(square(30..=79, 0.95, 0.5)(i, j));
        own + 0.02 * noise(3, i, j)
    };
    let found = map(80, touching);
    assert_eq!(spans(&found), [(0, 29), (30, 79)]);
    assert!((find(&found).share() - 1.0).abs() < 1e-12);
}

#[test]
fn a_map_that_fades_from_the_diagonal_has_no_block() {
    for side in [12, 60, 133] {
        for reach in [0.05, 0.2, 0.5, 1.0] {
            let distance = move |i: usize, j: usize| (j - i) as f64 / (reach * side as f64);
            let none = |name: &str, map: WithinMap| {
                assert_eq!(find(&map), Blocks::default(), "{name}, {side} layers, reach {reach}");
            };
            none("exponential", map(side, |i, j| (-distance(i, j)).exp()));
            none("bell", map(side, |i, j| (-distance(i, j).powi(2)).exp()));
            none("linear", map(side, |i, j| (1.0 - distance(i, j)).max(0.0)));
            none("with a floor", map(side, |i, j| 0.5 + 0.5 * (-distance(i, j)).exp()));
            none("noisy", map(side, |i, j| (-distance(i, j)).exp() + 0.05 * noise(1, i, j)));
        }
    }
    // Slower towards the end, by a factor of two over the network: still no edge anywhere.
    let depth = |layer: usize| (layer as f64) - (layer as f64).powi(2) / (4.0 * 60.0);
    assert_eq!(find(&map(60, |i, j| (-(depth(j) - depth(i)) / 30.0).exp())), Blocks::default());
}

#[test]
fn maps_without_structure_have_no_block() {
    assert_eq!(find(&map(60, |_, _| 0.0)), Blocks::default(), "identity");
    // No CKA map is like this. Among so many maps, chance may make a few layers of one look like a core.
    let random = |side: usize, seed: u64| map(side, |i, j| (1.0 + noise(seed, i, j)) / 2.0);
    let maps = [8, 20, 60].into_iter().flat_map(|side| (0..50).map(move |seed| (side, seed)));
    let with_block = maps.filter(|&(side, seed)| !find(&random(side, seed)).blocks.is_empty()).count();
    assert!(with_block <= 1, "{with_block} of 150 random maps have a block");
}

#[test]
fn stages_that_fade_have_no_block() {
    let stage = |layer: usize| layer / 20;
    for step in [0.5, 0.8] {
        let staged = |i: usize, j: usize| {
            let crossed = (stage(j) - stage(i)) as i32;
            f64::powi(step, crossed) * (-((j - i) as f64) / 15.0).exp()
        };
        assert_eq!(find(&map(60, staged)), Blocks::default(), "{step}");
    }
    // Flat stages, but far from equal.
    assert_eq!(find(&map(60, |i, j| if stage(i) == stage(j) { 0.65 } else { 0.3 })), Blocks::default());
}

#[test]
fn a_constant_map_is_a_block_only_where_all_layers_are_equal() {
    for (value, expected) in [(0.3, vec![]), (0.9, vec![]), (0.97, vec![(0, 29)]), (1.0, vec![(0, 29)])] {
        let constant = map(30, |_, _| value);
        assert_eq!(spans(&constant), expected, "{value}");
        let score = if expected.is_empty() { 0.0 } else { value };
        assert!((find(&constant).score - score).abs() < 1e-12, "{value}");
    }
}

#[test]
fn the_score_grows_with_size_and_contrast() {
    let grows = |scores: Vec<f64>, what: &str| {
        assert!(scores.windows(2).all(|pair| pair[1] > pair[0]), "{what}: {scores:?}");
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{what}: {scores:?}");
    };
    let score = |block: RangeInclusive<usize>, inside, outside| find(&map(60, square(block, inside, outside))).score;
    grows((5..=60).map(|layers| score(0..=layers - 1, 0.97, 0.3)).collect(), "size at the edge");
    grows((6..=29).map(|half| score(30 - half..=29 + half, 0.97, 0.3)).collect(), "size in the middle");
    grows([0.8, 0.85, 0.9, 0.95, 0.99].map(|inside| score(20..=39, inside, 0.3)).to_vec(), "inside");
    grows([0.8, 0.6, 0.4, 0.2, 0.0].map(|outside| score(20..=39, 0.95, outside)).to_vec(), "outside");
}

/// All ranges by the definition itself, pair by pair, on a map where no layer is skipped.
fn brute_force(map: &WithinMap) -> Vec<(usize, usize)> {
    let side = map.layers().len();
    let at = |i: usize, j: usize| map.cka()[i * side + j];
    let mean = |pairs: &[(usize, usize)]| pairs.iter().map(|&(i, j)| at(i, j)).sum::<f64>() / pairs.len() as f64;
    let pairs_at = |distance: usize, keep: &dyn Fn(usize, usize) -> bool| -> Vec<_> {
        (0..side - distance).map(|i| (i, i + distance)).filter(|&(i, j)| keep(i, j)).collect()
    };
    let mut candidates = Vec::new();
    for (first, last) in (0..side).flat_map(|first| (first + 1..side).map(move |last| (first, last))) {
        let layers = last + 1 - first;
        let share = layers as f64 / side as f64;
        let in_range = |i: usize| (first..=last).contains(&i);
        let both = |i: usize, j: usize| in_range(i) && in_range(j);
        let inside = |distances: RangeInclusive<usize>| -> Vec<_> {
            distances.flat_map(|distance| pairs_at(distance, &both)).collect()
        };
        if layers < LEAST_LAYERS
            || share < LEAST_SHARE
            || !(mean(&inside(1..=layers - 1)) >= NEARLY_EQUAL)
            || !(mean(&inside(layers.div_ceil(2)..=layers - 1)) >= NEARLY_EQUAL)
        {
            continue;
        }
        let side_of = |keep: &dyn Fn(usize, usize) -> bool| {
            let (mut within, mut across, mut weights) = (0.0, 0.0, 0.0);
            for distance in 1..layers {
                let (own, other) = (pairs_at(distance, &both), pairs_at(distance, keep));
                if !other.is_empty() {
                    let weight = 1.0 / (1.0 / own.len() as f64 + 1.0 / other.len() as f64);
                    within += weight * mean(&own);
                    across += weight * mean(&other);
                    weights += weight;
                }
            }
            (weights > 0.0).then(|| {
                let (within, across) = (within / weights, across / weights);
                ((within - across) / (1.0 - across), within - across)
            })
        };
        let sides = [side_of(&|i, j| i < first && in_range(j)), side_of(&|i, j| in_range(i) && j > last)];
        let worse = sides.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((contrast, margin)) = worse
            && contrast >= LEAST_CONTRAST
            && margin >= LEAST_MARGIN
        {
            candidates.push((share * contrast, first, last));
        }
    }
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (_, first, last) in candidates {
        if found.iter().all(|&(begin, end)| last < begin || end < first) {
            found.push((first, last));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn the_search_agrees_with_the_definition() {
    let mut blocks = 0;
    for seed in 0..40 {
        // Steps of a random height at three places, over a slow decay, with less noise than makes a layer look skipped.
        let place = |number: usize| ((1.0 + noise(seed, 99, number)) * 15.0) as usize;
        let edges = [place(0), place(1), place(2)];
        let jitter = |i: usize, j: usize| 0.02 * noise(seed, i, j);
        let stepped = map(30, |i, j| {
            let crossed = edges.iter().filter(|&&edge| i < edge && edge <= j).count();
            0.97 - 0.25 * crossed as f64 - 0.002 * (j - i) as f64 + jitter(i, j)
        });
        let expected = brute_force(&stepped);
        assert_eq!(spans(&stepped), expected, "seed {seed}, edges {edges:?}");
        blocks += expected.len();
    }
    assert!(blocks > 40, "only {blocks} blocks in 40 maps");
}

#[test]
fn a_large_map_is_the_same_with_any_number_of_threads() {
    let large = map(574, |i, j| square(100..=399, 0.93, 0.3)(i, j) + 0.05 * noise(5, i, j));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| find(&large))
    };
    let one = with(1);
    assert_eq!(one, with(4));
    assert_eq!((one.blocks[0].first, one.blocks[0].last), (100, 399));
}

#[test]
fn what_is_no_map_of_one_network_is_told() {
    let names = |count: usize| (0..count).map(|layer| format!("l{layer}")).collect::<Vec<_>>();
    let error = |cka: Vec<f64>| WithinMap::new(names(6), Vec::new(), cka).unwrap_err();
    let good = map(6, |_, _| 0.5);
    assert!(error(vec![1.0; 35]).contains("35 values"));
    let mut asymmetric = good.cka().to_vec();
    asymmetric[1] = 0.6;
    assert!(error(asymmetric).contains("other way round"));
    let mut across = good.cka().to_vec();
    across[7] = 0.4;
    assert!(error(across).contains("with itself"));
    let mut hole = good.cka().to_vec();
    (hole[1], hole[6]) = (f64::NAN, f64::NAN);
    assert!(error(hole).contains("NaN"));
    let few = without(&map(8, |_, _| 0.5), &[0, 1]);
    assert_eq!(find(&few), Blocks::default());
    let mut fewer = few.cka().to_vec();
    (0..8).for_each(|other| (fewer[16 + other], fewer[8 * other + 2]) = (f64::NAN, f64::NAN));
    let error = WithinMap::new(names(8), Vec::new(), fewer).unwrap_err();
    assert!(error.contains('5') && error.contains('6'), "{error}");
    assert!(WithinMap::of(&made("a", "b")).unwrap_err().contains("a against b"));
    assert!(WithinMap::of(&made("a", "a")).unwrap_err().contains("different layers"));
}

/// Writes a map as another tool would, and returns the npz file.
fn write_foreign(dir: &Path, map: &WithinMap, info: &serde_json::Value) -> std::path::PathBuf {
    write_named(dir, "theirs", map, info)
}

fn write_named(dir: &Path, name: &str, map: &WithinMap, info: &serde_json::Value) -> std::path::PathBuf {
    let side = map.layers().len();
    let path = dir.join(format!("{name}.npz"));
    fs::write(&path, npz(&[("cka", &[side, side], map.cka())]).unwrap()).unwrap();
    fs::write(path.with_extension("json"), info.to_string()).unwrap();
    path
}

/// A map of another tool may have the name of a mean of this one.
#[test]
fn a_map_may_have_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let written = map(20, square(4..=12, 0.95, 0.3));
    for name in ["mean", "cka", "blocks"] {
        let path = write_named(dir.path(), name, &written, &serde_json::json!({ "layers_x": written.layers() }));
        let (read, origin) = WithinMap::read(&path).unwrap();
        assert_eq!((read.cka(), origin.model.as_str()), (written.cka(), name));
    }
}

#[test]
fn blocks_are_written_and_read_back_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let written = map(60, square(20..=44, 0.95, 0.3));
    let path = write_foreign(dir.path(), &written, &serde_json::json!({ "layers_x": written.layers() }));
    let (read, origin) = WithinMap::read(&path).unwrap();
    assert_eq!((read.cka(), origin.model.as_str()), (written.cka(), "theirs"));
    let info = measure(&read, &origin).unwrap();
    let out = dir.path().join("out");
    write(&out, &read, &info).unwrap();
    assert_eq!(BlocksInfo::load(&out).unwrap(), info);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
    write(&out, &read, &info).unwrap();
    let json = out.join(BLOCKS);
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, text.replace("\"last\": 44", "\"last\": 45")).unwrap();
    assert!(BlocksInfo::load(&out).unwrap_err().to_string().contains("checksum"));
    assert!(write(&out, &read, &info).unwrap_err().to_string().contains("another place"));
}

#[test]
fn files_that_hold_no_map_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| WithinMap::read(path).unwrap_err().to_string();
    let missing = dir.path().join("missing.npz");
    assert!(error(&missing).contains("missing.npz"));
    assert!(error(dir.path()).contains(INFO));
    let written = map(8, |_, _| 0.5);
    for (info, part) in [
        (serde_json::json!({}), "layers_x"),
        (serde_json::json!({ "layers_x": ["one"] }), "[1, 1]"),
        (serde_json::json!({ "layers_x": vec!["same"; 8] }), "same name"),
        (serde_json::json!({ "layers_x": written.layers(), "layers_y": ["one"] }), "different layers"),
        (serde_json::json!({ "layers_x": written.layers(), "checksum": "0" }), "description"),
    ] {
        let path = write_foreign(dir.path(), &written, &info);
        let message = error(&path);
        assert!(message.contains(part) && message.contains("theirs"), "{part}: {message}");
    }
    fs::write(dir.path().join("theirs.npz"), "no numbers").unwrap();
    fs::write(dir.path().join("theirs.json"), serde_json::json!({ "layers_x": written.layers() }).to_string()).unwrap();
    assert!(error(&dir.path().join("theirs.json")).contains("theirs.npz"));
    // A result of ours that was changed.
    made("a", "a").save(dir.path()).unwrap();
    assert!(error(dir.path()).contains("different layers"));
    fs::write(dir.path().join(NUMBERS), "").unwrap();
    assert!(error(&dir.path().join(INFO)).contains("different layers"));
}
