//! python/gramscope_activations.py, with which activations from elsewhere are written batch by batch.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use gramscope_study::activations::{ActivationFile, Rows};
use support::{succeeds, text};

/// What tests/python_activations.py calls `values`, as float32.
fn values(layer: usize, count: usize) -> Vec<f64> {
    (0..count).map(|i| (((i * (37 + layer)) % 101) as f64 - 50.0) / 8.0).collect()
}

#[test]
fn a_file_that_python_streams_is_the_file_it_would_have_written_at_once() {
    if !Command::new("python3").args(["-c", "import numpy"]).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 with numpy to write activations");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_activations.py");
    let output = Command::new("python3").arg(script).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    print!("{}", text(&output.stdout));

    let path = |name: &str| dir.path().join(format!("{name}.safetensors"));
    let streamed = path("streamed");
    for same in ["whole", "turned"] {
        assert!(fs::read(&streamed).unwrap() == fs::read(path(same)).unwrap(), "{same}");
    }
    let named = ActivationFile::open(&path("named"), None).unwrap();
    assert_eq!(named.layers().iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), ["a", "half", "z"]);
    let file = ActivationFile::open(&streamed, None).unwrap();
    let layers: Vec<_> = file.layers().iter().map(|layer| (layer.name.as_str(), layer.features)).collect();
    assert_eq!((file.examples(), layers), (10, vec![("z", 8), ("a", 3), ("half", 5)]));
    let mut rows = Rows::default();
    for (layer, features) in [8, 3, 5].into_iter().enumerate() {
        let expected = values(layer, 10 * features);
        let found: Vec<f64> = match file.read(layer, &(0..10).collect::<Vec<_>>(), &mut rows).unwrap().values().unwrap()
        {
            gramscope_cka::Values::F32(found) => found.iter().map(|&value| value.into()).collect(),
            gramscope_cka::Values::F16(found) => found.iter().map(|&value| value.into()).collect(),
            _ => panic!("neither float32 nor float16"),
        };
        assert_eq!(found, expected, "layer {layer}");
    }
    let out = dir.path().join("cka");
    succeeds([
        "cka",
        "--activations",
        streamed.to_str().unwrap(),
        "--batch-size",
        "10",
        "--out",
        out.to_str().unwrap(),
    ]);
}
