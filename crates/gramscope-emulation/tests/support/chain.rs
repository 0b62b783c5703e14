//! From activations to CKA by kernels, launched as the launchers do it.

use gramscope_cuda::plan::{self, Better, Bounds, Device};
use gramscope_cuda::shapes::{
    CentreShape, GramShape, HsicShape, LayerSplits, LayerSum, LayerValues, RowSummary, Weight,
};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::Matrix;

use super::{Element, stored};

/// Which products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    Exact,
    Fast,
}

impl Products {
    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}

/// Everything that a run depends on beside its input.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub device: Device,
    pub products: Products,
    pub biased: bool,
    /// The order of threads.
    pub seed: u64,
    /// Values by which activations start behind an aligned address.
    pub shift: usize,
    /// `tiled` though `fused` would do.
    pub tiled: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self { device: super::SMALL, products: Products::Exact, biased: false, seed: 1, shift: 0, tiled: false }
    }
}

/// An activation in device memory.
pub struct Input<T> {
    pub x: Buffer<T>,
    pub n: usize,
    pub p: usize,
}

impl<T: Element> Input<T> {
    pub fn new(x: &Matrix, run: Run) -> Self {
        Self { x: Buffer::misaligned(&stored::<T>(x), run.shift), n: x.rows, p: x.cols }
    }

    /// As kernels are told of it.
    pub fn values(&self) -> LayerValues {
        LayerValues::new(&[(self.x.address(), self.p as i64)])
    }

    fn shape(&self, buffers: usize) -> GramShape {
        GramShape { examples: self.n as i32, buffers: buffers as i32, ..GramShape::default() }
    }
}

/// The first bad example, if there is one.
pub type Bad = Option<usize>;

fn bad(flag: &Buffer<i32>) -> Bad {
    (flag.values()[0] != i32::MAX).then(|| flag.values()[0] as usize)
}

fn matrix(n: usize, k: &Buffer<f64>) -> Matrix {
    Matrix::new(n, n, k.values().to_vec())
}

/// Shifts and largest values of the columns.
pub struct Columns {
    pub shifts: Buffer<f32>,
    pub largest: Buffer<f32>,
    pub bad: Bad,
}

pub fn columns<T: Element>(input: &Input<T>, run: Run) -> Columns {
    let (mut shifts, mut largest) = (Buffer::poisoned(input.p), Buffer::poisoned(input.p));
    let mut flag = Buffer::new(&[i32::MAX]);
    let entry = format!("gs_gram_shift_{}", T::SUFFIX);
    let launch = Launch::new(&entry).geometry(plan::gram_shift(input.p, 1)).seed(run.seed);
    let launch = launch.output(&mut shifts).output(&mut largest).output(&mut flag);
    launch.value(input.values()).reading(&input.x).value(input.shape(0)).run().unwrap();
    Columns { bad: bad(&flag), shifts, largest }
}

pub fn gram_naive<T: Element>(input: &Input<T>, columns: &Columns) -> Matrix {
    let mut k = Buffer::poisoned(input.n * input.n);
    let entry = format!("gs_gram_naive_{}", T::SUFFIX);
    let launch = Launch::new(&entry).geometry(plan::gram_naive(input.n, 1)).output(&mut k);
    let launch = launch.value(input.values()).reading(&input.x).input(&columns.shifts);
    launch.value(input.shape(0)).run().unwrap();
    matrix(input.n, &k)
}

/// A Gram matrix and its reach.
pub struct Gram {
    pub k: Buffer<f64>,
    pub reach: Buffer<f64>,
}

impl Gram {
    pub fn poisoned(n: usize) -> Self {
        Self { k: Buffer::poisoned(n * n), reach: Buffer::poisoned(n) }
    }

    /// One that did not come from products, or whose products did not cancel.
    pub fn new(k: &Matrix) -> Self {
        Self { k: Buffer::new(&k.data), reach: Buffer::new(&vec![0.0; k.rows]) }
    }

    pub fn matrix(&self) -> Matrix {
        let n = self.reach.values().len();
        Matrix::new(n, n, self.k.values().to_vec())
    }

