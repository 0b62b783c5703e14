//! Each kernel at the shapes of real networks: time, bytes, operations, share of its floor, and ratios to its naive twin, to
//! cuBLAS and to cuDNN.
//!
//! A kernel's floor is the longer of two times: its bytes at the measured copy bandwidth, and the operations that it issues at
//! the measured rate of its products; where these are few, or are made beside other work on the ordinary units, it is that of its
//! bytes. Bytes are those that any kernel would have to move: partial sums that one kernel leaves for the next are told apart
//! (`partial_bytes`), and are no part of the floor. What is read and written rotates through more memory than the second-level cache
//! holds, but for what one kernel of a comparison leaves for the next (ucenter, hsic, rbf, eigen), which lies in that cache in a comparison
//! too where it is small enough: shares of such rows can be above 1.
//!
//! cuBLAS computes both triangles of X X^T, without shift, verdict or scales: `exact` is held against its float32 product,
//! `fast` against its TF32 one, half-precision values against its half-precision one. cuDNN computes a convolution with the
//! engine that training would choose. Where one is not to be loaded, its fields are null and a note says so.

mod comparison;
mod convolution;
mod probe;
mod training;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use gramscope_cuda::ceilings::{self, Products};
use gramscope_cuda::{Bytes, BytesNeeded, Cublas, Device, Error, Slice, Stopwatch, View, ViewMut};
use gramscope_train::choices::KeptChoices;
use regex::Regex;
use serde_json::json;

use super::{Rows, median};
use crate::stored::Stored;

/// What buffers are for, in messages.
const WHAT: &str = "a benchmark";
/// Measurements, of which the median counts.
const ROUNDS: usize = 15;
/// Launches a measurement.
const LAUNCHES: usize = 8;
/// Measurements of a naive twin, of one launch each: it takes long, and nobody tunes it.
const NAIVE_ROUNDS: usize = 3;
/// Naive kernels are measured where they take no more operations than this.
const NAIVE_OPERATIONS: f64 = 4e10;

/// What the device can do at best, measured.
struct Ceilings {
    /// Bytes a second.
    copy: f64,
    /// Operations a second of half-precision products, of TF32 ones, and of float32 ones as they are; none without cuBLAS.
    half: Option<f64>,
    tf32: Option<f64>,
    float32: Option<f64>,
}

impl Ceilings {
    fn measure(device: &Device) -> Result<Self, Error> {
        Ok(Self {
            copy: ceilings::copy_bandwidth(device)?,
            half: ceilings::matrix_rate(device, Products::Bf16)?,
            tf32: ceilings::matrix_rate(device, Products::Tf32)?,
            float32: ceilings::matrix_rate(device, Products::Float32)?,
        })
    }

    fn rate(&self, products: Option<Products>) -> Option<f64> {
        match products? {
            Products::Bf16 => self.half,
            Products::Tf32 => self.tf32,
            Products::Float32 => self.float32,
        }
    }
}

/// What is measured, and what it moves and computes.
#[derive(Clone, Copy)]
struct Subject<'a> {
    kernel: &'a str,
    variant: &'a str,
    /// What its values are stored as, or how they are multiplied.
    stored: &'a str,
    shape: &'a [usize],
    bytes: f64,
    /// Of partial sums beside them, written once and read once.
    partial_bytes: f64,
    flops: f64,
    /// What its products are computed in; none where they make no floor.
    products: Option<Products>,
}

/// Microseconds a launch.
#[derive(Clone, Copy, Default)]
struct Times {
    us: f64,
    /// Of the naive twin, where it was measured.
    naive_us: Option<f64>,
    /// Of the libraries, where they do the same and are there.
    cublas_us: Option<f64>,
    cudnn_us: Option<f64>,
}

/// Where measurements are made, and which.
struct KernelBench<'a> {
    device: &'a Arc<Device>,
    /// The same GPU, with cuDNN's convolutions.
    cudnn: Option<Device>,
    ceilings: Ceilings,
    cublas: Option<Cublas<'a>>,
    only: Option<&'a Regex>,
    /// Whether there was something that is wanted.
    matched: Cell<bool>,
    /// What the device had too little memory for.
    left_out: RefCell<Vec<String>>,
}

