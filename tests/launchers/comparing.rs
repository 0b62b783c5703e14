//! Launchers of what compares: Gram matrices, centring, radial kernels, eigenvectors, HSIC.

use gramscope_cuda::plan::{self, Better};
use gramscope_cuda::{
    Device, Error, Gram, GramMut, Grams, Layers, Looking, PairSums, Panels, Partials, PartialsMut, Values, Wanting,
};
use half::bf16;

use crate::making::Dimension::{Free, Setting, Size};
use crate::making::{Dimension, Family, Made, Making, family};

const GRAM: &[Dimension] = &[Size(5)];
const LAYERS: &[Dimension] = &[Size(5), Size(2)];

pub(crate) const FAMILIES: &[Family] = &[
    family("gram_shift", GRAM, gram_shift),
    family("gram_naive", GRAM, gram_naive),
    family("gram_fused", GRAM, gram_fused),
    family("gram_tiled", GRAM, gram_tiled),
    family("gram_double", GRAM, gram_double),
    family("gram_distances", GRAM, gram_distances),
    family("ucenter_reduce", LAYERS, ucenter_reduce),
    family("ucenter_reduce_double", LAYERS, ucenter_reduce_double),
    family("ucenter_rows", LAYERS, ucenter_rows),
    family("ucenter_pack", LAYERS, ucenter_pack),
    family("ucenter_naive", LAYERS, ucenter_naive),
    family("rbf_start", &[Setting(5)], rbf_start),
    family("rbf_select", &[Size(5), Free(0)], rbf_select),
    family("rbf_above", &[Size(5)], rbf_above),
    family("rbf_naive", &[Size(5)], rbf_naive),
    family("rbf_apply", &[Size(5)], rbf_apply),
    family("eigen_subspace", &[Size(2), Size(9), Setting(8), Setting(1)], eigen_subspace),
    family("eigen_deflate", &[Size(2), Size(9)], eigen_deflate),
    family("eigen_naive", &[Size(2), Size(9), Setting(4)], eigen_naive),
    family("hsic_units", &[Size(3)], hsic_units),
    family("hsic_naive", &[Size(3), Size(2), Size(7), Size(4)], hsic_naive),
    family("hsic_mma", &[Size(3), Size(2), Size(70), Size(2)], hsic_mma),
    family("hsic_accumulate", &[Size(3), Size(2), Size(4), Size(2)], hsic_accumulate),
];

/// Features of the layers that are launched together.
const FEATURES: [usize; 2] = [7, 3];
/// And of both.
const COLUMNS: usize = FEATURES[0] + FEATURES[1];

/// Their activations, of the examples that the buffers have: one after the other in one argument, they are two buffers.
macro_rules! activations {
    ($making:expr, $n:expr) => {
        FEATURES.map(|p| make!($making, $n * p))
    };
}

/// Calls a launcher with layers of as many examples as it is told.
fn with_layers<R>(x: &[Made<f32>; 2], [examples]: [usize; 1], launch: impl FnOnce(&Layers<'_>) -> R) -> R {
    let [a, b] = x.each_ref().map(|x| Values::F32(x.view()));
    launch(&Layers { x: &[&a, &b], examples, sharing: COLUMNS })
}

fn split(m: &Making<'_>, n: usize, one: fn(usize, usize, plan::Device) -> Option<plan::Split>) -> plan::LayersSplit {
    plan::LayersSplit::new(&FEATURES, COLUMNS, m.device.plan(), |features, device| one(n, features, device)).unwrap()
}

fn gram_shift(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut shift, mut largest, mut bad) = (make!(m, COLUMNS), make!(m, COLUMNS), make!(m, 2));
    let (shift, largest, bad) = (&mut shift.view_mut(), &mut largest.view_mut(), &mut bad.view_mut());
    with_layers(&activations!(m, n), m.told(), |layers| m.launcher().gram_shift(shift, largest, bad, layers))
}

