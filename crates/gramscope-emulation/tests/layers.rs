//! Layers that one launch takes together: each comes to the bits that it would come to alone on its share of the device, and the
//! flags alone decide which of them a launch touches.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::{self, Better, Bounds, Device, LayersSplit};
use gramscope_cuda::shapes::{CentreShape, GramShape, LayerSplits, LayerValues, RowSummary};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::Matrix;
use half::bf16;
use support::chain::{Input, Products, Run, packed_layer, packed_length};
use support::inputs::{self, normal, rectified};
use support::{Element, SMALL, TIGHT};

/// What the kernels leave of layers that were taken together.
struct Taken {
    rows: Vec<Vec<f32>>,
    summaries: Vec<RowSummary>,
    flags: Vec<i32>,
    first_bad: Vec<i32>,
}

/// Layers on their way, as `gramscope_cuda`'s rows.rs sends them: everything is launched, and flags decide.
struct Chain<'a, T> {
    inputs: &'a [Input<T>],
    run: Run,
    sharing: usize,
    n: usize,
    shifts: Buffer<f32>,
    first_bad: Buffer<i32>,
    flags: Buffer<i32>,
    k: Buffer<f64>,
    reach: Buffer<f64>,
    sums: Buffer<f64>,
    arrivals: Buffer<u32>,
}

impl<'a, T: Element> Chain<'a, T> {
    fn new(inputs: &'a [Input<T>], sharing: usize, run: Run) -> Self {
        let (n, count) = (inputs[0].n, inputs.len());
        Self {
            inputs,
            run,
            sharing,
            n,
            shifts: Buffer::poisoned(inputs.iter().map(|input| input.p).sum()),
            first_bad: Buffer::new(&vec![i32::MAX; count]),
            flags: Buffer::poisoned(count),
            k: Buffer::poisoned(count * n * n),
            reach: Buffer::poisoned(count * n),
            sums: Buffer::poisoned(count * 3 * n),
            arrivals: Buffer::new(&vec![0; count]),
        }
    }

    fn values(&self) -> LayerValues {
        let of = |input: &Input<T>| (input.x.address(), input.p as i64);
        LayerValues::new(&self.inputs.iter().map(of).collect::<Vec<_>>())
    }

    fn split(&self, one: impl Fn(usize, Device) -> Option<plan::Split>) -> LayersSplit {
        let features: Vec<usize> = self.inputs.iter().map(|input| input.p).collect();
        LayersSplit::new(&features, self.sharing, self.run.device, one).unwrap()
    }

    fn gram_shape(&self, buffers: usize, only: Option<Better>) -> GramShape {
        let products = only.map_or(0, Better::flag);
        GramShape { examples: self.n as i32, buffers: buffers as i32, products, padding: 0 }
    }

    fn centre_shape(&self, only: Option<Better>) -> CentreShape {
        let (biased, products) = (i32::from(self.run.biased), only.map_or(0, Better::flag));
        CentreShape { examples: self.n as i32, biased, products, ..CentreShape::default() }
    }

    fn products(&mut self, exact: bool, only: Option<Better>, verdict: (Better, Bounds)) {
        let (n, seed) = (self.n, self.run.seed);
        let is_fused = plan::gram_fused(n, 1, self.run.device).is_some();
        let split = self.split(|features, device| match is_fused {
            true => plan::gram_fused(n, features, device),
            false => plan::gram_tiled(n, features, device),
        });
        let (values, parts) = (self.values(), LayerSplits::new(&split.splits));
        let shape = self.gram_shape(split.buffers, only);
        let largest = (!is_fused).then(|| self.shift());
        let mut partials = Buffer::<f32>::poisoned(split.partials);
        let mut exponents = Buffer::<i32>::poisoned(split.exponents);
        let mut reaches = Buffer::<f32>::poisoned(split.exponents);
        let (family, kind) = (if is_fused { "fused" } else { "tiled" }, if exact { "exact" } else { "fast" });
        let entry = format!("gs_gram_{family}_{kind}_{}", T::SUFFIX);
        let launch = Launch::new(&entry).geometry(split.geometry).seed(seed);
        let launch = launch.output(&mut partials).output(&mut exponents).output(&mut reaches);
        let launch = match &largest {
            None => launch.output(&mut self.shifts).output(&mut self.first_bad).value(values),
            Some(largest) => launch.value(values).input(&self.shifts).input(largest),
        };
        let launch = self.inputs.iter().fold(launch, |launch, input| launch.reading(&input.x));
        launch.input(&self.flags).value(parts).value(shape).run().unwrap();

        let shape = self.centre_shape(only);
        let launch = Launch::new("gs_ucenter_reduce_f32")
            .geometry(plan::ucenter_reduce(n, &split.splits, only.is_none()))
            .seed(seed);
        let launch = launch.output(&mut self.k).output(&mut self.reach);
        let launch = launch.input(&partials).input(&exponents).input(&reaches).input(&self.flags);
        launch.value(parts).value(shape).run().unwrap();
        self.rows(only, Some(verdict));
    }

