//! The binary built with CUDA: on a machine without a driver, and with a driver that runs the kernels' own sources under
//! emulation, so that launchers, streaming, messages and `doctor` are checked from end to end without a GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use gramscope_study::pcs::PcsResult;
use support::driver::{Trace, command_on, driver, needed, run};
use support::{noise, text, write_activations};

/// Fails with one message that has every one of `parts`.
fn fails_on(machine: &str, arguments: &[&str], parts: &[&str]) {
    let output = run(driver().path(), machine, arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "stderr: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing from: {stderr}");
    }
    assert_eq!(stderr.matches("error:").count(), 1, "not one message: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn the_binary_needs_no_cuda_library_to_start() {
    let Ok(output) = Command::new("readelf").arg("--dynamic").arg(env!("CARGO_BIN_EXE_gramscope")).output() else {
        println!("skipped: no readelf on this machine");
        return;
    };
    let sections = text(&output.stdout);
    let needed: Vec<&str> = sections.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().any(|line| line.contains("libc.so")), "{sections}");
    for library in ["libcu", "libnv"] {
        assert!(!needed.iter().any(|line| line.contains(library)), "{needed:?}");
    }
}

#[test]
fn a_machine_without_a_driver_says_so() {
    let empty = tempfile::tempdir().unwrap();
    let output = run(empty.path(), "", &["doctor", "--device", "cuda:0"]);
    if !text(&output.stderr).contains("driver") {
        println!("skipped: this machine has a driver of its own");
        return;
    }
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("no NVIDIA driver") && stderr.contains("use the CPU"), "{stderr}");
}

#[test]
fn devices_that_cannot_be_used_are_explained() {
    let doctor = ["doctor", "--device", "cuda:0"];
    fails_on("version=12040", &doctor, &["--device cuda:0", "CUDA 12.4", "13.0", "update the driver"]);
    fails_on("devices=0", &doctor, &["sees no GPU", "use the CPU"]);
    fails_on("capability=75", &doctor, &["Emulated GPU", "7.5", "8.0"]);
    fails_on("devices=2", &["doctor", "--device", "cuda:2"], &["no cuda:2", "2 GPU(s)", "cuda:0"]);
}

fn activations(folder: &Path, name: &str, examples: usize, break_it: impl Fn(&mut Vec<f32>)) -> String {
    let path = folder.join(name);
    let mut layers: Vec<_> = [("first", 1, 40), ("second", 2, 7), ("third", 3, 3)]
        .map(|(name, seed, features)| (name, examples, features, noise(seed, examples * features)))
        .into();
    break_it(&mut layers[1].3);
    write_activations(&path, &layers);
    path.to_str().unwrap().to_owned()
}

#[test]
fn auto_falls_back_to_the_cpu_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = activations(dir.path(), "a.safetensors", 8, |_| {});
    let out = dir.path().join("out");
    let arguments = ["cka", "--activations", &file, "--batch-size", "8", "--out", out.to_str().unwrap()];
    let output = run(driver().path(), "version=12040", &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("on the CPU") && stderr.contains("CUDA 12.4"), "{stderr}");
}

#[test]
fn too_little_memory_is_told_with_what_would_help() {
    let dir = tempfile::tempdir().unwrap();
    let file = activations(dir.path(), "a.safetensors", 700, |_| {});
    let out = dir.path().join("out");
    let arguments = ["cka", "--activations", &file, "--batch-size", "700", "--device", "cuda", "--out"];
    let arguments: Vec<&str> = arguments.into_iter().chain([out.to_str().unwrap()]).collect();
    fails_on(
        "memory=1",
        &arguments,
        &[
            "batches of 700 examples need at least 8.7 MiB",
            "1021.4 KiB is free",
            "smaller batches",
            "fewer layers",
            "--memory-limit",
        ],
    );
}

