//! What is measured of a run: comparisons, sparsity, activations, deleted blocks.

use std::fs;
use std::path::Path;
use std::process::Output;

use gramscope_nn::Backend;
use gramscope_study::Saved;
use gramscope_study::ablate::AblateResult;
use gramscope_study::pair::PairResult;
use gramscope_study::pcs::PcsResult;
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::support::driver::{Trace, driver, needed, run};
use crate::support::text;
use crate::{PLAN, train};

/// How far CKA on the GPU may be from CKA on the CPU: `exact` promises 1e-6 on either side. Activations differ by the order of
/// float32 sums, some 2^-24 a layer, 3e-7 after 25 of them (4e-7 was the most here).
const APART: f64 = 2e-6;
/// The same where activations and weights are bfloat16. One that is rounded is off by 2^-9 of itself at most, by 2^-9 / sqrt 3 on
/// average; of so many that follow each other, batch norms keeping the scale, by the root of their number: 25 layers, each with its
/// weights and its output. CKA is the cosine of two Gram matrices, quadratic in such activations, of which each turns by twice as much
/// (0.012 was the most here).
const APART_IN_BF16: f64 = 2.0 * 2.0 * 7.07 / (512.0 * 1.732);

/// Weights that have been trained for two epochs, activations that never leave the device: what the same command gives on
/// the CPU, within the promise of `exact` for both sides and what float32 networks differ by.
#[test]
fn what_is_measured_of_a_run_is_the_cpus() {
    ["", "shake_shake = true\n"].into_iter().for_each(measure_beside_the_cpu);
}

