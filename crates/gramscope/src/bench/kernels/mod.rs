//! Each kernel at the shapes of real networks: time, bytes, operations, share of its floor, and ratios to its naive twin and to
//! cuBLAS.
//!
//! A kernel's floor is the longer of two times: its bytes at the measured copy bandwidth, and the operations that it issues at
//! the measured matrix rate. Inputs rotate through more memory than the second-level cache holds.
//!
//! cuBLAS computes both triangles of X X^T, without shift, verdict or scales: `exact` is held against its float32 product,
//! `fast` against its TF32 one, half-precision values against its half-precision one. Where it is not to be loaded, its fields
//! are null and a note says so.

use std::sync::Arc;

use gramscope_cuda::{
    Cublas, Device, DeviceProbes, Error, LayerSum, PairSums, Panels, PartialsMut, ProbeInput, ProbeStep, RowSummary,
    Slice, Uploaded, Values, Weight, ceilings, plan,
};
use half::{bf16, f16};
use regex::Regex;
use serde_json::json;

use super::{Rows, median};

/// Examples a batch.
const EXAMPLES: usize = 256;
/// Features of the layers of ResNet-20, -110 and -164 (width 1), of ResNet-38 x10 and of an ImageNet ResNet-50, once each.
const FEATURES: [usize; 13] =
    [10, 64, 2048, 4096, 8192, 16_384, 25_088, 65_536, 81_920, 100_352, 163_840, 200_704, 802_816];
/// Classes that probes tell apart.
const CLASSES: usize = 10;
/// Layers of a panel.
const LAYERS: [usize; 5] = [60, 385, 574, 1500, 6000];
/// Measurements, of which the median counts.
const ROUNDS: usize = 15;
/// Launches a measurement.
const LAUNCHES: usize = 4;
/// Naive kernels are measured where they take no more operations than this.
const NAIVE_OPERATIONS: f64 = 4e10;

/// What the device can do at best, measured.
struct Ceilings {
    /// Bytes a second.
    copy: f64,
    /// Operations a second of half-precision products; none without cuBLAS.
    half: Option<f64>,
}

/// One measurement.
struct Measured<'a> {
    kernel: &'a str,
    variant: &'a str,
    shape: Vec<usize>,
    us: f64,
    bytes: f64,
    flops: f64,
    /// Of the naive twin, where it was measured.
    naive_us: Option<f64>,
    /// Of cuBLAS, where it does the same and is there.
    cublas_us: Option<f64>,
}

/// Where measurements are made, and which.
struct Bench<'a> {
    device: &'a Arc<Device>,
    ceilings: Ceilings,
    cublas: Option<Cublas<'a>>,
    only: Option<&'a Regex>,
}

/// Measures every kernel, or those whose "kernel variant dtype [shape]" matches `only`.
///
/// # Errors
/// What the device may say; a file that cannot be written.
pub(crate) fn run(device: &Arc<Device>, only: Option<&Regex>, rows: &mut Rows<'_>) -> anyhow::Result<()> {
    let ceilings = Ceilings {
        copy: ceilings::copy_bandwidth(device)?,
        half: ceilings::matrix_rate(device, ceilings::Products::Bf16)?,
    };
    let bench = Bench { device, ceilings, cublas: Cublas::load(device)?, only };
    if bench.cublas.is_none() {
        rows.note("there is no cuBLAS to load (libcublas.so.13): neither its ratios nor the matrix rate are measured");
    }
    for features in FEATURES {
        for (name, element) in [("f32", 4), ("bf16", 2), ("f16", 2)] {
            bench.gram(rows, name, element, features)?;
        }
    }
    for features in FEATURES {
        for (name, element) in [("f32", 4), ("bf16", 2)] {
            bench.probe(rows, name, element, features)?;
        }
    }
    for layers in LAYERS {
        bench.hsic(rows, layers)?;
    }
    Ok(())
}

