#![allow(clippy::unwrap_used)]

use gramscope_train::TrainSettings;

use super::*;
use crate::testing::{small_data, tiny, trained};

/// A run of four epochs.
fn run_that_keeps(dir: &Path, checkpoint_every: Option<usize>) -> Run {
    let settings = TrainSettings { epochs: 4, learning_rate: 0.1, checkpoint_every, ..tiny(0) };
    trained(dir, settings, small_data(24))
}

fn over(run: &Run) -> Result<EpochsResult> {
    let options = CompareOptions { batch_size: 8, ..CompareOptions::default() };
    let run_options = RunOptions { passes: 1, ..RunOptions::default() };
    over_epochs(run, &options, &run_options, &Processor::Cpu, &AtomicBool::new(false), &mut |_| ())
}

#[test]
fn epochs_are_compared_with_the_end_as_pairs_of_runs_are() {
    let dir = tempfile::tempdir().unwrap();
    // The last epoch is kept too, and stands there once.
    let run = run_that_keeps(&dir.path().join("run"), Some(1));
    let found = over(&run).unwrap();
    assert_eq!(found.info.epochs, [1, 2, 3, 4]);
    let layers = found.info.layers.len();
    assert_eq!(layers, 28);

    let options = CompareOptions { batch_size: 8, ..CompareOptions::default() };
    let run_options = RunOptions { passes: 1, pairs: Pairs::Across, ..RunOptions::default() };
    let second = Run::named(&dir.path().join("run@2")).unwrap();
    let pair = compare_runs(
        &[second.clone(), run.clone()],
        &options,
        &run_options,
        &Processor::Cpu,
        &AtomicBool::new(false),
        &mut |_| (),
    );
    let pair = pair.unwrap().remove(0);
    assert_eq!((pair.info.model_x.as_str(), pair.info.model_y.as_str()), ("run@2", "run"));
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&found.cka[layers * layers..2 * layers * layers]), bits(&pair.similarity.cka));

    let of_second = pcs_of_run(&second, &PcsOptions::default(), &Processor::Cpu, &mut |_| ()).unwrap();
    assert_eq!(bits(&found.variance_explained[layers..2 * layers]), bits(&of_second.similarity.variance_explained));
    let vectors = layers * found.info.component_examples;
    assert_eq!(bits(&found.first_pc[vectors..2 * vectors]), bits(&of_second.similarity.first_pc));
    for layer in 0..layers {
        let end = found.cosine_sq[3 * layers + layer];
        // Unit vectors in float64: a few roundings of 1.
        assert!(end.is_nan() || (end - 1.0).abs() < 1e-12, "{layer}: {end}");
        let with_itself = found.layers_with_themselves()[3 * layers + layer];
        assert!(with_itself.is_nan() || (with_itself - 1.0).abs() < 1e-12, "{layer}: {with_itself}");
    }
    assert!(found.cosine_sq[..layers].iter().any(|&cosine| cosine < 0.99), "nothing changed in training");

    let out = dir.path().join("out");
    found.write(&out).unwrap();
    found.write(&out).unwrap();
    let read = EpochsResult::load(&out).unwrap();
    assert_eq!((read.info, bits(&read.cka)), (found.info, bits(&found.cka)));
    assert_eq!(bits(&read.first_pc), bits(&found.first_pc));
    assert!(out.join(PICTURE).is_file());
}

#[test]
fn a_run_without_kept_epochs_says_how_to_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = run_that_keeps(&dir.path().join("run"), None);
    assert!(over(&run).unwrap_err().to_string().contains("checkpoint_every"));
    let missing = Run::named(&dir.path().join("run@3")).unwrap_err().to_string();
    assert!(missing.contains("checkpoint_every"), "{missing}");
    let last_only = run_that_keeps(&dir.path().join("last"), Some(4));
    assert!(over(&last_only).unwrap_err().to_string().contains("before its last"));
    let missing = Run::named(&dir.path().join("last@3")).unwrap_err().to_string();
    assert!(missing.contains("kept are 4"), "{missing}");
    assert!(over(&last_only.at(4).unwrap()).unwrap_err().to_string().contains("last@4"));
}

#[test]
fn batch_statistics_change_what_is_compared_and_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let run = run_that_keeps(&dir.path().join("run"), Some(2));
    let (running, batch) = (over(&run).unwrap(), over(&run.clone().with_batch_statistics()).unwrap());
    assert!(!running.info.batch_statistics && batch.info.batch_statistics);
    // The stem's convolution comes before any batch norm; with what follows it is another matter.
    let layer = running.info.layers.len() - 1;
    assert_eq!(running.variance_explained[0].to_bits(), batch.variance_explained[0].to_bits());
    assert_ne!(running.variance_explained[layer].to_bits(), batch.variance_explained[layer].to_bits());
}
