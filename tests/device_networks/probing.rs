//! Linear probes where their network is.

use std::path::Path;

use gramscope_nn::Backend;
use gramscope_study::Saved;
use gramscope_study::probe::ProbeResult;

use crate::support::driver::{Trace, driver, run};
use crate::support::text;
use crate::{PLAN, train};

/// Probes of all layers of `trained`, and what the driver has noted.
fn probe(dir: &Path, trained: &Path, name: &str, flags: &[&str]) -> (ProbeResult, Trace) {
    let (out, trace) = (dir.join(name), dir.join(format!("{name}.trace")));
    let mut arguments = vec!["probe", trained.to_str().unwrap(), "--layers", ".", "--out", out.to_str().unwrap()];
    arguments.push("--device");
    arguments.extend(flags);
    let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    (ProbeResult::load(&out).unwrap(), Trace::read(&trace))
}

/// Probes on the GPU that runs the network: features and sums differ by a few units of 2^-24 from the CPU's, in bfloat16 features
/// by 2^-9 of them, so that of 40 and 16 images no more than a few on the edge between two classes change sides.
#[test]
fn probes_reach_what_they_reach_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let plan = format!("{PLAN}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
    let trained = train(dir.path(), "runs", &plan, &["cpu"]);
    let probe = |name: String, place: &[&str], what: &[&str]| {
        let flags = [place, what, &["--epochs", "3", "--batch-size", "12"]].concat();
        probe(dir.path(), &trained, &name, &flags)
    };
    for (name, place, what, images) in [
        ("whole", &["cuda"][..], &[][..], 1.5),
        ("pooled", &["cuda"], &["--pool"], 1.5),
        ("part", &["cuda"], &["--examples", "30"], 1.5),
        ("bf16", &["cuda", "--precision", "bf16"], &[], 4.5),
    ] {
        let (cpu, _) = probe(format!("{name}-cpu"), &["cpu"], what);
        let (gpu, trace) = probe(format!("{name}-gpu"), place, what);
        let (twice, _) = probe(format!("{name}-twice"), place, what);
        assert_eq!(gpu, twice, "{name}");
        assert_eq!((gpu.layers.len(), &gpu.info.diverged), (28, &cpu.info.diverged));
        let train_images = gpu.info.train_images as f64;
        for (cpu, gpu) in cpu.layers.iter().zip(&gpu.layers) {
            let off = |cpu: Option<f64>, gpu: Option<f64>, images: f64| (cpu.unwrap() - gpu.unwrap()).abs() * images;
            assert!(off(cpu.accuracy_train, gpu.accuracy_train, train_images) < images, "{name}: {}", cpu.layer);
            assert!(off(cpu.accuracy_test, gpu.accuracy_test, 16.0) < images, "{name}: {}", cpu.layer);
        }
        let backend = if name == "bf16" { Backend::CudaBf16 } else { Backend::CudaF32 };
        assert_eq!(gpu.info.versions.backend, backend);
        // The head is float32 whatever the other layers are: the mean over the pixels, and the logits.
        let [f32s, bf16s] = ["f32", "bf16"].map(|kind| trace.count(&format!("gs_probe_update_{kind}")));
        let steps = 3 * gpu.info.train_images.div_ceil(12);
        assert_eq!((f32s, bf16s), if name == "bf16" { (2 * steps, 26 * steps) } else { (28 * steps, 0) });
        let pooled = trace.count("gs_pooling_squares_f32") + trace.count("gs_pooling_squares_bf16");
        // Test images come in batches of the size of training ones: two.
        assert_eq!(pooled, if name == "pooled" { 26 * (steps + 2) } else { 0 }, "{name}");
    }
}

/// After one step at a rate that float32 does not hold no weight is a number. The loss shows it in the second batch; in the
/// second epoch where each has one batch; and on the test images where there is one epoch.
#[test]
fn probes_diverge_where_they_do_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let plan = format!("{PLAN}[family]\ndepth = [8]\nwidth = [0.5]\nseed = [0]\n");
    let trained = train(dir.path(), "runs", &plan, &["cpu"]);
    for (epochs, batch_size, place) in [("2", "20", (1, 2)), ("2", "40", (2, 1)), ("1", "40", (2, 1))] {
        let [(cpu, _), (gpu, _)] = ["cpu", "cuda"].map(|device| {
            let flags =
                [device, "--learning-rate", "1e39", "--momentum", "0", "--epochs", epochs, "--batch-size", batch_size];
            probe(dir.path(), &trained, &format!("{device}-{epochs}-{batch_size}"), &flags)
        });
        assert_eq!((&gpu.layers, &gpu.info.diverged), (&cpu.layers, &cpu.info.diverged));
        assert_eq!(gpu.info.diverged.len(), 28);
        assert!(gpu.info.diverged.iter().all(|found| (found.epoch, found.batch) == place), "{:?}", gpu.info.diverged);
        assert!(gpu.layers.iter().all(|layer| layer.accuracy_train.is_none() && layer.accuracy_test.is_none()));
    }
}
