//! Training, in every arithmetic and of every kind of network.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gramscope_train::Run;
use safetensors::SafeTensors;

use crate::support::driver::{Trace, driver, run};
use crate::support::text;
use crate::{PLAN, difference, only_folder, train};

/// Ten steps and what the trainer does around them, of every kind of network: the CPU's and the GPU's float32 differ by the
/// order of their sums. A rounding is 6e-8, a sum here has up to 600 terms, so that one layer is off by 1e-6 or so; batch
/// norms over few values and ten steps make that fifty times as much. A step itself moves parameters by 1e-2.
#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        ("plain", "[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0]\n"),
        ("no_shortcuts", "residual = false\n[family]\ndepth = [8]\nwidth = [0.4]\nseed = [1]\n"),
        ("distorted", "colour_distortion = 0.5\n[family]\ndepth = [8]\nwidth = [0.25]\nseed = [2]\n"),
        ("random", "random_labels = true\n[family]\ndepth = [14]\nwidth = [0.1]\nseed = [3]\n"),
        ("fraction", "fraction = 0.5\n[family]\ndepth = [8]\nwidth = [0.25]\nseed = [4]\n"),
        ("shaken", "shake_shake = true\nfraction = 0.6\n[family]\ndepth = [8]\nwidth = [0.25]\nseed = [5]\n"),
        ("both", "shake_shake = true\ncolour_distortion = 0.5\n[family]\ndepth = [8]\nwidth = [0.25]\nseed = [6]\n"),
        (
            "penalised",
            "first_pc_penalty = 0.5\nfirst_pc_threshold = 0.1\n[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0]\n",
        ),
    ];
    let mut trained = BTreeMap::new();
    for (name, rest) in kinds {
        let plan = format!("{PLAN}{rest}");
        let cpu = train(dir.path(), &format!("{name}-cpu"), &plan, &["cpu"]);
        let gpu = train(dir.path(), &format!("{name}-gpu"), &plan, &["cuda"]);
        let found = difference(&cpu, &gpu);
        assert!(found <= 5e-5, "{name}: off by {found:e}");
        let losses = |run: &Path| -> Vec<f64> {
            let metrics = Run::open(run).unwrap().metrics().unwrap();
            metrics.iter().flat_map(|epoch| [epoch.train_loss, epoch.test_loss]).collect()
        };
        for (cpu, gpu) in losses(&cpu).into_iter().zip(losses(&gpu)) {
            assert!((cpu - gpu).abs() <= 1e-4 * cpu, "{name}: a loss of {gpu} instead of {cpu}");
        }
        let accuracies = |run: &Path| Run::open(run).unwrap().metrics().unwrap()[0].train_accuracy;
        assert_eq!(accuracies(&cpu), accuracies(&gpu), "{name}");
        trained.insert(name, gpu);
    }
    let apart = difference(&trained["plain"], &trained["penalised"]);
    assert!(apart >= 1e-3, "the penalty moves parameters by {apart:e}, which would not be seen");
}

/// Ten images of a hundred cost what ten of ten do, but for a row number an image.
#[test]
fn a_run_uploads_the_images_it_uses() {
    let dir = tempfile::tempdir().unwrap();
    let uploaded = |images: u64, fraction: f64| {
        let [plan, out, trace] = ["toml", "out", "trace"].map(|kind| dir.path().join(format!("{images}.{kind}")));
        let description = format!(
            "[data]\nname = \"builtin\"\ntrain_images = {images}\ntest_images = 10\nimage_side = 8\n\
             [train]\nepochs = 1\nbatch_size = 10\nfraction = {fraction:?}\ndepth = 8\nwidth = 0.1\n[family]\nseed = [0]\n"
        );
        fs::write(&plan, description).unwrap();
        let arguments = ["sweep", plan.to_str().unwrap(), "--device", "cuda", "--out", out.to_str().unwrap()];
        let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        Trace::read(&trace).uploaded
    };
    assert_eq!(uploaded(100, 0.1) - uploaded(10, 1.0), 90 * 4);
}

/// A bottleneck network of 35 layers, strided stem and max pooling, for one step on ten images, after which velocities are the
/// gradients. So few values a channel make it steep: between float32 and float64 gradients of such a network were seen to differ by
/// up to a tenth of their tensor's largest (with PyTorch), where a value lies on the other side of its ReLU. One of the
/// smallest layers, of 1,440 values, turns its gradient by 1 / sqrt(1440), or 3%, which is allowed; the order of sums alone makes 2e-5.
/// What is missing is 1 off, what is ten times as large 9.
///
/// In bfloat16 every layer has such values, 2^-9 of them or so, and what they do grows from layer to layer: towards the stem the
/// error is about as long as the gradient, which leaves a cosine of a half. Half of that is asked for, where a gradient that is
/// anything else has 0.01, and a length right to a factor of 2.
#[test]
fn a_gpu_trains_bottleneck_networks_too() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |rest: &str| {
        format!(
            "[data]\nname = \"builtin\"\ntrain_images = 10\ntest_images = 10\nimage_side = 33\n\
             [train]\nepochs = 1\nbatch_size = 10\nlearning_rate = 0.001\nfamily = \"imagenet\"\n{rest}\
             [family]\ndepth = [35]\nwidth = [0.0625]\nseed = [0]\n"
        )
    };
    for (name, rest) in [("plain", ""), ("shaken", "shake_shake = true\n")] {
        let cpu = train(dir.path(), &format!("{name}-cpu"), &plan(rest), &["cpu"]);
        let gpu = train(dir.path(), &format!("{name}-gpu"), &plan(rest), &["cuda"]);
        let loss = |run: &Path| Run::open(run).unwrap().metrics().unwrap()[0].train_loss;
        let found = (loss(&cpu) - loss(&gpu)).abs() / loss(&cpu);
        assert!(found <= 1e-5, "{name}: the loss is off by {found:e}");
        let found = difference(&cpu, &gpu);
        assert!(found <= 0.02, "{name}: off by {found:e}");
        let (expected, found) = (velocities(&cpu), velocities(&gpu));
        assert!(expected.len() > 90 && expected.keys().eq(found.keys()), "{name}: {:?}", found.keys());
        for (tensor, expected) in &expected {
            let off = distance(expected, &found[tensor]);
            assert!(off <= 0.03, "{name}, {tensor}: off by {off:e}");
        }
    }
    let expected = velocities(&only_folder(&dir.path().join("plain-cpu")));
    let found = velocities(&train(dir.path(), "bf16", &plan(""), &["cuda", "--precision", "bf16"]));
    for (tensor, expected) in expected.iter().filter(|(tensor, _)| !tensor.contains("bn")) {
        let (found, cosine) = (length(&found[tensor]) / length(expected), cosine(expected, &found[tensor]));
        assert!(cosine >= 0.25, "bf16, {tensor}: a cosine of {cosine}");
        assert!((0.5..=2.0).contains(&found), "bf16, {tensor}: {found} times as long");
    }
}

