//! What a run can vary, noise and normalised activations in comparisons, and sparsity, through the binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{TINY, fails, files, succeeds, train_tiny};

#[test]
fn runs_with_variations_are_trained_compared_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    train_tiny(&dir.path().join("donor"), 0);
    let (donor, run, out) = (path("donor"), path("run"), path("out"));
    let train = |more: &[&str]| {
        let mut command = vec!["train"];
        command.extend(TINY);
        command.extend(["--out", run.as_str()]);
        command.extend(more);
        command.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    fails(train(&["--colour-distortion", "2"]), 1, &["colour_distortion", "from 0 to 1"]);
    fails(train(&["--init-stages", "1"]), 1, &["init_stages", "--init-from"]);
    fails(train(&["--init-from", &donor, "--init-stages", "4"]), 1, &["init_stages", "is 4"]);
    fails(train(&["--first-pc-threshold", "1"]), 1, &["first_pc_threshold", "below 1"]);
    fails(train(&["--init-from", &path("missing")]), 1, &["--init-from", "missing"]);
    fails(train(&["--init-from", &donor, "--no-residual"]), 1, &["donor", "stage2.block1.shortcut"]);
    assert!(!dir.path().join("run").exists(), "a failed command left {:?}", files(dir.path()));

    let all = ["--random-labels", "--colour-distortion", "0.5", "--first-pc-penalty", "1", "--init-from", &donor];
    succeeds(train(&all));
    let config = fs::read_to_string(dir.path().join("run/config.toml")).unwrap();
    for line in ["random_labels = true", "colour_distortion = 0.5", "first_pc_penalty = 1.0"] {
        assert!(config.contains(line), "{line} is missing from {config}");
    }
    // The donor is not read again.
    fs::rename(dir.path().join("donor"), dir.path().join("moved")).unwrap();
    succeeds(train(&[&all[..], &["--resume"]].concat()));

    let small = ["--passes", "1", "--batch-size", "8", "--out", &out];
    succeeds([&["cka", &run, "--input", "noise", "--normalise-examples"][..], &small].concat());
    let info = fs::read_to_string(dir.path().join("out/cka.json")).unwrap();
    assert!(info.contains("\"noise\": true") && info.contains("\"normalised_examples\": true"), "{info}");
    fails(["sparsity", &run, "--out", &run], 1, &["holds a run"]);
    fails(["sparsity", &run, "--examples", "0", "--out", &out], 1, &["0 examples", "--examples"]);
    let said = succeeds(["sparsity", &run, "--out", &out]);
    assert!(said.contains("7 ReLUs") && said.contains("units are dead"), "{said}");
    for file in ["sparsity.npz", "sparsity.json", "sparsity.png"] {
        assert!(dir.path().join("out").join(file).is_file(), "{file}");
    }
    succeeds(["verify", &path(".")]);
    succeeds(["report", &path(".")]);
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("7 ReLUs over"), "no sparsity in the report");
    let numbers = dir.path().join("out/sparsity.npz");
    let mut bytes = fs::read(&numbers).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&numbers, bytes).unwrap();
    fails(["verify", &path(".")], 1, &["sparsity.npz"]);
}

/// Networks of another family, and with two branches a block: trained, gone on with, and looked into by every command.
#[test]
fn bottlenecks_and_mixed_branches_are_trained_and_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let data = ["--data", "builtin", "--train-images", "32", "--test-images", "20", "--batch-size", "16"];
    let train = |out: &str, more: &[&str]| {
        let out = path(out);
        let command = [&["train", "--width", "0.25", "--out", &out], &data[..], more].concat();
        command.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    fails(train("none", &["--family", "resnext", "--depth", "50"]), 2, &["cifar", "imagenet"]);
    fails(train("none", &["--family", "imagenet", "--depth", "20"]), 1, &["3b + 32", "35"]);
    fails(train("none", &["--shake-shake", "--no-residual", "--depth", "8"]), 1, &["shake_shake"]);
    let bottlenecks = ["--family", "imagenet", "--depth", "35", "--epochs", "1"];
    succeeds(train("bottlenecks", &bottlenecks));
    succeeds(train("mixed", &["--shake-shake", "--depth", "8", "--epochs", "1"]));
    // The first three of four stages of another run: more than the other family has.
    let donor = path("bottlenecks");
    fails(train("none", &["--depth", "8", "--init-from", &donor, "--init-stages", "4"]), 1, &["init_stages", "is 4"]);
    succeeds(train("started", &[&bottlenecks[..], &["--init-from", &donor, "--init-stages", "3"]].concat()));

    for (run, layers, blocks) in [("bottlenecks", 4 + 10 * 11 + 2 * 4 + 2, 11), ("mixed", 3 + 13 * 3 + 2 + 2, 3)] {
        let place = path(run);
        let out = |command: &str| path(&format!("{run}-{command}"));
        let said = succeeds(["cka", &place, "--batch-size", "10", "--passes", "1", "--out", &out("cka")]);
        assert!(said.contains(&format!("{layers} x {layers} layers")), "{said}");
        succeeds(["probe", &place, "--epochs", "1", "--out", &out("probe")]);
        let probes = fs::read_to_string(dir.path().join(format!("{run}-probe/probe.json"))).unwrap();
        assert_eq!(probes.matches("\"layer\"").count(), 2 * blocks, "{probes}");
        succeeds(["ablate", &place, "--each", "--out", &out("ablate")]);
        succeeds(["sparsity", &place, "--out", &out("sparsity")]);
    }
    succeeds(["report", &path(".")]);
    succeeds(["verify", &path(".")]);
}

#[test]
fn other_images_come_in_the_size_that_runs_take() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (run, pictures, out) = (path("run"), path("pictures"), path("out"));
    succeeds([&["train"], &TINY[..], &["--image-side", "16", "--out", &run]].concat());
    for (part, class, number) in ["train", "test"].into_iter().flat_map(|part| (0..20).map(move |n| (part, n % 10, n)))
    {
        let folder = dir.path().join(format!("pictures/{part}/class{class}"));
        fs::create_dir_all(&folder).unwrap();
        let picture =
            image::RgbImage::from_fn(40, 24, |x, y| image::Rgb([x, y, number].map(|value| (value * 5) as u8)));
        picture.save(folder.join(format!("{number}.png"))).unwrap();
    }
    for data in ["builtin", &pictures] {
        succeeds(["cka", &run, "--data", data, "--passes", "1", "--batch-size", "10", "--out", &out]);
    }
    succeeds(["probe", &run, "--data", &pictures, "--epochs", "1", "--batch-size", "10", "--out", &path("probes")]);
}