/// On a GeForce a block has 99 KiB of shared memory: more than 176 examples go tile by tile where one block holds them elsewhere.
#[test]
fn a_gpu_with_little_shared_memory_compares_as_the_cpu_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = activations(dir.path(), "a.safetensors", 180, |_| {});
    let compare = |machine: &str, device: &str, name: &str| {
        let out = dir.path().join(name);
        let arguments = ["cka", "--activations", &file, "--batch-size", "180", "--device", device, "--out"];
        let arguments: Vec<&str> = arguments.into_iter().chain([out.to_str().unwrap()]).collect();
        let output = run(driver().path(), machine, &arguments);
        assert!(output.status.success(), "{machine}: {}", text(&output.stderr));
        PairResult::load(&out).unwrap().similarity
    };
    let cpu = compare("", "cpu", "cpu");
    for (name, capability, kernel) in
        [("geforce", 86, "gs_gram_tiled_exact_f32"), ("a100", 80, "gs_gram_fused_exact_f32")]
    {
        let trace = dir.path().join(format!("{name}.trace"));
        let gpu = compare(&format!("capability={capability},trace={}", trace.display()), "cuda", name);
        assert!(Trace::read(&trace).count(kernel) > 0, "{name} does not launch {kernel}");
        let alike = cpu.cka.iter().zip(&gpu.cka).all(|(a, b)| (a - b).abs() <= 2e-6);
        assert!(alike, "{name}: {:?} {:?}", cpu.cka, gpu.cka);
    }
}

#[test]
fn comparisons_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        activations(dir.path(), "a.safetensors", 80, |_| {}),
        activations(dir.path(), "b.safetensors", 80, |values| values.iter_mut().for_each(|value| *value += 1e3)),
    );
    let driver = driver();
    for settings in [vec![], vec!["--estimator", "biased"], vec!["--gram", "fast"], vec!["--kernel", "rbf:0.5"]] {
        let compare = |device: &str| {
            let out = dir.path().join(format!("{device}{}", settings.concat()));
            let mut arguments = vec!["cka", "--activations", &a, &b, "--batch-size", "40", "--device", device];
            arguments.extend(["--out", out.to_str().unwrap()]);
            arguments.extend(&settings);
            let output = run(driver.path(), "", &arguments);
            assert!(output.status.success(), "{settings:?}: {}", text(&output.stderr));
            PairResult::load(&out).unwrap().similarity
        };
        let (cpu, gpu) = (compare("cpu"), compare("cuda:0"));
        let tolerance = if settings.contains(&"fast") { 2e-3 } else { 2e-6 };
        for (found, expected) in gpu.cka.iter().zip(&cpu.cka) {
            assert!((found - expected).abs() <= tolerance, "{settings:?}: {found} is not {expected}");
        }
        for (found, expected) in gpu.hsic_xx.iter().zip(&cpu.hsic_xx) {
            assert!((found / expected - 1.0).abs() <= tolerance, "{settings:?}: {found} is not {expected}");
        }
    }
}

#[test]
fn panels_larger_than_device_memory_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    // Two batches, the last one short. 131 layers are two tiles, and the parts that their rows are multiplied in are not those
    // that suit a block of less.
    let model = |name: &str, seed: u64, count: usize| {
        let layers: Vec<_> = (0..count)
            .map(|index| {
                let features = 1 + 5 * index % 37;
                (format!("layer{index}"), 21, features, noise(seed + index as u64, 21 * features))
            })
            .collect();
        let layers: Vec<_> =
            layers.iter().map(|(name, n, p, values)| (name.as_str(), *n, *p, values.clone())).collect();
        let path = dir.path().join(name);
        write_activations(&path, &layers);
        path.to_str().unwrap().to_owned()
    };
    let (a, b) = (model("a.safetensors", 1, 131), model("b.safetensors", 1000, 18));
    let driver = driver();
    for files in [vec![&a], vec![&a, &b]] {
        let compare = |limit: &str, out: &str| {
            let out = dir.path().join(format!("{out}{}", files.len()));
            let trace = dir.path().join(format!("{}.trace", out.display()));
            let mut arguments = vec!["cka", "--activations"];
            arguments.extend(files.iter().map(|file| file.as_str()));
            arguments.extend(["--batch-size", "12", "--keep-partial", "--device", "cuda", "--memory-limit", limit]);
            arguments.extend(["--out", out.to_str().unwrap()]);
            let output = run(driver.path(), &format!("trace={}", trace.display()), &arguments);
            (output, Trace::read(&trace), out)
        };
        let layers = if files.len() == 1 { 131 } else { 149 };
        let (whole, trace, whole_out) = compare("1G", "whole");
        assert!(whole.status.success(), "{}", text(&whole.stderr));
        assert_eq!(trace.count("gs_ucenter_pack"), 2 * layers);
        let expected = PairResult::load(&whole_out).unwrap().similarity;
        let (refused, ..) = compare("1K", "refused");
        assert_eq!(refused.status.code(), Some(1));
        let least = needed(&text(&refused.stderr));
        // A row takes 264 bytes, and products some more.
        for more in [1 << 10, 15 << 10, 30 << 10] {
            let (parts, trace, out) = compare(&(least + more).to_string(), &format!("parts{more}"));
            assert!(parts.status.success(), "{}", text(&parts.stderr));
            assert!(trace.count("gs_ucenter_pack") > 2 * layers, "{more}: one round");
            assert!(trace.most_bytes <= least + more, "{} bytes of {}", trace.most_bytes, least + more);
            let found = PairResult::load(&out).unwrap().similarity;
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(bits(&found.cka) == bits(&expected.cka), "{more}");
            assert!(bits(&found.hsic_xy) == bits(&expected.hsic_xy) && bits(&found.hsic_xx) == bits(&expected.hsic_xx));
        }
    }
}

