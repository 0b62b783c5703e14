//! What a comparison launches: Gram matrices, their centring and kernels, their leading eigenpairs, and the products of panels.

use std::collections::BTreeSet;

use gramscope_cuda::ceilings::Products;
use gramscope_cuda::{
    Device, EigenSummary, Error, Gram, GramMut, Grams, LayerSum, PairSums, Panels, Partials, PartialsMut, RowSummary,
    Selection, Slice, Uploaded, Values, Weight, plan,
};
use gramscope_nn::random::{Philox, Stream};
use gramscope_nn::{Family, ResNetConfig};
use gramscope_reference::{Matrix, gram};
use half::{bf16, f16};

use super::{KernelBench, Subject, Times, WHAT, copies, pattern, time, time_naive};
use crate::bench::Rows;

/// Examples a batch.
pub(super) const EXAMPLES: usize = 256;
/// Networks of whose layers the features are: their depths and widths.
const NETWORKS: [(usize, f64); 4] = [(20, 1.0), (110, 1.0), (164, 1.0), (38, 10.0)];
/// Features of the layer that the Gram kernels are judged by, which is none of those networks'.
const JUDGED: usize = 65_536;
/// Layers that a ResNet-110 hands over together, examples, and features of each: from its three stages.
const TOGETHER: [[usize; 3]; 3] = [[32, EXAMPLES, 16_384], [64, EXAMPLES, 8_192], [128, EXAMPLES, 4_096]];
/// What is centred: a layer, and as many as there may be.
const CENTRED: [[usize; 3]; 2] = [[1, EXAMPLES, 16_384], TOGETHER[2]];
/// What distances are taken of.
const DISTANCES: [usize; 2] = [EXAMPLES, 65_536];
/// Layers of a panel.
const LAYERS: [usize; 5] = [60, 385, 574, 1500, 6000];
/// Layers that are decomposed together, as when principal components are compared, and examples of each: those of a batch, and fewer,
/// for which the naive twin, Jacobi's method, does not take long.
const DECOMPOSED: [[usize; 2]; 2] = [[132, EXAMPLES], [132, 64]];
/// Operations of the naive twin: each of twelve sweeps turns every pair of rows, of columns and of eigenvectors once, a turn of two values
/// being six operations.
const JACOBI_OPERATIONS: usize = 12 * 3 * 6;
/// Variants of the products on tensor cores; whether they are `fused`, and `exact`; and how many products of halves are issued for one.
const GRAMS: [(&str, bool, bool, f64); 4] = [
    ("fused exact", true, true, 3.0),
    ("fused fast", true, false, 1.0),
    ("tiled exact", false, true, 4.0),
    ("tiled fast", false, false, 1.0),
];
/// Products of halves that hsic issues for one.
const HSIC_PRODUCTS: f64 = 4.0;

/// Features of the layers of ResNet-20, -110 and -164 (width 1), of ResNet-38 x10 and of an ImageNet ResNet-50, and those of the judged
/// layer: once each, ascending.
pub(super) fn features() -> BTreeSet<usize> {
    let cifar = NETWORKS.map(|(depth, width)| ResNetConfig { depth, width, ..ResNetConfig::default() });
    let (depth, image_side, classes) = (50, 224, 1000);
    let imagenet = ResNetConfig { family: Family::ImageNet, depth, image_side, classes, ..ResNetConfig::default() };
    let layers = cifar.iter().chain([&imagenet]).flat_map(ResNetConfig::layers);
    layers.map(|layer| layer.shape.iter().product()).chain([JUDGED]).collect()
}