    /// What columns are shifted by, for kernels that do not find it; returns their largest values.
    fn shift(&mut self) -> Buffer<f32> {
        let (values, shape) = (self.values(), self.gram_shape(0, None));
        let most = self.inputs.iter().map(|input| input.p).max().unwrap();
        let mut largest = Buffer::poisoned(self.shifts.values().len());
        let entry = format!("gs_gram_shift_{}", T::SUFFIX);
        let launch = Launch::new(&entry).geometry(plan::gram_shift(most, self.inputs.len())).seed(self.run.seed);
        let launch = launch.output(&mut self.shifts).output(&mut largest).output(&mut self.first_bad).value(values);
        let launch = self.inputs.iter().fold(launch, |launch, input| launch.reading(&input.x));
        launch.value(shape).run().unwrap();
        largest
    }

    fn double(&mut self, only: Option<Better>) {
        let (n, seed) = (self.n, self.run.seed);
        let split = self.split(|features, device| Some(plan::gram_double(n, features, device)));
        let (values, parts) = (self.values(), LayerSplits::new(&split.splits));
        let shape = self.gram_shape(0, only);
        let mut partials = Buffer::<f64>::poisoned(split.partials);
        let entry = format!("gs_gram_double_{}", T::SUFFIX);
        let launch = Launch::new(&entry).geometry(split.geometry).seed(seed).output(&mut partials).value(values);
        let launch = self.inputs.iter().fold(launch, |launch, input| launch.reading(&input.x));
        launch.input(&self.shifts).input(&self.flags).value(parts).value(shape).run().unwrap();

        let shape = self.centre_shape(only);
        let launch = Launch::new("gs_ucenter_reduce_f64")
            .geometry(plan::ucenter_reduce(n, &split.splits, only.is_none()))
            .seed(seed);
        let launch = launch.output(&mut self.k).output(&mut self.reach).input(&partials).input(&self.flags);
        launch.value(parts).value(shape).run().unwrap();
        self.rows(only, None);
    }

    fn rows(&mut self, only: Option<Better>, verdict: Option<(Better, Bounds)>) {
        let mut shape = self.centre_shape(only);
        if let Some((better, bounds)) = verdict {
            (shape.largest_kappa, shape.largest_reach, shape.better) = (bounds.kappa, bounds.reach, better.flag());
        }
        let geometry = plan::ucenter_rows(self.n, self.inputs.len());
        let launch = Launch::new("gs_ucenter_rows").geometry(geometry).seed(self.run.seed);
        let launch = launch.output(&mut self.sums).output(&mut self.flags).output(&mut self.arrivals);
        launch.input(&self.k).input(&self.reach).value(shape).run().unwrap();
        assert!(self.arrivals.values().iter().all(|&count| count == 0));
    }

    fn pack(mut self) -> Taken {
        let (n, count) = (self.n, self.inputs.len());
        let (length, shape) = (packed_length(n, self.run.biased), self.centre_shape(None));
        let mut rows = Buffer::<f32>::poisoned(count * length);
        let mut summaries = Buffer::<RowSummary>::poisoned(count);
        let mut norms = Buffer::<f64>::poisoned(count * n);
        let launch = Launch::new("gs_ucenter_pack").geometry(plan::ucenter_rows(n, count)).seed(self.run.seed);
        let launch = launch.output(&mut rows).output(&mut summaries).output(&mut norms).output(&mut self.arrivals);
        let launch = launch.input(&self.k).input(&self.sums).input(&self.reach).input(&self.flags).null();
        launch.value(shape).run().unwrap();
        Taken {
            rows: rows.values().chunks_exact(length).map(<[f32]>::to_vec).collect(),
            summaries: summaries.values().to_vec(),
            flags: self.flags.values().to_vec(),
            first_bad: self.first_bad.values().to_vec(),
        }
    }
}