    pub fn examples(&self) -> usize {
        self.reach.values().len()
    }
}

/// What tensor cores have made of a layer.
pub struct Multiplied {
    /// K, reduced.
    pub gram: Gram,
    /// What the columns were shifted by.
    pub shifts: Buffer<f32>,
    pub bad: Bad,
}

pub fn gram_mma<T: Element>(input: &Input<T>, run: Run) -> Multiplied {
    let fused = plan::gram_fused(input.n, input.p, run.device).filter(|_| !run.tiled);
    let split = fused.unwrap_or_else(|| plan::gram_tiled(input.n, input.p, run.device).unwrap());
    let (mut partials, mut exponents) =
        (Buffer::<f32>::poisoned(split.partials), Buffer::<i32>::poisoned(split.exponents));
    let mut reaches = Buffer::<f32>::poisoned(split.exponents);
    let family = if fused.is_some() { "fused" } else { "tiled" };
    let entry = format!("gs_gram_{family}_{}_{}", run.products.name(), T::SUFFIX);
    let launch = Launch::new(&entry).geometry(split.geometry).seed(run.seed);
    let launch = launch.output(&mut partials).output(&mut exponents).output(&mut reaches);
    let parts = LayerSplits::new(&[split.splits]);
    let (shifts, bad) = if fused.is_some() {
        let (mut shifts, mut flag) = (Buffer::<f32>::poisoned(input.p), Buffer::new(&[i32::MAX]));
        let launch = launch.output(&mut shifts).output(&mut flag).value(input.values()).reading(&input.x);
        launch.null().value(parts).value(input.shape(split.buffers)).run().unwrap();
        let bad = bad(&flag);
        (shifts, bad)
    } else {
        let columns = columns(input, run);
        let launch = launch.value(input.values()).reading(&input.x).input(&columns.shifts).input(&columns.largest);
        launch.null().value(parts).value(input.shape(split.buffers)).run().unwrap();
        (columns.shifts, columns.bad)
    };
    let mut gram = Gram::poisoned(input.n);
    let launch = Launch::new("gs_ucenter_reduce_f32")
        .geometry(plan::ucenter_reduce(input.n, &[split.splits], true))
        .seed(run.seed);
    let launch = launch.output(&mut gram.k).output(&mut gram.reach);
    let launch = launch.input(&partials).input(&exponents).input(&reaches).null();
    launch.value(parts).value(centre_shape(input.n, run)).run().unwrap();
    Multiplied { gram, shifts, bad }
}

/// K by float64 products.
pub fn gram_double<T: Element>(input: &Input<T>, shifts: &Buffer<f32>, run: Run) -> Gram {
    in_double(input, Some(shifts), run)
}

/// Squared distances in float64.
pub fn distances<T: Element>(input: &Input<T>, run: Run) -> Buffer<f64> {
    in_double(input, None, run).k
}

/// Sums of products, of columns that are shifted; or of squares of differences.
fn in_double<T: Element>(input: &Input<T>, shifted: Option<&Buffer<f32>>, run: Run) -> Gram {
    let split = plan::gram_double(input.n, input.p, run.device);
    let mut partials = Buffer::<f64>::poisoned(split.partials);
    let entry = format!("gs_gram_{}_{}", if shifted.is_some() { "double" } else { "distances" }, T::SUFFIX);
    let launch = Launch::new(&entry).geometry(split.geometry).seed(run.seed).output(&mut partials);
    let launch = launch.value(input.values()).reading(&input.x);
    let launch = match shifted {
        Some(shifts) => launch.input(shifts).null(),
        None => launch,
    };
    let parts = LayerSplits::new(&[split.splits]);
    launch.value(parts).value(input.shape(0)).run().unwrap();
    let mut gram = Gram::poisoned(input.n);
    let launch = Launch::new("gs_ucenter_reduce_f64")
        .geometry(plan::ucenter_reduce(input.n, &[split.splits], true))
        .seed(run.seed);
    let launch = launch.output(&mut gram.k).output(&mut gram.reach).input(&partials).null();
    launch.value(parts).value(centre_shape(input.n, run)).run().unwrap();
    gram
}