impl KernelBench<'_> {
    /// Every kernel.
    pub(super) fn comparison(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        for features in features() {
            for (name, element) in [("f32", 4), ("bf16", 2), ("f16", 2)] {
                let measured = self.gram(rows, name, element, features);
                self.unless_too_large(measured, rows, "gram", name, &[EXAMPLES, features])?;
            }
        }
        for shape in TOGETHER {
            let measured = self.gram_together(rows, shape);
            self.unless_too_large(measured, rows, "gram", "f32", &shape)?;
        }
        for shape in CENTRED {
            let measured = self.ucenter(rows, shape);
            self.unless_too_large(measured, rows, "ucenter", "f32", &shape)?;
        }
        let measured = self.rbf(rows);
        self.unless_too_large(measured, rows, "rbf", "f32", &DISTANCES)?;
        for shape in DECOMPOSED {
            let measured = self.eigen(rows, shape);
            self.unless_too_large(measured, rows, "eigen", "f64", &shape)?;
        }
        for layers in LAYERS {
            let shape = [layers, EXAMPLES * (EXAMPLES - 1) / 2];
            let measured = self.hsic(rows, shape);
            self.unless_too_large(measured, rows, "hsic", "f32", &shape)?;
        }
        Ok(())
    }

    /// The Gram kernels of one type at one number of features.
    fn gram(&self, rows: &mut Rows<'_>, name: &str, element: usize, features: usize) -> anyhow::Result<()> {
        let shape = [EXAMPLES, features];
        let products = self.wanted("gram", &GRAMS.map(|(variant, ..)| variant), name, &shape);
        let [wants_shift, wants_double] = ["shift", "double"].map(|variant| self.wants("gram", variant, name, &shape));
        if !wants_shift && !wants_double && products.is_empty() {
            return Ok(());
        }
        let mut layer = Layers::new(self.device, name, element, [1, features])?;
        let read = (EXAMPLES * features * element) as f64;
        let subject = Subject {
            kernel: "gram",
            variant: "shift",
            stored: name,
            shape: &shape,
            bytes: read,
            partial_bytes: 0.0,
            flops: 0.0,
            products: None,
        };
        // The other kernels take the shifts of the columns.
        let us = time(self.device, &mut |round| layer.shift(round))?;
        if wants_shift {
            let subject = Subject { bytes: read + 8.0 * features as f64, ..subject };
            self.write(rows, &subject, Times { us, ..Times::default() })?;
        }
        if !wants_double && products.is_empty() {
            return Ok(());
        }
        let all = 2.0 * (EXAMPLES * EXAMPLES * features) as f64;
        let mut k = self.device.zeros::<f64>(WHAT, EXAMPLES * EXAMPLES)?;
        let naive_us = time_naive(self.device, all, &mut |round| layer.naive(&mut k, round))?;
        if wants_double {
            self.gram_double(rows, &mut layer, &subject, naive_us)?;
        }
        self.gram_products(rows, &mut layer, &subject, &products, naive_us)
    }

    /// The float64 products of `subject`'s layer.
    fn gram_double(
        &self,
        rows: &mut Rows<'_>,
        layer: &mut Layers<'_>,
        subject: &Subject<'_>,
        naive_us: Option<f64>,
    ) -> anyhow::Result<()> {
        let (features, plan) = (subject.shape[1], self.device.plan());
        let mut partials = self.device.zeros::<f64>(WHAT, plan::gram_double(EXAMPLES, features, plan).partials)?;
        let us = time(self.device, &mut |round| layer.double(&mut partials, round))?;
        let subject = Subject {
            variant: "double",
            partial_bytes: (partials.len() * size_of::<f64>()) as f64,
            flops: 2.0 * triangle(EXAMPLES, plan::DOUBLE_TILE) * features as f64,
            ..*subject
        };
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }

    /// Those of the `variants` on tensor cores, beside cuBLAS.
    fn gram_products(
        &self,
        rows: &mut Rows<'_>,
        layer: &mut Layers<'_>,
        subject: &Subject<'_>,
        variants: &[&str],
        naive_us: Option<f64>,
    ) -> anyhow::Result<()> {
        if variants.is_empty() {
            return Ok(());
        }
        let features = subject.shape[1];
        let shape = [EXAMPLES, features];
        let [exact_us, fast_us] = [false, true].map(|tf32| self.cublas_us(|round| layer.one(round), shape, tf32));
        let (exact_us, fast_us) = (exact_us?, fast_us?);
        for (variant, fused, exact, terms) in GRAMS.into_iter().filter(|(variant, ..)| variants.contains(variant)) {
            let Some(mut sums) = Sums::new(self.device, [1, features], fused)? else { continue };
            let us = time(self.device, &mut |round| layer.products(&mut sums, exact, round))?;
            let subject = Subject {
                variant,
                partial_bytes: sums.bytes(),
                flops: terms * 2.0 * triangle(EXAMPLES, plan::STRIP) * features as f64,
                products: Some(Products::Bf16),
                ..*subject
            };
            let cublas_us = if exact { exact_us } else { fast_us };
            self.write(rows, &subject, Times { us, naive_us, cublas_us, ..Times::default() })?;
        }
        Ok(())
    }

    /// The products of several layers in one launch.
    fn gram_together(&self, rows: &mut Rows<'_>, shape: [usize; 3]) -> anyhow::Result<()> {
        let [layers, n, features] = shape;
        let fused = || GRAMS.into_iter().filter(|(_, fused, ..)| *fused);
        let wanted = self.wanted("gram", &fused().map(|(variant, ..)| variant).collect::<Vec<_>>(), "f32", &shape);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut together = Layers::new(self.device, "f32", 4, [layers, features])?;
        let Some(mut sums) = Sums::new(self.device, [layers, features], true)? else { return Ok(()) };
        for (variant, _, exact, terms) in fused().filter(|(variant, ..)| wanted.contains(variant)) {
            let us = time(self.device, &mut |round| together.products(&mut sums, exact, round))?;
            let subject = Subject {
                kernel: "gram",
                variant,
                stored: "f32",
                shape: &shape,
                bytes: (layers * n * features * 4) as f64,
                partial_bytes: sums.bytes(),
                flops: terms * 2.0 * triangle(n, plan::STRIP) * (layers * features) as f64,
                products: Some(Products::Bf16),
            };
            self.write(rows, &subject, Times { us, ..Times::default() })?;
        }
        Ok(())
    }

    /// From partial sums of Gram matrices to rows of the panel.
    fn ucenter(&self, rows: &mut Rows<'_>, shape: [usize; 3]) -> anyhow::Result<()> {
        if self.wanted("ucenter", &["reduce", "rows and pack"], "f32", &shape).is_empty() {
            return Ok(());
        }
        let ([layers, n, features], device, launcher) = (shape, self.device, self.device.launcher());
        let mut together = Layers::new(device, "f32", 4, [layers, features])?;
        let Some(mut sums) = Sums::new(device, [layers, features], true)? else { return Ok(()) };
        together.products(&mut sums, true, 0)?;
        let mut k = device.zeros::<f64>(WHAT, layers * n * n)?;
        let mut reach = device.zeros::<f64>(WHAT, layers * n)?;
        let matrices = layers * n * n * size_of::<f64>();
        let subject = Subject {
            kernel: "ucenter",
            variant: "reduce",
            stored: "f32",
            shape: &shape,
            // Partial sums are what it is given.
            bytes: sums.bytes() + matrices as f64,
            partial_bytes: 0.0,
            flops: 0.0,
            products: None,
        };
        let mut reduce = |_: usize| {
            let mut gram = GramMut { k: k.as_view_mut(), reach: reach.as_view_mut() };
            launcher.ucenter_reduce(&mut gram, &sums.partials(), None, n, &sums.split.splits)
        };
        reduce(0)?;
        self.alone(rows, &subject, &mut reduce)?;
        if !self.wants("ucenter", "rows and pack", "f32", &shape) {
            return Ok(());
        }

        let length = layers * (n * (n - 1) / 2);
        let (mut row, mut summaries) = (device.zeros::<f32>(WHAT, length)?, device.zeros::<RowSummary>(WHAT, layers)?);
        let mut of_rows = device.zeros::<f64>(WHAT, layers * 3 * n)?;
        let mut norms = device.zeros::<f64>(WHAT, layers * n)?;
        let (mut arrivals, flags) = (device.zeros::<u32>(WHAT, layers)?, device.zeros::<i32>(WHAT, layers)?);
        let gram = Gram { k: k.as_view(), reach: reach.as_view() };
        // K is read twice.
        let bytes = (2 * matrices + length * size_of::<f32>()) as f64;
        let subject = Subject { variant: "rows and pack", bytes, ..subject };
        let flags = &flags.as_view();
        let us = time(device, &mut |_| {
            let (sums, arrivals) = (&mut of_rows.as_view_mut(), &mut arrivals.as_view_mut());
            launcher.ucenter_rows(sums, None, arrivals, &gram, layers, n, false)?;
            let (row, summaries) = (&mut row.as_view_mut(), &mut summaries.as_view_mut());
            let (norms, sums) = (&mut norms.as_view_mut(), &of_rows.as_view());
            launcher.ucenter_pack(row, summaries, norms, arrivals, &gram, sums, flags, None, layers, n, false)
        })?;
        let naive_us = time_naive(device, (layers * n * n) as f64, &mut |_| {
            let (row, summaries) = (&mut row.as_view_mut(), &mut summaries.as_view_mut());
            launcher.ucenter_naive(row, summaries, &mut of_rows.as_view_mut(), &gram, flags, layers, n, false)
        })?;
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }

    /// Squared distances in float64, and kernel values from them, their median found on the way.
    fn rbf(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        if self.wanted("rbf", &["distances", "median and values"], "f32", &DISTANCES).is_empty() {
            return Ok(());
        }
        let ([n, features], device, launcher) = (DISTANCES, self.device, self.device.launcher());
        let layer = Layers::new(device, "f32", 4, [1, features])?;
        let split = plan::gram_double(n, features, device.plan());
        let mut partials = device.zeros::<f64>(WHAT, split.partials)?;
        let (mut distances, mut reach) = (device.zeros::<f64>(WHAT, n * n)?, device.zeros::<f64>(WHAT, n)?);
        let matrix = n * n * size_of::<f64>();
        let subject = Subject {
            kernel: "rbf",
            variant: "distances",
            stored: "f32",
            shape: &DISTANCES,
            bytes: (n * features * 4 + matrix) as f64,
            partial_bytes: (split.partials * size_of::<f64>()) as f64,
            flops: 3.0 * triangle(n, plan::DOUBLE_TILE) * features as f64,
            products: None,
        };
        let mut measure = |round: usize| {
            let split = layer.with(round, |x| launcher.gram_distances(&mut partials.as_view_mut(), x))?;
            let mut squares = GramMut { k: distances.as_view_mut(), reach: reach.as_view_mut() };
            launcher.ucenter_reduce_double(&mut squares, &partials.as_view(), None, n, &split.splits)
        };
        measure(0)?;
        self.alone(rows, &subject, &mut measure)?;

        let mut values = device.zeros::<f64>(WHAT, n * n)?;
        let (mut selection, mut histogram) =
            (device.zeros::<Selection>(WHAT, 1)?, device.zeros::<u32>(WHAT, plan::RADIX_BINS)?);
        let (mut arrivals, mut undefined) = (device.zeros::<u32>(WHAT, 1)?, device.zeros::<i32>(WHAT, 1)?);
        // The distances are read in every pass, and for the values.
        let bytes = ((plan::RADIX_PASSES + 2) * matrix + matrix) as f64;
        let subject = Subject { variant: "median and values", bytes, partial_bytes: 0.0, flops: 0.0, ..subject };
        if !self.wants("rbf", "median and values", "f32", &DISTANCES) {
            return Ok(());
        }
        let distances = &distances.as_view();
        let mut apply = |chosen: &Slice<Selection>| {
            let (values, undefined) = (&mut values.as_view_mut(), &mut undefined.as_view_mut());
            launcher.rbf_apply(values, undefined, distances, &chosen.as_view(), n, 0.5)
        };
        let us = time(device, &mut |_| {
            let (chosen, counts) = (&mut selection.as_view_mut(), &mut histogram.as_view_mut());
            launcher.rbf_median(chosen, counts, &mut arrivals.as_view_mut(), distances, n)?;
            apply(&selection)
        })?;
        // Each distance is compared with all of them, twice.
        let naive_us = time_naive(device, 2.0 * (n as f64).powi(4), &mut |_| {
            launcher.rbf_naive(&mut selection.as_view_mut(), distances, n)?;
            apply(&selection)
        })?;
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }

    /// The two leading eigenpairs of many Gram matrices at once, of features whose sizes fall like 1/j.
    fn eigen(&self, rows: &mut Rows<'_>, shape: [usize; 2]) -> anyhow::Result<()> {
        if !self.wants("eigen", "subspace", "f64", &shape) {
            return Ok(());
        }
        let ([layers, n], device, launcher) = (shape, self.device, self.device.launcher());
        let features = 2 * n;
        let mut random = Philox::new(0, Stream::Evaluation).sequence(u32::MAX);
        let x = Matrix::from_fn(n, features, |_, feature| random.normal() / (feature + 1) as f64);
        let one = gram::linear(&x).data;
        let k = device.upload(WHAT, &one.repeat(layers))?;
        let mut sums = device.zeros::<f64>(WHAT, layers * 3 * n)?;
        let (mut arrivals, reach) = (device.zeros::<u32>(WHAT, 1)?, device.zeros::<f64>(WHAT, n)?);
        for layer in 0..layers {
            let gram = Gram { k: k.slice(layer * n * n..(layer + 1) * n * n), reach: reach.as_view() };
            let (sums, arrivals) =
                (&mut sums.slice_mut(layer * 3 * n..(layer + 1) * 3 * n), &mut arrivals.as_view_mut());
            launcher.ucenter_rows(sums, None, arrivals, &gram, 1, n, true)?;
        }
        let grams = Grams { k: k.as_view(), sums: sums.as_view(), layers, examples: n };
        let length = layers * plan::EIGEN_VECTORS * n;
        let (mut vectors, mut scratch) = (device.zeros::<f64>(WHAT, length)?, device.zeros::<f64>(WHAT, length)?);
        let mut summaries = device.zeros::<EigenSummary>(WHAT, layers)?;
        let mut decompose = |_: usize| {
            let (vectors, summaries) = (&mut vectors.as_view_mut(), &mut summaries.as_view_mut());
            launcher.eigen_subspace(vectors, summaries, &mut scratch.as_view_mut(), &grams, plan::PRINCIPAL_COMPONENTS)
        };
        decompose(0)?;
        let us = time(device, &mut decompose)?;
        let [summary, ..] = device.download(&summaries)?[..] else { return Ok(()) };
        let steps = f64::from(summary.iterations);
        let pairs = layers * (n * (n - 1) / 2);
        let (mut values, mut work) =
            (device.zeros::<f64>(WHAT, layers * n)?, device.zeros::<f64>(WHAT, layers * 2 * n * n)?);
        let naive_us = time_naive(device, (JACOBI_OPERATIONS * n * pairs) as f64, &mut |_| {
            let (values, work) = (&mut values.as_view_mut(), &mut work.as_view_mut());
            launcher.eigen_naive(values, work, &grams, 1, 0.0)
        })?;
        let subject = Subject {
            kernel: "eigen",
            variant: "subspace",
            stored: "f64",
            shape: &shape,
            // K at every step.
            bytes: steps * (layers * n * n * size_of::<f64>()) as f64,
            partial_bytes: 0.0,
            flops: steps * (layers * 2 * n * n * plan::EIGEN_VECTORS) as f64,
            products: None,
        };
        self.write(rows, &subject, Times { us, naive_us, ..Times::default() })
    }

    /// What cuBLAS takes for the Gram matrix of what `x` hands out, a round each.
    fn cublas_us<'x>(
        &self,
        x: impl Fn(usize) -> Values<'x>,
        shape: [usize; 2],
        tf32: bool,
    ) -> Result<Option<f64>, Error> {
        let Some(cublas) = &self.cublas else { return Ok(None) };
        let mut product = self.device.zeros::<f32>(WHAT, shape[0] * shape[0])?;
        time(self.device, &mut |round| cublas.gram(&mut product.as_view_mut(), &x(round), shape, tf32)).map(Some)
    }

    /// A panel times itself and the sums of all pairs.
    fn hsic(&self, rows: &mut Rows<'_>, shape: [usize; 2]) -> anyhow::Result<()> {
        let ([layers, length], device) = (shape, self.device);
        if !self.wants("hsic", "mma", "f32", &shape) {
            return Ok(());
        }
        let panel = device.upload(WHAT, &(0..layers * length).map(pattern).collect::<Vec<_>>())?;
        let mut pair_sums = device.zeros::<f64>(WHAT, layers * layers)?;
        let mut own = device.zeros::<LayerSum>(WHAT, layers)?;
        let mut weights = device.zeros::<Weight>(WHAT, layers)?;
        let summaries = device.zeros::<RowSummary>(WHAT, layers)?;
        let launcher = device.launcher();
        launcher.hsic_units(&mut own.as_view_mut(), &mut weights.as_view_mut(), &summaries.as_view(), layers, 1.0)?;
        let panels = || Panels {
            x: panel.as_view(),
            y: panel.as_view(),
            layers_x: layers,
            layers_y: layers,
            length,
            symmetric: true,
            splits: None,
        };
        let lengths = launcher.hsic_lengths(&panels())?;
        let mut partials = device.zeros::<f32>(WHAT, lengths.partials)?;
        let mut exponents_x = device.zeros::<i32>(WHAT, lengths.exponents_x)?;
        let mut exponents_y = device.zeros::<i32>(WHAT, lengths.exponents_y.max(1))?;
        let us = time(device, &mut |_| {
            let split = launcher.hsic_mma(
                &mut partials.as_view_mut(),
                &mut exponents_x.as_view_mut(),
                &mut exponents_y.as_view_mut(),
                &panels(),
            )?;
            let (partials, x, y) = (partials.as_view(), exponents_x.as_view(), exponents_y.as_view());
            let sums = &mut sums_of(&mut pair_sums, &weights, layers);
            launcher.hsic_accumulate(sums, &partials, &x, &y, &panels(), split.splits)
        })?;
        let all = (layers * layers * length) as f64;
        let naive_us = time_naive(device, all, &mut |_| {
            launcher.hsic_naive(&mut sums_of(&mut pair_sums, &weights, layers), &panels())
        })?;
        let cublas_us = self.cublas_us(|_| Values::F32(panel.as_view()), shape, false)?;
        let subject = Subject {
            kernel: "hsic",
            variant: "mma",
            stored: "f32",
            shape: &shape,
            bytes: 4.0 * (layers * length) as f64 + 8.0 * (layers * layers) as f64,
            partial_bytes: (lengths.partials * size_of::<f32>()) as f64,
            flops: HSIC_PRODUCTS * 2.0 * triangle(layers, plan::STRIP) * length as f64,
            products: Some(Products::Bf16),
        };
        self.write(rows, &subject, Times { us, naive_us, cublas_us, ..Times::default() })
    }
}

