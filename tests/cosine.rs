//! `gramscope cosine` through the binary: against the definition on stored activations and on a run's own.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_reference::Matrix;
use gramscope_reference::cosine::mean_cosine;
use gramscope_study::Saved;
use gramscope_study::cosine::CosineResult;
use safetensors::Dtype;
use support::activations::{Layer, related, write};
use support::{fails, gramscope, noise, succeeds, text, train_tiny, write_activations};

/// What is promised of every entry.
const EXACT: f64 = 1e-6;

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

fn bits(result: &CosineResult) -> Vec<u64> {
    result.cosine.iter().chain(&result.count).map(|value| value.to_bits()).collect()
}

/// Layers of all formats, of two numbers of features, with a copy, its opposite, an example of zeros and a dead layer.
fn layers(examples: usize) -> Vec<Layer> {
    let renamed = |name: &str, layer: Layer| Layer { name: name.to_owned(), ..layer };
    let made = related(3, examples, &[37, 12, 37]);
    let first = made[0].clone();
    let mut layers = made.clone();
    layers.push(renamed("copy", first.clone()));
    layers.push(renamed("opposite", first.map(|_, _, value| -value)));
    layers.push(renamed("partly zero", first.map(|example, _, value| if example == 1 { 0.0 } else { value })));
    layers.push(renamed("dead", made[1].map(|_, _, _| 0.0)));
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
        layers.push(renamed(&format!("as {dtype}"), made[2].stored_as(dtype)));
    }
    layers
}

#[test]
fn cosines_of_stored_activations_are_those_of_the_definition() {
    let dir = tempfile::tempdir().unwrap();
    for examples in [2, 67] {
        let (file, out) = (path(dir.path(), "made.safetensors"), path(dir.path(), "out"));
        let layers = layers(examples);
        write(Path::new(&file), examples, &layers);
        let output = gramscope(["cosine", "--activations", &file, "--out", &out]);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("every example: dead") && stderr.contains("left out: partly zero"), "{stderr}");
        let result = CosineResult::load(Path::new(&out)).unwrap();
        assert_eq!((result.info.examples, result.info.undefined.as_slice()), (examples, &["dead".to_owned()][..]));
        let matrices: Vec<Matrix> =
            layers.iter().map(|layer| Matrix::new(examples, layer.features, layer.values.clone())).collect();
        for (x, one) in matrices.iter().enumerate() {
            for (y, other) in matrices.iter().enumerate() {
                let at = x * layers.len() + y;
                let (mean, count) = if one.cols == other.cols { mean_cosine(one, other) } else { (f64::NAN, 0) };
                let found = result.cosine[at];
                let close = if mean.is_nan() { found.is_nan() } else { (found - mean).abs() <= EXACT };
                let names = (&layers[x].name, &layers[y].name);
                assert!(close && result.count[at] == count as f64, "{names:?}: {found}, expected {mean}");
            }
        }
        assert!(image::open(Path::new(&out).join("cosine.png")).unwrap().width() > 500);
        // A second result takes the place of the first.
        succeeds(["cosine", "--activations", &file, "--examples", "1", "--out", &out]);
        assert_eq!(CosineResult::load(Path::new(&out)).unwrap().info.examples, 1);
    }
}

/// A run has the cosines of the activations that `gramscope activations` writes, to the bit and on one thread too; they are
/// verified and shown.
#[test]
fn a_run_and_its_exported_activations_have_the_same_cosines() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file) = (path(dir.path(), "run"), path(dir.path(), "run.safetensors"));
    train_tiny(Path::new(&run), 0);
    // Of these, the layers of one number of features are of one shape.
    let flags = ["--examples", "37", "--layers", "stage2.*(add|conv2|shortcut|relu)|pool|logits"];
    succeeds(["activations", &run, "--out", &file].into_iter().chain(flags));
    let of_run = path(dir.path(), "of_run");
    let line = succeeds(["cosine", &run, "--out", &of_run].into_iter().chain(flags));
    assert!(line.contains("7 layers of 3 shapes over 37 examples"), "{line}");
    let result = CosineResult::load(Path::new(&of_run)).unwrap();
    assert_eq!(result.info.stages, [2, 2, 2, 2, 2, 4, 4]);
    let of_file = path(dir.path(), "of_file");
    succeeds(["cosine", "--activations", &file, "--out", &of_file]);
    assert_eq!(bits(&CosineResult::load(Path::new(&of_file)).unwrap()), bits(&result));
    let one = path(dir.path(), "one thread");
    let mut command = support::command(["cosine", &run, "--out", &one]);
    assert!(command.args(flags).env("RAYON_NUM_THREADS", "1").output().unwrap().status.success());
    assert_eq!(bits(&CosineResult::load(Path::new(&one)).unwrap()), bits(&result));

    succeeds(["verify", &path(dir.path(), ".")]);
    succeeds(["report", &path(dir.path(), ".")]);
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("7 layers of 3 shapes over 37 examples"), "no cosines in the report");
    let numbers = Path::new(&of_run).join("cosine.npz");
    let mut bytes = fs::read(&numbers).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&numbers, bytes).unwrap();
    fails(["verify", &path(dir.path(), ".")], 1, &["cosine.npz"]);
}

#[test]
fn wrong_use_is_explained_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file, out) = (path(dir.path(), "run"), path(dir.path(), "a.safetensors"), path(dir.path(), "out"));
    train_tiny(Path::new(&run), 0);
    let mut values = noise(1, 40);
    write_activations(Path::new(&file), &[("good", 8, 5, values.clone())]);
    for count in ["0", "9"] {
        fails(["cosine", "--activations", &file, "--examples", count, "--out", &out], 1, &["--examples", "1 to 8"]);
    }
    fails(["cosine", "--activations", &file, "--layers", "none", "--out", &out], 1, &["matches \"none\"", "--layers"]);
    fails(["cosine", "--activations", &path(dir.path(), "none"), "--out", &out], 1, &["none"]);
    fails(["cosine", &run, "--examples", "41", "--out", &out], 1, &["41 examples", "--examples", "40"]);
    fails(["cosine", &run, "--layers", "none", "--out", &out], 1, &["matches \"none\"", "--layers"]);
    fails(["cosine", &run, "--out", &run], 1, &[&run, "--out"]);
    fails(["cosine", &run, "--memory-limit", "1M", "--out", &out], 1, &["--memory-limit", "--layers", "1.0 MiB"]);
    values[33] = f32::NAN;
    write_activations(Path::new(&file), &[("good", 8, 5, noise(2, 40)), ("bad", 8, 5, values)]);
    fails(
        ["cosine", "--activations", &file, "--out", &out],
        1,
        &["bad", &file, "NaN", "batch 1", "example 7 of the file"],
    );
    assert!(!Path::new(&out).exists());
    for wrong in [vec!["cosine", "--out", "x"], vec!["cosine", &run, "--activations", &file, "--out", "x"]] {
        assert_eq!(gramscope(&wrong).status.code(), Some(2));
    }
}