fn gram_naive(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut k, x, shift) = (make!(m, 2 * n * n), activations!(m, n), make!(m, COLUMNS));
    let (k, shift) = (&mut k.view_mut(), &shift.view());
    with_layers(&x, m.told(), |layers| m.launcher().gram_naive(k, layers, shift))
}

fn gram_fused(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let split = split(m, n, plan::gram_fused);
    let (mut sums, mut exponents) = (make!(m, split.partials), make!(m, split.exponents));
    let (mut reaches, mut shift, mut bad) = (make!(m, split.exponents), make!(m, COLUMNS), make!(m, 2));
    let (x, flags) = (activations!(m, n), make!(m, 2));
    let mut partials =
        PartialsMut { sums: sums.view_mut(), exponents: exponents.view_mut(), reaches: reaches.view_mut() };
    let (shift, bad) = (&mut shift.view_mut(), &mut bad.view_mut());
    let only = Wanting { products: Better::Exact, flags: flags.view() };
    with_layers(&x, m.told(), |layers| m.launcher().gram_fused(true, &mut partials, shift, bad, layers, Some(&only)))
        .map(drop)
}

fn gram_tiled(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let split = split(m, n, plan::gram_tiled);
    let (mut sums, mut exponents) = (make!(m, split.partials), make!(m, split.exponents));
    let (mut reaches, x) = (make!(m, split.exponents), activations!(m, n));
    let (shift, largest, flags) = (make!(m, COLUMNS), make!(m, COLUMNS), make!(m, 2));
    let mut partials =
        PartialsMut { sums: sums.view_mut(), exponents: exponents.view_mut(), reaches: reaches.view_mut() };
    let (shift, largest) = (&shift.view(), &largest.view());
    let only = Wanting { products: Better::Exact, flags: flags.view() };
    with_layers(&x, m.told(), |layers| {
        m.launcher().gram_tiled(false, &mut partials, layers, shift, largest, Some(&only)).map(drop)
    })
}

fn gram_double(m: &Making<'_>) -> Result<(), Error> {
    let ([n], device) = (m.right(), m.device.plan());
    let split = split(m, n, |n, features, device| Some(plan::gram_double(n, features, device)));
    let (mut partials, x) = (make!(m, split.partials), activations!(m, n));
    let (shift, flags) = (make!(m, COLUMNS), make!(m, 2));
    let (partials, shift) = (&mut partials.view_mut(), &shift.view());
    let only = Wanting { products: Better::Double, flags: flags.view() };
    with_layers(&x, m.told(), |layers| m.launcher().gram_double(partials, layers, shift, Some(&only), device).map(drop))
}

fn gram_distances(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let split = split(m, n, |n, features, device| Some(plan::gram_double(n, features, device)));
    let (mut partials, x) = (make!(m, split.partials), activations!(m, n));
    let partials = &mut partials.view_mut();
    with_layers(&x, m.told(), |layers| m.launcher().gram_distances(partials, layers).map(drop))
}

/// Parts of the second of two layers; those of the first are a dimension.
const PARTS: usize = 3;

pub(crate) fn ucenter_reduce(m: &Making<'_>) -> Result<(), Error> {
    let [n, splits] = m.right();
    let lengths = plan::gram_lengths(n, splits + PARTS);
    let (mut k, mut reach, sums) = (make!(m, 2 * n * n), make!(m, 2 * n), make!(m, lengths.partials));
    let (exponents, reaches, flags) = (make!(m, lengths.exponents), make!(m, lengths.exponents), make!(m, 2));
    let partials = Partials { sums: sums.view(), exponents: exponents.view(), reaches: reaches.view() };
    let ([n, splits], mut gram) = (m.told(), GramMut { k: k.view_mut(), reach: reach.view_mut() });
    let only = Wanting { products: Better::Exact, flags: flags.view() };
    m.launcher().ucenter_reduce(&mut gram, &partials, Some(&only), n, &[splits, PARTS])
}

