//! Every kernel and type of stored values against float64, at shapes that no tile fits.

use gramscope_cuda::{
    Device, EigenSummary, Gram, GramMut, Grams, Launcher, LayerSum, Layers, PairSums, Panels, Partials, PartialsMut,
    RowSummary, Selection, Slice, Uploaded, Values, Weight, plan,
};
use gramscope_reference::{Matrix, gram, hsic};
use half::{bf16, f16};

use super::inputs::{normals, numbers};
use super::{Finding, Report};

/// Batches around the sizes of strips, warps and tiles, and the smallest; with features around those of slabs and chains.
const SHAPES: [[usize; 2]; 10] =
    [[4, 1], [5, 3], [16, 31], [17, 33], [31, 512], [33, 513], [64, 7], [255, 65], [256, 97], [257, 1031]];
/// Batches whose rows are whole chunks of 16 bytes, which are copied as such unless they begin beside one.
const WHOLE_ROWS: [[usize; 2]; 3] = [[17, 64], [33, 512], [257, 136]];
/// Layers of x and of y and the length of their rows; the same number: one panel.
const PANELS: [[usize; 3]; 5] = [[1, 1, 6], [3, 5, 45], [17, 17, 496], [129, 7, 33], [130, 130, 531]];

/// Error of sums in float64, relative to the largest of them.
const DOUBLE: f64 = 1e-11;
/// Error of shifts, relative to the column's largest value: float32 sums of up to 257 values, whose roundings have random
/// signs. Any shift gives the same HSIC; a worse one only costs accuracy.
const SHIFT: f64 = 2e-6;
/// Error of float32 values that were computed in more than that, relative to the largest: a few roundings.
const SINGLE: f64 = 5e-7;
/// Error of compensated products, relative to the norm of the centred matrix.
const EXACT: f64 = 1e-6;
/// Error of single TF32 or half products: their operands have 11 bits.
const FAST: f64 = 2e-3;

/// Error of what follows from the leading eigenpairs, whose residual is this small.
const EIGEN: f64 = 1e-8;

/// How values are stored.
#[derive(Clone, Copy)]
enum Stored {
    F32,
    Bf16,
    F16,
}

impl Stored {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A layer on the device, behind `start` other values, and in float64 what was stored.
struct Input {
    uploaded: Uploaded,
    start: usize,
    truth: Matrix,
    shape: [usize; 2],
}

impl Input {
    fn x(&self) -> Values<'_> {
        match &self.uploaded {
            Uploaded::F16(values) => Values::F16(values.slice(self.start..)),
            Uploaded::Bf16(values) => Values::Bf16(values.slice(self.start..)),
            Uploaded::F32(values) => Values::F32(values.slice(self.start..)),
        }
    }
}

