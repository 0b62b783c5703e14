//! The whole way from activations to CKA, against float64.

use anyhow::Context;
use gramscope_cka::{Activation, Comparison, Error, Estimator, Gram, Kernel, Options, Similarity, Values};
use gramscope_reference::{Matrix, gram, hsic};

use super::inputs::{self, Layer, Life};
use super::{Finding, Report};

/// What is promised of exact and of fast Gram matrices.
pub(super) const EXACT: f64 = 1e-6;
pub(super) const FAST: f64 = 1e-3;

/// What `fast` is tried under.
const FASTER: Options =
    Options { estimator: Estimator::Unbiased, kernel: Kernel::Linear, gram: Gram::Fast, normalise_examples: false };

/// Where comparisons are made, and how they are handed the layers of a batch.
pub(super) struct Place<'a> {
    pub(super) begin: &'a dyn Fn(usize, Options) -> Result<Comparison, Error>,
    pub(super) observe: &'a Observe<'a>,
}

/// Hands a comparison layers over so many examples.
type Observe<'a> = dyn Fn(&mut Comparison, &[Layer], usize) -> anyhow::Result<()> + 'a;

/// On the host.
pub(super) const HOST: Place<'static> =
    Place { begin: &|layers, options| Comparison::new(&[layers], &[(0, 0)], options), observe: &one_by_one };

/// Hands over one layer after the other.
pub(super) fn one_by_one(comparison: &mut Comparison, layers: &[Layer], examples: usize) -> anyhow::Result<()> {
    for (index, layer) in layers.iter().enumerate() {
        let activation = Activation::new(Values::F32(&layer.values), examples)?;
        comparison.observe(0, index, activation).with_context(|| format!("layer {:?}", layer.name))?;
    }
    Ok(())
}

/// One case: batches of layers, and what is computed of them.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) options: Options,
    pub(super) batches: Vec<Vec<Layer>>,
    pub(super) examples: usize,
}

/// Every one of `cases`, against float64; `what` is computed.
pub(super) fn check(report: &mut Report<'_>, what: &str, place: &Place<'_>, cases: Vec<Case>) {
    for case in cases {
        report.check(&format!("{what}, {}", case.name), || compare(&case, place));
    }
}

/// Estimators, kernels and promises over awkward numbers of examples.
pub(super) fn cases() -> Vec<Case> {
    let biased = Options { estimator: Estimator::Biased, ..Options::default() };
    let rbf = Options { kernel: Kernel::Rbf { bandwidth: 0.5 }, ..Options::default() };
    let mut cases: Vec<Case> =
        [4, 33, 255, 256, 257, 1000].map(|examples| case("exact", examples, Options::default())).into();
    cases.extend([33, 256, 257].map(|examples| case("fast", examples, FASTER)));
    cases.extend([5, 256].map(|examples| case("biased", examples, biased)));
    cases.extend([33, 256].map(|examples| case("RBF", examples, rbf)));
    cases.push(wide("exact", Options::default()));
    cases
}

/// What a GPU has products of its own for.
#[cfg(feature = "cuda")]
pub(super) fn cases_of_gpu() -> Vec<Case> {
    let mut cases: Vec<Case> = [255, 1000].map(|examples| case("fast", examples, FASTER)).into();
    cases.push(wide("fast", FASTER));
    cases
}

fn case(name: &str, examples: usize, options: Options) -> Case {
    Case {
        name: format!("{name}, batches of {examples}"),
        options,
        batches: (0..2).map(|batch| inputs::hostile(examples, batch)).collect(),
        examples,
    }
}

fn wide(name: &str, options: Options) -> Case {
    Case {
        name: format!("{name}, 200000 features, batches of 33"),
        options,
        batches: (0..2).map(|batch| inputs::wide(33, 200_000, batch)).collect(),
        examples: 33,
    }
}

/// CKA of all pairs of layers of a case, against the definition. Layers without a value must be named, and no others.
fn compare(case: &Case, place: &Place<'_>) -> anyhow::Result<Finding> {
    let allowed = if case.options.gram == Gram::Exact { EXACT } else { FAST };
    let found = similarity(case, place)?;
    let expected = truth(case);
    let mut finding = Finding::new(allowed);
    finding.compare_all(found.cka.iter().copied(), &expected, 1.0);
    let layers = case.batches[0].len();
    let undefined: Vec<usize> = (0..layers).filter(|&layer| is_undefined(case, layer)).collect();
    if found.undefined_x != undefined {
        let names = |layers: &[usize]| -> Vec<&str> { layers.iter().map(|&i| case.batches[0][i].name).collect() };
        anyhow::bail!("undefined are {:?}, and should be {:?}", names(&found.undefined_x), names(&undefined));
    }
    Ok(finding)
}

/// What the product says of a case.
pub(super) fn similarity(case: &Case, place: &Place<'_>) -> anyhow::Result<Similarity> {
    let mut comparison = (place.begin)(case.batches[0].len(), case.options)?;
    for layers in &case.batches {
        comparison.begin_batch(case.examples)?;
        (place.observe)(&mut comparison, layers, case.examples)?;
        comparison.end_batch()?;
    }
    Ok(comparison.finish()?.remove(0))
}

/// CKA of all pairs of layers by definition, `[layers, layers]`.
fn truth(case: &Case) -> Vec<f64> {
    let kernel = |x: &Matrix| match case.options.kernel {
        Kernel::Linear => gram::linear(x),
        Kernel::Rbf { bandwidth } => gram::rbf(x, bandwidth),
    };
    let inner = match case.options.estimator {
        Estimator::Unbiased => hsic::unbiased,
        Estimator::Biased => hsic::biased,
    };
    let layers = case.batches[0].len();
    let mut sums = vec![0.0; layers * layers];
    for batch in &case.batches {
        let grams: Vec<Matrix> = batch.iter().map(|layer| kernel(&matrix(layer, case.examples))).collect();
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum += inner(&grams[index / layers], &grams[index % layers]);
        }
    }
    // What is 0 by definition comes out of the definition's loops as 0 and some rounding.
    let own = |layer: usize| if is_undefined(case, layer) { f64::NAN } else { sums[layer * layers + layer].sqrt() };
    (0..layers * layers).map(|index| sums[index] / (own(index / layers) * own(index % layers))).collect()
}

/// Whether a layer has no similarity with any.
fn is_undefined(case: &Case, layer: usize) -> bool {
    match case.batches[0][layer].life {
        Life::None => true,
        Life::One => case.options.kernel != Kernel::Linear || case.options.estimator == Estimator::Unbiased,
        Life::Many => false,
    }
}

/// A layer in float64.
pub(super) fn matrix(layer: &Layer, examples: usize) -> Matrix {
    Matrix::new(examples, layer.features, layer.values.iter().map(|&value| f64::from(value)).collect())
}