fn ucenter_reduce_double(m: &Making<'_>) -> Result<(), Error> {
    let [n, splits] = m.right();
    let (mut k, mut reach) = (make!(m, 2 * n * n), make!(m, 2 * n));
    let (partials, flags) = (make!(m, plan::gram_lengths(n, splits + PARTS).partials), make!(m, 2));
    let ([n, splits], mut gram) = (m.told(), GramMut { k: k.view_mut(), reach: reach.view_mut() });
    let only = Wanting { products: Better::Double, flags: flags.view() };
    m.launcher().ucenter_reduce_double(&mut gram, &partials.view(), Some(&only), n, &[splits, PARTS])
}

pub(crate) fn ucenter_rows(m: &Making<'_>) -> Result<(), Error> {
    let [n, layers] = m.right();
    let (mut sums, mut flags, mut arrivals) = (make!(m, layers * 3 * n), make!(m, layers), make!(m, layers));
    let (k, reach) = (make!(m, layers * n * n), make!(m, layers * n));
    let ([n, layers], gram) = (m.told(), Gram { k: k.view(), reach: reach.view() });
    let verdict = Some((Better::Double, plan::EXACT));
    let mut looking = Looking { flags: flags.view_mut(), only: Some(Better::Exact), verdict };
    let (sums, arrivals) = (&mut sums.view_mut(), &mut arrivals.view_mut());
    m.launcher().ucenter_rows(sums, Some(&mut looking), arrivals, &gram, layers, n, false)
}

pub(crate) fn ucenter_pack(m: &Making<'_>) -> Result<(), Error> {
    let [n, layers] = m.right();
    let (mut rows, mut summaries) = (make!(m, layers * (n * (n - 1) / 2)), make!(m, layers));
    let (mut norms, mut arrivals, k) = (make!(m, layers * n), make!(m, layers), make!(m, layers * n * n));
    let (reach, sums) = (make!(m, layers * n), make!(m, layers * 3 * n));
    let (flags, undefined) = (make!(m, layers), make!(m, layers));
    let ([n, layers], gram) = (m.told(), Gram { k: k.view(), reach: reach.view() });
    let (rows, summaries, norms) = (&mut rows.view_mut(), &mut summaries.view_mut(), &mut norms.view_mut());
    let (arrivals, sums, flags) = (&mut arrivals.view_mut(), &sums.view(), &flags.view());
    let undefined = Some(&undefined.view());
    m.launcher().ucenter_pack(rows, summaries, norms, arrivals, &gram, sums, flags, undefined, layers, n, false)
}

pub(crate) fn ucenter_naive(m: &Making<'_>) -> Result<(), Error> {
    let [n, layers] = m.right();
    let (mut rows, mut summaries) = (make!(m, layers * (n * (n + 1) / 2)), make!(m, layers));
    let (mut sums, k, reach) = (make!(m, layers * 3 * n), make!(m, layers * n * n), make!(m, layers * n));
    let (flags, [n, layers]) = (make!(m, layers), m.told());
    let gram = Gram { k: k.view(), reach: reach.view() };
    let (rows, summaries, sums) = (&mut rows.view_mut(), &mut summaries.view_mut(), &mut sums.view_mut());
    m.launcher().ucenter_naive(rows, summaries, sums, &gram, &flags.view(), layers, n, true)
}

/// Layers that no launch takes together.
pub(crate) fn refused_together(device: &Device) {
    let (single, half) = (device.zeros::<f32>("layers", 20).unwrap(), device.zeros::<bf16>("layers", 20).unwrap());
    let (single, half) = (Values::F32(single.as_view()), Values::Bf16(half.as_view()));
    let mut k = device.zeros::<f64>("layers", 25 * (plan::LAYERS_TOGETHER + 1)).unwrap();
    let shift = device.zeros::<f32>("layers", 4 * (plan::LAYERS_TOGETHER + 1)).unwrap();
    for (x, words) in [
        (vec![], "from 1 to"),
        (vec![&single; plan::LAYERS_TOGETHER + 1], "from 1 to"),
        (vec![&single, &half], "several types"),
    ] {
        let layers = Layers { x: &x, examples: 5, sharing: 4 };
        let error = device.launcher().gram_naive(&mut k.as_view_mut(), &layers, &shift.as_view()).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }) && error.to_string().contains(words), "{error}");
    }
}

