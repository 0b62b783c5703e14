//! `gramscope pcs`, `dominant` and `cka --drop-dominant` through the binary: against NumPy (tests/fixtures/make_pcs.py), and
//! against the definitions on a trained network's own activations.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_cka::Estimator;
use gramscope_nn::Processor;
use gramscope_reference::{Matrix, components};
use gramscope_study::Saved;
use gramscope_study::dominant::{Dominant, DominantOptions, dominant};
use gramscope_study::pair::PairResult;
use gramscope_study::pcs::PcsResult;
use gramscope_train::Run;
use gramscope_train::data::builtin::{self, Part};
use image::RgbImage;
use safetensors::SafeTensors;
use support::{fails, gramscope, noise, succeeds, text, train_tiny, write_activations};

/// Two float64 decompositions differ by some roundings over the smallest gap of the fixture, 0.005.
const CLOSE: f64 = 1e-10;
/// What every CKA entry is promised.
const EXACT: f64 = 1e-6;

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A float32 or float64 tensor of a file, with its rows.
fn tensor(file: &SafeTensors<'_>, name: &str) -> Matrix {
    let view = file.tensor(name).unwrap();
    let values: Vec<f64> = match view.dtype() {
        safetensors::Dtype::F64 => {
            view.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
        }
        _ => {
            view.data().chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))).collect()
        }
    };
    let rows = view.shape()[0];
    Matrix::new(rows, values.len() / rows, values)
}

/// Fails unless both are NaN or within `tolerance` of each other, everywhere.
fn check(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = if b.is_nan() { a.is_nan() } else { (a - b).abs() <= tolerance };
        assert!(same, "{what}, entry {index}: {a}, expected {b}");
    }
}

/// Fails unless every row is the expected one or its opposite.
fn check_up_to_sign(found: &[f64], expected: &Matrix) {
    for (row, found) in found.chunks_exact(expected.cols).enumerate() {
        let expected = expected.row(row);
        let sign = if found.iter().zip(expected).map(|(a, b)| a * b).sum::<f64>() < 0.0 { -1.0 } else { 1.0 };
        let expected: Vec<f64> = expected.iter().map(|value| sign * value).collect();
        // A vector is off by the root of what its squared cosine is off by, at most.
        check(found, &expected, CLOSE.sqrt(), "first_pc");
    }
}

#[test]
fn numpy_finds_the_same_components_in_stored_activations() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixture("pcs_expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for estimator in [Estimator::Unbiased, Estimator::Biased] {
        let out = path(dir.path(), &estimator.to_string());
        let file = fixture("pcs.safetensors");
        let estimator = estimator.to_string();
        let output = gramscope(["pcs", "--activations", &file, "--out", &out, "--estimator", &estimator]);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let PcsResult { info, similarity } = PcsResult::load(Path::new(&out)).unwrap();
        assert_eq!((info.examples, info.layers.len(), info.estimator.as_str()), (33, 6, estimator.as_str()));
        assert_eq!(info.undefined, ["constant"]);
        assert_eq!(info.undefined_cka, ["constant"]);
        assert_eq!(info.undefined_cka_without_first, ["constant", "one feature"]);
        assert_eq!(info.ill_defined, ["close eigenvalues"]);
        assert!(["constant", "one feature", "close eigenvalues"].iter().all(|name| stderr.contains(name)), "{stderr}");
        let (plain, without) = (format!("cka_{estimator}"), format!("cka_without_first_{estimator}"));
        for (name, found, tolerance) in [
            ("variance_explained", &similarity.variance_explained, CLOSE),
            ("second_over_first", &similarity.second_over_first, CLOSE),
            ("cosine_sq", &similarity.cosine_sq, CLOSE),
            (&plain, &similarity.cka, EXACT),
            (&without, &similarity.cka_without_first, EXACT),
        ] {
            check(found, &tensor(&expected, name).data, tolerance, name);
        }
        check_up_to_sign(&similarity.first_pc, &tensor(&expected, "first_pc"));
        assert!(image::open(Path::new(&out).join("pcs.png")).unwrap().width() > 800);
    }
}

