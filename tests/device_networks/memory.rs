//! The memory of the device: what comparisons take of it, and `--memory-limit`.

use std::fs;
use std::path::{Path, PathBuf};

use gramscope_study::Saved;
use gramscope_study::pair::PairResult;

use crate::support::driver::{Trace, driver, run};
use crate::support::text;
use crate::train;

/// Images of 24 x 24, so that the activations of a batch of 16 outweigh what else a comparison has on a device.
const WIDE_PLAN: &str = "[data]\nname = \"builtin\"\ntrain_images = 10\ntest_images = 32\nimage_side = 24\n\
    [train]\nepochs = 1\nbatch_size = 10\n[family]\ndepth = [8]\nseed = [0]\n";

/// Networks take turns in the memory of their activations, and the images are there once, whatever the number of networks,
/// batches and passes.
#[test]
fn a_comparison_takes_the_memory_of_its_largest_forward_pass() {
    let dir = tempfile::tempdir().unwrap();
    let [wide, narrow] =
        ["0.5", "0.25"].map(|width| train(dir.path(), width, &format!("{WIDE_PLAN}width = [{width}]\n"), &["cpu"]));
    let compare = |name: &str, runs: &[&Path], passes: &str, limit: &str| {
        let (out, trace) = (dir.path().join(name), dir.path().join(format!("{name}.trace")));
        let mut arguments = vec!["cka"];
        arguments.extend(runs.iter().map(|run| run.to_str().unwrap()));
        arguments.extend(["--pairs", "within", "--batch-size", "16", "--passes", passes, "--device", "cuda"]);
        arguments.extend(["--memory-limit", limit, "--out", out.to_str().unwrap()]);
        let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        (out, Trace::read(&trace))
    };
    let all: [&Path; 4] = [&wide, &wide, &narrow, &wide];
    let (alone, of_one) = compare("one", &all[..1], "1", "1G");
    let (together, of_four) = compare("four", &all, "1", "1G");
    let (_, of_passes) = compare("passes", &all, "3", "1G");
    let kibibytes = of_four.most_bytes / 1024 - 40;
    let (in_rounds, of_rounds) = compare("rounds", &all, "1", &format!("{kibibytes}K"));

    let of = |dir: &Path| {
        PairResult::load(dir).unwrap().similarity.cka.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
    };
    let alone = of(&alone);
    for maps in [together, in_rounds] {
        let maps = fs::read_dir(&maps).unwrap().map(|entry| entry.unwrap().path());
        let equal = maps.filter(|dir| dir.join("cka.npz").is_file() && of(dir) == alone).count();
        assert_eq!(equal, 3, "a network's maps depend on who had the memory before");
    }

    // One value of the first stage: 8 channels, 24 x 24 pixels, 16 images. A pass has several of them.
    let value = 8 * 24 * 24 * 16 * 4;
    let (one, four) = (of_one.most_bytes, of_four.most_bytes);
    assert!(one > 3 * value, "{one}");
    assert!(four < one + value, "{four} bytes for four networks, {one} for one");
    let [all_at_once, rounds] = [&of_four, &of_rounds].map(|trace| trace.count("gs_ucenter_pack"));
    assert!(rounds > all_at_once && of_rounds.most_bytes <= kibibytes << 10, "{} bytes", of_rounds.most_bytes);

    // Two passes more name 32 images, once for all networks, and no image is uploaded again.
    assert_eq!(of_passes.uploaded - of_four.uploaded, 2 * 32 * 4);
}

/// What becomes of a layer does not depend on which others are in its launches: not where some are chosen, and not where memory is so
/// short that fewer are taken together.
#[test]
fn layers_taken_together_have_the_bits_that_they_have_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let plan = WIDE_PLAN.replace("test_images = 32", "test_images = 40").replace("image_side = 24", "image_side = 8");
    let trained = train(dir.path(), "runs", &format!("{plan}width = [0.5]\n"), &["cpu"]);
    for gram in ["exact", "fast"] {
        let compare = |name: &str, more: &[&str]| {
            let (out, trace) =
                (dir.path().join(format!("{gram}-{name}")), dir.path().join(format!("{gram}-{name}.trace")));
            let mut arguments = vec!["cka", trained.to_str().unwrap(), "--gram", gram, "--batch-size", "40"];
            arguments.extend(["--passes", "1", "--device", "cuda", "--out", out.to_str().unwrap()]);
            arguments.extend(more);
            let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
            assert!(output.status.success(), "{name}: {}", text(&output.stderr));
            (PairResult::load(&out).unwrap(), Trace::read(&trace))
        };
        let (all, of_all) = compare("all", &[]);
        // On three multiprocessors a layer that had them for itself would be split in three, and one of thirty is not.
        let (some, _) = compare("some", &["--layers", "^stage1.block1.relu1$"]);
        let limit = format!("{}K", (of_all.most_bytes - (200 << 10)) >> 10);
        let (short, of_short) = compare("short", &["--memory-limit", &limit]);
        let [launches, more] = [&of_all, &of_short].map(|trace| trace.count("gs_ucenter_pack"));
        assert!(launches < 4 && more > launches, "{launches} launches, {more} in {limit}");

        assert!(of_short.most_bytes <= (of_all.most_bytes - (200 << 10)) >> 10 << 10);
        // A layer beside itself is 1, whatever its sums are.
        let of = |result: &PairResult, i: &String, j: &String| {
            let place = |layer| result.info.layers_x.iter().position(|other| other == layer).unwrap();
            result.similarity.hsic_xy[place(i) * result.info.layers_x.len() + place(j)].to_bits()
        };
        assert_eq!(some.info.layers_x.len(), 1);
        for (result, layers) in [(&some, &some.info.layers_x), (&short, &all.info.layers_x)] {
            for (i, j) in layers.iter().flat_map(|i| layers.iter().map(move |j| (i, j))) {
                assert_eq!(of(result, i, j), of(&all, i, j), "{gram}: {i}, {j}");
            }
        }
    }
}

