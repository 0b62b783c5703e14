//! Launchers of what compares: Gram matrices, centring, radial kernels, eigenvectors, HSIC.

use gramscope_cuda::plan;
use gramscope_cuda::{Error, Gram, GramMut, Grams, PairSums, Panels, Partials, PartialsMut, Values};

use crate::making::Dimension::{Free, Setting, Size};
use crate::making::{Dimension, Family, Making, family};

const GRAM: &[Dimension] = &[Size(5), Size(6)];

pub(crate) const FAMILIES: &[Family] = &[
    family("gram_shift", GRAM, gram_shift),
    family("gram_naive", GRAM, gram_naive),
    family("gram_fused", GRAM, gram_fused),
    family("gram_tiled", GRAM, gram_tiled),
    family("gram_double", GRAM, gram_double),
    family("gram_distances", GRAM, gram_distances),
    family("ucenter_reduce", &[Size(5), Size(2)], ucenter_reduce),
    family("ucenter_reduce_double", &[Size(5), Size(2)], ucenter_reduce_double),
    family("ucenter_rows", &[Size(5)], ucenter_rows),
    family("ucenter_pack", &[Size(5)], ucenter_pack),
    family("ucenter_naive", &[Size(5)], ucenter_naive),
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

fn gram_shift(m: &Making<'_>) -> Result<(), Error> {
    let [n, p] = m.right();
    let (mut shift, mut largest, mut bad, x) = (make!(m, p), make!(m, p), make!(m, 1), make!(m, n * p));
    let x = Values::F32(x.view());
    m.launcher().gram_shift(&mut shift.view_mut(), &mut largest.view_mut(), &mut bad.view_mut(), &x, None, m.told())
}

fn gram_naive(m: &Making<'_>) -> Result<(), Error> {
    let [n, p] = m.right();
    let (mut k, x, shift) = (make!(m, n * n), make!(m, n * p), make!(m, p));
    m.launcher().gram_naive(&mut k.view_mut(), &Values::F32(x.view()), &shift.view(), m.told())
}

fn gram_fused(m: &Making<'_>) -> Result<(), Error> {
    let [n, p] = m.right();
    let split = plan::gram_fused(n, p, m.device.plan()).unwrap();
    let (mut sums, mut exponents) = (make!(m, split.partials), make!(m, split.exponents));
    let (mut reaches, mut bad, x) = (make!(m, split.exponents), make!(m, 1), make!(m, n * p));
    let mut partials =
        PartialsMut { sums: sums.view_mut(), exponents: exponents.view_mut(), reaches: reaches.view_mut() };
    let x = Values::F32(x.view());
    m.launcher().gram_fused(true, &mut partials, &mut bad.view_mut(), &x, None, m.told()).map(drop)
}

fn gram_tiled(m: &Making<'_>) -> Result<(), Error> {
    let [n, p] = m.right();
    let split = plan::gram_tiled(n, p, m.device.plan()).unwrap();
    let (mut sums, mut exponents) = (make!(m, split.partials), make!(m, split.exponents));
    let (mut reaches, x, shift, largest) = (make!(m, split.exponents), make!(m, n * p), make!(m, p), make!(m, p));
    let mut partials =
        PartialsMut { sums: sums.view_mut(), exponents: exponents.view_mut(), reaches: reaches.view_mut() };
    let x = Values::F32(x.view());
    m.launcher().gram_tiled(false, &mut partials, &x, &shift.view(), &largest.view(), None, m.told()).map(drop)
}

fn gram_double(m: &Making<'_>) -> Result<(), Error> {
    let ([n, p], planned) = (m.right(), m.device.plan());
    let length = plan::gram_double(n, p, planned).partials;
    let (mut partials, x, shift) = (make!(m, length), make!(m, n * p), make!(m, p));
    let x = Values::F32(x.view());
    m.launcher().gram_double(&mut partials.view_mut(), &x, &shift.view(), None, m.told(), planned).map(drop)
}

fn gram_distances(m: &Making<'_>) -> Result<(), Error> {
    let [n, p] = m.right();
    let length = plan::gram_double(n, p, m.device.plan()).partials;
    let (mut partials, x) = (make!(m, length), make!(m, n * p));
    m.launcher().gram_distances(&mut partials.view_mut(), &Values::F32(x.view()), m.told()).map(drop)
}

pub(crate) fn ucenter_reduce(m: &Making<'_>) -> Result<(), Error> {
    let [n, splits] = m.right();
    let lengths = plan::gram_lengths(n, splits);
    let (mut k, mut reach, sums) = (make!(m, n * n), make!(m, n), make!(m, lengths.partials));
    let (exponents, reaches) = (make!(m, lengths.exponents), make!(m, lengths.exponents));
    let partials = Partials { sums: sums.view(), exponents: exponents.view(), reaches: reaches.view() };
    let ([n, splits], mut gram) = (m.told(), GramMut { k: k.view_mut(), reach: reach.view_mut() });
    m.launcher().ucenter_reduce(&mut gram, &partials, None, n, splits)
}

fn ucenter_reduce_double(m: &Making<'_>) -> Result<(), Error> {
    let [n, splits] = m.right();
    let (mut k, mut reach) = (make!(m, n * n), make!(m, n));
    let partials = make!(m, plan::gram_lengths(n, splits).partials);
    let ([n, splits], mut gram) = (m.told(), GramMut { k: k.view_mut(), reach: reach.view_mut() });
    m.launcher().ucenter_reduce_double(&mut gram, &partials.view(), None, n, splits)
}

pub(crate) fn ucenter_rows(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut sums, mut redo, mut arrivals) = (make!(m, 3 * n), make!(m, 1), make!(m, 1));
    let (k, reach, needed) = (make!(m, n * n), make!(m, n), make!(m, 1));
    let ([n], gram) = (m.told(), Gram { k: k.view(), reach: reach.view() });
    let (sums, redo, arrivals) = (&mut sums.view_mut(), &mut redo.view_mut(), &mut arrivals.view_mut());
    m.launcher().ucenter_rows(sums, Some(redo), arrivals, &gram, Some(&needed.view()), n, false, plan::EXACT)
}

pub(crate) fn ucenter_pack(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut row, mut summary, mut norms) = (make!(m, n * (n - 1) / 2), make!(m, 1), make!(m, n));
    let (mut arrivals, k, reach, sums) = (make!(m, 1), make!(m, n * n), make!(m, n), make!(m, 3 * n));
    let (in_double, undefined) = (make!(m, 1), make!(m, 1));
    let ([n], gram) = (m.told(), Gram { k: k.view(), reach: reach.view() });
    let (row, summary, norms) = (&mut row.view_mut(), &mut summary.view_mut(), &mut norms.view_mut());
    let (arrivals, sums, in_double) = (&mut arrivals.view_mut(), &sums.view(), &in_double.view());
    let undefined = &undefined.view();
    m.launcher().ucenter_pack(row, summary, norms, arrivals, &gram, sums, in_double, Some(undefined), n, false)
}

pub(crate) fn ucenter_naive(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut row, mut summary, mut sums) = (make!(m, n * (n + 1) / 2), make!(m, 1), make!(m, 3 * n));
    let (k, reach, in_double) = (make!(m, n * n), make!(m, n), make!(m, 1));
    let ([n], gram) = (m.told(), Gram { k: k.view(), reach: reach.view() });
    let (row, summary, sums) = (&mut row.view_mut(), &mut summary.view_mut(), &mut sums.view_mut());
    m.launcher().ucenter_naive(row, summary, sums, &gram, &in_double.view(), n, true)
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

fn hsic_mma(m: &Making<'_>) -> Result<(), Error> {
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