/// Every kernel.
pub(super) fn check(report: &mut Report<'_>, device: &Device) {
    for stored in [Stored::F32, Stored::Bf16, Stored::F16] {
        let mut over = |name: &str, shapes: &[[usize; 2]], start: usize, allowed: f64, check: &Check| {
            report.check(&format!("{name}, {}", stored.name()), || {
                let mut finding = Finding::new(allowed);
                for (seed, &shape) in shapes.iter().enumerate() {
                    check(device, &input(device, stored, shape, seed as u64, start)?, &mut finding)?;
                }
                Ok(finding)
            });
        };
        let mut line = |name: &str, allowed: f64, check: &Check| over(name, &SHAPES, 0, allowed, check);
        line("gram shift", SHIFT, &shift);
        line("gram naive", DOUBLE, &|device, input, finding| products(device, input, false, finding));
        line("gram double", DOUBLE, &|device, input, finding| products(device, input, true, finding));
        line("gram distances", DOUBLE, &distances);
        line("gram fused exact", EXACT, &|device, input, finding| fused(device, input, true, finding));
        line("gram fused fast", FAST, &|device, input, finding| fused(device, input, false, finding));
        line("gram tiled exact", EXACT, &|device, input, finding| tiled(device, input, true, finding));
        line("gram tiled fast", FAST, &|device, input, finding| tiled(device, input, false, finding));
        over("gram at an odd address", &WHOLE_ROWS, 1, EXACT, &|device, input, finding| {
            products(device, input, true, finding)?;
            fused(device, input, true, finding)?;
            tiled(device, input, true, finding)
        });
    }
    report.check("ucenter", || over_shapes(SINGLE, |finding, n| centre(device, n, false, finding)));
    report.check("ucenter naive", || over_shapes(SINGLE, |finding, n| centre(device, n, true, finding)));
    report.check("rbf", || over_shapes(DOUBLE, |finding, n| kernel_values(device, n, false, finding)));
    report.check("rbf naive", || over_shapes(DOUBLE, |finding, n| kernel_values(device, n, true, finding)));
    report.check("eigen", || over_shapes(EIGEN, |finding, n| eigenpairs(device, n, finding)));
    report.check("hsic", || over_panels(EXACT, |finding, panel| pairs(device, panel, false, finding)));
    report.check("hsic naive", || over_panels(DOUBLE, |finding, panel| pairs(device, panel, true, finding)));
}

type Check<'a> = dyn Fn(&Device, &Input, &mut Finding) -> anyhow::Result<()> + 'a;

fn over_shapes(allowed: f64, check: impl Fn(&mut Finding, usize) -> anyhow::Result<()>) -> anyhow::Result<Finding> {
    let mut finding = Finding::new(allowed);
    SHAPES.iter().try_for_each(|[n, _]| check(&mut finding, *n))?;
    Ok(finding)
}

fn over_panels(
    allowed: f64,
    check: impl Fn(&mut Finding, [usize; 3]) -> anyhow::Result<()>,
) -> anyhow::Result<Finding> {
    let mut finding = Finding::new(allowed);
    PANELS.iter().try_for_each(|panel| check(&mut finding, *panel))?;
    Ok(finding)
}

/// Values around 3, so that shifting matters, behind `start` others.
fn input(device: &Device, stored: Stored, [n, p]: [usize; 2], seed: u64, start: usize) -> anyhow::Result<Input> {
    let values: Vec<f32> = normals(seed, start + n * p).into_iter().map(|value| value + 3.0).collect();
    let what = "a check";
    let (uploaded, mut wide): (Uploaded, Vec<f64>) = match stored {
        Stored::F32 => (Uploaded::F32(device.upload(what, &values)?), values.iter().map(|&x| x.into()).collect()),
        Stored::Bf16 => {
            let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            (Uploaded::Bf16(device.upload(what, &values)?), values.iter().map(|&x| x.into()).collect())
        }
        Stored::F16 => {
            let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            (Uploaded::F16(device.upload(what, &values)?), values.iter().map(|&x| x.into()).collect())
        }
    };
    wide.drain(..start);
    Ok(Input { uploaded, start, truth: Matrix::new(n, p, wide), shape: [n, p] })
}

/// Shifts and largest values on the host, and those buffers on the device.
struct Shifts {
    shift: Slice<f32>,
    largest: Slice<f32>,
    host: Vec<f64>,
}

fn shifts(device: &Device, input: &Input) -> anyhow::Result<Shifts> {
    let p = input.shape[1];
    let (mut shift, mut largest) = (device.zeros("a check", p)?, device.zeros("a check", p)?);
    let mut first_bad = device.upload("a check", &[i32::MAX])?;
    let (x, flag) = (input.x(), &mut first_bad.as_view_mut());
    let layers = [&x];
    let layers = Layers::alone(&layers, input.shape[0]);
    device.launcher().gram_shift(&mut shift.as_view_mut(), &mut largest.as_view_mut(), flag, &layers)?;
    anyhow::ensure!(device.download(&first_bad)? == [i32::MAX], "finite values are taken for bad ones");
    let host = device.download(&shift)?.into_iter().map(f64::from).collect();
    Ok(Shifts { shift, largest, host })
}