/// The components of a run are those of the activations that `gramscope activations` writes, and those of the first examples
/// in order; the images that dominate a layer are the ones with the largest coordinates.
#[test]
fn a_run_and_its_exported_activations_have_the_same_components() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file) = (path(dir.path(), "run"), path(dir.path(), "run.safetensors"));
    train_tiny(Path::new(&run), 0);
    let layers = "add|conv2|pool|logits";
    succeeds(["activations", &run, "--out", &file, "--examples", "37", "--layers", layers]);
    let of_run = path(dir.path(), "of_run");
    succeeds(["pcs", &run, "--examples", "37", "--layers", layers, "--out", &of_run]);
    let result = PcsResult::load(Path::new(&of_run)).unwrap();
    assert_eq!((result.info.examples, result.info.layers.len()), (37, 8));
    let of_file = path(dir.path(), "of_file");
    succeeds(["pcs", "--activations", &file, "--out", &of_file]);
    assert!(PcsResult::load(Path::new(&of_file)).unwrap().similarity == result.similarity, "the file says otherwise");

    let bytes = fs::read(&file).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    for (layer, name) in result.info.layers.iter().enumerate() {
        let first = components::first(&components::centred_gram(&tensor(&stored, name)));
        check(&result.similarity.variance_explained[layer..=layer], &[first.fraction], CLOSE, name);
    }

    let shown = path(dir.path(), "dominant");
    let line = succeeds(["dominant", &run, "--examples", "37", "--layer", "pool", "--top", "5", "--out", &shown]);
    assert!(line.contains("pool"), "{line}");
    let Dominant { info, projections, .. } = Dominant::load(Path::new(&shown)).unwrap();
    assert!(info.dominant.iter().all(|example| example.projection == projections[example.index]));
    let absolute = |index: &usize| projections[*index].abs();
    let layer = result.info.layers.iter().position(|name| name == "pool").unwrap();
    let vector = &result.similarity.first_pc[layer * 37..][..37];
    let mut order: Vec<usize> = (0..37).collect();
    order.sort_by(|&a, &b| vector[b].abs().total_cmp(&vector[a].abs()));
    assert_eq!(info.dominant.iter().map(|example| example.index).collect::<Vec<_>>(), order[..5]);
    assert!(projections.len() == 37 && order.is_sorted_by(|a, b| absolute(a) >= absolute(b)), "{projections:?}");
    let features = tensor(&stored, "pool");
    let first = components::first(&components::centred_gram(&features));
    for example in &info.dominant {
        assert!((example.share - vector[example.index].powi(2)).abs() <= 1e-15);
        let projection = first.eigenvalue.sqrt() * first.vector[example.index].abs();
        assert!((example.projection.abs() - projection).abs() <= 1e-6 * projection, "{example:?}, {projection}");
    }
    let sheet = Path::new(&shown).join("dominant.png");
    assert!(image::open(&sheet).unwrap().width() > 800);
    // What was read has no images to draw, and leaves the sheet that has.
    let drawn = fs::read(&sheet).unwrap();
    Dominant::load(Path::new(&shown)).unwrap().write(Path::new(&shown)).unwrap();
    assert_eq!(fs::read(&sheet).unwrap(), drawn);

    // Without --layer it is the one whose component explains most.
    let any = path(dir.path(), "any");
    succeeds(["dominant", &run, "--examples", "37", "--out", &any]);
    let all = path(dir.path(), "all");
    succeeds(["pcs", &run, "--examples", "37", "--out", &all]);
    let all = PcsResult::load(Path::new(&all)).unwrap();
    let found = Dominant::load(Path::new(&any)).unwrap().info;
    let most = all.similarity.variance_explained.iter().copied().fold(0.0, f64::max);
    assert_eq!((found.variance_explained, found.dominant.len()), (most, 32));

    // CKA without them is CKA of the others.
    let dropped = path(dir.path(), "dropped");
    let how = ["--examples", "37", "--layers", layers, "--passes", "1", "--drop-dominant", "0.1"];
    succeeds(["cka", &run, "--out", &dropped, "--batch-size", "33"].into_iter().chain(how));
    let dropped = PairResult::load(Path::new(&dropped)).unwrap();
    let left_out = dropped.info.dropped_dominant.unwrap();
    let mut expected: Vec<usize> = found.dominant[..4].iter().map(|example| example.index).collect();
    expected.sort_unstable();
    assert_eq!((left_out.examples.clone(), left_out.fraction), (expected, 0.1));
    assert_eq!(left_out.layers, [format!("run: {}", found.layer)]);
    // Another layer's, where that is asked for.
    let by_pool = path(dir.path(), "by_pool");
    let layer = ["--dominant-layer", "pool"];
    succeeds(["cka", &run, "--out", &by_pool, "--batch-size", "33"].into_iter().chain(how).chain(layer));
    let by_pool = PairResult::load(Path::new(&by_pool)).unwrap().info.dropped_dominant.unwrap();
    let mut expected = order[..4].to_vec();
    expected.sort_unstable();
    assert_eq!((by_pool.layers, by_pool.examples), (vec!["run: pool".to_owned()], expected));
    let kept: Vec<usize> = (0..37).filter(|index| !left_out.examples.contains(index)).collect();
    let matrices: Vec<_> = result
        .info
        .layers
        .iter()
        .map(|name| {
            let all = tensor(&stored, name);
            vec![Matrix::from_fn(kept.len(), all.cols, |i, f| all.get(kept[i], f))]
        })
        .collect();
    use gramscope_reference::cka;
    let truth = cka::matrix(&matrices, &matrices, cka::Kernel::Linear, cka::Estimator::Unbiased);
    // Of other images in one batch a network computes the same up to the rounding of float32.
    check(&dropped.similarity.cka, &truth.data, 1e-5, "cka without the dominant images");
}