fn taken<T: Element>(inputs: &[Input<T>], sharing: usize, run: Run) -> Taken {
    let mut chain = Chain::new(inputs, sharing, run);
    match run.products {
        Products::Exact => chain.products(true, None, (Better::Double, plan::EXACT)),
        Products::Fast => {
            chain.products(false, None, (Better::Exact, plan::FAST));
            chain.products(true, Some(Better::Exact), (Better::Double, plan::FAST_REDONE));
        }
    }
    chain.double(Some(Better::Double));
    chain.pack()
}

fn inputs_of<T: Element>(layers: &[Matrix], run: Run) -> Vec<Input<T>> {
    layers.iter().map(|x| Input::new(x, run)).collect()
}

/// Layers of which, by either products, some are good at once, and some are not before they are computed in float64.
fn mixed(n: usize) -> Vec<Matrix> {
    // Rows of Sylvester's matrix of signs are orthogonal: their products are large and cancel.
    let sign = |i: usize, f: usize| if (i & f).count_ones().is_multiple_of(2) { 0.3 } else { -0.3 };
    let orthogonal = |seed: u64, small: f64| {
        normal(n, 512, seed).map(|i, f, value| if f < 256 { sign(i, f) } else { small * value })
    };
    vec![
        normal(n, 700, 1),
        orthogonal(3, 1e-4),
        rectified(n, 64, 2),
        inputs::outlier(n, 33, 1e6, 4),
        orthogonal(5, 0.3),
        normal(n, 1, 5),
        Matrix::from_fn(n, 20, |_, j| j as f64),
    ]
}

/// The features of all of them.
fn features(layers: &[Matrix]) -> usize {
    layers.iter().map(|layer| layer.cols).sum()
}

fn check_bits<T: Element>(layers: &[Matrix], run: Run) -> Taken {
    let sharing = features(layers);
    let taken = taken(&inputs_of::<T>(layers, run), sharing, run);
    assert!(taken.first_bad.iter().all(|&bad| bad == i32::MAX));
    for (index, layer) in layers.iter().enumerate() {
        let alone = packed_layer::<T>(layer, Run { device: run.device.share(layer.cols, sharing), ..run });
        assert_eq!(taken.summaries[index], alone.summary, "layer {index} {run:?}");
        assert_eq!(taken.rows[index], alone.row, "layer {index} {run:?}");
    }
    taken
}

#[test]
fn together_is_as_alone() {
    for n in [33, 64, 130] {
        let layers = mixed(n);
        for products in [Products::Exact, Products::Fast] {
            let run = Run { products, ..Run::default() };
            let flags = check_bits::<f32>(&layers, run).flags;
            let double = Better::Double.flag();
            assert!(flags.contains(&0) && flags.contains(&double), "n = {n}, {products:?}: {flags:?}");
            check_bits::<bf16>(&layers, Run { shift: 3, biased: true, seed: 7, ..run });
        }
    }
}

/// On a GeForce 177 examples are too many for one block, and go together tile by tile.
#[test]
fn tiles_together_are_as_alone() {
    let run = Run { device: TIGHT, ..Run::default() };
    assert!(plan::gram_fused(177, 1, TIGHT).is_none());
    for products in [Products::Exact, Products::Fast] {
        check_bits::<f32>(&mixed(177), Run { products, ..run });
    }
}

#[test]
fn what_others_there_are_does_not_show() {
    let (run, layers) = (Run::default(), mixed(40));
    let (inputs, sharing) = (inputs_of::<f32>(&layers, run), features(&layers));
    let all = taken(&inputs, sharing, run);
    for part in [0..3, 2..7, 4..5] {
        let some = taken(&inputs[part.clone()], sharing, run);
        assert_eq!(some.rows, all.rows[part.clone()]);
        assert_eq!(some.summaries, all.summaries[part]);
    }
}