/// Layers `[examples, features]` of a type, as many copies as the cache does not hold, and the shifts of their columns.
struct Layers<'a> {
    device: &'a Device,
    count: usize,
    /// All layers one after the other.
    x: Vec<Uploaded>,
    shift: Slice<f32>,
    largest: Slice<f32>,
    first_bad: Slice<i32>,
}

impl<'a> Layers<'a> {
    fn new(device: &'a Device, name: &str, element: usize, [count, features]: [usize; 2]) -> Result<Self, Error> {
        let length = count * EXAMPLES * features;
        let values = (0..length).map(pattern);
        let copies = 0..copies(device, length * element);
        let x: Result<Vec<Uploaded>, Error> = match name {
            "bf16" => {
                let values: Vec<bf16> = values.map(bf16::from_f32).collect();
                copies.map(|_| device.upload(WHAT, &values).map(Uploaded::Bf16)).collect()
            }
            "f16" => {
                let values: Vec<f16> = values.map(f16::from_f32).collect();
                copies.map(|_| device.upload(WHAT, &values).map(Uploaded::F16)).collect()
            }
            _ => {
                let values: Vec<f32> = values.collect();
                copies.map(|_| device.upload(WHAT, &values).map(Uploaded::F32)).collect()
            }
        };
        Ok(Self {
            x: x?,
            shift: device.zeros(WHAT, count * features)?,
            largest: device.zeros(WHAT, count * features)?,
            first_bad: device.upload(WHAT, &vec![i32::MAX; count])?,
            device,
            count,
        })
    }

