//! Training leaves pictures of itself; one that cannot be drawn costs no run.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use support::{TINY, gramscope, succeeds, text, train_tiny};

/// Width and height of a PNG that is whole.
fn size(path: &Path) -> (u32, u32) {
    let picture = image::open(path).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
    (picture.width(), picture.height())
}

#[test]
fn a_run_has_curves_and_a_finished_one_gets_them_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_tiny(&run, 0);
    let curves = run.join("curves.png");
    assert!(size(&curves) > (500, 200));
    let resume = ["--resume", "--out", run.to_str().unwrap()];
    let resume = || gramscope(["train"].into_iter().chain(TINY).chain(resume));

    fs::remove_file(&curves).unwrap();
    assert!(resume().status.success());
    size(&curves);

    fs::remove_file(&curves).unwrap();
    fs::create_dir(&curves).unwrap();
    let output = resume();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("curves.png"), "{}", text(&output.stderr));
}

#[test]
fn a_family_has_curves_and_accuracies() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, out) = (dir.path().join("plan.toml"), dir.path().join("family"));
    let text = "[data]\nname = \"builtin\"\ntrain_images = 40\ntest_images = 20\nimage_side = 8\n[train]\nepochs = 1\n\
                batch_size = 16\ndepth = 8\n[family]\nwidth = [0.25, 0.5]\nseed = [0, 1]\n";
    fs::write(&plan, text).unwrap();
    let sweep = || succeeds(["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    for _ in 0..2 {
        sweep();
        for name in ["curves.png", "accuracy.png"] {
            assert!(size(&out.join(name)) > (500, 200), "{name}");
            // Gone, so that a family that is finished has to bring it back.
            fs::remove_file(out.join(name)).unwrap();
        }
    }
}
