//! `gramscope activations` through the binary: what a file says of itself, and other data.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::cosine::CosineResult;
use gramscope_study::pair::PairResult;
use safetensors::SafeTensors;
use support::{fails, succeeds, train_tiny};

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// What is written about the activations of a file.
fn about(file: &str) -> HashMap<String, String> {
    let bytes = fs::read(file).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    metadata.metadata().clone().unwrap()
}

/// A folder of pictures: three of cats and two of dogs to train and to test on, each of one colour.
fn pictures(dir: &Path) {
    for (split, shift) in [("train", 0), ("test", 100)] {
        for (class, count) in [("cat", 3), ("dog", 2)] {
            let folder = dir.join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for picture in 0..count {
                let colour = image::Rgb([shift + 20 * picture, 90, 30 * count]);
                image::RgbImage::from_pixel(11, 9, colour).save(folder.join(format!("{picture}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn a_file_says_which_class_each_of_its_images_is_of() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file) = (path(dir.path(), "run"), path(dir.path(), "run.safetensors"));
    train_tiny(Path::new(&run), 0);
    succeeds(["activations", &run, "--out", &file, "--examples", "20", "--layers", "logits"]);
    let about = about(&file);
    assert_eq!(
        (about["layout"].as_str(), about["split"].as_str(), about["data"].as_str()),
        ("NHWC", "test", "builtin")
    );
    let classes: Vec<String> = serde_json::from_str(&about["classes"]).unwrap();
    let labels: Vec<u32> = serde_json::from_str(&about["labels"]).unwrap();
    assert_eq!(classes.len(), 10);
    let predictions = fs::read(Path::new(&run).join("predictions.safetensors")).unwrap();
    let predictions = SafeTensors::deserialize(&predictions).unwrap();
    let tested = predictions.tensor("labels").unwrap();
    let (numbers, _) = tested.data().as_chunks();
    let tested: Vec<u32> = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert_eq!(labels, tested[..20]);
    assert!((0..10).all(|class| labels.iter().filter(|&&label| label == class).count() == 2), "{labels:?}");
}

/// Batches of stored activations are those of the run's own images in the same passes, wherever they lie in the file: up to the
/// order in which products of other batches of images were summed, 1e-5 as in the comparison of a run with its own pass.
#[test]
fn stored_activations_may_be_shuffled_as_images_are() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file) = (path(dir.path(), "run"), path(dir.path(), "run.safetensors"));
    train_tiny(Path::new(&run), 0);
    let layers = ["--layers", "add|pool|logits"];
    succeeds(["activations", &run, "--out", &file].into_iter().chain(layers));
    let cka = |name: &str, source: &[&str], flags: &[&str]| {
        let out = path(dir.path(), name);
        succeeds([&["cka", "--batch-size", "8", "--out", &out], &layers[..], source, flags].concat());
        PairResult::load(Path::new(&out)).unwrap()
    };
    let [of_run, of_file] = [vec![run.as_str()], vec!["--activations", &file]];
    let largest = |one: &PairResult, other: &PairResult| {
        let pairs = one.similarity.cka.iter().zip(&other.similarity.cka);
        pairs.map(|(one, other)| (one - other).abs()).fold(0.0, |largest: f64, next| match next.is_nan() {
            true => f64::INFINITY,
            false => largest.max(next),
        })
    };
    for passes in [&["--passes", "3"][..], &["--passes", "1", "--seed", "4"]] {
        let (expected, found) = (cka("of-run", &of_run, passes), cka("of-file", &of_file, passes));
        assert_eq!(found.info.batches, expected.info.batches);
        assert!(largest(&found, &expected) < 1e-5, "{passes:?}: {}", largest(&found, &expected));
    }
    let once = cka("once", &of_file, &["--passes", "1"]);
    assert_eq!(once.similarity.cka, cka("seed", &of_file, &["--seed", "0"]).similarity.cka);
    assert!(largest(&once, &cka("in-order", &of_file, &[])) > 1e-3);
    let none = ["cka", "--activations", &file, "--batch-size", "8", "--passes", "0", "--out", "x"];
    fails(none, 1, &["0 passes", "--passes"]);
}

/// Other data's images go through the network as they do for whatever else takes them: the same cosines to the bit.
#[test]
fn other_data_may_be_fed() {
    let dir = tempfile::tempdir().unwrap();
    let (run, folder) = (path(dir.path(), "run"), path(dir.path(), "pictures"));
    let (file, of_file, of_run) = (path(dir.path(), "a.safetensors"), path(dir.path(), "x"), path(dir.path(), "y"));
    train_tiny(Path::new(&run), 0);
    pictures(Path::new(&folder));
    let flags = ["--data", &folder, "--layers", "stage1.*(add|bn)|pool"];
    let said = succeeds(["activations", &run, "--out", &file].into_iter().chain(flags));
    assert!(said.contains("activations of 5 test images"), "{said}");
    let about = about(&file);
    assert_eq!((about["data"].as_str(), Path::new(&about["data directory"])), ("folder", Path::new(&folder)));
    assert_eq!(about["classes"], r#"["cat","dog"]"#);
    let labels: Vec<usize> = serde_json::from_str(&about["labels"]).unwrap();
    assert_eq!([0, 1].map(|class| labels.iter().filter(|&&label| label == class).count()), [3, 2]);

    succeeds(["cosine", &run, "--out", &of_run].into_iter().chain(flags));
    succeeds(["cosine", "--activations", &file, "--out", &of_file]);
    let cosines = |dir: &str| -> Vec<u64> {
        CosineResult::load(Path::new(dir)).unwrap().cosine.iter().map(|cosine| cosine.to_bits()).collect()
    };
    assert_eq!(cosines(&of_file), cosines(&of_run));
    fails(["activations", &run, "--out", &file, "--data", "nothing"], 1, &["--data", "nothing"]);
    fails(["activations", &run, "--out", &file, "--data", &folder, "--examples", "6"], 1, &["--examples", "1 to 5"]);
}
