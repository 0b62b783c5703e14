//! `gramscope data`, and what every command says about data it cannot use.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs::{self, File};
use std::path::Path;

use support::{command, fails, succeeds, text};

#[test]
fn info_counts_the_classes_and_draws_a_sheet() {
    let dir = tempfile::tempdir().unwrap();
    let sheet = dir.path().join("sheet.png");
    let printed = succeeds(["data", "info", "builtin", "--sheet", sheet.to_str().unwrap()]);
    for part in ["10 classes", "10000 training", "2000 test", "checkerboard", "spiral"] {
        assert!(printed.contains(part), "{part} is missing from: {printed}");
    }
    let (width, height) = image::open(&sheet).unwrap().into_rgb8().dimensions();
    assert!(width >= 10 * 32 && height >= 10 * 32, "{width} x {height}");
}

/// All files of CIFAR-10 in the official sizes, of zeros (which take no room on disk), but for one that lacks a byte.
fn truncated(dir: &Path) {
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        let bytes = 30_730_000 - u64::from(name == "data_batch_4");
        File::create(dir.join(format!("{name}.bin"))).unwrap().set_len(bytes).unwrap();
    }
}

#[test]
fn a_truncated_cifar_file_is_named_with_both_sizes() {
    let dir = tempfile::tempdir().unwrap();
    truncated(dir.path());
    fails(["data", "info", dir.path().to_str().unwrap()], 1, &["data_batch_4.bin", "30729999", "30730000"]);
}

#[test]
fn damage_in_the_cache_is_seen_where_data_is_listed_or_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let dir = cache.path().join("gramscope/data/cifar-10-batches-bin");
    fs::create_dir_all(&dir).unwrap();
    truncated(&dir);
    let run = |arguments: [&str; 3]| {
        let arguments = arguments.into_iter().filter(|argument| !argument.is_empty());
        command(arguments).env("XDG_CACHE_HOME", cache.path()).output().unwrap()
    };
    let listed = run(["data", "list", ""]);
    assert!(text(&listed.stdout).contains("cifar10    damaged: "), "{}", text(&listed.stdout));
    let fetched = run(["data", "fetch", "cifar10"]);
    assert_eq!(fetched.status.code(), Some(1));
    assert!(text(&fetched.stderr).contains("data_batch_4.bin"), "{}", text(&fetched.stderr));
    // Whole, it is there.
    File::options().write(true).open(dir.join("data_batch_4.bin")).unwrap().set_len(30_730_000).unwrap();
    assert!(!text(&run(["data", "list", ""]).stdout).contains("damaged"));
    assert_eq!(run(["data", "fetch", "cifar10"]).status.code(), Some(0));
}

#[test]
fn unusable_directories_and_names_say_what_would_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    fails(["data", "info", empty], 1, &[empty, "data_batch_1.bin", "train/ and test/"]);
    fails(["data", "info", "cifar-100"], 1, &["did you mean cifar100?"]);
    for split in ["train", "test"] {
        fs::create_dir_all(dir.path().join(split).join("cat")).unwrap();
        fs::write(dir.path().join(split).join("cat/broken.jpg"), b"no picture").unwrap();
    }
    fails(["data", "info", empty], 1, &["cat/broken.jpg", "cannot decode"]);
}

#[test]
fn data_that_was_not_fetched_says_how_to_fetch_it() {
    let cache = tempfile::tempdir().unwrap();
    let output = command(["data", "info", "cifar10"]).env("XDG_CACHE_HOME", cache.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("gramscope data fetch cifar10"), "{message}");

    let output = command(["data", "list"]).env("XDG_CACHE_HOME", cache.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output.stdout);
    for name in ["builtin", "cifar10", "cifar100"] {
        assert!(printed.contains(name), "{name} is missing from: {printed}");
    }
}
