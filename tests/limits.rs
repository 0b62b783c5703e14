//! Memory: what does not fit is computed in parts, with the same results, and what cannot be says what would help.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use gramscope_reference::{Matrix, cka};
use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use support::{command, fails, noise, succeeds, text, write_activations};

/// `exact` promises 1e-6 of float64 in every entry.
const TOLERANCE: f64 = 1e-6;
const GIB: u64 = 1 << 30;

/// The MiB that a refusal says are needed.
fn needed(message: &str) -> u64 {
    let (_, rest) = message.split_once(" need ").unwrap();
    rest.split_once(" MiB").unwrap().0.parse::<f64>().unwrap().ceil() as u64
}

#[test]
fn a_limit_changes_no_bit_and_one_that_is_too_small_says_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let file = path("a.safetensors");
    let n = 700;
    let names: Vec<String> = (0..11).map(|layer| format!("layer{layer}")).collect();
    let layers =
        names.iter().zip(0..).map(|(name, seed)| (name.as_str(), n, 5, noise(seed, 5 * n))).collect::<Vec<_>>();
    write_activations(Path::new(&file), &layers);
    let small: &[&str] = &["--memory-limit", "--layers", "may take 1.0 MiB"];
    // A row of the panel takes a megabyte: what is needed is room for two of 11 layers, and rounding adds one at most.
    for (flags, result, lower) in [
        (vec!["cka", "--activations", &file, "--batch-size", "700"], "cka.npz", "--batch-size"),
        (vec!["pcs", "--activations", &file, "--examples", "700"], "pcs.npz", "--examples"),
    ] {
        let run = |out: &str, limit: &[&str]| {
            let out = path(out);
            succeeds(flags.iter().copied().chain(["--quiet", "--out", &out]).chain(limit.iter().copied()));
            fs::read(Path::new(&out).join(result)).unwrap()
        };
        let whole = run(&format!("{lower}-whole"), &[]);
        let out = path("refused");
        let refused = flags.iter().copied().chain(["--out", &out, "--memory-limit", "1M"]);
        let message = fails(refused, 1, &[small, &[lower]].concat());
        assert!(!Path::new(&out).exists(), "a refused command leaves nothing");
        for more in [0, 5] {
            let limit = format!("{}M", needed(&message) + more);
            let parts = run(&format!("{lower}-{more}"), &["--memory-limit", &limit]);
            assert!(parts == whole, "{lower}, {limit}: other bytes");
        }
        fails(flags.iter().copied().chain(["--out", &out, "--memory-limit", "much"]), 2, &["much", "4G or 1.5G"]);
    }
}

/// An allocation that fails would abort the process; the other runs of a family are trained all the same.
#[test]
fn a_network_that_no_memory_holds_is_refused_before_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let said = ["depth 98 and width 1024", "takes at least", "GiB", "lower width, depth or the batch size"];
    let data = ["--train-images", "40", "--test-images", "20", "--image-side", "8", "--batch-size", "20"];
    let run = out("run");
    fails(["train", "--depth", "98", "--width", "1024", "--out", &run].into_iter().chain(data), 1, &said);
    assert!(!Path::new(&run).exists());
    for bench in ["train", "cka", "probe"] {
        fails(["bench", bench, "--depth", "98", "--width", "1024"], 1, &said);
    }
    let (plan, family) = (out("plan.toml"), out("family"));
    let head = "[data]\ntrain_images = 40\ntest_images = 20\nimage_side = 8\n[train]\nepochs = 1\nbatch_size = 20\n";
    fs::write(&plan, format!("{head}[family]\ndepth = [98]\nwidth = [1024, 0.01]\n")).unwrap();
    fails(["sweep", &plan, "--out", &family], 1, &said);
    assert!(Path::new(&family).join("resnet98-w0.01-s0/predictions.safetensors").exists());
}

/// Runs the binary within `limit` and returns the most memory that it had resident at once.
fn peak_within(arguments: &[&str], limit: &str) -> u64 {
    let child =
        command(arguments.iter().copied().chain(["--quiet", "--memory-limit", limit])).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let kib = fs::read_to_string(&status).unwrap_or_default();
        let kib =
            kib.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(|rest| rest.trim().trim_end_matches(" kB"));
        peak = peak.max(kib.map_or(0, |kib| kib.parse::<u64>().unwrap() << 10));
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    peak
}

