//! Every launcher refuses what its kernel would read or write beyond, on the driver that runs the kernels' own sources: a buffer
//! that is one value short, a dimension that is out of range, larger than its buffers, or so large that lengths wrap around, a
//! start between two runs; and then nothing has been launched.
//!
//! Buffers that overlap are refused as well, but no safe program can pass them: what one of them is written through is borrowed
//! (the documentation of `Launcher` has an example that does not compile).
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;

use gramscope_cuda::plan::{self, Placing};
use gramscope_cuda::{
    Arithmetic, Convolution, Device, Error, FirstComponent, Gram, GramMut, Grams, Launcher, PairSums, Panels, Partials,
    PartialsMut, ProbeBatch, ProbeOutcome, ProbeStep, Slice, Values, View, ViewMut,
};
use support::driver::{driver, on_fake_driver};

/// What is wrong with a launch.
#[derive(Clone, Copy, Debug)]
enum Defect {
    Nothing,
    /// This buffer, counted as they are made, is a value short.
    Short(usize),
    /// This one begins a value into its memory.
    Shifted(usize),
    /// This dimension is this number.
    Dimension(usize, usize),
}

/// A dimension of a launch.
#[derive(Clone, Copy)]
enum Dimension {
    /// Of a buffer: no launch has none of it, nor one more than its buffers.
    Size(usize),
    /// Not of a buffer; no launch has none of it.
    Setting(usize),
    /// It may be 0.
    Free(usize),
}

use Dimension::{Free, Setting, Size};

/// Numbers that no dimension may be.
const BEYOND: [usize; 5] = [1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, usize::MAX];

impl Dimension {
    fn value(self) -> usize {
        let (Size(value) | Setting(value) | Free(value)) = self;
        value
    }

    /// What is refused in its place.
    fn wrong(self) -> Vec<usize> {
        let small = match self {
            Size(value) => vec![0, value + 1],
            Setting(_) => vec![0],
            Free(_) => Vec::new(),
        };
        [&small[..], &BEYOND].concat()
    }
}

/// Makes the buffers of a launcher and calls it.
type Launch = fn(&Making<'_>) -> Result<(), Error>;

/// One launcher, on buffers of the right lengths for its dimensions.
struct Family {
    name: &'static str,
    dimensions: &'static [Dimension],
    /// The buffers that must lie as runs do.
    runs: &'static [usize],
    launch: Launch,
}

const fn family(name: &'static str, dimensions: &'static [Dimension], launch: Launch) -> Family {
    Family { name, dimensions, runs: &[], launch }
}

/// A launch in the making, in which something may be wrong.
struct Making<'a> {
    device: &'a Device,
    dimensions: &'a [Dimension],
    defect: Defect,
    buffers: Cell<usize>,
}

/// A buffer, or what is left of it.
struct Made<T> {
    slice: Slice<T>,
    start: usize,
    end: usize,
}

impl<T> Made<T> {
    fn view(&self) -> View<'_, T> {
        self.slice.slice(self.start..self.end)
    }

    fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.slice.slice_mut(self.start..self.end)
    }
}

impl<'a> Making<'a> {
    fn launcher(&self) -> Launcher<'a> {
        self.device.launcher()
    }

    /// The dimensions that buffers have.
    fn right<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|index| self.dimensions[index].value())
    }

    /// Those that the launcher is told.
    fn told<const N: usize>(&self) -> [usize; N] {
        let mut told = self.right();
        if let Defect::Dimension(index, value) = self.defect {
            told[index] = value;
        }
        told
    }

    /// The next buffer, of so many values and one more in `slice`.
    fn made<T>(&self, slice: Slice<T>) -> Made<T> {
        let (index, length) = (self.buffers.replace(self.buffers.get() + 1), slice.len() - 1);
        let (start, end) = match self.defect {
            Defect::Short(short) if short == index => (0, length - 1),
            Defect::Shifted(shifted) if shifted == index => (1, length + 1),
            _ => (0, length),
        };
        Made { slice, start, end }
    }
}