/// Of data in folders dominant.json names the file of every image, of other data it has no such entry.
#[test]
fn dominant_images_name_their_files_where_they_have_files() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run, out) = (dir.path().join("data"), path(dir.path(), "run"), path(dir.path(), "out"));
    for (place, part, count) in [("train", Part::Train, 10), ("test", Part::Test, 6)] {
        for (class, name) in ["cat", "dog"].into_iter().enumerate() {
            let folder = data.join(place).join(name);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..count {
                let mut image = RgbImage::new(32, 32);
                builtin::draw(0, part, 10 * number + class, 32, &mut image);
                image.save(folder.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    let network = ["--depth", "8", "--width", "0.25", "--epochs", "1", "--batch-size", "20", "--out", &run];
    succeeds(["train", "--data", data.to_str().unwrap()].into_iter().chain(network));
    let options = DominantOptions { examples: Some(9), top: Some(5), ..DominantOptions::default() };
    let found = dominant(&Run::open(Path::new(&run)).unwrap(), &options, &Processor::Cpu, &mut |_| ()).unwrap();
    for (example, pixels) in found.info.dominant.iter().zip(&found.images) {
        let file = Path::new(example.file.as_ref().unwrap());
        assert!(file.starts_with(Path::new("test").join(&example.class)), "{}", file.display());
        assert_eq!(image::open(data.join(file)).unwrap().into_rgb8().as_raw(), pixels, "{}", file.display());
    }
    found.write(Path::new(&out)).unwrap();
    assert_eq!(Dominant::load(Path::new(&out)).unwrap().info, found.info);

    train_tiny(&dir.path().join("builtin"), 0);
    succeeds(["dominant", &path(dir.path(), "builtin"), "--out", &out]);
    let text = fs::read_to_string(Path::new(&out).join("dominant.json")).unwrap();
    assert!(text.contains("\"label\"") && !text.contains("\"file\""), "{text}");
}

#[test]
fn wrong_use_is_explained_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file, out) = (path(dir.path(), "run"), path(dir.path(), "a.safetensors"), path(dir.path(), "out"));
    train_tiny(Path::new(&run), 0);
    let mut values = noise(1, 40);
    write_activations(Path::new(&file), &[("good", 8, 5, values.clone())]);
    fails(
        ["pcs", "--activations", &file, "--examples", "9", "--out", &out],
        1,
        &["9 examples", "--examples", "8", &file],
    );
    fails(["pcs", "--activations", &file, "--examples", "3", "--out", &out], 1, &["3 examples", "at least 4"]);
    fails(["pcs", "--activations", &file, "--layers", "none", "--out", &out], 1, &["matches \"none\"", "--layers"]);
    fails(["pcs", &run, "--examples", "41", "--out", &out], 1, &["41 examples", "--examples", "40"]);
    fails(["pcs", &run, "--out", &run], 1, &[&run, "--out"]);
    fails(["dominant", &run, "--layer", "stem", "--out", &out], 1, &["no layer stem", "stem.conv", "logits"]);
    let elsewhere = ["--drop-dominant", "0.1", "--dominant-layer", "stem"];
    fails(["cka", &run, "--out", &out].into_iter().chain(elsewhere), 1, &["no layer stem", "stem.conv"]);
    fails(["dominant", &run, "--top", "41", "--out", &out], 1, &["41 dominant", "--top", "40"]);
    for fraction in ["0", "1", "nan"] {
        fails(["cka", &run, "--drop-dominant", fraction, "--out", &out], 1, &["--drop-dominant"]);
    }
    values[33] = f32::NAN;
    write_activations(Path::new(&file), &[("good", 8, 5, noise(2, 40)), ("bad", 8, 5, values)]);
    fails(["pcs", "--activations", &file, "--out", &out], 1, &["bad", "NaN", "example 7"]);
    assert!(!Path::new(&out).exists());
    for wrong in [vec!["pcs", "--out", "x"], vec!["pcs", &run, "--activations", &file, "--out", "x"]] {
        assert_eq!(gramscope(&wrong).status.code(), Some(2));
    }
}