#[test]
fn the_first_bad_example_of_each_layer_is_found() {
    let bad = |row: usize, column: usize| {
        normal(35, 40, 6).map(move |i, j, value| if i >= row && j == column { f64::NAN } else { value })
    };
    let layers = [normal(35, 40, 6), bad(12, 39), bad(0, 0), normal(35, 40, 7)];
    let run = Run::default();
    let found = taken(&inputs_of::<f32>(&layers, run), features(&layers), run).first_bad;
    assert_eq!(found, [i32::MAX, 12, 0, i32::MAX]);
}

/// As many layers as there may be.
#[test]
fn a_whole_launch() {
    let layers: Vec<Matrix> =
        (0..plan::LAYERS_TOGETHER).map(|layer| normal(33, 1 + layer % 5 * 20, layer as u64)).collect();
    check_bits::<f32>(&layers, Run::default());
}

#[test]
fn what_is_not_wanted_is_not_touched() {
    // Every buffer is poison; a kernel that went on would write something, or read the null pointers that are the activations.
    let (n, wanted) = (20, Better::Exact);
    let shape = GramShape { examples: n, buffers: 4, products: wanted.flag(), padding: 0 };
    let centre = CentreShape { examples: n, products: wanted.flag(), ..CentreShape::default() };
    let flags = Buffer::new(&[0, Better::Double.flag()]);
    let (values, parts) = (LayerValues::new(&[(0, 40), (0, 40)]), LayerSplits::new(&[1, 1]));
    let doubles = Buffer::<f64>::poisoned(6 * 400);
    let mut outputs = [0, 1, 2, 3, 4].map(|_| Buffer::<f64>::poisoned(6 * 400));
    let n = n as usize;
    let in_two = |split: plan::Split| split.in_parts(2).geometry;
    let fused = in_two(plan::gram_fused(n, 40, SMALL).unwrap());
    let tiled = in_two(plan::gram_tiled(n, 40, SMALL).unwrap());
    let double = in_two(plan::gram_double(n, 40, SMALL));
    // (entry, geometry, outputs, inputs)
    let entries = [
        ("gs_gram_fused_exact_bf16", fused, 5, 0),
        ("gs_gram_fused_fast_f32", fused, 5, 0),
        ("gs_gram_tiled_exact_f16", tiled, 3, 2),
        ("gs_gram_tiled_fast_f32", tiled, 3, 2),
        ("gs_gram_double_f32", double, 1, 1),
        ("gs_ucenter_reduce_f32", plan::ucenter_reduce(n, &[1, 1], false), 2, 3),
        ("gs_ucenter_reduce_f64", plan::ucenter_reduce(n, &[1, 1], false), 2, 1),
    ];
    for (entry, geometry, writes, reads) in entries {
        let mut launch = Launch::new(entry).geometry(geometry);
        for output in outputs.iter_mut().take(writes) {
            launch = launch.output(output);
        }
        if entry.contains("gram") {
            launch = launch.value(values);
        }
        for _ in 0..reads {
            launch = launch.input(&doubles);
        }
        let launch = launch.input(&flags).value(parts);
        if entry.contains("gram") {
            launch.value(shape).run().unwrap();
        } else {
            launch.value(centre).run().unwrap();
        }
        let untouched = |buffer: &Buffer<f64>| buffer.values().iter().all(|value| value.to_bits() == u64::MAX);
        assert!(outputs.iter().all(untouched), "{entry}");
    }
    let (mut changed, mut arrivals) = (flags.clone(), Buffer::new(&[0u32, 0]));
    let launch = Launch::new("gs_ucenter_rows").geometry(plan::ucenter_rows(n, 2)).output(&mut outputs[0]);
    let launch = launch.output(&mut changed).output(&mut arrivals).input(&doubles).input(&doubles);
    launch.value(centre).run().unwrap();
    assert_eq!((changed.values(), arrivals.values()), (flags.values(), &[0, 0][..]));
    assert!(outputs[0].values().iter().all(|value| value.to_bits() == u64::MAX));
}
