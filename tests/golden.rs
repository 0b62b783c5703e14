//! Similarities that are known: `np.random.seed(1337)`, X = randn(100, 10), Y = randn(100, 10) + X
//! (tests/fixtures/make_golden.py), by the definitions and through the binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_reference::cka::{self, Estimator, Kernel};
use gramscope_reference::{Matrix, gram, hsic};
use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use safetensors::SafeTensors;

const GOLDEN: [(Estimator, Kernel, &str, &str, f64); 3] = [
    (Estimator::Biased, Kernel::Linear, "biased", "linear", 0.55761),
    (Estimator::Unbiased, Kernel::Linear, "unbiased", "linear", 0.51346),
    (Estimator::Biased, Kernel::Rbf(0.5), "biased", "rbf:0.5", 0.65483),
];

/// Half of the last of five decimals.
const TOLERANCE: f64 = 5e-6;

fn fixture() -> String {
    format!("{}/tests/fixtures/golden.safetensors", env!("CARGO_MANIFEST_DIR"))
}

fn layer(name: &str) -> Matrix {
    let bytes = fs::read(fixture()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values = tensor.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
    Matrix::new(tensor.shape()[0], tensor.shape()[1], values)
}

#[test]
fn the_definitions_reproduce_the_golden_values() {
    let (x, y) = ([layer("x")], [layer("y")]);
    for (estimator, kernel, _, _, golden) in GOLDEN {
        let found = cka::minibatch(&x, &y, kernel, estimator);
        assert!((found - golden).abs() <= TOLERANCE, "{estimator:?}, {kernel:?}: {found}, expected {golden}");
    }
    // The unbiased value once more, by the estimator as it was first written down.
    let (k, l) = (gram::linear(&x[0]), gram::linear(&y[0]));
    let hsic = hsic::unbiased_by_definition;
    let found = hsic(&k, &l) / (hsic(&k, &k) * hsic(&l, &l)).sqrt();
    assert!((found - GOLDEN[1].4).abs() <= TOLERANCE, "by definition: {found}");
}

#[test]
fn the_binary_reproduces_the_golden_values() {
    let dir = tempfile::tempdir().unwrap();
    for (_, _, estimator, kernel, golden) in GOLDEN {
        let out = dir.path().join(format!("{estimator}-{kernel}"));
        let how = ["--batch-size", "100", "--estimator", estimator, "--kernel", kernel];
        let what = ["cka", "--activations", &fixture(), "--out", out.to_str().unwrap()];
        support::succeeds(what.into_iter().chain(how));
        let found = loaded(&out);
        assert!((found - golden).abs() <= TOLERANCE, "{estimator}, {kernel}: {found}, expected {golden}");
    }
}

/// The similarity of x and y.
fn loaded(out: &Path) -> f64 {
    let result = PairResult::load(out).unwrap();
    assert_eq!(result.info.layers_x, ["x", "y"]);
    result.similarity.cka[1]
}