/// Components of layers whose Gram matrices have spectra of all kinds: GPU and CPU agree.
#[test]
fn components_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let n = 24;
    let flat = |seed: u64, features: usize| noise(seed, n * features);
    // One direction far above the others; a constant; one feature alone; and as many alike that the iteration cannot settle.
    let spiked = |seed: u64| {
        let (values, line) = (flat(seed, 30), noise(seed + 1, n));
        values.iter().enumerate().map(|(index, value)| value + 5.0 * line[index / 30]).collect::<Vec<_>>()
    };
    let same: Vec<f32> = (0..n * n).map(|index| if index / n == index % n { 1.0 } else { 0.0 }).collect();
    let slow: Vec<f32> =
        same.iter().enumerate().map(|(index, value)| value * (1.0 - 1e-3 * (index / n) as f32)).collect();
    let layers = [
        ("spiked", 30, spiked(1)),
        ("flat", 60, flat(2, 60)),
        ("constant", 3, vec![2.5; 3 * n]),
        ("alone", 1, noise(5, n)),
        ("slow", n, slow),
        ("shifted", 30, spiked(8).iter().map(|value| value + 100.0).collect()),
    ];
    let layers: Vec<_> = layers.into_iter().map(|(name, features, values)| (name, n, features, values)).collect();
    let file = dir.path().join("a.safetensors");
    write_activations(&file, &layers);
    let driver = driver();
    for estimator in ["unbiased", "biased"] {
        let analyse = |device: &str, limit: &str| {
            let out = dir.path().join(format!("{estimator}{device}{limit}"));
            let trace = dir.path().join(format!("{estimator}{device}{limit}.trace"));
            let mut arguments = vec!["pcs", "--activations", file.to_str().unwrap(), "--estimator", estimator];
            arguments.extend(["--device", device, "--memory-limit", limit, "--out", out.to_str().unwrap()]);
            let output = run(driver.path(), &format!("trace={}", trace.display()), &arguments);
            (output, Trace::read(&trace), out)
        };
        let (cpu, _, cpu_out) = analyse("cpu", "1G");
        let (gpu, trace, gpu_out) = analyse("cuda:0", "1G");
        assert!(cpu.status.success() && gpu.status.success(), "{}{}", text(&cpu.stderr), text(&gpu.stderr));
        // The matrix that does not settle has none.
        assert_eq!(trace.count("gs_eigen_deflate"), layers.len() - 1);
        assert!(trace.count("gs_eigen_subspace") < layers.len(), "one by one");
        let [cpu, whole] = [&cpu_out, &gpu_out].map(|out| PcsResult::load(out).unwrap().similarity);
        assert_eq!((&whole.undefined, &whole.undefined_without_first), (&cpu.undefined, &cpu.undefined_without_first));
        assert_eq!(whole.undefined_cka, cpu.undefined_cka);
        for layer in 0..cpu.layers {
            let both = |numbers: fn(&gramscope_cka::ComponentSimilarity) -> &Vec<f64>| {
                (numbers(&whole)[layer], numbers(&cpu)[layer])
            };
            for (found, expected) in [both(|found| &found.variance_explained), both(|found| &found.second_over_first)] {
                // Rounding of float64 products, whose order is another: n units of the largest, in a trace of n of them.
                assert!(
                    found.is_nan() == expected.is_nan() && !((found - expected).abs() > 1e-11),
                    "{found} {expected}"
                );
            }
        }
        // An angle of the residual (1e-12 and 1e-13) over the gap, which is 1e-3 at least here but for "slow", which the CPU
        // decomposes both times.
        for (found, expected) in whole.cosine_sq.iter().zip(&cpu.cosine_sq) {
            assert!(found.is_nan() == expected.is_nan() && !((found - expected).abs() > 1e-8), "{found} {expected}");
        }
        // Both are within 1e-6 of float64.
        for (found, expected) in
            whole.cka.iter().chain(&whole.cka_without_first).zip(cpu.cka.iter().chain(&cpu.cka_without_first))
        {
            assert!(found.is_nan() == expected.is_nan() && !((found - expected).abs() > 2e-6), "{found} {expected}");
        }
        // In parts the bits are the same.
        let (refused, ..) = analyse("cuda:0", "1K");
        assert_eq!(refused.status.code(), Some(1));
        let message = text(&refused.stderr);
        assert!(message.contains("fewer examples") && message.contains("components of 24 examples"), "{message}");
        let limit = needed(&message) + (3 << 10);
        let (parts, trace, parts_out) = analyse("cuda:0", &limit.to_string());
        assert!(parts.status.success(), "{}", text(&parts.stderr));
        assert!(trace.count("gs_gram_double_f32") > layers.len() && trace.most_bytes <= limit, "{}", trace.most_bytes);
        let parts = PcsResult::load(&parts_out).unwrap().similarity;
        let bits = |numbers: &[f64]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert!(bits(&parts.cka) == bits(&whole.cka) && bits(&parts.first_pc) == bits(&whole.first_pc));
        assert!(bits(&parts.cka_without_first) == bits(&whole.cka_without_first));
    }
}