fn measure_beside_the_cpu(rest: &str) {
    let dir = tempfile::tempdir().unwrap();
    let plan = format!("{PLAN}{rest}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
    let trained = train(dir.path(), "runs", &plan, &["cpu"]);
    let trained = trained.to_str().unwrap();
    let driver = driver();
    for settings in [vec![], vec!["--batch-statistics"], vec!["--normalise-examples"], vec!["--input", "noise"]] {
        let compare = |device: &str, precision: &[&str]| {
            let out = dir.path().join(format!("{device}{}{}", precision.concat(), settings.concat()));
            let mut arguments = vec!["cka", trained, "--batch-size", "8", "--passes", "2", "--device", device, "--out"];
            arguments.push(out.to_str().unwrap());
            arguments.extend(precision.iter().chain(&settings));
            let output = run(driver.path(), "", &arguments);
            assert!(output.status.success(), "{settings:?}: {}", text(&output.stderr));
            PairResult::load(&out).unwrap()
        };
        let cpu = compare("cpu", &[]).similarity;
        let floats = compare("cuda", &[]);
        assert_eq!(floats.info.versions.backend, Backend::CudaF32);
        let brains = compare("cuda", &["--precision", "bf16"]);
        assert_eq!(brains.info.versions.backend, Backend::CudaBf16);
        for (name, gpu, allowed) in [("f32", floats.similarity, APART), ("bf16", brains.similarity, APART_IN_BF16)] {
            assert_eq!(cpu.undefined_x, gpu.undefined_x, "{settings:?}, {name}");
            assert_eq!(cpu.cka.len(), gpu.cka.len());
            for (cpu, gpu) in cpu.cka.iter().zip(&gpu.cka) {
                let agree = cpu.is_nan() && gpu.is_nan() || (cpu - gpu).abs() <= allowed;
                assert!(agree, "{settings:?}, {name}: {gpu} is not {cpu}");
            }
            let differ = cpu.cka.iter().zip(&gpu.cka).any(|(cpu, gpu)| (cpu - gpu).abs() > APART);
            assert_eq!(differ, name == "bf16", "{settings:?}: bfloat16 rounds, float32 does not");
        }
    }
    let sparsity = |device: &str| {
        let out = dir.path().join(format!("sparsity-{device}"));
        let arguments = ["sparsity", trained, "--device", device, "--out", out.to_str().unwrap()];
        let output = run(driver.path(), "", &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).replace(out.to_str().unwrap(), "")
    };
    assert_eq!(sparsity("cpu"), sparsity("cuda"));
}

/// Activations are the CPU's but for the order of sums, a few units of 2^-24 a layer in float32. In bfloat16 an activation is
/// rounded to 2^-9 of itself and a weight too, some 25 times one after the other.
#[test]
fn exported_activations_are_the_cpus() {
    // A second branch of five layers and a mixture more in each of three blocks.
    export_beside_the_cpu("", 28);
    export_beside_the_cpu("shake_shake = true\n", 28 + 3 * 6);
}

fn export_beside_the_cpu(rest: &str, layers: usize) {
    let dir = tempfile::tempdir().unwrap();
    let plan = format!("{PLAN}{rest}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
    let trained = train(dir.path(), "runs", &plan, &["cpu"]);
    let export = |name: &str, flags: &[&str]| {
        let file = dir.path().join(name);
        let arguments = ["activations", trained.to_str().unwrap(), "--out", file.to_str().unwrap(), "--device"];
        let output = run(driver().path(), "", &[&arguments, flags].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read(file).unwrap()
    };
    let values = |file: &[u8], layer: &str| -> Vec<f32> {
        let tensors = SafeTensors::deserialize(file).unwrap();
        let bytes = tensors.tensor(layer).unwrap().data().to_vec();
        bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
    };
    let cpu = export("cpu.safetensors", &["cpu"]);
    let tensors = SafeTensors::deserialize(&cpu).unwrap();
    assert_eq!(tensors.len(), layers);
    for (name, flags, allowed) in
        [("f32", &["cuda"][..], 1e-5), ("bf16", &["cuda", "--precision", "bf16"], 25.0 / 512.0)]
    {
        let gpu = export(&format!("{name}.safetensors"), flags);
        assert!(String::from_utf8_lossy(&gpu).contains(&format!("cuda-{name}")), "{name} is not on record");
        for layer in tensors.names() {
            let (cpu, gpu) = (values(&cpu, layer), values(&gpu, layer));
            assert_eq!(cpu.len(), gpu.len());
            let largest = cpu.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for (cpu, gpu) in cpu.iter().zip(&gpu) {
                assert!((cpu - gpu).abs() <= allowed * largest, "{layer}, {name}: {gpu} is not {cpu}");
            }
        }
    }
}

/// What `pcs` and `activations` are told, and what comes of it.
struct Components {
    dir: TempDir,
    run: String,
}

impl Components {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = format!("{PLAN}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
        let run = train(dir.path(), "runs", &plan, &["cpu"]).display().to_string();
        Self { dir, run }
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn tried(&self, name: &str, arguments: &[&str]) -> (Output, Trace) {
        let (out, trace) = (self.at(name), self.dir.path().join(format!("{name}.trace")));
        // The driver adds to what is there.
        let _ = fs::remove_file(&trace);
        let arguments = [arguments, &["--device", "cuda", "--out", &out]].concat();
        let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
        (output, Trace::read(&trace))
    }

    fn done(&self, name: &str, arguments: &[&str]) -> Trace {
        let (output, trace) = self.tried(name, arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        trace
    }

    fn found(&self, name: &str) -> PcsResult {
        PcsResult::load(Path::new(&self.at(name))).unwrap()
    }

    /// Every number of a result.
    fn bits(&self, name: &str) -> Vec<Vec<u64>> {
        let found = self.found(name).similarity;
        let similarities = [found.cosine_sq, found.cka, found.cka_without_first];
        let numbers =
            [found.variance_explained, found.second_over_first, found.first_pc].into_iter().chain(similarities);
        let numbers: Vec<Vec<f64>> = numbers.collect();
        assert!(numbers.iter().all(|numbers| numbers.iter().any(|number| number.is_finite())));
        numbers.into_iter().map(|numbers| numbers.into_iter().map(f64::to_bits).collect()).collect()
    }
}

/// First components are found where the network runs: of the activations as they are, to the bit, none of which comes to the host. Of
/// fewer examples than the kernels take they are found on the host, of the same activations.
#[test]
fn components_of_a_run_are_those_of_its_activations() {
    let components = Components::new();
    let settings: [&[&str]; 3] = [&["--precision", "f32"], &["--precision", "bf16"], &["--examples", "5"]];
    for flags in settings {
        components.done("file", &[&["activations", &components.run][..], flags].concat());
        let trace = components.done("run", &[&["pcs", &components.run][..], flags].concat());
        components.done("stored", &["pcs", "--activations", &components.at("file")]);
        assert_eq!(components.found("run").info.layers, components.found("stored").info.layers);
        assert_eq!(components.bits("run"), components.bits("stored"), "{flags:?}");
        // The two matrices, and of a layer less than a matrix of examples by examples, however it was decomposed; its activations
        // are many times that.
        let (layers, examples) = (components.found("run").info.layers.len() as u64, 16);
        let most = 2 * layers * layers * 8 + layers * 2 * examples * examples * 8;
        let activations = fs::metadata(components.at("file")).unwrap().len();
        if flags == ["--examples", "5"] {
            assert_eq!(trace.count("gs_gram_double_f32"), 0, "five examples on the GPU");
        } else {
            assert!(trace.downloaded < most && 4 * most < activations, "{}", trace.downloaded);
        }
    }
}

/// In the least memory there can be, in which layers come in rounds.
#[test]
fn components_of_a_run_are_the_same_in_parts() {
    let components = Components::new();
    let whole = components.done("whole", &["pcs", &components.run]);
    let mut limit = 1024;
    let parts = loop {
        let text_of = limit.to_string();
        let (output, trace) = components.tried("parts", &["pcs", &components.run, "--memory-limit", &text_of]);
        if output.status.success() {
            break trace;
        }
        let least = needed(&text(&output.stderr));
        assert!(least > limit, "{limit} are said to be too few, and {least} to do");
        limit = least;
    };
    assert!(parts.count("gs_gram_double_f32") > whole.count("gs_gram_double_f32"), "all at once in {limit}");
    assert!(parts.most_bytes <= limit && limit < whole.most_bytes, "{} in {limit}", parts.most_bytes);
    assert_eq!(components.bits("parts"), components.bits("whole"));
}

/// Blocks deleted in every way, in both families, with two branches, and in pieces of the images: no image changes sides.
#[test]
fn deleted_blocks_cost_what_they_cost_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let bottlenecks = "[data]\nname = \"builtin\"\ntrain_images = 10\ntest_images = 12\nimage_side = 33\n\
        [train]\nepochs = 1\nbatch_size = 10\nlearning_rate = 0.001\nfamily = \"imagenet\"\n\
        [family]\ndepth = [35]\nwidth = [0.0625]\nseed = [0]\n";
    let cifar = |rest: &str| format!("{PLAN}{rest}[family]\ndepth = [14]\nwidth = [0.25]\nseed = [0]\n");
    let (plain, shaken) = (cifar(""), cifar("shake_shake = true\n"));
    for (name, plan) in [("cifar", plain.as_str()), ("shaken", &shaken), ("imagenet", bottlenecks)] {
        let trained = train(dir.path(), name, plan, &["cpu"]);
        let ablate = |device: &str| {
            let out = dir.path().join(format!("{name}-{device}"));
            let arguments = ["ablate", trained.to_str().unwrap(), "--each", "--device", device, "--out"];
            let output = run(driver().path(), "", &[&arguments[..], &[out.to_str().unwrap()]].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            AblateResult::load(&out).unwrap()
        };
        let (cpu, gpu) = (ablate("cpu"), ablate("cuda"));
        assert_eq!((cpu.stages, cpu.info.alone), (gpu.stages, gpu.info.alone), "{name}");
        assert_eq!(gpu.info.versions.backend, Backend::CudaF32);
    }
}