fn rbf_start(m: &Making<'_>) -> Result<(), Error> {
    let ([n], mut selection, mut histogram) = (m.told(), make!(m, 1), make!(m, plan::RADIX_BINS));
    m.launcher().rbf_start(&mut selection.view_mut(), &mut histogram.view_mut(), n)
}

fn rbf_select(m: &Making<'_>) -> Result<(), Error> {
    let [n, _] = m.right();
    let (mut selection, mut histogram) = (make!(m, 1), make!(m, plan::RADIX_BINS));
    let (mut arrivals, distances, [n, pass]) = (make!(m, 1), make!(m, n * n), m.told());
    let (selection, histogram) = (&mut selection.view_mut(), &mut histogram.view_mut());
    m.launcher().rbf_select(selection, histogram, &mut arrivals.view_mut(), &distances.view(), n, pass)
}

fn rbf_above(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut selection, distances, [n]) = (make!(m, 1), make!(m, n * n), m.told());
    m.launcher().rbf_above(&mut selection.view_mut(), &distances.view(), n)
}

fn rbf_naive(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut selection, distances, [n]) = (make!(m, 1), make!(m, n * n), m.told());
    m.launcher().rbf_naive(&mut selection.view_mut(), &distances.view(), n)
}

fn rbf_apply(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut k, mut undefined) = (make!(m, n * n), make!(m, 1));
    let (distances, selection, [n]) = (make!(m, n * n), make!(m, 1), m.told());
    let (k, undefined) = (&mut k.view_mut(), &mut undefined.view_mut());
    m.launcher().rbf_apply(k, undefined, &distances.view(), &selection.view(), n, 0.5)
}

fn eigen_subspace(m: &Making<'_>) -> Result<(), Error> {
    let [layers, n, _, _] = m.right();
    let count = layers * plan::EIGEN_VECTORS * n;
    let (mut vectors, mut summaries, mut scratch) = (make!(m, count), make!(m, layers), make!(m, count));
    let (k, sums, [layers, n, steps, pairs]) = (make!(m, layers * n * n), make!(m, layers * 3 * n), m.told());
    let grams = Grams { k: k.view(), sums: sums.view(), layers, examples: n };
    let (vectors, summaries) = (&mut vectors.view_mut(), &mut summaries.view_mut());
    let settled = plan::Settled { pairs, residual: 1e-6, steps };
    m.launcher().eigen_subspace(vectors, summaries, &mut scratch.view_mut(), &grams, settled)
}

fn eigen_deflate(m: &Making<'_>) -> Result<(), Error> {
    let [layers, n] = m.right();
    let (mut deflated, vectors) = (make!(m, layers * n * n), make!(m, layers * plan::EIGEN_VECTORS * n));
    let (summaries, k, sums) = (make!(m, layers), make!(m, layers * n * n), make!(m, layers * 3 * n));
    let [layers, examples] = m.told();
    let grams = Grams { k: k.view(), sums: sums.view(), layers, examples };
    m.launcher().eigen_deflate(&mut deflated.view_mut(), &vectors.view(), &summaries.view(), &grams)
}

fn eigen_naive(m: &Making<'_>) -> Result<(), Error> {
    let [layers, n, _] = m.right();
    let (mut values, mut work) = (make!(m, layers * n), make!(m, 2 * layers * n * n));
    let (k, sums, [layers, examples, steps]) = (make!(m, layers * n * n), make!(m, layers * 3 * n), m.told());
    let grams = Grams { k: k.view(), sums: sums.view(), layers, examples };
    m.launcher().eigen_naive(&mut values.view_mut(), &mut work.view_mut(), &grams, steps, 1e-12)
}