    /// The copies of a round.
    fn views(&self, round: usize) -> Vec<Values<'_>> {
        views(&self.x[round % self.x.len()], self.count)
    }

    /// The first of them.
    fn one(&self, round: usize) -> Values<'_> {
        self.views(round).remove(0)
    }

    /// Does `work` with all of a round, which share the device.
    fn with<R>(&self, round: usize, work: impl FnOnce(&gramscope_cuda::Layers<'_>) -> R) -> R {
        with_all(&self.views(round), work)
    }

    fn shift(&mut self, round: usize) -> Result<(), Error> {
        let Self { device, x, shift, largest, first_bad, count } = self;
        let (shift, largest) = (&mut shift.as_view_mut(), &mut largest.as_view_mut());
        with_all(&views(&x[round % x.len()], *count), |layers| {
            device.launcher().gram_shift(shift, largest, &mut first_bad.as_view_mut(), layers)
        })
    }

    fn naive(&mut self, k: &mut Slice<f64>, round: usize) -> Result<(), Error> {
        let (launcher, shift) = (self.device.launcher(), &self.shift.as_view());
        self.with(round, |layers| launcher.gram_naive(&mut k.as_view_mut(), layers, shift))
    }

    fn double(&mut self, partials: &mut Slice<f64>, round: usize) -> Result<(), Error> {
        let (launcher, plan, shift) = (self.device.launcher(), self.device.plan(), &self.shift.as_view());
        self.with(round, |layers| {
            launcher.gram_double(&mut partials.as_view_mut(), layers, shift, None, plan).map(drop)
        })
    }

    /// Enqueues the products of the shifted columns, by `fused` or `tiled` as `sums` is made for.
    fn products(&mut self, sums: &mut Sums, exact: bool, round: usize) -> Result<(), Error> {
        let Self { device, x, shift, largest, first_bad, count } = self;
        let (fused, partials, launcher) = (sums.fused, &mut sums.partials_mut(), device.launcher());
        let enqueued = with_all(&views(&x[round % x.len()], *count), |layers| {
            if fused {
                let (shift, first_bad) = (&mut shift.as_view_mut(), &mut first_bad.as_view_mut());
                launcher.gram_fused(exact, partials, shift, first_bad, layers, None)
            } else {
                launcher.gram_tiled(exact, partials, layers, &shift.as_view(), &largest.as_view(), None)
            }
        });
        enqueued.map(drop)
    }
}