/// A network that is given no more than it says it needs, over its images, its activations and the panel or the probes; where the size
/// of batches is nothing to the result, they are of one image then.
#[test]
fn a_network_stays_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = path("run");
    let images = ["--train-images", "64", "--test-images", "256", "--batch-size", "64", "--epochs", "1"];
    let network = ["--data", "builtin", "--depth", "8", "--width", "2", "--out", &run];
    succeeds([&["train"][..], &images, &network].concat());
    let commands = [
        ("cka", &["--batch-size", "256", "--passes", "1"][..], "cka.npz", "--batch-size"),
        ("probe", &["--layers", ".", "--epochs", "2", "--batch-size", "64"], "probe.json", "--layers, --batch-size"),
        // Test images are more than the training images of a batch.
        (
            "probe",
            &["--epochs", "2", "--batch-size", "128", "--examples", "10"],
            "probe.json",
            "--layers, --batch-size",
        ),
        ("ablate", &["--each"], "ablate.json", "--examples"),
        ("sparsity", &[], "sparsity.npz", "--examples"),
        ("activations", &["--layers", "add|pool"], "", "--examples"),
    ];
    for (index, (command, flags, result, lower)) in commands.into_iter().enumerate() {
        let [whole, out] = ["whole", "within"].map(|name| path(&format!("{command}-{index}-{name}")));
        let arguments = |out| [&[command, &run, "--out", out], flags].concat();
        succeeds(arguments(&whole));
        let needed = needed(&fails([&arguments(&out)[..], &["--memory-limit", "1M"]].concat(), 1, &[lower]));
        let peak = peak_within(&arguments(&out), &format!("{needed}M"));
        assert!(peak <= needed << 20, "{command}: {} MiB resident of {needed}", peak >> 20);
        // What is said to be needed is no wild guess, or the test would pass with any; exports draw nothing, which takes some 60 MiB.
        let undrawn = if result.is_empty() { 60 } else { 0 };
        assert!(peak > ((needed - undrawn) << 20) / 3, "{command}: {} MiB resident of {needed}", peak >> 20);
        let bytes =
            |out: &str| fs::read(if result.is_empty() { out.into() } else { Path::new(out).join(result) }).unwrap();
        assert!(bytes(&whole) == bytes(&out), "{command}: other bytes");
    }
}

/// A safetensors file of float32 layers of `examples`, (name, features), nothing in it yet but a header; returns where each
/// layer begins.
fn sparse(path: &Path, examples: u64, layers: &[(String, u64)]) -> (File, Vec<u64>) {
    let mut header = String::from("{");
    let mut starts = Vec::new();
    let mut end = 0;
    for (name, features) in layers {
        let (start, comma) = (end, if end > 0 { "," } else { "" });
        end += examples * features * 4;
        starts.push(start);
        header += &format!(
            "{comma}{name:?}:{{\"dtype\":\"F32\",\"shape\":[{examples},{features}],\"data_offsets\":[{start},{end}]}}"
        );
    }
    header.push('}');
    let file = File::create(path).unwrap();
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0).unwrap();
    file.write_all_at(header.as_bytes(), 8).unwrap();
    let data = 8 + header.len() as u64;
    file.set_len(data + end).unwrap();
    (file, starts.into_iter().map(|start| data + start).collect())
}

/// The CKA of a result, row-major.
fn map(dir: &Path) -> Vec<f64> {
    PairResult::load(dir).unwrap().similarity.cka
}

/// The batches of a layer as float64 matrices.
fn batches(values: &[f32], features: usize, batch: usize) -> Vec<Matrix> {
    let whole = values.chunks_exact(features * batch);
    whole.map(|v| Matrix::new(batch, features, v.iter().map(|&v| f64::from(v)).collect())).collect()
}

/// The layers of the large file that hold anything: around the edges of tiles and far apart.
const REAL: [usize; 12] = [0, 1, 15, 16, 17, 500, 999, 1000, 1001, 1777, 1998, 1999];

#[test]
#[ignore = "reads files of 51 GB and 10 GB, mostly holes; takes minutes"]
fn files_far_larger_than_memory_are_compared_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    many_layers(dir.path());
    one_huge_layer(dir.path());
}