/// Measures every kernel, or those whose "kernel variant dtype \[shape\]" matches `only`. What does not fit into the device's memory is
/// left out, and the others are measured all the same.
///
/// # Errors
/// What the device may say; a file that cannot be written; an expression that matches none; at the end, that something was left out.
pub(crate) fn run(device: &Arc<Device>, only: Option<&Regex>, rows: &mut Rows<'_>) -> anyhow::Result<()> {
    let measured = Ceilings::measure(device);
    let ceilings = measured.map_err(|error| too_large(&error).map_or_else(|| error.into(), anyhow::Error::msg))?;
    let cublas = Cublas::load(device)?;
    if cublas.is_none() {
        rows.note("there is no cuBLAS to load (libcublas.so.13): neither its ratios nor the matrix rates are measured");
    }
    // Whatever is wrong with it, our kernels are measured.
    let cudnn = match with_cudnn(device) {
        Ok(device) => Some(device),
        Err(reason) => {
            rows.note(&format!("cuDNN's convolutions are not measured: {reason}"));
            None
        }
    };
    let (matched, left_out) = (Cell::new(false), RefCell::new(Vec::new()));
    let bench = KernelBench { device, cudnn, ceilings, cublas, only, matched, left_out };
    bench.comparison(rows)?;
    bench.probes(rows)?;
    bench.convolutions(rows)?;
    bench.training(rows)?;
    let left_out = bench.left_out.take();
    if !left_out.is_empty() {
        anyhow::bail!("the device's memory was too little for: {}", left_out.join("; "));
    }
    match only {
        Some(only) if !bench.matched.get() => {
            anyhow::bail!(
                "--only {only} matches none of the kernels' rows, which begin \"kernel variant dtype [shape]\""
            )
        }
        _ => Ok(()),
    }
}

fn with_cudnn(device: &Device) -> anyhow::Result<Device> {
    Ok(device.fork()?.with_cudnn(Arc::new(KeptChoices::in_cache()?))?)
}

impl KernelBench<'_> {
    fn wants(&self, kernel: &str, variant: &str, stored: &str, shape: &[usize]) -> bool {
        let wants = self.only.is_none_or(|only| only.is_match(&format!("{kernel} {variant} {stored} {shape:?}")));
        self.matched.set(self.matched.get() || wants);
        wants
    }

    /// Those of `variants` that are wanted.
    fn wanted<'v>(&self, kernel: &str, variants: &[&'v str], stored: &str, shape: &[usize]) -> Vec<&'v str> {
        variants.iter().copied().filter(|variant| self.wants(kernel, variant, stored, shape)).collect()
    }

    /// Goes on where what was `measured` of a kernel, or some of it, found too little memory, and keeps in mind that it was left out.
    ///
    /// # Errors
    /// All others.
    fn unless_too_large(
        &self,
        measured: anyhow::Result<()>,
        rows: &Rows<'_>,
        kernel: &str,
        stored: &str,
        shape: &[usize],
    ) -> anyhow::Result<()> {
        let Err(error) = measured else { return Ok(()) };
        let Some(reason) = error.downcast_ref::<Error>().and_then(too_large) else { return Err(error) };
        let what = format!("{kernel} {stored} {shape:?}");
        rows.note(&format!("{what} is left out: {reason}"));
        self.left_out.borrow_mut().push(what);
        Ok(())
    }

    /// The time of a launch, if it is wanted, as a row: for what has no twin and no library to be held against.
    fn alone(
        &self,
        rows: &mut Rows<'_>,
        subject: &Subject<'_>,
        launch: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> anyhow::Result<()> {
        let Subject { kernel, variant, stored, shape, .. } = *subject;
        if !self.wants(kernel, variant, stored, shape) {
            return Ok(());
        }
        let times = Times { us: time(self.device, launch)?, ..Times::default() };
        self.write(rows, subject, times)
    }

    fn write(&self, rows: &mut Rows<'_>, subject: &Subject<'_>, times: Times) -> anyhow::Result<()> {
        let Self { device, ceilings, .. } = self;
        let Subject { kernel, variant, stored, shape, bytes, partial_bytes, flops, products } = *subject;
        let Times { us, naive_us, cublas_us, cudnn_us } = times;
        // Where there is no rate, bytes alone make the floor, and the row says so.
        let rate = ceilings.rate(products);
        let floor_us = (bytes / ceilings.copy * 1e6).max(rate.map_or(0.0, |rate| flops / rate * 1e6));
        let properties = device.properties();
        let ratio = |other: Option<f64>| other.map(|other| us / other);
        let fields = json!({
            "bench": "kernels", "kernel": kernel, "variant": variant, "dtype": stored, "shape": shape, "us": us,
            "bytes": bytes, "partial_bytes": partial_bytes, "flops": flops, "floor_us": floor_us, "share_of_ceiling": floor_us / us,
            "matrix_rate_measured": rate.is_some(), "naive_us": naive_us, "over_naive": naive_us.map(|naive| naive / us),
            "cublas_us": cublas_us, "ratio_to_cublas": ratio(cublas_us), "cudnn_us": cudnn_us,
            "ratio_to_cudnn": ratio(cudnn_us), "copy_bytes_per_second": ceilings.copy, "matrix_flops_per_second": rate,
            "device": properties.name, "driver": properties.driver.to_string(),
        });
        let twin = naive_us.map_or(String::new(), |naive| format!(", {:.1} x faster than naive", naive / us));
        let beside = |name: &str, other: Option<f64>| {
            ratio(other).map_or(String::new(), |ratio| format!(", {ratio:.2} of {name}'s time"))
        };
        let text = format!(
            "{kernel} {variant} {stored} {shape:?}: {us:.1} us, {:.2} TB/s, {:.1} TFLOP/s, {:.0}% of its \
             floor{twin}{}{}",
            bytes / us * 1e-6,
            flops / us * 1e-6,
            100.0 * floor_us / us,
            beside("cuBLAS", cublas_us),
            beside("cuDNN", cudnn_us)
        );
        rows.row(&text, &fields)
    }
}