fn shift(device: &Device, input: &Input, finding: &mut Finding) -> anyhow::Result<()> {
    let found = shifts(device, input)?;
    let largest = device.download(&found.largest)?;
    let shifted = gram::shift(&input.truth);
    for (feature, (&shift, &largest)) in found.host.iter().zip(&largest).enumerate() {
        let expected = input.truth.get(0, feature) - shifted.get(0, feature);
        let scale = input.truth.column(feature).fold(0.0_f64, |most, x| most.max(x.abs()));
        finding.compare(shift / scale, expected / scale);
        finding.compare(f64::from(largest) / scale, 1.0);
    }
    Ok(())
}

/// K of the columns as the device has shifted them.
fn products(device: &Device, input: &Input, double: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let ([n, p], launcher) = (input.shape, device.launcher());
    let shifts = shifts(device, input)?;
    let mut k = device.zeros::<f64>("a check", n * n)?;
    let x = input.x();
    let layers = [&x];
    let layers = Layers::alone(&layers, n);
    if double {
        let length = plan::gram_double(n, p, device.plan()).partials;
        let mut partials = device.zeros::<f64>("a check", length)?;
        let shift = shifts.shift.as_view();
        let split = launcher.gram_double(&mut partials.as_view_mut(), &layers, &shift, None, device.plan())?;
        let mut reach = device.zeros::<f64>("a check", n)?;
        let mut on_device = GramMut { k: k.as_view_mut(), reach: reach.as_view_mut() };
        launcher.ucenter_reduce_double(&mut on_device, &partials.as_view(), None, n, &split.splits)?;
    } else {
        launcher.gram_naive(&mut k.as_view_mut(), &layers, &shifts.shift.as_view())?;
    }
    let shifted = input.truth.map(|_, feature, value| value - shifts.host[feature]);
    let expected = Matrix::from_fn(n, n, |i, j| dot(shifted.row(i), shifted.row(j)));
    let scale = expected.data.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    finding.compare_all(device.download(&k)?, &expected.data, scale);
    Ok(())
}

/// Squared distances of all pairs of examples.
fn distances(device: &Device, input: &Input, finding: &mut Finding) -> anyhow::Result<()> {
    let ([n, p], launcher) = (input.shape, device.launcher());
    let mut partials = device.zeros::<f64>("a check", plan::gram_double(n, p, device.plan()).partials)?;
    let x = input.x();
    let layers = [&x];
    let split = launcher.gram_distances(&mut partials.as_view_mut(), &Layers::alone(&layers, n))?;
    let [mut squares, mut reach] = [device.zeros::<f64>("a check", n * n)?, device.zeros::<f64>("a check", n)?];
    let mut on_device = GramMut { k: squares.as_view_mut(), reach: reach.as_view_mut() };
    launcher.ucenter_reduce_double(&mut on_device, &partials.as_view(), None, n, &split.splits)?;
    let square = |(a, b): (&f64, &f64)| (a - b) * (a - b);
    let expected = Matrix::from_fn(n, n, |i, j| input.truth.row(i).iter().zip(input.truth.row(j)).map(square).sum());
    let scale = expected.data.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(*value));
    finding.compare_all(device.download(&squares)?, &expected.data, scale);
    Ok(())
}

fn fused(device: &Device, input: &Input, exact: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let [n, p] = input.shape;
    let Some(split) = plan::gram_fused(n, p, device.plan()) else { return Ok(()) };
    let mut first_bad = device.upload("a check", &[i32::MAX])?;
    let mut shift = device.zeros::<f32>("a check", p)?;
    centred_products(device, input, split, finding, |launcher, partials, layers| {
        let (shift, first_bad) = (&mut shift.as_view_mut(), &mut first_bad.as_view_mut());
        launcher.gram_fused(exact, partials, shift, first_bad, layers, None)
    })
}