/// 2,000 layers of 1,000 x 6,400 values, 51.2 GB, within 4 GB: in one round of batches of 256, and in several of one batch of
/// 1,000, whose panels alone would take 4 GB.
fn many_layers(dir: &Path) {
    const FEATURES: usize = 6400;
    let path = dir.join("many.safetensors");
    let layers: Vec<_> = (0..2000).map(|layer| (format!("layer{layer}"), FEATURES as u64)).collect();
    let (file, starts) = sparse(&path, 1000, &layers);
    let base = noise(1, 1000 * FEATURES);
    let mut values = Vec::new();
    for (&layer, seed) in REAL.iter().zip(2..) {
        let own = noise(seed, 1000 * FEATURES);
        let mixed: Vec<f32> = base.iter().zip(own).map(|(base, own)| base + 0.2 * seed as f32 * own + 3.0).collect();
        file.write_all_at(bytemuck::cast_slice(&mixed), starts[layer]).unwrap();
        values.push(mixed);
    }
    println!("{}: {} bytes", path.display(), file.metadata().unwrap().len());
    for batch in [256, 1000] {
        let out = dir.join(format!("many{batch}"));
        let (size, out_text) = (batch.to_string(), out.to_str().unwrap());
        let begun = std::time::Instant::now();
        let arguments = ["cka", "--activations", path.to_str().unwrap(), "--batch-size", &size, "--out", out_text];
        let peak = peak_within(&arguments, "4G");
        println!("batches of {batch}: at most {} MiB resident, {:?}", peak >> 20, begun.elapsed());
        assert!(peak <= 4 * GIB, "{peak} bytes");
        let found = map(&out);
        let matrices: Vec<_> = values.iter().map(|values| batches(values, FEATURES, batch)).collect();
        let expected = cka::matrix(&matrices, &matrices, cka::Kernel::Linear, cka::Estimator::Unbiased);
        let mut worst = 0.0_f64;
        for (x, &i) in REAL.iter().enumerate() {
            for (y, &j) in REAL.iter().enumerate().take(x + 1) {
                let expected = expected.get(x, y);
                for found in [found[i * 2000 + j], found[j * 2000 + i]] {
                    let error = (found - expected).abs();
                    assert!(error <= TOLERANCE, "layers {i} and {j}: {found}, expected {expected}");
                    worst = worst.max(error);
                }
            }
        }
        assert!(
            (0..2000 * 2000)
                .all(|at| found[at].is_nan() != (REAL.contains(&(at / 2000)) && REAL.contains(&(at % 2000))))
        );
        println!("batches of {batch}: {worst:e} from float64 at worst");
    }
}

/// A layer of 1,000 x 2,500,000 values, 10 GB, of which a batch of 256 takes 2.56 GB, within 1 GB.
fn one_huge_layer(dir: &Path) {
    const USED: usize = 3000;
    let path = dir.join("huge.safetensors");
    let (file, starts) = sparse(&path, 1000, &[("huge".to_owned(), 2_500_000), ("small".to_owned(), USED as u64)]);
    let huge = noise(1, 1000 * USED);
    let small: Vec<f32> = huge.iter().zip(noise(2, 1000 * USED)).map(|(huge, own)| huge + own).collect();
    // What a row holds lies in its middle; the other features are zero, and add nothing.
    for (example, row) in (0..).zip(huge.chunks_exact(USED)) {
        file.write_all_at(bytemuck::cast_slice(row), starts[0] + 4 * (example * 2_500_000 + 1_249_999)).unwrap();
    }
    file.write_all_at(bytemuck::cast_slice(&small), starts[1]).unwrap();
    let out = dir.join("huge");
    let begun = std::time::Instant::now();
    let peak = peak_within(&["cka", "--activations", path.to_str().unwrap(), "--out", out.to_str().unwrap()], "1G");
    println!("a layer of 10 GB: at most {} MiB resident, {:?}", peak >> 20, begun.elapsed());
    assert!(peak <= GIB, "{peak} bytes");
    let (huge, small) = (batches(&huge, USED, 256), batches(&small, USED, 256));
    let expected = cka::minibatch(&huge, &small, cka::Kernel::Linear, cka::Estimator::Unbiased);
    let found = map(&out)[1];
    assert!((found - expected).abs() <= TOLERANCE, "{found}, expected {expected}");
    println!("a layer of 10 GB: {:e} from float64", (found - expected).abs());
}