fn centre_shape(n: usize, run: Run) -> CentreShape {
    CentreShape {
        largest_kappa: f64::NAN,
        largest_reach: f64::NAN,
        examples: n as i32,
        biased: i32::from(run.biased),
        ..CentreShape::default()
    }
}

/// The flag of a layer that has wanted float64 products, or none.
pub fn wanted(double: bool) -> Buffer<i32> {
    Buffer::new(&[if double { Better::Double.flag() } else { 0 }])
}

/// Row sums of K.
pub fn rows(gram: &Gram, run: Run) -> Buffer<f64> {
    let n = gram.examples();
    let (mut sums, mut arrivals) = (Buffer::poisoned(3 * n), Buffer::new(&[0u32]));
    let launch = Launch::new("gs_ucenter_rows").geometry(plan::ucenter_rows(n, 1)).seed(run.seed);
    let launch = launch.output(&mut sums).null().output(&mut arrivals).input(&gram.k).input(&gram.reach);
    launch.value(centre_shape(n, run)).run().unwrap();
    sums
}

/// Row sums of K, and the layer's flag: whether it wants float64 products.
pub fn rows_within(gram: &Gram, bounds: Bounds, run: Run) -> (Buffer<f64>, Buffer<i32>) {
    let n = gram.examples();
    let (mut sums, mut flags, mut arrivals) = (Buffer::poisoned(3 * n), Buffer::poisoned(1), Buffer::new(&[0u32]));
    let (largest_kappa, largest_reach) = (bounds.kappa, bounds.reach);
    let shape = CentreShape { largest_kappa, largest_reach, better: Better::Double.flag(), ..centre_shape(n, run) };
    let launch = Launch::new("gs_ucenter_rows").geometry(plan::ucenter_rows(n, 1)).seed(run.seed);
    let launch = launch.output(&mut sums).output(&mut flags).output(&mut arrivals).input(&gram.k).input(&gram.reach);
    launch.value(shape).run().unwrap();
    assert_eq!(arrivals.values(), [0]);
    (sums, flags)
}

/// A packed row and its summary.
pub struct Packed {
    pub row: Vec<f32>,
    pub summary: RowSummary,
}

impl Packed {
    /// The centred matrix that was packed, in float64.
    pub fn unpack(&self, n: usize, biased: bool) -> Matrix {
        let scale = 2f64.powi(self.summary.exponent);
        Matrix::from_fn(n, n, |i, j| {
            let (i, j) = (i.max(j), i.min(j));
            let value = |index: usize| f64::from(self.row[index]) * scale;
            match (biased, i == j) {
                (false, true) => 0.0,
                (false, false) => value(i * (i - 1) / 2 + j),
                (true, true) => value(i * (i + 1) / 2 + j) * 2f64.sqrt(),
                (true, false) => value(i * (i + 1) / 2 + j),
            }
        })
    }
}

pub fn packed_length(n: usize, biased: bool) -> usize {
    if biased { n * (n + 1) / 2 } else { n * (n - 1) / 2 }
}

pub fn pack(gram: &Gram, sums: &Buffer<f64>, flags: &Buffer<i32>, run: Run) -> Packed {
    let n = gram.examples();
    let mut row = Buffer::<f32>::poisoned(packed_length(n, run.biased));
    let mut summary = Buffer::<RowSummary>::poisoned(1);
    let (mut norms, mut arrivals) = (Buffer::<f64>::poisoned(n), Buffer::new(&[0u32]));
    let launch = Launch::new("gs_ucenter_pack").geometry(plan::ucenter_rows(n, 1)).seed(run.seed);
    let launch = launch.output(&mut row).output(&mut summary).output(&mut norms).output(&mut arrivals);
    let launch = launch.input(&gram.k).input(sums).input(&gram.reach).input(flags).null();
    launch.value(centre_shape(n, run)).run().unwrap();
    assert_eq!(arrivals.values(), [0]);
    Packed { row: row.values().to_vec(), summary: summary.values()[0] }
}

