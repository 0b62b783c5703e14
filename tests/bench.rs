//! `gramscope bench` writes the rows that its help promises.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{fails, succeeds};

fn rows(arguments: &[&str]) -> Vec<serde_json::Value> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    succeeds(arguments.iter().copied().chain(["--device", "cpu", "--json", file.to_str().unwrap()]));
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn training_steps() {
    let rows = rows(&["bench", "train", "--depth", "8", "--width", "0.25", "--batch-size", "4"]);
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["depth"], &rows[0]["precision"], &rows[0]["device"]),
        (&8.into(), &"f32".into(), &"cpu".into())
    );
    let (ms, rate) = (rows[0]["ms_per_step"].as_f64().unwrap(), rows[0]["images_per_second"].as_f64().unwrap());
    assert!(ms > 0.0 && (rate * ms / 4e3 - 1.0).abs() < 1e-9, "{}", rows[0]);
    let field = |name: &str| rows[0][name].as_f64().unwrap();
    assert!(field("multiply_adds") > 0.0 && field("bytes") > 0.0 && field("cpu_ms_per_step") > 0.0, "{}", rows[0]);
    assert!((field("floor_ms") / ms / field("share_of_floor") - 1.0).abs() < 1e-9, "{}", rows[0]);
    fails(["bench", "train", "--all", "--depth", "8"], 2, &["--all", "--depth"]);
}

#[test]
fn comparisons() {
    let rows = rows(&["bench", "cka", "--depth", "8", "--width", "0.25", "--batch-size", "32"]);
    let variants: Vec<_> = rows.iter().map(|row| row["variant"].as_str().unwrap()).collect();
    assert_eq!(variants, ["plain", "observed", "exact", "fast"]);
    for row in &rows {
        // ResNet-8: 21 layers in three blocks, and 7.
        assert_eq!((&row["shape"], &row["precision"]), (&serde_json::json!([28, 32]), &"f32".into()));
        let [us, ms, over, bytes] = ["us", "batch_ms", "over_forward", "bytes"].map(|key| row[key].as_f64().unwrap());
        assert!(us > 0.0 && (us / ms / 1e3 - 1.0).abs() < 1e-9 && over > 0.0 && bytes > 0.0, "{row}");
        assert_eq!(row["cka_ms"].is_number(), ["exact", "fast"].contains(&row["variant"].as_str().unwrap()), "{row}");
    }
    assert_eq!(rows[0]["over_forward"], 1.0);
    let small = ["bench", "cka", "--depth", "8", "--batch-size", "3", "--device", "cpu"];
    fails(small, 1, &["3 examples", "4"]);
    fails(["bench", "cka", "--device", "cpu", "--precision", "bf16"], 1, &["--precision", "float32 only"]);
}

#[test]
fn probes() {
    let rows = rows(&["bench", "probe", "--depth", "8", "--width", "0.25", "--batch-size", "4"]);
    let probes: Vec<_> =
        rows.iter().map(|row| (row["variant"].as_str().unwrap(), row["probes"].as_u64().unwrap())).collect();
    // ResNet-8: 28 layers, three additions.
    assert_eq!(probes, [("plain", 0), ("observed", 0), ("additions", 6), ("all", 28)]);
    for row in &rows {
        let [ms, over] = ["ms", "over_forward"].map(|key| row[key].as_f64().unwrap());
        assert!(ms > 0.0 && over > 0.0, "{row}");
    }
    assert_eq!(rows[0]["over_forward"], 1.0);
}

/// A file keeps what it holds until there is a row to take its place, and what is no row for good.
#[test]
fn a_file_that_holds_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let wrong = ["bench", "cka", "--device", "cpu", "--depth", "13", "--json", file.to_str().unwrap()];
    for (held, part) in [("{\"kernel\": 1}\n", "depth 13"), ("precious", "holds no rows")] {
        fs::write(&file, held).unwrap();
        let message = support::gramscope(wrong);
        let message = support::text(&message.stderr).to_lowercase();
        assert!(message.contains(part), "{message}");
        assert_eq!(fs::read_to_string(&file).unwrap(), held);
    }
}

#[test]
fn kernels_need_a_gpu() {
    fails(["bench", "kernels", "--device", "cpu"], 1, &["bench kernels", "GPU"]);
}