/// The next buffer of a launch in the making, of so many values.
macro_rules! make {
    ($making:expr, $length:expr) => {
        $making.made($making.device.zeros("a launch", $length + 1).unwrap())
    };
}

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

fn ucenter_reduce(m: &Making<'_>) -> Result<(), Error> {
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

fn ucenter_rows(m: &Making<'_>) -> Result<(), Error> {
    let [n] = m.right();
    let (mut sums, mut redo, mut arrivals) = (make!(m, 3 * n), make!(m, 1), make!(m, 1));
    let (k, reach, needed) = (make!(m, n * n), make!(m, n), make!(m, 1));
    let ([n], gram) = (m.told(), Gram { k: k.view(), reach: reach.view() });
    let (sums, redo, arrivals) = (&mut sums.view_mut(), &mut redo.view_mut(), &mut arrivals.view_mut());
    m.launcher().ucenter_rows(sums, Some(redo), arrivals, &gram, Some(&needed.view()), n, false, plan::EXACT)
}

fn ucenter_pack(m: &Making<'_>) -> Result<(), Error> {
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

fn ucenter_naive(m: &Making<'_>) -> Result<(), Error> {
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

/// The convolution that buffers are made for, and the one that the launcher is told of.
fn convolutions(m: &Making<'_>) -> [Convolution; 2] {
    [m.right(), m.told()].map(|[images, height, width, from, to, kernel, stride, padding]| Convolution {
        images,
        height,
        width,
        from,
        to,
        kernel,
        stride,
        padding,
    })
}

fn convolution_forward(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut y, x) = (make!(m, right.y_length()), make!(m, right.x_length()));
    let (weight, bias) = (make!(m, right.weight_length()), make!(m, right.to));
    let (y, x, weight, bias) = (&mut y.view_mut(), &x.view(), &weight.view(), &bias.view());
    match naive {
        true => m.launcher().convolution_forward_naive::<f32>(y, x, weight, bias, &told, Arithmetic::Float32),
        false => m.launcher().convolution_forward::<f32>(y, x, weight, bias, &told, Arithmetic::Float32),
    }
}

fn convolution_input_gradient(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dx, dy) = (make!(m, right.x_length()), make!(m, right.y_length()));
    let weight = make!(m, right.weight_length());
    let (dx, dy, weight) = (&mut dx.view_mut(), &dy.view(), &weight.view());
    match naive {
        true => m.launcher().convolution_input_gradient_naive::<f32>(dx, dy, weight, &told, Arithmetic::Tf32, true),
        false => m.launcher().convolution_input_gradient::<f32>(dx, dy, weight, &told, Arithmetic::Tf32, true),
    }
}

fn convolution_weight_gradient(m: &Making<'_>) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dweight, mut dbias) = (make!(m, right.weight_length()), make!(m, right.to));
    let mut scratch = make!(m, plan::convolution::scratch(&right));
    let (x, dy) = (make!(m, right.x_length()), make!(m, right.y_length()));
    let (dweight, dbias, scratch) = (&mut dweight.view_mut(), &mut dbias.view_mut(), &mut scratch.view_mut());
    let (x, dy) = (&x.view(), &dy.view());
    m.launcher().convolution_weight_gradient::<f32>(dweight, dbias, scratch, x, dy, &told, Arithmetic::Float32)
}

fn convolution_weight_gradient_naive(m: &Making<'_>) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dweight, mut dbias) = (make!(m, right.weight_length()), make!(m, right.to));
    let (x, dy) = (make!(m, right.x_length()), make!(m, right.y_length()));
    // It needs no scratch.
    let mut none = m.device.zeros("a launch", 1).unwrap();
    let (dweight, dbias, none) = (&mut dweight.view_mut(), &mut dbias.view_mut(), &mut none.as_view_mut());
    let (x, dy) = (&x.view(), &dy.view());
    m.launcher().convolution_weight_gradient_naive::<f32>(dweight, dbias, none, x, dy, &told, Arithmetic::Float32)
}

fn convolution_bias_gradient(m: &Making<'_>) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dbias, mut scratch) = (make!(m, right.to), make!(m, plan::convolution::bias_scratch(&right)));
    let dy = make!(m, right.y_length());
    let (dbias, scratch) = (&mut dbias.view_mut(), &mut scratch.view_mut());
    m.launcher().convolution_bias_gradient::<f32>(dbias, scratch, &dy.view(), &told)
}

fn batch_norm_statistics(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [rows, channels] = m.right();
    let (mut statistics, mut running) = (make!(m, 2 * channels), make!(m, 2 * channels));
    let x = make!(m, rows * channels);
    let (statistics, running, x) = (&mut statistics.view_mut(), &mut running.view_mut(), &x.view());
    if naive {
        let [rows, channels] = m.told();
        return m.launcher().batch_norm_statistics_naive::<f32>(statistics, running, x, rows, channels);
    }
    let mut scratch = make!(m, plan::training::batch_norm(rows, channels, size_of::<f32>()).partials);
    let [rows, channels] = m.told();
    m.launcher().batch_norm_statistics::<f32>(statistics, running, &mut scratch.view_mut(), x, rows, channels)
}

fn batch_norm_normalise(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [rows, channels] = m.right();
    let count = rows * channels;
    let (mut y, x, addend) = (make!(m, count), make!(m, count), make!(m, count));
    let (statistics, gamma, beta) = (make!(m, 2 * channels), make!(m, channels), make!(m, channels));
    let ([rows, channels], launcher) = (m.told(), m.launcher());
    let (y, x, addend) = (&mut y.view_mut(), &x.view(), Some(&addend.view()));
    let (statistics, gamma, beta) = (&statistics.view(), &gamma.view(), &beta.view());
    match naive {
        true => launcher.batch_norm_normalise_naive::<f32>(y, x, statistics, gamma, beta, addend, true, rows, channels),
        false => launcher.batch_norm_normalise::<f32>(y, x, statistics, gamma, beta, addend, true, rows, channels),
    }
}

fn batch_norm_backward(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [rows, channels] = m.right();
    let count = rows * channels;
    let (mut dx, mut daddend, x, y, dy) =
        (make!(m, count), make!(m, count), make!(m, count), make!(m, count), make!(m, count));
    let (mut dgamma, mut dbeta) = (make!(m, channels), make!(m, channels));
    let (statistics, gamma, beta) = (make!(m, 2 * channels), make!(m, channels), make!(m, channels));
    let (dx, daddend) = (&mut dx.view_mut(), &mut daddend.view_mut());
    let (x, y, dy) = (&x.view(), &y.view(), &dy.view());
    let (dgamma, dbeta) = (&mut dgamma.view_mut(), &mut dbeta.view_mut());
    let (statistics, gamma, beta, launcher) = (&statistics.view(), &gamma.view(), &beta.view(), m.launcher());
    let (daddend, y) = (Some(daddend), Some(y));
    if naive {
        let [rows, channels] = m.told();
        return launcher.batch_norm_backward_naive::<f32>(
            dx, daddend, dgamma, dbeta, x, y, dy, statistics, gamma, beta, true, rows, channels,
        );
    }
    let mut scratch = make!(m, plan::training::batch_norm(rows, channels, size_of::<f32>()).partials);
    let ([rows, channels], scratch) = (m.told(), &mut scratch.view_mut());
    launcher.batch_norm_backward::<f32>(
        dx, daddend, dgamma, dbeta, scratch, x, y, dy, statistics, gamma, beta, true, rows, channels,
    )
}

fn add(m: &Making<'_>) -> Result<(), Error> {
    let [length] = m.right();
    let (mut sum, addend, [length]) = (make!(m, length), make!(m, length), m.told());
    m.launcher().add::<f32>(&mut sum.view_mut(), &addend.view(), length)
}

fn relu(m: &Making<'_>) -> Result<(), Error> {
    let [length] = m.right();
    let (mut x, [length]) = (make!(m, length), m.told());
    m.launcher().relu::<f32>(&mut x.view_mut(), length)
}

fn narrow(m: &Making<'_>) -> Result<(), Error> {
    let [length] = m.right();
    let (mut narrow, x, [length]) = (make!(m, length), make!(m, length), m.told());
    m.launcher().narrow(&mut narrow.view_mut(), &x.view(), length)
}

fn average_pool(m: &Making<'_>) -> Result<(), Error> {
    let [images, pixels, channels] = m.right();
    let (mut pooled, x) = (make!(m, images * channels), make!(m, images * pixels * channels));
    let [images, pixels, channels] = m.told();
    m.launcher().average_pool::<f32>(&mut pooled.view_mut(), &x.view(), images, pixels, channels)
}

fn average_pool_backward(m: &Making<'_>) -> Result<(), Error> {
    let [images, pixels, channels] = m.right();
    let (mut dx, dpooled) = (make!(m, images * pixels * channels), make!(m, images * channels));
    let [images, pixels, channels] = m.told();
    m.launcher().average_pool_backward::<f32>(&mut dx.view_mut(), &dpooled.view(), images, pixels, channels)
}

/// Values of a layer of max pooling, and of its result.
fn pooled([images, height, width, channels]: [usize; 4]) -> [usize; 2] {
    let results = images * plan::training::max_pooled(height) * plan::training::max_pooled(width) * channels;
    [images * height * width * channels, results]
}

fn max_pool(m: &Making<'_>, squares: bool) -> Result<(), Error> {
    let [count, results] = pooled(m.right());
    let (mut y, x, [images, height, width, channels]) = (make!(m, results), make!(m, count), m.told());
    let (y, x) = (&mut y.view_mut(), &x.view());
    match squares {
        true => m.launcher().square_pool::<f32>(y, x, images, [height, width, channels]),
        false => m.launcher().max_pool::<f32>(y, x, images, height, width, channels),
    }
}

fn max_pool_backward(m: &Making<'_>) -> Result<(), Error> {
    let [count, results] = pooled(m.right());
    let (mut dx, x, y, dy) = (make!(m, count), make!(m, count), make!(m, results), make!(m, results));
    let ([images, height, width, channels], dx) = (m.told(), &mut dx.view_mut());
    m.launcher().max_pool_backward::<f32>(dx, &x.view(), &y.view(), &dy.view(), images, height, width, channels)
}

fn draw_shares(m: &Making<'_>) -> Result<(), Error> {
    let [blocks, batch] = m.right();
    // The order is of any length.
    let (mut shares, order) = (make!(m, 2 * blocks * batch), m.device.upload("a launch", &[2_u32, 0, 1]).unwrap());
    let (place, [blocks, batch]) = (make!(m, 1), m.told());
    m.launcher().draw_shares(&mut shares.view_mut(), &order.as_view(), &place.view(), 3, blocks, batch)
}

fn mix(m: &Making<'_>) -> Result<(), Error> {
    let [images, length] = m.right();
    let count = images * length;
    let (mut mixed, other, addend, shares) = (make!(m, count), make!(m, count), make!(m, count), make!(m, images));
    let ([images, length], addend, shares) = (m.told(), addend.view(), shares.view());
    m.launcher().mix::<f32>(&mut mixed.view_mut(), &other.view(), Some(&addend), Some(&shares), images, length)
}

fn mix_backward(m: &Making<'_>) -> Result<(), Error> {
    let [images, length] = m.right();
    let count = images * length;
    let (mut dmixed, mut dother, mut daddend) = (make!(m, count), make!(m, count), make!(m, count));
    let (y, shares, [images, length]) = (make!(m, count), make!(m, images), m.told());
    let (dmixed, dother, daddend) = (&mut dmixed.view_mut(), &mut dother.view_mut(), &mut daddend.view_mut());
    m.launcher().mix_backward::<f32>(dmixed, dother, daddend, &y.view(), &shares.view(), images, length)
}

fn loss(m: &Making<'_>) -> Result<(), Error> {
    let [images, classes] = m.right();
    let (mut dlogits, mut totals) = (make!(m, images * classes), make!(m, 2));
    let (logits, labels, [images, classes]) = (make!(m, images * classes), make!(m, images), m.told());
    let (dlogits, totals) = (&mut dlogits.view_mut(), &mut totals.view_mut());
    m.launcher().softmax_cross_entropy(dlogits, totals, &logits.view(), &labels.view(), images, classes)
}

fn sgd(m: &Making<'_>) -> Result<(), Error> {
    const LENGTH: usize = 5;
    // All others are as long as the weights.
    let mut weights = m.device.zeros("a launch", LENGTH).unwrap();
    let (mut velocities, gradients, rate, [decaying]) = (make!(m, LENGTH), make!(m, LENGTH), make!(m, 1), m.told());
    let (weights, velocities) = (&mut weights.as_view_mut(), &mut velocities.view_mut());
    m.launcher().sgd(weights, velocities, &gradients.view(), &rate.view(), 0.9, 1e-3, decaying)
}

fn first_component(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [n, p] = m.right();
    let (mut dx, x, vector, summary) = (make!(m, n * p), make!(m, n * p), make!(m, n), make!(m, 1));
    let component = FirstComponent { vector: vector.view(), summary: summary.view() };
    let (dx, x) = (&mut dx.view_mut(), &x.view());
    match naive {
        true => m.launcher().first_component_naive::<f32>(dx, x, &component, 0.5, 0.1, m.told()),
        false => m.launcher().first_component_gradient::<f32>(dx, x, &component, 0.5, 0.1, m.told()),
    }
}

fn augment(m: &Making<'_>) -> Result<(), Error> {
    const STORED: usize = 3;
    let [batch, side, _] = m.right();
    let (mut images, mut labels_out) = (make!(m, batch * side * side * 3), make!(m, batch));
    let pixels = make!(m, STORED * side * side * 3);
    // There are as many images as labels, and an order of any length.
    let [labels, rows, order] = [STORED; 3].map(|length| m.device.zeros("a launch", length).unwrap());
    let (place, [batch, side, padding]) = (make!(m, 1), m.told());
    let (images, labels_out) = (&mut images.view_mut(), &mut labels_out.view_mut());
    let (labels, rows, order) = (&labels.as_view(), &rows.as_view(), &order.as_view());
    let placing = Placing { seed: 1, padding, flip: true };
    let (pixels, place) = (&pixels.view(), &place.view());
    m.launcher().augment::<f32>(images, labels_out, pixels, labels, rows, order, place, placing, batch, side)
}

fn advance(m: &Making<'_>) -> Result<(), Error> {
    let (mut place, [batch]) = (make!(m, 1), m.told());
    m.launcher().advance(&mut place.view_mut(), batch)
}

fn probe_products(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [n, p, k] = m.right();
    let splits = if naive { 1 } else { plan::probe::probe(n, p, k).splits };
    let (mut partials, x) = (make!(m, splits * n * k), make!(m, n * p));
    let (weights, record, [examples, features, classes]) = (make!(m, (p + 1) * k), make!(m, 1), m.told());
    let batch = ProbeBatch::<f32> { x: x.view(), examples, features, classes };
    let (partials, weights, record) = (&mut partials.view_mut(), &weights.view(), &record.view());
    match naive {
        true => m.launcher().probe_products_naive(partials, &batch, weights, record).map(drop),
        false => m.launcher().probe_products(partials, &batch, weights, record).map(drop),
    }
}

fn probe_outcome(m: &Making<'_>) -> Result<(), Error> {
    let [n, p, k, splits] = m.right();
    let lengths = plan::probe::probe(n, p, k);
    let (mut dlogits, mut logits, mut totals) = (make!(m, n * lengths.row), make!(m, n * k), make!(m, lengths.totals));
    let (mut arrivals, mut record, partials) = (make!(m, 1), make!(m, 1), make!(m, splits * n * k));
    let (x, weights, labels) = (make!(m, n * p), make!(m, (p + 1) * k), make!(m, n));
    let [examples, features, classes, splits] = m.told();
    let batch = ProbeBatch::<f32> { x: x.view(), examples, features, classes };
    let mut outcome = ProbeOutcome {
        dlogits: Some(dlogits.view_mut()),
        logits: logits.view_mut(),
        totals: totals.view_mut(),
        arrivals: arrivals.view_mut(),
    };
    let (record, partials, weights) = (&mut record.view_mut(), &partials.view(), &weights.view());
    m.launcher().probe_outcome(&mut outcome, record, partials, splits, &batch, weights, &labels.view())
}

fn probe_update(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [n, p, k] = m.right();
    let row = plan::probe::probe(n, p, k).row;
    let (mut weights, x, dlogits) = (make!(m, (p + 1) * k), make!(m, n * p), make!(m, n * row));
    let (mut velocities, record, [examples, features, classes]) = (make!(m, (p + 1) * k), make!(m, 1), m.told());
    let batch = ProbeBatch::<f32> { x: x.view(), examples, features, classes };
    let (weights, velocities) = (&mut weights.view_mut(), &mut velocities.view_mut());
    let (dlogits, record, step) = (&dlogits.view(), &record.view(), ProbeStep { learning_rate: 0.1, momentum: 0.9 });
    match naive {
        true => m.launcher().probe_update_naive(weights, velocities, &batch, dlogits, record, step),
        false => m.launcher().probe_update(weights, velocities, &batch, dlogits, record, step),
    }
}

/// So many pixels that the gradients of weights and of biases are summed in groups.
const CONVOLUTION: &[Dimension] = &[Size(3), Size(15), Size(16), Size(4), Size(5), Setting(3), Setting(1), Free(1)];
/// The same of what has no image and no weights.
const BIASES: &[Dimension] = &[Size(3), Size(35), Size(34), Setting(4), Size(5), Setting(3), Setting(1), Free(1)];
const GRAM: &[Dimension] = &[Size(5), Size(6)];
const NORM: &[Dimension] = &[Size(3), Size(4)];
const POOL: &[Dimension] = &[Size(2), Size(3), Size(5), Size(3)];
const PROBE: &[Dimension] = &[Size(3), Size(8), Size(5)];

const FAMILIES: &[Family] = &[
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
    family("convolution_forward", CONVOLUTION, |m| convolution_forward(m, false)),
    family("convolution_forward_naive", CONVOLUTION, |m| convolution_forward(m, true)),
    family("convolution_input_gradient", CONVOLUTION, |m| convolution_input_gradient(m, false)),
    family("convolution_input_gradient_naive", CONVOLUTION, |m| convolution_input_gradient(m, true)),
    family("convolution_weight_gradient", CONVOLUTION, convolution_weight_gradient),
    family("convolution_weight_gradient_naive", CONVOLUTION, convolution_weight_gradient_naive),
    family("convolution_bias_gradient", BIASES, convolution_bias_gradient),
    Family { runs: &[2], ..family("batch_norm_statistics", NORM, |m| batch_norm_statistics(m, false)) },
    family("batch_norm_statistics_naive", NORM, |m| batch_norm_statistics(m, true)),
    Family { runs: &[0, 1, 2], ..family("batch_norm_normalise", NORM, |m| batch_norm_normalise(m, false)) },
    family("batch_norm_normalise_naive", NORM, |m| batch_norm_normalise(m, true)),
    Family { runs: &[0, 1, 2, 3, 4], ..family("batch_norm_backward", NORM, |m| batch_norm_backward(m, false)) },
    family("batch_norm_backward_naive", NORM, |m| batch_norm_backward(m, true)),
    family("add", &[Size(9)], add),
    family("relu", &[Size(9)], relu),
    family("narrow", &[Size(9)], narrow),
    family("average_pool", &[Size(2), Size(3), Size(5)], average_pool),
    family("average_pool_backward", &[Size(2), Size(3), Size(5)], average_pool_backward),
    family("max_pool", POOL, |m| max_pool(m, false)),
    family("square_pool", POOL, |m| max_pool(m, true)),
    family("max_pool_backward", POOL, max_pool_backward),
    family("draw_shares", &[Size(2), Size(3)], draw_shares),
    family("mix", &[Size(2), Size(9)], mix),
    family("mix_backward", &[Size(2), Size(9)], mix_backward),
    family("loss", &[Size(3), Size(4)], loss),
    family("sgd", &[Free(2)], sgd),
    family("first_component", &[Size(3), Size(5)], |m| first_component(m, false)),
    family("first_component_naive", &[Size(3), Size(5)], |m| first_component(m, true)),
    family("augment", &[Size(2), Size(5), Free(2)], augment),
    family("advance", &[Free(2)], advance),
    Family { runs: &[1, 2], ..family("probe_products", PROBE, |m| probe_products(m, false)) },
    Family { runs: &[1, 2], ..family("probe_products_naive", PROBE, |m| probe_products(m, true)) },
    family("probe_outcome", &[Size(3), Size(8), Size(5), Size(2)], probe_outcome),
    Family { runs: &[0, 1, 2], ..family("probe_update", PROBE, |m| probe_update(m, false)) },
    Family { runs: &[0, 1, 2], ..family("probe_update_naive", PROBE, |m| probe_update(m, true)) },
];

impl Family {
    /// Launches it, and says how many buffers it has.
    fn try_with(&self, device: &Device, defect: Defect) -> (Result<(), Error>, usize) {
        let making = Making { device, dimensions: self.dimensions, defect, buffers: Cell::new(0) };
        let outcome = (self.launch)(&making);
        device.synchronise().unwrap();
        (outcome, making.buffers.get())
    }

    /// It is refused, for a reason with these words in it.
    fn refuses(&self, device: &Device, defect: Defect, words: &str) -> usize {
        let (outcome, buffers) = self.try_with(device, defect);
        let error = outcome.err().unwrap_or_else(|| panic!("{}, {defect:?}: launched", self.name));
        let is_typed = matches!(error, Error::Argument { .. });
        assert!(is_typed && error.to_string().contains(words), "{}, {defect:?}: {error}", self.name);
        buffers
    }
}

#[test]
fn launchers_launch_what_is_right() {
    if let Some(trace) = on_fake_driver(&driver(), "launchers_launch_what_is_right") {
        assert!(trace.launches() >= FAMILIES.len(), "{} launches", trace.launches());
        return;
    }
    let device = Device::open(0).unwrap();
    for family in FAMILIES {
        if let (Err(error), _) = family.try_with(&device, Defect::Nothing) {
            panic!("{}: {error}", family.name);
        }
    }
}

#[test]
fn launchers_refuse_what_is_wrong_and_launch_nothing() {
    if let Some(trace) = on_fake_driver(&driver(), "launchers_refuse_what_is_wrong_and_launch_nothing") {
        assert_eq!(trace.launches(), 0);
        return;
    }
    let device = Device::open(0).unwrap();
    for family in FAMILIES {
        let buffers = family.refuses(&device, Defect::Short(0), "at least");
        for index in 1..buffers {
            family.refuses(&device, Defect::Short(index), "at least");
        }
        for &index in family.runs {
            family.refuses(&device, Defect::Shifted(index), "aligned to");
        }
        for (index, dimension) in family.dimensions.iter().enumerate() {
            for value in dimension.wrong() {
                family.refuses(&device, Defect::Dimension(index, value), "");
            }
        }
    }
}

/// The unbiased estimator divides by n - 2 and n - 3; the biased one, and adding up products, do not.
#[test]
fn fewer_than_four_examples_are_for_the_biased_estimator_alone() {
    if on_fake_driver(&driver(), "fewer_than_four_examples_are_for_the_biased_estimator_alone").is_some() {
        return;
    }
    const FEW: &[(&str, Launch, bool)] = &[
        ("ucenter_rows", ucenter_rows, false),
        ("ucenter_pack", ucenter_pack, false),
        ("ucenter_naive", ucenter_naive, true),
        ("ucenter_reduce", ucenter_reduce, true),
    ];
    let device = Device::open(0).unwrap();
    for &(name, launch, biased) in FEW {
        for dimensions in [&[Size(2), Size(1)], &[Size(3), Size(1)], &[Size(4), Size(1)]] {
            let making = Making { device: &device, dimensions, defect: Defect::Nothing, buffers: Cell::new(0) };
            let (outcome, n) = (launch(&making), dimensions[0].value());
            assert_eq!(outcome.is_ok(), biased || n == 4, "{name}, {n} examples: {outcome:?}");
        }
    }
}