pub fn pack_naive(gram: &Gram, flags: &Buffer<i32>, run: Run) -> Packed {
    let n = gram.examples();
    let mut row = Buffer::<f32>::poisoned(packed_length(n, run.biased));
    let mut summary = Buffer::<RowSummary>::poisoned(1);
    let mut sums = Buffer::<f64>::poisoned(3 * n);
    let launch = Launch::new("gs_ucenter_naive").geometry(plan::ucenter_naive(1)).seed(run.seed);
    let launch = launch.output(&mut row).output(&mut summary).output(&mut sums);
    let launch = launch.input(&gram.k).input(&gram.reach).input(flags);
    launch.value(centre_shape(n, run)).run().unwrap();
    Packed { row: row.values().to_vec(), summary: summary.values()[0] }
}

/// A layer's K, redone where it must be, its row sums, and its flag, which says whether it was redone in float64.
pub struct Layer {
    pub gram: Gram,
    pub sums: Buffer<f64>,
    pub flags: Buffer<i32>,
    pub bad: Bad,
}

/// What a launcher does with one layer's activation. It launches everything and lets flags on the device decide; here the
/// host looks at the flags, so that what is not wanted costs no time, and tests/layers.rs has the flags' own tests.
pub fn layer<T: Element>(x: &Matrix, run: Run) -> Layer {
    let input = Input::<T>::new(x, run);
    let steps: &[(Products, Bounds)] = match run.products {
        Products::Exact if input.n < plan::DOUBLE_BELOW => &[],
        Products::Exact => &[(Products::Exact, plan::EXACT)],
        Products::Fast => &[(Products::Fast, plan::FAST), (Products::Exact, plan::FAST_REDONE)],
    };
    let mut shifted = None;
    for &(products, bounds) in steps {
        let Multiplied { gram, shifts, bad } = gram_mma(&input, Run { products, ..run });
        let (sums, flags) = rows_within(&gram, bounds, run);
        if flags.values()[0] == 0 {
            return Layer { gram, sums, flags, bad };
        }
        shifted = Some((shifts, bad));
    }
    let (shifts, bad) = shifted.unwrap_or_else(|| {
        let columns = columns(&input, run);
        (columns.shifts, columns.bad)
    });
    let gram = gram_double(&input, &shifts, run);
    Layer { sums: rows(&gram, run), gram, flags: wanted(true), bad }
}

pub fn packed_layer<T: Element>(x: &Matrix, run: Run) -> Packed {
    let layer = layer::<T>(x, run);
    assert_eq!(layer.bad, None);
    pack(&layer.gram, &layer.sums, &layer.flags, run)
}

/// One model's sums over the batches.
pub struct Model {
    pub layers: Buffer<LayerSum>,
    weights: Buffer<Weight>,
    panel: Buffer<f32>,
}

impl Model {
    pub fn new(layers: usize) -> Self {
        let nothing = vec![LayerSum::default(); layers];
        Self { layers: Buffer::new(&nothing), weights: Buffer::poisoned(layers), panel: Buffer::poisoned(0) }
    }

    pub fn count(&self) -> usize {
        self.layers.values().len()
    }

    /// Takes a batch's panel in: one packed row a layer.
    pub fn observe(&mut self, rows: &[Packed], n: usize, run: Run) {
        let summaries: Vec<RowSummary> = rows.iter().map(|row| row.summary).collect();
        let panel: Vec<f32> = rows.iter().flat_map(|row| &row.row).copied().collect();
        self.panel = Buffer::misaligned(&panel, run.shift);
        let summaries = Buffer::new(&summaries);
        let shape = HsicShape { factor: factor(n, run.biased), layers_x: rows.len() as i32, ..HsicShape::default() };
        let launch = Launch::new("gs_hsic_units").geometry(plan::hsic_units(rows.len())).seed(run.seed);
        launch.output(&mut self.layers).output(&mut self.weights).input(&summaries).value(shape).run().unwrap();
    }
}

/// 2 / (n (n - 3)), or 2 / (n - 1)^2.
pub fn factor(n: usize, biased: bool) -> f64 {
    let n = n as f64;
    if biased { 2.0 / ((n - 1.0) * (n - 1.0)) } else { 2.0 / (n * (n - 3.0)) }
}