#[test]
fn tensor_cores_and_bf16_train_alike_as_far_as_they_are_accurate() {
    let dir = tempfile::tempdir().unwrap();
    let plan = format!("{PLAN}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
    let last_loss = |run: &Path| Run::open(run).unwrap().metrics().unwrap()[1].train_loss;
    let exact = last_loss(&train(dir.path(), "f32", &plan, &["cuda"]));
    // Factors have 11 and 8 bits: 2^-11 and 2^-8 of a product, and some twenty times that after ten steps.
    for (precision, allowed) in [("tf32", 0.01), ("bf16", 0.08)] {
        let found = last_loss(&train(dir.path(), precision, &plan, &["cuda", "--precision", precision]));
        assert!((found - exact).abs() <= allowed * exact, "{precision}: {found} instead of {exact}");
        assert!(found != exact, "{precision} gave the bits of float32");
    }
}

/// After one step velocities are the gradients. Factors of 11 and 8 bits move about as large a share of values across 0, where a
/// ReLU's gradient is another altogether: gradients are off by the share's root, 2% and 5% a layer and some 5% and 15% at the
/// stem. 1 - cos is half the square of that; four times it is allowed. What is missing is 1 off, what is reversed 2. The bias
/// of a convolution in front of a batch norm has no gradient but roundings.
#[test]
fn tensor_cores_and_bf16_give_every_gradient_its_direction() {
    let dir = tempfile::tempdir().unwrap();
    let plan = PLAN.replace("train_images = 40", "train_images = 10").replace("batch_size = 8", "batch_size = 10");
    let plan = plan.replace("epochs = 2", "epochs = 1");
    for (kind, rest) in [("plain", ""), ("shaken", "shake_shake = true\n")] {
        let plan = format!("{plan}{rest}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
        same_directions(&dir.path().join(kind), &plan);
    }
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn length(values: &[f32]) -> f64 {
    product(values, values).sqrt()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    product(a, b) / (length(a) * length(b))
}

/// The length of the difference, relative to that of `expected`.
fn distance(expected: &[f32], found: &[f32]) -> f64 {
    let difference: Vec<f32> = found.iter().zip(expected).map(|(found, expected)| found - expected).collect();
    length(&difference) / length(expected)
}

fn same_directions(dir: &Path, plan: &str) {
    fs::create_dir(dir).unwrap();
    let exact = velocities(&train(dir, "f32", plan, &["cuda"]));
    assert!(exact.len() > 20);
    for (precision, allowed) in [("tf32", 0.005), ("bf16", 0.05)] {
        let found = velocities(&train(dir, precision, plan, &["cuda", "--precision", precision]));
        for (name, exact) in &exact {
            let cosine = cosine(exact, &found[name]);
            assert!(1.0 - cosine <= allowed, "{precision}, {name}: a cosine of {cosine}");
        }
    }
}

fn velocities(run: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(run.join("checkpoints/latest.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = tensors.names();
    // The bias of a convolution in front of a batch norm has no gradient but roundings.
    let with_gradient = |name: &str| match name.strip_suffix(".bias") {
        Some(layer) => !layer.contains(".conv") && !names.contains(&format!("{layer}_bn.bias").as_str()),
        None => true,
    };
    let chosen = tensors.tensors().into_iter().filter(|(name, _)| name.starts_with("velocity.") && with_gradient(name));
    chosen
        .map(|(name, view)| {
            (name, view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
        })
        .collect()
}

#[test]
fn what_a_gpu_cannot_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let fails = |machine: &str, flags: &[&str], parts: &[&str]| {
        let mut arguments =
            vec!["train", "--train-images", "60", "--test-images", "40", "--depth", "8", "--epochs", "1"];
        arguments.extend(["--batch-size", "16", "--out", runs.to_str().unwrap()]);
        arguments.extend(flags);
        let output = run(driver().path(), machine, &arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is missing from: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(!runs.join("metrics.jsonl").exists());
    };
    fails("memory=8", &["--device", "cuda"], &["activations of a batch of 16 images", "is free"]);
    fails("", &["--device", "cpu", "--precision", "bf16"], &["--precision", "f32"]);
}