/// So many layers that lie one after the other.
fn views(all: &Uploaded, count: usize) -> Vec<Values<'_>> {
    let length = all.view().len() / count;
    let view = |first: usize| match all {
        Uploaded::F16(values) => Values::F16(values.slice(first..first + length)),
        Uploaded::Bf16(values) => Values::Bf16(values.slice(first..first + length)),
        Uploaded::F32(values) => Values::F32(values.slice(first..first + length)),
    };
    (0..count).map(|layer| view(layer * length)).collect()
}

/// Does `work` with layers that share the device.
fn with_all<R>(views: &[Values<'_>], work: impl FnOnce(&gramscope_cuda::Layers<'_>) -> R) -> R {
    let x: Vec<&Values<'_>> = views.iter().collect();
    let layers = gramscope_cuda::Layers { x: &x, examples: EXAMPLES, sharing: 0 };
    work(&gramscope_cuda::Layers { sharing: layers.columns(), ..layers })
}

/// Entries that are computed of a symmetric matrix of so many rows, in tiles of `tile` a side.
fn triangle(rows: usize, tile: usize) -> f64 {
    (plan::triangle(rows.div_ceil(tile)) * tile * tile) as f64
}

/// Partial sums of Gram matrices.
struct Sums {
    fused: bool,
    split: plan::LayersSplit,
    sums: Slice<f32>,
    exponents: Slice<i32>,
    reaches: Slice<f32>,
}