fn hsic_shape(x: &Model, y: &Model, symmetric: bool, n: usize, run: Run) -> HsicShape {
    HsicShape {
        factor: factor(n, run.biased),
        length: packed_length(n, run.biased) as i64,
        stride: y.count() as i64,
        layers_x: x.count() as i32,
        layers_y: y.count() as i32,
        symmetric: i32::from(symmetric),
        ..HsicShape::default()
    }
}

/// Adds a batch's products to `sums` [layers of x, layers of y].
pub fn accumulate(sums: &mut Buffer<f64>, x: &Model, y: &Model, symmetric: bool, n: usize, run: Run) {
    let split = plan::hsic_mma(x.count(), y.count(), packed_length(n, run.biased), symmetric, run.device).unwrap();
    let (mut partials, mut of_x) = (Buffer::<f32>::poisoned(split.partials), Buffer::<i32>::poisoned(split.exponents));
    let mut of_y = Buffer::<i32>::poisoned(split.splits * plan::strips(y.count()) * plan::STRIP);
    let mut shape = hsic_shape(x, y, symmetric, n, run);
    shape.buffers = split.buffers as i32;
    shape.splits = split.splits as i32;
    let launch = Launch::new("gs_hsic_mma_f32").geometry(split.geometry).seed(run.seed);
    let launch = launch.output(&mut partials).output(&mut of_x).output(&mut of_y).input(&x.panel).input(&y.panel);
    launch.value(shape).run().unwrap();
    let of_y = if symmetric { &of_x } else { &of_y };
    let geometry = plan::hsic_accumulate(x.count(), y.count(), symmetric);
    let launch = Launch::new("gs_hsic_accumulate").geometry(geometry).seed(run.seed).output(sums);
    let launch = launch.input(&partials).input(&of_x).input(of_y).input(&x.weights).input(&y.weights);
    launch.value(shape).run().unwrap();
}

pub fn accumulate_naive(sums: &mut Buffer<f64>, x: &Model, y: &Model, symmetric: bool, n: usize, run: Run) {
    let launch = Launch::new("gs_hsic_naive_f32").geometry(plan::hsic_naive(x.count(), y.count())).seed(run.seed);
    let launch = launch.output(sums).input(&x.panel).input(&y.panel).input(&x.weights).input(&y.weights);
    launch.value(hsic_shape(x, y, symmetric, n, run)).run().unwrap();
}

/// CKA of all layers of x with all of y, `x[batch][layer]`; symmetric where they are the same.
pub fn cka<T: Element>(x: &[Vec<Matrix>], y: Option<&[Vec<Matrix>]>, run: Run) -> Matrix {
    let symmetric = y.is_none();
    let (mut model_x, mut model_y) = (Model::new(x[0].len()), Model::new(y.unwrap_or(x)[0].len()));
    let mut sums = Buffer::new(&vec![0.0f64; model_x.count() * model_y.count()]);
    for batch in 0..x.len() {
        let n = x[batch][0].rows;
        let panel = |layers: &[Matrix]| layers.iter().map(|layer| packed_layer::<T>(layer, run)).collect::<Vec<_>>();
        model_x.observe(&panel(&x[batch]), n, run);
        if let Some(y) = y {
            model_y.observe(&panel(&y[batch]), n, run);
            accumulate(&mut sums, &model_x, &model_y, false, n, run);
        } else {
            accumulate(&mut sums, &model_x, &model_x, true, n, run);
        }
    }
    let (own_x, own_y) = (&model_x.layers, if symmetric { &model_x.layers } else { &model_y.layers });
    let columns = own_y.values().len();
    Matrix::from_fn(own_x.values().len(), columns, |i, j| {
        let (i, j) = if symmetric { (i.max(j), i.min(j)) } else { (i, j) };
        let (own_i, own_j) = (own_x.values()[i], own_y.values()[j]);
        let defined = own_i.state == 1 && own_j.state == 1;
        // As the launcher does it: of a layer with itself the float64 sum is known.
        let sum = if symmetric && i == j { own_i.own } else { sums.values()[i * columns + j] };
        if defined { sum / (own_i.own * own_j.own).sqrt() } else { f64::NAN }
    })
}