#[test]
fn components_of_values_that_are_not_finite_are_named_as_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let file = activations(dir.path(), "a.safetensors", 16, |values| values[13 * 7 + 2] = f32::NAN);
    let driver = driver();
    let [cpu, gpu] = ["cpu", "cuda:0"].map(|device| {
        let out = dir.path().join("out");
        let arguments = ["pcs", "--activations", &file, "--device", device, "--out", out.to_str().unwrap()];
        let output = run(driver.path(), "", &arguments);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    });
    assert!(cpu.contains("second") && cpu.contains("14"), "{cpu}");
    assert_eq!(cpu, gpu);
}

#[test]
fn values_that_are_not_finite_are_named_as_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver();
    // In the last batch and in one before it: a GPU tells a batch later.
    for place in [13 * 7 + 2, 61 * 7] {
        let file = activations(dir.path(), "a.safetensors", 64, |values| values[place] = f32::INFINITY);
        let message = |device: &str| {
            let out = dir.path().join("out");
            let mut arguments = vec!["cka", "--activations", &file, "--batch-size", "32", "--device", device, "--out"];
            arguments.push(out.to_str().unwrap());
            let output = run(driver.path(), "", &arguments);
            assert_eq!(output.status.code(), Some(1));
            let stderr = text(&output.stderr);
            stderr[stderr.find("second").unwrap()..].replace(&file, "a")
        };
        let (cpu, gpu) = (message("cpu"), message("cuda:0"));
        assert_eq!(cpu, gpu, "value {place}");
    }
}

/// What a profiler sees: every launch with the ranges that it lies in, the outermost first.
fn launches_in_ranges(trace: &Path) -> Vec<(String, String)> {
    let (mut ranges, mut launches) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(trace).unwrap().lines() {
        match line.split_once(' ') {
            Some((">", name)) => ranges.push(name.to_owned()),
            None if line == "<" => drop(ranges.pop().expect("a range ends that has not begun")),
            Some(("upload" | "download", _)) => {}
            Some((kernel, _)) => launches.push((kernel.to_owned(), ranges.join(" / "))),
            None => panic!("{line}"),
        }
    }
    assert!(ranges.is_empty(), "{ranges:?} never end");
    launches
}

