//! Files from strangers: every file of the fuzz corpus through its parser, and what the command says to the worst of them.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../fuzz/src/parsers.rs"]
mod parsers;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{fails, files, noise, succeeds, write_activations};

/// A function of fuzz/src/parsers.rs.
type Parser = fn(&[u8]) -> u64;

/// Each target of fuzz/ with its parser.
const PARSERS: [(&str, Parser); 10] = [
    ("activations", parsers::activations),
    ("archive", parsers::archive),
    ("checkpoint", parsers::checkpoint),
    ("cifar", parsers::cifar),
    ("config", parsers::config),
    ("images", parsers::images),
    ("map", parsers::map),
    ("metrics", parsers::metrics),
    ("plan", parsers::plan),
    ("result", parsers::result),
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn every_parser_returns_from_every_file_of_its_corpus() {
    let mut targets: Vec<_> = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    targets.sort_unstable();
    assert!(targets.iter().eq(PARSERS.iter().map(|(target, _)| *target)), "{targets:?}");
    for (target, parse) in PARSERS {
        let dir = corpus().join(target);
        for file in files(&dir) {
            parse(&fs::read(dir.join(file)).unwrap());
        }
    }
}

#[test]
fn an_activation_file_that_lies_is_refused_with_one_message() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for (name, parts) in [
        ("petabytes", vec!["\"a\"", "truncated"]),
        ("long-header", vec!["claims a header of 1152921504606846976 bytes"]),
        ("overlap", vec!["\"b\"", "overlaps"]),
        ("nested", vec!["header is wrong"]),
    ] {
        let file = corpus().join("activations").join(name);
        let arguments = ["cka", "--activations", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
        fails(arguments, 1, &[&[name], parts.as_slice()].concat());
        assert!(!out.exists());
    }
}

#[test]
fn a_picture_that_declares_more_than_any_camera_makes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        let class = dir.path().join(split).join("a");
        fs::create_dir_all(&class).unwrap();
        fs::copy(corpus().join("images/bomb.png"), class.join("bomb.png")).unwrap();
    }
    fails(["data", "info", dir.path().to_str().unwrap()], 1, &["bomb.png"]);
}

#[test]
fn names_with_slashes_and_markup_stay_names() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["../../../up", "<script>alert(1)</script>", "a/b", "\"quoted\" & 'more'"];
    let layers: Vec<_> = names.iter().zip(0..).map(|(&name, seed)| (name, 8, 3, noise(seed, 24))).collect();
    let file = dir.path().join("<b>bold.safetensors");
    write_activations(&file, &layers);
    let out = dir.path().join("out");
    let flags = ["--quiet", "--batch-size", "8", "--out", out.to_str().unwrap()];
    succeeds(["cka", "--activations", file.to_str().unwrap()].into_iter().chain(flags));
    succeeds(["report", out.to_str().unwrap()]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for markup in ["<script>alert", "<b>bold"] {
        assert!(!page.contains(markup), "{markup} stands in the page as markup");
    }
    let expected = ["<b>bold.safetensors", "out/cka.json", "out/cka.npz", "out/cka.png", "out/report.html"];
    assert_eq!(files(dir.path()), expected.map(PathBuf::from));
}
