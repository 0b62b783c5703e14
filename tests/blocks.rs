//! Blocks and means through the binary, from activations that have them.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use serde_json::Value;
use support::{fails, noise, succeeds, train_tiny, write_activations};

const EXAMPLES: usize = 64;
const FEATURES: usize = 8;

/// Twelve layers of which `layer3` to `layer8` are the same but for a tenth of noise, and the others have nothing in
/// common.
fn write_with_block(path: &Path, seed: u64) {
    let shared = noise(1, EXAMPLES * FEATURES);
    let layers: Vec<_> = (0..12)
        .map(|layer| {
            let own = noise(100 * seed + layer, EXAMPLES * FEATURES);
            let values = match layer {
                3..=8 => shared.iter().zip(&own).map(|(shared, own)| shared + 0.1 * own).collect(),
                _ => own,
            };
            (format!("layer{layer:02}"), values)
        })
        .collect();
    let layers: Vec<_> =
        layers.iter().map(|(name, values)| (name.as_str(), EXAMPLES, FEATURES, values.clone())).collect();
    write_activations(path, &layers);
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Compares the layers of activations with a block, into DIR/NAME.
fn map(dir: &Path, name: &str, seed: u64) -> String {
    let (file, out) = (dir.join(format!("{name}.safetensors")), path(dir, name));
    write_with_block(&file, seed);
    succeeds(["cka", "--activations", file.to_str().unwrap(), "--out", &out, "--batch-size", "64"]);
    out
}

#[test]
fn the_block_of_a_map_is_found_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let map = map(dir.path(), "map", 2);
    let out = path(dir.path(), "blocks");
    let files = [map.clone(), format!("{map}/cka.npz"), format!("{map}/cka.json")];
    let stdout = files.map(|file| succeeds(["blocks", &file, "--out", &out]));
    assert!(stdout.iter().all(|text| *text == stdout[0]), "{stdout:?}");
    let lines: Vec<_> = stdout[0].lines().collect();
    assert_eq!(lines.len(), 2, "{}", stdout[0]);
    assert!(lines[0].starts_with("block of layers 3 to 8, layer03 to layer08: 50.0% of the network"), "{}", lines[0]);
    assert!(lines[1].contains("map: 1 block in 12 layers, score 0."), "{}", lines[1]);

    let text = fs::read_to_string(Path::new(&out).join("blocks.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let [block] = json["blocks"].as_array().unwrap().as_slice() else { panic!("{text}") };
    assert!(block["first"] == 3 && block["last"] == 8, "{text}");
    assert!(block["first_name"] == "layer03" && block["last_name"] == "layer08", "{text}");
    let cka = PairResult::load(Path::new(&map)).unwrap().similarity.cka;
    let pairs: Vec<f64> = (3..9).flat_map(|i| (3..i).map(move |j| (i, j))).map(|(i, j)| cka[12 * i + j]).collect();
    let mean = pairs.iter().sum::<f64>() / pairs.len() as f64;
    assert!((block["mean_cka"].as_f64().unwrap() - mean).abs() < 1e-12);
    // Half of the layers, alike but for a hundredth of the variance, beside ones that have nothing in common.
    let score = json["score"].as_f64().unwrap();
    assert!(score > 0.4 && score < 0.5, "{score}");
    for key in ["source", "parameters", "versions"] {
        assert!(json[key].is_object(), "{key} is missing from {text}");
    }
    let picture = image::open(Path::new(&out).join("blocks.png")).unwrap();
    assert!((picture.width(), picture.height()) > (500, 500));

    // Beside the map is a good place too, and all of it is checked.
    succeeds(["blocks", &map, "--out", &map]);
    assert!(succeeds(["verify", dir.path().to_str().unwrap()]).contains("3 files as they were written, 0 damaged"));
    fs::write(Path::new(&out).join("blocks.json"), text.replace("layer08", "layer09")).unwrap();
    fails(["verify", dir.path().to_str().unwrap()], 1, &["blocks.json"]);
}

/// Of a mean of maps within networks, too; one across networks has no blocks.
#[test]
fn the_block_of_a_mean_map_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let maps = [("a", 2), ("b", 5)].map(|(name, seed)| map(dir.path(), name, seed));
    let [mean, out] = ["mean", "blocks"].map(|name| path(dir.path(), name));
    succeeds(["mean", &maps[0], &maps[1], "--out", &mean]);
    let files = [mean.clone(), format!("{mean}/mean.npz"), format!("{mean}/mean.json")];
    for file in files {
        let said = succeeds(["blocks", &file, "--out", &out]);
        assert!(said.starts_with("block of layers 3 to 8, layer03 to layer08: 50.0% of the network"), "{said}");
        assert!(said.contains("a and others: 1 block in 12 layers"), "{said}");
    }
    // It may lie where another map does, which then is what the directory stands for.
    succeeds(["mean", &maps[0], &maps[1], "--out", &maps[0]]);
    assert!(succeeds(["blocks", &maps[0], "--out", &out]).contains("\na: 1 block"));

    let across = path(dir.path(), "across");
    let files = ["a", "b"].map(|name| path(dir.path(), &format!("{name}.safetensors")));
    for (name, [x, y]) in [("ab", [&files[0], &files[1]]), ("ba", [&files[1], &files[0]])] {
        let out = format!("{across}/{name}");
        succeeds(["cka", "--activations", x, y, "--out", &out, "--batch-size", "64"]);
    }
    succeeds(["mean", &format!("{across}/ab"), &format!("{across}/ba"), "--out", &across]);
    fails(["blocks", &across, "--out", &out], 1, &["mean.npz", "blocks are those of one network"]);
    // Batches that were shuffled give another estimate than those in a file's order.
    let shuffled = path(dir.path(), "shuffled");
    succeeds(["cka", "--activations", &files[1], "--passes", "1", "--out", &shuffled, "--batch-size", "64"]);
    fails(
        ["mean", &maps[0], &shuffled, "--out", &across],
        1,
        &["cannot be averaged", "done to the examples", "b (shuffled)"],
    );
    fs::write(Path::new(&mean).join("mean.npz"), "nothing").unwrap();
    fails(["blocks", &mean, "--out", &out], 1, &["mean.npz"]);
    fs::write(Path::new(&mean).join("mean.json"), "{").unwrap();
    fails(["blocks", &mean, "--out", &out], 1, &["mean.json", "not the description of mean maps"]);
}

/// What lies below a directory may have any name. An earlier result stays when there is none in its place.
#[cfg(target_os = "linux")]
#[test]
fn a_map_whose_name_is_not_unicode_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let (file, maps, out) = (path(dir.path(), "map.safetensors"), path(dir.path(), "maps"), path(dir.path(), "mean"));
    for (seed, name) in [(1, "a"), (2, "b")] {
        write_activations(Path::new(&file), &[("one", 8, 5, noise(seed, 40)), ("two", 8, 3, noise(seed + 2, 24))]);
        let map = path(dir.path(), &format!("maps/{name}"));
        succeeds(["cka", "--activations", &file, "--batch-size", "8", "--out", &map]);
    }
    succeeds(["mean", &maps, "--out", &out]);
    let earlier = fs::read(Path::new(&out).join("mean.json")).unwrap();
    fs::rename(Path::new(&maps).join("b"), Path::new(&maps).join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap();
    fails(["mean", &maps, "--out", &out], 1, &["mean.json", "UTF-8"]);
    assert_eq!(fs::read(Path::new(&out).join("mean.json")).unwrap(), earlier);
}

#[test]
fn what_has_no_blocks_to_find_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(dir.path(), "out");
    let map = map(dir.path(), "map", 2);
    fails(["blocks", &path(dir.path(), "missing"), "--out", &out], 1, &["missing", "no such file"]);
    fails(["blocks", dir.path().to_str().unwrap(), "--out", &out], 1, &["cka.json"]);
    fails(["blocks", &path(dir.path(), "map.safetensors"), "--out", &out], 1, &["map.json"]);
    let activations = [path(dir.path(), "map.safetensors"), path(dir.path(), "few.safetensors")];
    write_activations(Path::new(&activations[1]), &[("a", 64, 2, noise(1, 128)), ("b", 64, 2, noise(2, 128))]);
    let (across, few) = (path(dir.path(), "across"), path(dir.path(), "few"));
    succeeds(["cka", "--activations", &activations[0], &activations[1], "--out", &across, "--batch-size", "64"]);
    succeeds(["cka", "--activations", &activations[1], "--out", &few, "--batch-size", "64"]);
    fails(["blocks", &across, "--out", &out], 1, &["map against few", "one network"]);
    fails(["blocks", &few, "--out", &out], 1, &["2 layers", "at least 6"]);
    let run = dir.path().join("run");
    train_tiny(&run, 0);
    fails(["blocks", &map, "--out", run.to_str().unwrap()], 1, &["holds a run", "--out"]);
    fs::create_dir(&out).unwrap();
    fs::write(Path::new(&out).join("blocks.json"), "irreplaceable").unwrap();
    fails(["blocks", &map, "--out", &out], 1, &["blocks.json", "--out"]);
    assert_eq!(fs::read_to_string(Path::new(&out).join("blocks.json")).unwrap(), "irreplaceable");
    fails(["mean", &map, &few, "--out", &path(dir.path(), "mean")], 1, &["map and few", "layers"]);
    fails(["mean", &map, "--out", &path(dir.path(), "mean")], 1, &["only map"]);
    fails(
        ["mean", &map, &format!("{map}/cka.npz"), "--out", &path(dir.path(), "mean")],
        1,
        &["cka.npz", "given twice"],
    );
}

#[test]
fn maps_of_several_seeds_are_averaged() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("maps");
    fs::create_dir(&below).unwrap();
    let maps: Vec<_> = (2..5).map(|seed| map(&below, &format!("s{seed}"), seed)).collect();
    let out = path(dir.path(), "mean");
    let named = succeeds(["mean", &maps[0], &maps[1], &maps[2], "--out", &out]);
    assert!(named.starts_with("mean and variance of 3 maps of 12 x 12 layers"), "{named}");
    let bytes = fs::read(Path::new(&out).join("mean.npz")).unwrap();
    succeeds(["mean", &path(dir.path(), "maps"), "--out", &out]);
    assert_eq!(fs::read(Path::new(&out).join("mean.npz")).unwrap(), bytes, "a directory stands for the maps below it");
    for picture in ["mean.png", "variance.png"] {
        assert!(image::open(Path::new(&out).join(picture)).unwrap().width() > 500, "{picture}");
    }
    assert!(succeeds(["verify", dir.path().to_str().unwrap()]).contains("4 files as they were written, 0 damaged"));
}
