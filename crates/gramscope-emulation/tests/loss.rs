//! Softmax cross-entropy against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::training as plan;
use gramscope_cuda::shapes::LossShape;
use gramscope_emulation::{Buffer, Launch};
use gramscope_nn::ops::loss::ImageLoss;
use gramscope_reference::{Matrix, loss as reference};
use support::inputs::Random;

struct Loss {
    dlogits: Vec<f32>,
    totals: Vec<f64>,
}

/// On top of the totals 0.5 and 7.
fn loss(logits: &[f32], labels: &[u32], seed: u64) -> Loss {
    let (images, classes) = (labels.len(), logits.len() / labels.len());
    let (mut dlogits, mut totals) = (Buffer::<f32>::poisoned(logits.len()), Buffer::new(&[0.5, 7.0]));
    let (logits, labels) = (Buffer::new(logits), Buffer::new(labels));
    let shape = LossShape { images: images as i32, classes: classes as i32 };
    let launch = Launch::new("gs_loss_softmax_cross_entropy").geometry(plan::loss()).seed(seed);
    launch.output(&mut dlogits).output(&mut totals).input(&logits).input(&labels).value(shape).run().unwrap();
    Loss { dlogits: dlogits.values().to_vec(), totals: totals.values().to_vec() }
}

fn made(images: usize, classes: usize, scale: f64) -> (Vec<f32>, Vec<u32>) {
    let mut random = Random::new(1);
    let logits = (0..images * classes).map(|_| (scale * random.normal()) as f32).collect();
    (logits, (0..images).map(|_| (random.uniform() * classes as f64) as u32).collect())
}

fn correct(logits: &[f32], labels: &[u32]) -> usize {
    let rows = logits.chunks(logits.len() / labels.len()).zip(labels);
    rows.filter(|(row, label)| ImageLoss::new(row, **label as usize).is_correct()).count()
}

#[test]
fn loss_and_gradients_match_float64() {
    for (images, classes, scale) in [(1, 1, 1.0), (1, 10, 3.0), (128, 10, 2.0), (37, 33, 20.0), (70, 100, 1.0)] {
        let (logits, labels) = made(images, classes, scale);
        let truth = Matrix::new(images, classes, logits.iter().map(|&value| f64::from(value)).collect());
        let indices: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
        let found = loss(&logits, &labels, 3);
        // Float64 throughout: a few roundings of sums of at most a hundred terms.
        let error = found.totals[0] - 0.5 - reference::cross_entropy(&truth, &indices);
        assert!(error.abs() <= 1e-13 * scale * images as f64, "{images} x {classes}: {error}");
        assert_eq!(found.totals[1], 7.0 + correct(&logits, &labels) as f64);
        let gradient = reference::cross_entropy_gradient(&truth, &indices);
        for (found, expected) in found.dlogits.iter().zip(&gradient.data) {
            // Rounded to float32 once.
            let tolerance = 1e-7 * expected.abs() + 1e-15;
            assert!((f64::from(*found) - expected).abs() <= tolerance, "{found} is not {expected}");
        }
        assert_eq!(loss(&logits, &labels, 4).totals, found.totals);
    }
}

#[test]
fn huge_logits_neither_overflow_nor_hide_the_loss() {
    let logits = [1e30f32, -1e30, 0.0, 1e30, 1e30, -1e30];
    let found = loss(&logits, &[1, 0], 1);
    // 2e30 for the first image, log 2 beside that for the second.
    assert!((found.totals[0] / 1e30f32 as f64 - 1.0).abs() <= 1e-15, "{:?}", found.totals);
    assert_eq!(found.totals[1], 8.0);
    assert_eq!(found.dlogits, [0.5, -0.5, 0.0, -0.25, 0.25, 0.0]);
}

#[test]
fn of_equal_logits_the_first_counts() {
    assert_eq!(loss(&[2.0; 80], &[0, 1], 1).totals[1], 8.0);
    let mut logits = [0.0; 80];
    logits[37] = 1.0;
    logits[70] = 1.0;
    assert_eq!(loss(&logits, &[37, 30], 1).totals[1], 9.0);
}

#[test]
fn a_label_that_is_no_class_makes_the_loss_nan_and_nothing_else() {
    for label in [3, 4, u32::MAX, 1 << 31] {
        let (logits, _) = made(3, 3, 1.0);
        let found = loss(&logits, &[0, label, 2], 1);
        assert!(found.totals[0].is_nan() && found.totals[1].is_finite());
        for (index, value) in found.dlogits.iter().enumerate() {
            assert_eq!(value.is_nan(), index / 3 == 1, "{label}: {:?}", found.dlogits);
        }
    }
}

#[test]
fn nan_logits_make_the_loss_nan() {
    for place in [0, 1, 2] {
        let (mut logits, labels) = made(2, 3, 1.0);
        logits[place] = f32::NAN;
        let found = loss(&logits, &labels, 1);
        assert!(found.totals[0].is_nan() && found.dlogits[..3].iter().all(|value| value.is_nan()));
        assert!(found.dlogits[3..].iter().all(|value| value.is_finite()));
        assert_eq!(found.totals[1], 7.0 + correct(&logits, &labels) as f64);
    }
}