fn hsic_units(m: &Making<'_>) -> Result<(), Error> {
    let [layers] = m.right();
    let (mut sums, mut weights, rows, [layers]) = (make!(m, layers), make!(m, layers), make!(m, layers), m.told());
    m.launcher().hsic_units(&mut sums.view_mut(), &mut weights.view_mut(), &rows.view(), layers, 0.5)
}

fn hsic_naive(m: &Making<'_>) -> Result<(), Error> {
    let [layers_x, layers_y, length, stride] = m.right();
    let (mut sums, x, y) =
        (make!(m, (layers_x - 1) * stride + layers_y), make!(m, layers_x * length), make!(m, layers_y * length));
    let (weights_x, weights_y) = (make!(m, layers_x), make!(m, layers_y));
    let [layers_x, layers_y, length, stride] = m.told();
    let panels = Panels { x: x.view(), y: y.view(), layers_x, layers_y, length, symmetric: false, splits: None };
    let (weights_x, weights_y) = (weights_x.view(), weights_y.view());
    m.launcher().hsic_naive(&mut PairSums { sums: sums.view_mut(), stride, weights_x, weights_y, factor: 1.0 }, &panels)
}

pub(crate) fn hsic_mma(m: &Making<'_>) -> Result<(), Error> {
    let [layers_x, layers_y, length, splits] = m.right();
    let lengths = plan::hsic_lengths(layers_x, layers_y, false, splits);
    let of_y = plan::hsic_lengths(layers_y, layers_x, false, splits).exponents;
    let (mut partials, mut exponents_x) = (make!(m, lengths.partials), make!(m, lengths.exponents));
    let (mut exponents_y, x, y) = (make!(m, of_y), make!(m, layers_x * length), make!(m, layers_y * length));
    let [layers_x, layers_y, length, splits] = m.told();
    let splits = Some(splits);
    let panels = Panels { x: x.view(), y: y.view(), layers_x, layers_y, length, symmetric: false, splits };
    let (partials, exponents_x) = (&mut partials.view_mut(), &mut exponents_x.view_mut());
    m.launcher().hsic_mma(partials, exponents_x, &mut exponents_y.view_mut(), &panels).map(drop)
}

fn hsic_accumulate(m: &Making<'_>) -> Result<(), Error> {
    const LENGTH: usize = 7;
    let [layers_x, layers_y, stride, splits] = m.right();
    let lengths = plan::hsic_lengths(layers_x, layers_y, false, splits);
    let of_y = plan::hsic_lengths(layers_y, layers_x, false, splits).exponents;
    let (mut sums, partials) = (make!(m, (layers_x - 1) * stride + layers_y), make!(m, lengths.partials));
    let (exponents_x, exponents_y) = (make!(m, lengths.exponents), make!(m, of_y));
    let (weights_x, weights_y) = (make!(m, layers_x), make!(m, layers_y));
    // The panels themselves have been multiplied before.
    let panel = m.device.zeros("a launch", layers_x.max(layers_y) * LENGTH).unwrap();
    let [layers_x, layers_y, stride, splits] = m.told();
    let (x, y, length) = (panel.as_view(), panel.as_view(), LENGTH);
    let panels = Panels { x, y, layers_x, layers_y, length, symmetric: false, splits: None };
    let (weights_x, weights_y) = (weights_x.view(), weights_y.view());
    let mut pairs = PairSums { sums: sums.view_mut(), stride, weights_x, weights_y, factor: 1.0 };
    let (partials, exponents_x) = (&partials.view(), &exponents_x.view());
    m.launcher().hsic_accumulate(&mut pairs, partials, exponents_x, &exponents_y.view(), &panels, splits)
}