impl Sums {
    /// None where the kernel does not take so many features.
    fn new(device: &Device, [layers, features]: [usize; 2], fused: bool) -> Result<Option<Self>, Error> {
        let plan = if fused { plan::gram_fused } else { plan::gram_tiled };
        let one = |features, device| plan(EXAMPLES, features, device);
        let split = plan::LayersSplit::new(&vec![features; layers], layers * features, device.plan(), one);
        let Some(split) = split else { return Ok(None) };
        Ok(Some(Self {
            sums: device.zeros(WHAT, split.partials)?,
            exponents: device.zeros(WHAT, split.exponents)?,
            reaches: device.zeros(WHAT, split.exponents)?,
            fused,
            split,
        }))
    }

    fn bytes(&self) -> f64 {
        (size_of::<f32>() * (self.sums.len() + self.exponents.len() + self.reaches.len())) as f64
    }

    fn partials(&self) -> Partials<'_> {
        Partials { sums: self.sums.as_view(), exponents: self.exponents.as_view(), reaches: self.reaches.as_view() }
    }

    fn partials_mut(&mut self) -> PartialsMut<'_> {
        PartialsMut {
            sums: self.sums.as_view_mut(),
            exponents: self.exponents.as_view_mut(),
            reaches: self.reaches.as_view_mut(),
        }
    }
}

fn sums_of<'a>(sums: &'a mut Slice<f64>, weights: &'a Slice<Weight>, layers: usize) -> PairSums<'a> {
    let (weights_x, weights_y) = (weights.as_view(), weights.as_view());
    PairSums { sums: sums.as_view_mut(), stride: layers, weights_x, weights_y, factor: 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer of each kind by hand: stem, stages, transitions and what follows them, of every network.
    #[test]
    fn every_layer_s_features_are_measured() {
        let expected = [
            10, 64, 640, 1000, 2048, 4096, 8192, 16_384, 25_088, 40_960, 50_176, 65_536, 81_920, 100_352, 163_840,
            200_704, 401_408, 802_816,
        ];
        assert_eq!(features().into_iter().collect::<Vec<_>>(), expected);
    }
}
