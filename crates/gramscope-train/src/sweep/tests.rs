#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use super::*;

const PLAN: &str = "[data]\nname = \"builtin\"\ntrain_images = 40\ntest_images = 20\nimage_side = 8\n\
    [train]\nepochs = 1\nbatch_size = 16\ndepth = 8\n[family]\nwidth = [0.25]\nseed = [0, 1]\nlearning_rate = [0.01, 1e30]\n";

/// A sweep on so many processors, and what was told of it.
fn sweep_on(
    processors: usize,
    dir: &Path,
    stop: &AtomicBool,
    mut hear: impl FnMut(SweepEvent<'_>) + Send,
) -> Result<SweepSummary> {
    sweep(&Plan::parse(PLAN).unwrap(), dir, &vec![Processor::Cpu; processors], stop, &mut hear)
}

#[test]
fn a_run_that_diverges_does_not_stop_the_others_and_nothing_is_trained_twice() {
    let dir = tempfile::tempdir().unwrap();
    for processors in [1, 3] {
        let family = dir.path().join(processors.to_string());
        let never = AtomicBool::new(false);
        let mut told = BTreeSet::new();
        let summary = sweep_on(processors, &family, &never, |event| match event {
            SweepEvent::Training { name, event: Event::Epoch(_) } => assert!(told.insert(format!("{name} trained"))),
            SweepEvent::Failed { name, .. } => assert!(told.insert(format!("{name} failed"))),
            _ => {}
        })
        .unwrap();
        let failed: Vec<bool> = summary.runs.iter().map(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect();
        assert_eq!(failed, [false, true, false, true]);
        let expected = summary
            .runs
            .iter()
            .zip(failed)
            .map(|((name, _), failed)| format!("{name} {}", if failed { "failed" } else { "trained" }));
        assert_eq!(told, expected.collect());
        assert!(summary.first_failure().unwrap().1.to_string().contains("learning_rate"));
        let mut epochs = 0;
        sweep_on(processors, &family, &never, |event| {
            epochs += usize::from(matches!(event, SweepEvent::Training { event: Event::Epoch(_), .. }));
        })
        .unwrap();
        assert_eq!(epochs, 0, "a finished run was trained again");
        let inside = sweep_on(processors, &family.join(&summary.runs[0].0), &never, |_| {});
        assert!(matches!(inside, Err(Error::SweepInRun { .. })));
    }
}

/// The bits of every finished run's checkpoint.
fn checkpoints(dir: &Path) -> Vec<Vec<u8>> {
    let runs = Plan::parse(PLAN).unwrap();
    let path = |name: &str| dir.join(name).join("checkpoints/latest.safetensors");
    runs.runs().iter().filter_map(|(name, _)| fs::read(path(name)).ok()).collect()
}

/// Runs at once end with the bits of runs one after the other, even where all were stopped in the middle.
#[test]
fn several_at_once_leave_what_one_after_the_other_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let (one, several) = (dir.path().join("one"), dir.path().join("several"));
    sweep_on(1, &one, &AtomicBool::new(false), |_| {}).unwrap();
    // Every run makes a step and writes it down; nobody takes another.
    let mut begun = BTreeSet::new();
    let stopped = sweep_on(2, &several, &AtomicBool::new(true), |event| {
        if let SweepEvent::Training { name, event: Event::Step { .. } } = event {
            begun.insert(name.to_owned());
        }
    });
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    assert!((1..=2).contains(&begun.len()), "{begun:?}");
    sweep_on(2, &several, &AtomicBool::new(false), |_| {}).unwrap();
    assert_eq!(checkpoints(&one).len(), 2);
    assert!(checkpoints(&one) == checkpoints(&several), "other bits");
}