fn tiled(device: &Device, input: &Input, exact: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let [n, p] = input.shape;
    let Some(split) = plan::gram_tiled(n, p, device.plan()) else { return Ok(()) };
    let shifts = shifts(device, input)?;
    centred_products(device, input, split, finding, |launcher, partials, layers| {
        let (shift, largest) = (shifts.shift.as_view(), shifts.largest.as_view());
        launcher.gram_tiled(exact, partials, layers, &shift, &largest, None)
    })
}

/// Launches a kernel that leaves partial sums, adds them up, centres, and compares with the truth. The matrix before it is
/// centred depends on how the kernel has rounded its shifts.
fn centred_products(
    device: &Device,
    input: &Input,
    split: plan::Split,
    finding: &mut Finding,
    launch: impl FnOnce(Launcher<'_>, &mut PartialsMut<'_>, &Layers<'_>) -> Result<plan::LayersSplit, gramscope_cuda::Error>,
) -> anyhow::Result<()> {
    let (n, launcher) = (input.shape[0], device.launcher());
    let mut sums = device.zeros::<f32>("a check", split.partials)?;
    let mut exponents = device.zeros::<i32>("a check", split.exponents)?;
    let mut reaches = device.zeros::<f32>("a check", split.exponents)?;
    let mut partials =
        PartialsMut { sums: sums.as_view_mut(), exponents: exponents.as_view_mut(), reaches: reaches.as_view_mut() };
    let x = input.x();
    let layers = [&x];
    launch(launcher, &mut partials, &Layers::alone(&layers, n))?;
    let mut k = device.zeros::<f64>("a check", n * n)?;
    let mut reach = device.zeros::<f64>("a check", n)?;
    let partials = Partials { sums: sums.as_view(), exponents: exponents.as_view(), reaches: reaches.as_view() };
    let mut on_device = GramMut { k: k.as_view_mut(), reach: reach.as_view_mut() };
    launcher.ucenter_reduce(&mut on_device, &partials, None, n, &[split.splits])?;
    let found = Matrix::new(n, n, device.download(&k)?);
    let (found, expected) = (hsic::u_centre(&found), hsic::u_centre(&gram::linear(&input.truth)));
    let scale = expected.inner(&expected).sqrt();
    finding.compare_all(found.data, &expected.data, scale);
    Ok(())
}

/// Centring and packing of a random symmetric matrix, both estimators.
fn centre(device: &Device, n: usize, naive: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let mut random = numbers(n as u64);
    let mut k = Matrix::from_fn(n, n, |_, _| random.normal());
    k = k.map(|i, j, value| if i <= j { value } else { k.get(j, i) });
    let on_device = device.upload("a check", &k.data)?;
    for biased in [false, true] {
        let centred = if biased { hsic::double_centre(&k) } else { hsic::u_centre(&k) };
        let expected: Vec<f64> = (0..n)
            .flat_map(|i| (0..=i).map(move |j| (i, j)))
            .filter(|(i, j)| biased || i != j)
            .map(|(i, j)| if i == j { centred.get(i, j) * std::f64::consts::FRAC_1_SQRT_2 } else { centred.get(i, j) })
            .collect();
        let (row, summary) = packed(device, n, &on_device, naive, biased, expected.len())?;
        anyhow::ensure!(summary.state == RowSummary::CENTRED, "a matrix of {n} rows is taken for zero");
        let unit = f64::from(summary.exponent).exp2();
        let scale = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        finding.compare_all(row.into_iter().map(|value| f64::from(value) * unit), &expected, scale);
        let norm = dot(&expected, &expected);
        finding.compare(summary.norm * unit * unit / norm, 1.0);
    }
    Ok(())
}

fn packed(
    device: &Device,
    n: usize,
    k: &Slice<f64>,
    naive: bool,
    biased: bool,
    length: usize,
) -> anyhow::Result<(Vec<f32>, RowSummary)> {
    let launcher = device.launcher();
    let mut row = device.zeros::<f32>("a check", length)?;
    let mut summary = device.zeros::<RowSummary>("a check", 1)?;
    let flags = device.zeros::<i32>("a check", 1)?;
    let mut sums = device.zeros::<f64>("a check", 3 * n)?;
    let (mut row_out, mut summary_out) = (row.as_view_mut(), summary.as_view_mut());
    let reach = device.zeros::<f64>("a check", n)?;
    let (gram, flags) = (Gram { k: k.as_view(), reach: reach.as_view() }, flags.as_view());
    if naive {
        launcher.ucenter_naive(&mut row_out, &mut summary_out, &mut sums.as_view_mut(), &gram, &flags, 1, n, biased)?;
    } else {
        let mut norms = device.zeros::<f64>("a check", n)?;
        let mut arrivals = device.zeros::<u32>("a check", 1)?;
        let mut arrivals = arrivals.as_view_mut();
        launcher.ucenter_rows(&mut sums.as_view_mut(), None, &mut arrivals, &gram, 1, n, biased)?;
        launcher.ucenter_pack(
            &mut row_out,
            &mut summary_out,
            &mut norms.as_view_mut(),
            &mut arrivals,
            &gram,
            &sums.as_view(),
            &flags,
            None,
            1,
            n,
            biased,
        )?;
    }
    Ok((device.download(&row)?, device.download(&summary)?[0]))
}

/// The RBF kernel from an activation, the median of its distances found either way.
fn kernel_values(device: &Device, n: usize, naive: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let (what, shape) = ("a check", [n, 3]);
    let input = input(device, Stored::F32, shape, n as u64, 0)?;
    let expected = gram::rbf(&input.truth, 0.5);
    let launcher = device.launcher();
    let mut k = device.zeros::<f64>(what, n * n)?;
    let mut distances = device.zeros::<f64>(what, n * n)?;
    let mut reach = device.zeros::<f64>(what, n)?;
    let mut partials = device.zeros::<f64>(what, plan::gram_double(n, 3, device.plan()).partials)?;
    let mut selection = device.zeros::<Selection>(what, 1)?;
    let mut histogram = device.zeros::<u32>(what, plan::RADIX_BINS)?;
    let mut arrivals = device.zeros::<u32>(what, 1)?;
    let mut undefined = device.zeros::<i32>(what, 1)?;
    let x = input.x();
    let layers = [&x];
    let split = launcher.gram_distances(&mut partials.as_view_mut(), &Layers::alone(&layers, n))?;
    let mut squares = GramMut { k: distances.as_view_mut(), reach: reach.as_view_mut() };
    launcher.ucenter_reduce_double(&mut squares, &partials.as_view(), None, n, &split.splits)?;
    let (mut chosen, mut counts) = (selection.as_view_mut(), histogram.as_view_mut());
    let distances = distances.as_view();
    if naive {
        launcher.rbf_start(&mut chosen, &mut counts, n)?;
        launcher.rbf_naive(&mut chosen, &distances, n)?;
    } else {
        launcher.rbf_median(&mut chosen, &mut counts, &mut arrivals.as_view_mut(), &distances, n)?;
    }
    let mut in_place = k.as_view_mut();
    launcher.rbf_apply(&mut in_place, &mut undefined.as_view_mut(), &distances, &chosen.as_view(), n, 0.5)?;
    anyhow::ensure!(device.download(&undefined)? == [0], "{n} different examples have no median distance");
    finding.compare_all(device.download(&k)?, &expected.data, 1.0);
    Ok(())
}

/// The two leading eigenvalues of a centred Gram matrix against all of them, found in the simplest way, and what is left of
/// the matrix without the first: its trace is smaller by it.
fn eigenpairs(device: &Device, n: usize, finding: &mut Finding) -> anyhow::Result<()> {
    if !(plan::EIGEN_VECTORS..=64).contains(&n) {
        // Fewer examples are not for the subspace iteration, more take its naive twin long.
        return Ok(());
    }
    let (what, launcher) = ("a check", device.launcher());
    let x = Matrix::new(n, 40, normals(n as u64, 40 * n).into_iter().map(f64::from).collect());
    let k = device.upload(what, &gram::linear(&x).data)?;
    let mut sums = device.zeros::<f64>(what, 3 * n)?;
    let mut arrivals = device.zeros::<u32>(what, 1)?;
    let reach = device.zeros::<f64>(what, n)?;
    let (on_device, mut arrivals) = (Gram { k: k.as_view(), reach: reach.as_view() }, arrivals.as_view_mut());
    launcher.ucenter_rows(&mut sums.as_view_mut(), None, &mut arrivals, &on_device, 1, n, true)?;
    let grams = Grams { k: k.as_view(), sums: sums.as_view(), layers: 1, examples: n };
    let vectors = plan::EIGEN_VECTORS * n;
    let mut found = device.zeros::<f64>(what, vectors)?;
    let mut scratch = device.zeros::<f64>(what, vectors)?;
    let mut summaries = device.zeros::<EigenSummary>(what, 1)?;
    let (mut vectors, mut summary) = (found.as_view_mut(), summaries.as_view_mut());
    let settled = plan::Settled { pairs: 2, residual: 1e-10, steps: 500 };
    launcher.eigen_subspace(&mut vectors, &mut summary, &mut scratch.as_view_mut(), &grams, settled)?;
    let mut values = device.zeros::<f64>(what, n)?;
    let mut work = device.zeros::<f64>(what, 2 * n * n)?;
    launcher.eigen_naive(&mut values.as_view_mut(), &mut work.as_view_mut(), &grams, 40, 1e-14)?;
    let mut deflated = device.zeros::<f64>(what, n * n)?;
    launcher.eigen_deflate(&mut deflated.as_view_mut(), &found.as_view(), &summaries.as_view(), &grams)?;

    let summary = device.download(&summaries)?[0];
    let mut expected = device.download(&values)?;
    expected.sort_by(|a, b| b.total_cmp(a));
    let trace = hsic::double_centre(&gram::linear(&x)).data.iter().step_by(n + 1).sum::<f64>();
    let left: f64 = device.download(&deflated)?.iter().step_by(n + 1).sum();
    let pairs = [
        (summary.first, expected[0]),
        (summary.second, expected[1]),
        (summary.trace, trace),
        (expected.iter().sum(), trace),
        (left, trace - expected[0]),
    ];
    for (found, expected) in pairs {
        finding.compare(found / trace, expected / trace);
    }
    Ok(())
}

/// Two batches of panels whose rows have units far apart, summed.
fn pairs(
    device: &Device,
    [layers_x, layers_y, length]: [usize; 3],
    naive: bool,
    finding: &mut Finding,
) -> anyhow::Result<()> {
    let symmetric = layers_x == layers_y;
    let factor = 0.5;
    let mut pair_sums = device.zeros::<f64>("a check", layers_x * layers_y)?;
    let mut own_x = device.zeros::<LayerSum>("a check", layers_x)?;
    let mut own_y = device.zeros::<LayerSum>("a check", layers_y)?;
    let mut expected = vec![0.0; layers_x * layers_y];
    let mut scales = vec![0.0; layers_x * layers_y];
    for batch in 0..2 {
        let x = Side::new(device, layers_x, length, 10 * batch)?;
        let y = Side::new(device, layers_y, length, if symmetric { 10 * batch } else { 10 * batch + 5 })?;
        let weights_x = x.units(device, &mut own_x, factor)?;
        let weights_y = y.units(device, &mut own_y, factor)?;
        let panels =
            Panels { x: x.panel.as_view(), y: y.panel.as_view(), layers_x, layers_y, length, symmetric, splits: None };
        let mut sums = PairSums {
            sums: pair_sums.as_view_mut(),
            stride: layers_y,
            weights_x: weights_x.as_view(),
            weights_y: weights_y.as_view(),
            factor,
        };
        add(device, &panels, &mut sums, naive)?;
        for (index, (expected, scale)) in expected.iter_mut().zip(&mut scales).enumerate() {
            let (a, b) = (x.row(index / layers_y), y.row(index % layers_y));
            *expected += factor * dot(&a, &b);
            *scale += factor * (dot(&a, &a) * dot(&b, &b)).sqrt();
        }
    }
    let (found, own_x, own_y) = (device.download(&pair_sums)?, device.download(&own_x)?, device.download(&own_y)?);
    for (index, sum) in found.into_iter().enumerate() {
        let (i, j) = (index / layers_y, index % layers_y);
        if symmetric && j > i {
            continue;
        }
        let unit = f64::from(own_x[i].unit + own_y[j].unit).exp2();
        finding.compare(sum * unit / scales[index], expected[index] / scales[index]);
        if symmetric && i == j {
            finding.compare(own_x[i].own * unit / scales[index], expected[index] / scales[index]);
        }
    }
    Ok(())
}

/// A panel of one batch with its rows' summaries.
struct Side {
    panel: Slice<f32>,
    rows: Slice<RowSummary>,
    values: Vec<f32>,
    summaries: Vec<RowSummary>,
    length: usize,
}

impl Side {
    fn new(device: &Device, layers: usize, length: usize, seed: u64) -> anyhow::Result<Self> {
        let values = normals(seed, layers * length);
        let summary = |(layer, row): (usize, &[f32])| RowSummary {
            norm: row.iter().map(|&value| f64::from(value) * f64::from(value)).sum(),
            kappa: 1.0,
            exponent: 7 * (layer as i32 % 5) - 3 * seed as i32,
            state: RowSummary::CENTRED,
        };
        let summaries: Vec<RowSummary> = values.chunks_exact(length).enumerate().map(summary).collect();
        let (panel, rows) = (device.upload("a check", &values)?, device.upload("a check", &summaries)?);
        Ok(Self { panel, rows, values, summaries, length })
    }

    /// A row of the panel in its true size.
    fn row(&self, layer: usize) -> Vec<f64> {
        let unit = f64::from(self.summaries[layer].exponent).exp2();
        self.values[layer * self.length..][..self.length].iter().map(|&value| f64::from(value) * unit).collect()
    }

    /// Adds the rows' own sums and returns the weights of the batch.
    fn units(&self, device: &Device, own: &mut Slice<LayerSum>, factor: f64) -> anyhow::Result<Slice<Weight>> {
        let layers = self.summaries.len();
        let mut weights = device.zeros("a check", layers)?;
        let (mut own, rows) = (own.as_view_mut(), self.rows.as_view());
        device.launcher().hsic_units(&mut own, &mut weights.as_view_mut(), &rows, layers, factor)?;
        Ok(weights)
    }
}

fn add(device: &Device, panels: &Panels<'_>, sums: &mut PairSums<'_>, naive: bool) -> anyhow::Result<()> {
    let launcher = device.launcher();
    if naive {
        return Ok(launcher.hsic_naive(sums, panels)?);
    }
    let lengths = launcher.hsic_lengths(panels)?;
    let mut partials = device.zeros::<f32>("a check", lengths.partials)?;
    let mut exponents_x = device.zeros::<i32>("a check", lengths.exponents_x)?;
    let mut exponents_y = device.zeros::<i32>("a check", lengths.exponents_y.max(1))?;
    let split = launcher.hsic_mma(
        &mut partials.as_view_mut(),
        &mut exponents_x.as_view_mut(),
        &mut exponents_y.as_view_mut(),
        panels,
    )?;
    let (partials, x, y) = (partials.as_view(), exponents_x.as_view(), exponents_y.as_view());
    Ok(launcher.hsic_accumulate(sums, &partials, &x, &y, panels, split.splits)?)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