/// How much memory was too little, where it was; the error's own message would name flags of other commands.
fn too_large(error: &Error) -> Option<String> {
    match error {
        Error::OutOfMemory { needed, free, .. } => {
            Some(format!("it needs {} more of device memory, and {} is free", BytesNeeded(*needed), Bytes(*free)))
        }
        _ => None,
    }
}

/// Values on the device, in as many copies as the cache does not hold: each is used in its turn.
struct Rotating<T> {
    values: Slice<T>,
    length: usize,
}

impl<T: Stored> Rotating<T> {
    /// Numbers of which none is special: zeros would take a kernel's short way, and less power.
    fn new(device: &Device, length: usize) -> anyhow::Result<Self> {
        let first = device.upload(WHAT, &(0..length).map(|index| T::of(pattern(index))).collect::<Vec<_>>())?;
        let mut values = device.zeros(WHAT, copies(device, length * size_of::<T>()) * length)?;
        for copy in (0..values.len() / length).map(|copy| copy * length..(copy + 1) * length) {
            device.stream().memcpy_dtod(&first, &mut values.slice_mut(copy))?;
        }
        Ok(Self { values, length })
    }

    fn at(&self, round: usize) -> std::ops::Range<usize> {
        let first = round % (self.values.len() / self.length) * self.length;
        first..first + self.length
    }

    fn view(&self, round: usize) -> View<'_, T> {
        self.values.slice(self.at(round))
    }

    fn view_mut(&mut self, round: usize) -> ViewMut<'_, T> {
        self.values.slice_mut(self.at(round))
    }
}

/// Copies of so many bytes that the cache does not hold.
fn copies(device: &Device, bytes: usize) -> usize {
    let cache = usize::try_from(device.properties().cache_bytes).unwrap_or(usize::MAX);
    (2 * cache).div_ceil(bytes).clamp(2, 64)
}

fn pattern(index: usize) -> f32 {
    (index % 97) as f32 * 0.1 - 4.0
}

/// The median of microseconds a launch, by events around several that are enqueued while the device is busy, after one measurement that
/// does not count.
fn time(device: &Device, launch: &mut dyn FnMut(usize) -> Result<(), Error>) -> Result<f64, Error> {
    measure(device, ROUNDS, LAUNCHES, launch)
}

/// That of a naive twin that takes so many operations; none where they are too many.
fn time_naive(
    device: &Device,
    operations: f64,
    launch: &mut dyn FnMut(usize) -> Result<(), Error>,
) -> Result<Option<f64>, Error> {
    (operations <= NAIVE_OPERATIONS).then(|| measure(device, NAIVE_ROUNDS, 1, launch)).transpose()
}

fn measure(
    device: &Device,
    rounds: usize,
    launches: usize,
    launch: &mut dyn FnMut(usize) -> Result<(), Error>,
) -> Result<f64, Error> {
    let mut stopwatch = Stopwatch::new(device)?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let all = stopwatch.microseconds(|| (0..launches).try_for_each(|index| launch(round * launches + index)))?;
        if round > 0 {
            times.push(all / launches as f64);
        }
    }
    Ok(median(times))
}