/// `[examples, features]` of a type, as many copies as the cache does not hold.
fn inputs(device: &Device, name: &str, element: usize, features: usize) -> Result<Vec<Uploaded>, Error> {
    let length = EXAMPLES * features;
    let cache = usize::try_from(device.properties().cache_bytes).unwrap_or(usize::MAX);
    let copies = (2 * cache).div_ceil(length * element).clamp(2, 64);
    // The values do not matter to the time, but zeros would take a kernel's short way.
    let pattern = |index: usize| (index % 97) as f32 * 0.1 - 4.0;
    let upload = |_| match name {
        "bf16" => device
            .upload("a benchmark", &(0..length).map(|i| bf16::from_f32(pattern(i))).collect::<Vec<_>>())
            .map(Uploaded::Bf16),
        "f16" => device
            .upload("a benchmark", &(0..length).map(|i| f16::from_f32(pattern(i))).collect::<Vec<_>>())
            .map(Uploaded::F16),
        _ => device.upload("a benchmark", &(0..length).map(pattern).collect::<Vec<_>>()).map(Uploaded::F32),
    };
    (0..copies).map(upload).collect()
}

impl Bench<'_> {
    fn wants(&self, kernel: &str, variant: &str, stored: &str, shape: &[usize]) -> bool {
        self.only.is_none_or(|only| only.is_match(&format!("{kernel} {variant} {stored} {shape:?}")))
    }

    /// The Gram kernels of one type at one number of features.
    fn gram(&self, rows: &mut Rows<'_>, name: &str, element: usize, features: usize) -> anyhow::Result<()> {
        let device = self.device;
        let shape = [EXAMPLES, features];
        let variants = ["fused exact", "fused fast", "tiled exact", "tiled fast"];
        if !["shift"].iter().chain(&variants).any(|variant| self.wants("gram", variant, name, &shape)) {
            return Ok(());
        }
        let inputs = inputs(device, name, element, features)?;
        let launcher = device.launcher();
        let what = "a benchmark";
        let mut first_bad = device.upload(what, &[i32::MAX])?;
        let (mut shift, mut largest) = (device.zeros::<f32>(what, features)?, device.zeros::<f32>(what, features)?);
        let read = (EXAMPLES * features * element) as f64;

        let us = time(device, |round| {
            let (shift, largest) = (&mut shift.as_view_mut(), &mut largest.as_view_mut());
            let x = inputs[round % inputs.len()].view();
            launcher.gram_shift(shift, largest, &mut first_bad.as_view_mut(), &x, None, shape)
        })?;
        let base = Measured {
            kernel: "gram",
            variant: "shift",
            shape: shape.to_vec(),
            us,
            bytes: read + 8.0 * features as f64,
            flops: 0.0,
            naive_us: None,
            cublas_us: None,
        };
        if self.wants("gram", "shift", name, &shape) {
            self.write(rows, name, &base)?;
        }
        if !variants.iter().any(|variant| self.wants("gram", variant, name, &shape)) {
            return Ok(());
        }

        let all = 2.0 * (EXAMPLES * EXAMPLES * features) as f64;
        let mut naive_us = None;
        if all <= NAIVE_OPERATIONS {
            let mut k = device.zeros::<f64>(what, EXAMPLES * EXAMPLES)?;
            let shift = shift.as_view();
            naive_us = Some(time(device, |round| {
                launcher.gram_naive(&mut k.as_view_mut(), &inputs[round % inputs.len()].view(), &shift, shape)
            })?);
        }
        let [exact_us, fast_us] =
            [false, true].map(|tf32| self.cublas_us(|round| inputs[round % inputs.len()].view(), shape, tf32));
        let (exact_us, fast_us) = (exact_us?, fast_us?);
        let triangle = (plan::triangle(plan::strips(EXAMPLES)) * plan::STRIP * plan::STRIP) as f64;
        for (fused, split) in [
            (true, plan::gram_fused(EXAMPLES, features, device.plan())),
            (false, plan::gram_tiled(EXAMPLES, features, device.plan())),
        ] {
            let Some(split) = split else { continue };
            let mut sums = device.zeros::<f32>(what, split.partials)?;
            let mut exponents = device.zeros::<i32>(what, split.exponents)?;
            let mut reaches = device.zeros::<f32>(what, split.exponents)?;
            for exact in [true, false] {
                let variant = variants[2 * usize::from(!fused) + usize::from(!exact)];
                if !self.wants("gram", variant, name, &shape) {
                    continue;
                }
                let us = time(device, |round| {
                    let x = inputs[round % inputs.len()].view();
                    let mut partials = PartialsMut {
                        sums: sums.as_view_mut(),
                        exponents: exponents.as_view_mut(),
                        reaches: reaches.as_view_mut(),
                    };
                    let (shift, largest) = (shift.as_view(), largest.as_view());
                    if fused {
                        launcher.gram_fused(exact, &mut partials, &mut first_bad.as_view_mut(), &x, None, shape)
                    } else {
                        launcher.gram_tiled(exact, &mut partials, &x, &shift, &largest, None, shape)
                    }
                    .map(drop)
                })?;
                let products = if exact { 3.0 } else { 1.0 };
                let measured = Measured {
                    variant,
                    shape: shape.to_vec(),
                    us,
                    bytes: read + 4.0 * (split.partials + 2 * split.exponents) as f64,
                    flops: products * 2.0 * triangle * features as f64,
                    naive_us,
                    cublas_us: if exact { exact_us } else { fast_us },
                    ..base
                };
                self.write(rows, name, &measured)?;
            }
        }
        Ok(())
    }

    /// A linear probe on activations of one type at one number of features: a step's three launches, and an evaluation's two.
    fn probe(&self, rows: &mut Rows<'_>, name: &str, element: usize, features: usize) -> anyhow::Result<()> {
        let shape = [EXAMPLES, features];
        // A step reads x twice, W twice and V, and writes W and V; an evaluation reads x and W.
        for (variant, learns, passes, weights) in [("step", true, 2, 5), ("evaluation", false, 1, 1)] {
            if !self.wants("probe", variant, name, &shape) {
                continue;
            }
            let inputs = inputs(self.device, name, element, features)?;
            let step = ProbeStep { learning_rate: 1e-3, momentum: 0.9 };
            let mut probes = DeviceProbes::new(self.device.clone(), &[ProbeInput::Whole(features)], CLASSES, step)?;
            let labels: Vec<u32> = (0..EXAMPLES).map(|example| (example % CLASSES) as u32).collect();
            probes.begin_batch(&labels)?;
            let us = time(self.device, |round| {
                let x = inputs[round % inputs.len()].view();
                if learns { probes.learn(0, &x) } else { probes.evaluate(0, &x) }
            })?;
            let measured = Measured {
                kernel: "probe",
                variant,
                shape: shape.to_vec(),
                us,
                bytes: (passes * EXAMPLES * features * element + weights * CLASSES * features * 4) as f64,
                flops: (passes * 2 * EXAMPLES * features * CLASSES) as f64,
                naive_us: None,
                cublas_us: None,
            };
            self.write(rows, name, &measured)?;
        }
        Ok(())
    }

    /// What cuBLAS takes for the Gram matrix of what `x` hands out, a round each.
    fn cublas_us<'x>(
        &self,
        x: impl Fn(usize) -> Values<'x>,
        shape: [usize; 2],
        tf32: bool,
    ) -> Result<Option<f64>, Error> {
        let Some(cublas) = &self.cublas else { return Ok(None) };
        let mut product = self.device.zeros::<f32>("a benchmark", shape[0] * shape[0])?;
        time(self.device, |round| cublas.gram(&mut product.as_view_mut(), &x(round), shape, tf32)).map(Some)
    }

    /// A panel times itself and the sums of all pairs.
    fn hsic(&self, rows: &mut Rows<'_>, layers: usize) -> anyhow::Result<()> {
        let device = self.device;
        let what = "a benchmark";
        let length = EXAMPLES * (EXAMPLES - 1) / 2;
        if !self.wants("hsic", "mma", "f32", &[layers, length]) {
            return Ok(());
        }
        let panel: Slice<f32> = device.zeros(what, layers * length)?;
        let mut pair_sums = device.zeros::<f64>(what, layers * layers)?;
        let mut own = device.zeros::<LayerSum>(what, layers)?;
        let mut weights = device.zeros::<Weight>(what, layers)?;
        let summaries = device.zeros::<RowSummary>(what, layers)?;
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
        let mut partials = device.zeros::<f32>(what, lengths.partials)?;
        let mut exponents_x = device.zeros::<i32>(what, lengths.exponents_x)?;
        let mut exponents_y = device.zeros::<i32>(what, lengths.exponents_y.max(1))?;
        let us = time(device, |_| {
            let split = launcher.hsic_mma(
                &mut partials.as_view_mut(),
                &mut exponents_x.as_view_mut(),
                &mut exponents_y.as_view_mut(),
                &panels(),
            )?;
            let (partials, x, y) = (partials.as_view(), exponents_x.as_view(), exponents_y.as_view());
            let sums = &mut sums_of(&mut pair_sums, &weights, layers);
            launcher.hsic_accumulate(sums, &partials, &x, &y, &panels(), split)
        })?;
        let all = (layers * layers * length) as f64;
        let naive_us = (all <= NAIVE_OPERATIONS)
            .then(|| time(device, |_| launcher.hsic_naive(&mut sums_of(&mut pair_sums, &weights, layers), &panels())))
            .transpose()?;
        let cublas_us = self.cublas_us(|_| Values::F32(panel.as_view()), [layers, length], false)?;
        let triangle = (plan::triangle(plan::strips(layers)) * plan::STRIP * plan::STRIP) as f64;
        let measured = Measured {
            kernel: "hsic",
            variant: "mma",
            shape: vec![layers, length],
            us,
            bytes: 4.0 * (layers * length) as f64 + 8.0 * (layers * layers) as f64,
            flops: 3.0 * 2.0 * triangle * length as f64,
            naive_us,
            cublas_us,
        };
        self.write(rows, "f32", &measured)
    }

    fn write(&self, rows: &mut Rows<'_>, stored: &str, measured: &Measured<'_>) -> anyhow::Result<()> {
        let Self { device, ceilings, .. } = self;
        let Measured { kernel, variant, shape, us, bytes, flops, naive_us, cublas_us } = measured;
        // Where there is no cuBLAS to measure the matrix rate with, bytes alone make the floor, and the row says so.
        let products_us = ceilings.half.map_or(0.0, |rate| flops / rate * 1e6);
        let floor_us = (bytes / ceilings.copy * 1e6).max(products_us);
        let properties = device.properties();
        let fields = json!({
            "bench": "kernels", "kernel": kernel, "variant": variant, "dtype": stored, "shape": shape, "us": us,
            "bytes": bytes, "flops": flops, "floor_us": floor_us, "share_of_ceiling": floor_us / us,
            "matrix_rate_measured": ceilings.half.is_some(), "naive_us": naive_us,
            "over_naive": naive_us.map(|naive| naive / us), "cublas_us": cublas_us,
            "ratio_to_cublas": cublas_us.map(|cublas| us / cublas), "copy_bytes_per_second": ceilings.copy,
            "matrix_flops_per_second": ceilings.half, "device": properties.name, "driver": properties.driver.to_string(),
        });
        let twin = naive_us.map_or(String::new(), |naive| format!(", {:.1} x faster than naive", naive / us));
        let cublas = cublas_us.map_or(String::new(), |cublas| format!(", {:.2} of cuBLAS's time", us / cublas));
        let text = format!(
            "{kernel} {variant} {stored} {shape:?}: {us:.1} us, {:.2} TB/s, {:.1} TFLOP/s, {:.0}% of its floor{twin}{cublas}",
            bytes / us * 1e-6,
            flops / us * 1e-6,
            100.0 * floor_us / us
        );
        rows.row(&text, &fields)
    }
}

fn sums_of<'a>(sums: &'a mut Slice<f64>, weights: &'a Slice<Weight>, layers: usize) -> PairSums<'a> {
    let (weights_x, weights_y) = (weights.as_view(), weights.as_view());
    PairSums { sums: sums.as_view_mut(), stride: layers, weights_x, weights_y, factor: 1.0 }
}

/// The median of microseconds a launch, by events around several, after one measurement that does not count.
fn time(device: &Device, mut launch: impl FnMut(usize) -> Result<(), Error>) -> Result<f64, Error> {
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..=ROUNDS {
        let start = device.now()?;
        for index in 0..LAUNCHES {
            launch(round * LAUNCHES + index)?;
        }
        let us = start.microseconds_to(&device.now()?)? / LAUNCHES as f64;
        if round > 0 {
            times.push(us);
        }
    }
    Ok(median(times))
}