#[test]
fn a_profiler_sees_phases_batches_and_layers() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver();
    let watched = |name: &str, arguments: &[&str]| {
        let (out, trace) = (dir.path().join(name), dir.path().join(format!("{name}.trace")));
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--out", out.to_str().unwrap()]).collect();
        let mut command = command_on(driver.path(), &format!("trace={}", trace.display()), &arguments);
        let output = command.env("NVTX_INJECTION64_PATH", driver.path().join("libcuda.so.1")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        launches_in_ranges(&trace)
    };
    let has = |launches: &[(String, String)], kernel: &str, ranges: &str| {
        let found = launches.iter().any(|(name, within)| name.starts_with(kernel) && within == ranges);
        assert!(found, "no {kernel} in {ranges}: {launches:?}");
    };

    let file = activations(dir.path(), "a.safetensors", 24, |_| {});
    let files = watched("files", &["cka", "--activations", &file, "--batch-size", "12", "--device", "cuda"]);
    for batch in ["batch 1", "batch 2"] {
        for layer in ["first", "second", "third"] {
            has(&files, "gs_ucenter_pack", &format!("{batch} / {layer}"));
        }
        has(&files, "gs_hsic", &format!("{batch} / panel products"));
    }

    let plan = dir.path().join("plan.toml");
    let text = "[data]\nname = \"builtin\"\ntrain_images = 16\ntest_images = 12\nimage_side = 8\n\
        [train]\nepochs = 1\nbatch_size = 8\n[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0]\n";
    std::fs::write(&plan, text).unwrap();
    let training = watched("family", &["sweep", plan.to_str().unwrap(), "--device", "cuda"]);
    has(&training, "gs_convolution", "epoch 1 / training step");
    has(&training, "gs_sgd", "epoch 1 / training step / SGD");
    has(&training, "gs_convolution", "epoch 1 / evaluation");
    let run = std::fs::read_dir(dir.path().join("family")).unwrap().map(|entry| entry.unwrap().path());
    let run = run.filter(|path| path.is_dir()).max().unwrap();
    let options = ["--passes", "1", "--batch-size", "6", "--device", "cuda"];
    let runs: Vec<&str> = ["cka", run.to_str().unwrap()].into_iter().chain(options).collect();
    let runs = watched("runs", &runs);
    let model = run.file_name().unwrap().to_str().unwrap();
    has(&runs, "gs_convolution", &format!("batch 2 / {model}"));
    // All layers of a network as small as this one together.
    has(&runs, "gs_ucenter_pack", &format!("batch 2 / {model} / stem.conv to logits"));
    has(&runs, "gs_hsic", "batch 2 / panel products");
}