/// Within a pass the host waits for nothing that the device has been told: batches twice as many copy no more from the host,
/// and wait no more often.
#[test]
fn batches_of_a_pass_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let trained = train(dir.path(), "runs", &format!("{WIDE_PLAN}width = [0.25]\n"), &["cpu"]);
    let trained = trained.to_str().unwrap();
    let [few, many] = ["16", "8"].map(|size| {
        let (out, trace) = (dir.path().join(size), dir.path().join(format!("{size}.trace")));
        let arguments = ["cka", trained, trained, "--batch-size", size, "--passes", "2", "--device", "cuda", "--out"];
        let arguments = [&arguments[..], &[out.to_str().unwrap()]].concat();
        let output = run(driver().path(), &format!("trace={}", trace.display()), &arguments);
        assert!(output.status.success(), "{size}: {}", text(&output.stderr));
        Trace::read(&trace)
    });
    assert!(few.waits > 0 && many.count("gs_augment_crop_f32") == 2 * few.count("gs_augment_crop_f32"));
    assert_eq!((many.waits, many.uploaded), (few.waits, few.uploaded));
}

/// What comes back from a comparison of networks on a GPU: the sums that the matrix is made of, and a flag a layer and batch.
#[test]
fn nothing_but_sums_and_flags_comes_to_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let trained = train(dir.path(), "runs", &format!("{WIDE_PLAN}width = [0.5]\n"), &["cpu"]);
    let trace_of = |name: &str, arguments: &[&str], succeeds: bool| {
        let trace = dir.path().join(name);
        let output = run(driver().path(), &format!("trace={}", trace.display()), arguments);
        assert_eq!(output.status.success(), succeeds, "{}", text(&output.stderr));
        Trace::read(&trace)
    };
    // The device is opened, which looks at the constants that its kernels were compiled with, and there is no such network.
    let opening = trace_of("opening", &["bench", "cka", "--depth", "9", "--device", "cuda"], false).downloaded;
    let out = dir.path().join("out");
    let arguments =
        ["cka", trained.to_str().unwrap(), "--batch-size", "16", "--passes", "2", "--device", "cuda", "--out"];
    let compared = trace_of("compared", &[&arguments[..], &[out.to_str().unwrap()]].concat(), true);
    // 28 layers and two batches a pass: a float64 sum a pair, a sum of 16 bytes and so many flags of 4 a layer.
    let (layers, batches) = (28, 4);
    let (matrix, of_layers) = (layers * layers * 8, layers * (16 + batches * 4));
    let downloaded = compared.downloaded - opening;
    assert!((matrix..=matrix + of_layers).contains(&downloaded), "{downloaded} bytes, the matrix has {matrix}");
}

/// `--memory-limit` is about the GPU's memory wherever one runs the network: what can be done a part at a time is, to the same
/// bits, and what cannot says what it needs.
#[test]
fn a_limit_on_device_memory_holds_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let trained = train(dir.path(), "runs", &format!("{WIDE_PLAN}width = [0.5]\n"), &["cpu"]);
    let measure = |command: &str, limit: &str| {
        let flags: &[&str] = match command {
            "cka" => &["--batch-size", "16"],
            "probe" => &["--epochs", "2", "--batch-size", "5"],
            _ => &[],
        };
        let (out, trace) =
            (dir.path().join(format!("{command}{limit}")), dir.path().join(format!("{command}{limit}.trace")));
        let arguments = [command, trained.to_str().unwrap(), "--device", "cuda", "--memory-limit", limit, "--out"];
        let arguments = [&arguments[..], &[out.to_str().unwrap()], flags].concat();
        (run(driver().path(), &format!("trace={}", trace.display()), &arguments), Trace::read(&trace), out)
    };
    // Of which an eighth is less than the images take, so that a batch of them is there at a time. What probes learn is there as well.
    for (command, numbers, limit) in [
        ("sparsity", Some("sparsity.npz"), 400),
        ("cosine", Some("cosine.npz"), 400),
        ("ablate", Some("ablate.json"), 400),
        ("activations", None, 400),
        ("probe", Some("probe.json"), 2000),
    ] {
        let (whole, _, whole_out) = measure(command, "1G");
        let (parts, trace, parts_out) = measure(command, &format!("{limit}K"));
        for output in [whole, parts] {
            assert!(output.status.success(), "{command}: {}", text(&output.stderr));
        }
        assert!(trace.most_bytes <= limit << 10, "{command}: {} bytes", trace.most_bytes);
        let bytes = |out: PathBuf| fs::read(numbers.map_or(out.clone(), |numbers| out.join(numbers))).unwrap();
        assert!(bytes(whole_out) == bytes(parts_out), "{command}");
    }
    for command in ["cka", "pcs", "dominant", "sparsity", "cosine", "ablate", "activations", "probe"] {
        let (output, ..) = measure(command, "100K");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        assert!(stderr.contains("device memory") && stderr.contains("100.0 KiB"), "{command}: {stderr}");
        assert!(stderr.contains("--memory-limit") && !stderr.contains("panicked"), "{command}: {stderr}");
    }
}