/// Rows of some kernels at their smallest shapes, without cuBLAS and cuDNN; the times are those of an emulation and mean nothing.
#[test]
fn bench_kernels_writes_the_rows_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let only = r"^(gram (shift|double|.* exact)|probe step) bf16 \[256, 10\]$|^average pooling .* bf16 \[128, 8, 64\]$|^loss .* 10\]$";
    let arguments = ["bench", "kernels", "--device", "cuda", "--only", only, "--json", file.to_str().unwrap()];
    let output = run(driver().path(), "memory=64", &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kernels: Vec<_> = rows.iter().map(|row| row["kernel"].as_str().unwrap()).collect();
    assert_eq!(kernels, ["gram", "gram", "gram", "gram", "probe", "average pooling", "average pooling", "loss"]);
    assert!(rows.iter().all(|row| row["us"].as_f64().is_some_and(|us| us > 0.0)), "{rows:?}");
    assert!(text(&output.stderr).contains("cuDNN's convolutions are not measured"), "{}", text(&output.stderr));
    let variants: Vec<_> = rows[..4].iter().map(|row| row["variant"].as_str().unwrap()).collect();
    assert_eq!(variants, ["shift", "double", "fused exact", "tiled exact"]);
    assert!(rows.iter().take(5).all(|row| row["dtype"] == "bf16"), "{rows:?}");
    for row in &rows[1..5] {
        assert!(row["over_naive"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
    }
    // Of 16 strips of 16 rows the 136 tiles of the triangle, ten multiply-adds an entry: three products for one, or four. The floor
    // is that of the values alone.
    for (row, products) in [(&rows[2], 3.0), (&rows[3], 4.0)] {
        assert_eq!(
            (row["flops"].as_f64(), row["bytes"].as_f64()),
            (Some(products * 20.0 * 136.0 * 256.0), Some(5120.0))
        );
        assert!(row["partial_bytes"].as_f64().is_some_and(|bytes| bytes >= 136.0 * 256.0 * 4.0), "{row}");
    }
    if rows[2]["matrix_rate_measured"] == false {
        assert!(rows[2]["ratio_to_cublas"].is_null(), "{}", rows[2]);
        assert!(text(&output.stderr).contains("no cuBLAS to load"), "{}", text(&output.stderr));
    }
    let none = ["bench", "kernels", "--device", "cuda", "--only", "^gram fastest"];
    fails_on("memory=64", &none, &["--only ^gram fastest matches none of the kernels' rows"]);
}

/// What is too large for the device is named, and what comes behind it is measured.
#[test]
fn bench_kernels_goes_on_where_memory_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    // Two copies of the larger activations are 64 MiB by themselves.
    let only = r"^probe step bf16 \[256, (10|65536)\]$|^loss .* 10\]$";
    let arguments = ["bench", "kernels", "--device", "cuda", "--only", only, "--json", file.to_str().unwrap()];
    let output = run(driver().path(), "memory=64", &arguments);
    let (rows, stderr) = (std::fs::read_to_string(&file).unwrap(), text(&output.stderr));
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let measured: Vec<_> = rows.iter().map(|row| (row["kernel"].as_str().unwrap(), row["shape"].to_string())).collect();
    assert_eq!(measured, [("probe", "[256,10]".to_owned()), ("loss", "[128,10]".to_owned())]);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in ["probe bf16 [256, 65536] is left out", "memory was too little for: probe bf16 [256, 65536]"] {
        assert!(stderr.contains(part), "{part:?} is missing from: {stderr}");
    }
    assert!(!stderr.contains("--batch-size") && !stderr.contains("--layers"), "flags of other commands: {stderr}");
}

/// A batch of every kind, where the network and its probes are on the GPU: rows as on the CPU, with its name.
#[test]
fn bench_probe_measures_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (file, trace) = (dir.path().join("rows.jsonl"), dir.path().join("trace"));
    let arguments = ["bench", "probe", "--depth", "8", "--width", "0.1", "--batch-size", "1", "--device", "cuda"];
    let arguments = [&arguments[..], &["--json", file.to_str().unwrap()]].concat();
    let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let probes: Vec<_> = rows.iter().map(|row| row["probes"].as_u64().unwrap()).collect();
    assert_eq!(probes, [0, 0, 6, 28]);
    for row in &rows {
        assert!(row["device"] == "Emulated GPU" && row["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
    }
    // Eleven rounds.
    assert_eq!(Trace::read(&trace).count("gs_probe_update_f32"), 11 * (6 + 28));
}

/// A batch of every kind, where network and comparison are on the GPU: not even one batch's activations go to it or come from it.
#[test]
fn bench_cka_measures_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (file, trace) = (dir.path().join("rows.jsonl"), dir.path().join("trace"));
    let arguments = ["bench", "cka", "--depth", "8", "--width", "0.1", "--batch-size", "4", "--device", "cuda"];
    let arguments = [&arguments[..], &["--json", file.to_str().unwrap()]].concat();
    let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let variants: Vec<_> = rows.iter().map(|row| row["variant"].as_str().unwrap()).collect();
    assert_eq!(variants, ["plain", "observed", "exact", "fast"]);
    for row in &rows {
        assert!(row["device"] == "Emulated GPU" && row["backend"] == "cuda-f32", "{row}");
        // JSON has no numbers that are not finite: they would be null.
        for key in ["us", "batch_ms", "forward_ms", "over_forward"] {
            assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {row}");
        }
    }
    assert!(rows[2]["cka_ms"].is_number() && rows[3]["cka_ms"].is_number(), "{rows:?}");
    let trace = Trace::read(&trace);
    // Eleven rounds of 28 layers, all together; a batch of four is too small for other than float64 products in `exact`.
    assert_eq!(trace.count("gs_ucenter_pack"), 2 * 11);
    assert_eq!(trace.count("gs_gram_fused_fast_f32"), 11);
    let activations = rows[0]["bytes"].as_u64().unwrap();
    let (up, down) = (trace.uploaded, trace.downloaded);
    assert!(up < activations && down < activations, "{up} bytes up and {down} down, a batch has {activations}");
}

/// The whole way from hostile activations to CKA through the launchers: that the products of outliers, of offsets and of growing
/// scales are computed again, and that those of plain layers are not, is decided by kernels, and nothing but the right result shows
/// it.
#[test]
fn doctor_finds_hostile_layers_right_on_emulated_kernels() {
    let names = ["exact, batches of 4", "exact, batches of 33", "fast, batches of 33"];
    let only = format!("^CKA(, | of layers together, )({})$", names.join("|"));
    let output = run(driver().path(), "", &["doctor", "--device", "cuda", "--only", &only]);
    let report = text(&output.stdout);
    assert!(output.status.success(), "{report}{}", text(&output.stderr));
    let (_, on_gpu) = report.split_once("GPU: comparisons").unwrap();
    for (how, name) in names.iter().flat_map(|name| [("CKA", name), ("CKA of layers together", name)]) {
        assert!(on_gpu.contains(&format!("pass  {how}, {name}:")), "{how}, {name} is missing from: {report}");
    }
}

/// One network and two at once: rows whose figures follow from their own times and from the rates they were held against. Where no
/// cuBLAS shows a rate of float32 products, bytes alone make the floor.
#[test]
fn bench_train_measures_networks_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let arguments = ["bench", "train", "--depth", "8", "--width", "0.1", "--batch-size", "2", "--jobs", "2"];
    let arguments = [&arguments[..], &["--device", "cuda", "--json", file.to_str().unwrap()]].concat();
    let output = run(driver().path(), "memory=64", &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at_once: Vec<_> = rows.iter().map(|row| row["networks_at_once"].as_u64().unwrap()).collect();
    assert_eq!(at_once, [1, 2]);
    let figure = |row: &serde_json::Value, name: &str| {
        let figure = row[name].as_f64().filter(|figure| figure.is_finite() && *figure > 0.0);
        figure.unwrap_or_else(|| panic!("{name} of {row}"))
    };
    let same = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    for (row, networks) in rows.iter().zip([1.0, 2.0]) {
        assert!(row["device"] == "Emulated GPU" && row["precision"] == "f32" && row["captured"] == true, "{row}");
        let [ms, floor, bytes] = ["ms_per_step", "floor_ms", "bytes"].map(|name| figure(row, name));
        assert!(figure(row, "cpu_ms_per_step") > 0.0 && figure(row, "multiply_adds") > 0.0);
        assert!(same(figure(row, "images_per_second"), networks * 2.0 / ms * 1e3), "{row}");
        assert!(same(figure(row, "share_of_floor"), floor / ms), "{row}");
        let of_bytes = networks * bytes / figure(row, "bytes_per_second") * 1e3;
        match row["multiply_adds_per_second"].is_null() {
            true => assert!(same(floor, of_bytes), "{row}"),
            false => {
                assert!(figure(row, "multiply_adds_per_second") > 0.0 && floor >= of_bytes * (1.0 - 1e-9), "{row}")
            }
        }
    }
    assert!(rows[0]["over_one_after_the_other"].is_null(), "{}", rows[0]);
    let [alone, together] = [0, 1].map(|place| figure(&rows[place], "ms_per_step"));
    assert!(same(figure(&rows[1], "over_one_after_the_other"), 2.0 * alone / together), "{}", rows[1]);
}

#[test]
#[ignore = "takes minutes: every kernel, at every shape, under emulation"]
fn doctor_passes_on_emulated_kernels() {
    let output = run(driver().path(), "", &["doctor", "--device", "cuda:0"]);
    let report = text(&output.stdout);
    assert!(output.status.success(), "{report}{}", text(&output.stderr));
    for part in [
        "Emulated GPU",
        "gram fused exact, bf16",
        "hsic naive",
        "probe, bf16",
        "the same on CPU and GPU",
        "the same bits 20 times",
    ] {
        assert!(report.contains(part), "{part:?} is missing from: {report}");
    }
}
