//! Layers, and what is made of them.

use gramscope_cuda::{Device, Error, Partials, PartialsMut, Slice, Uploaded, Values, plan};
use half::{bf16, f16};

use super::EXAMPLES;
use crate::bench::kernels::{WHAT, copies, pattern};

/// Layers `[examples, features]` of a type, as many copies as the cache does not hold, and the shifts of their columns.
pub(super) struct Layers<'a> {
    device: &'a Device,
    count: usize,
    /// All layers one after the other.
    x: Vec<Uploaded>,
    shift: Slice<f32>,
    largest: Slice<f32>,
    first_bad: Slice<i32>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(
        device: &'a Device,
        name: &str,
        element: usize,
        [count, features]: [usize; 2],
    ) -> Result<Self, Error> {
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
    pub(super) fn one(&self, round: usize) -> Values<'_> {
        self.views(round).remove(0)
    }

    /// Does `work` with all of a round, which share the device.
    pub(super) fn with<R>(&self, round: usize, work: impl FnOnce(&gramscope_cuda::Layers<'_>) -> R) -> R {
        with_all(&self.views(round), work)
    }

    pub(super) fn shift(&mut self, round: usize) -> Result<(), Error> {
        let Self { device, x, shift, largest, first_bad, count } = self;
        let (shift, largest) = (&mut shift.as_view_mut(), &mut largest.as_view_mut());
        with_all(&views(&x[round % x.len()], *count), |layers| {
            device.launcher().gram_shift(shift, largest, &mut first_bad.as_view_mut(), layers)
        })
    }

    pub(super) fn naive(&mut self, k: &mut Slice<f64>, round: usize) -> Result<(), Error> {
        let (launcher, shift) = (self.device.launcher(), &self.shift.as_view());
        self.with(round, |layers| launcher.gram_naive(&mut k.as_view_mut(), layers, shift))
    }

    pub(super) fn double(&mut self, partials: &mut Slice<f64>, round: usize) -> Result<(), Error> {
        let (launcher, plan, shift) = (self.device.launcher(), self.device.plan(), &self.shift.as_view());
        self.with(round, |layers| {
            launcher.gram_double(&mut partials.as_view_mut(), layers, shift, None, plan).map(drop)
        })
    }

    /// Enqueues the products of the shifted columns, by `fused` or `tiled` as `sums` is made for.
    pub(super) fn products(&mut self, sums: &mut Sums, exact: bool, round: usize) -> Result<(), Error> {
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

/// Partial sums of Gram matrices.
pub(super) struct Sums {
    fused: bool,
    pub(super) split: plan::LayersSplit,
    sums: Slice<f32>,
    exponents: Slice<i32>,
    reaches: Slice<f32>,
}

impl Sums {
    /// None where the kernel does not take so many features.
    pub(super) fn new(device: &Device, [layers, features]: [usize; 2], fused: bool) -> Result<Option<Self>, Error> {
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

    pub(super) fn bytes(&self) -> f64 {
        (size_of::<f32>() * (self.sums.len() + self.exponents.len() + self.reaches.len())) as f64
    }

    pub(super) fn partials(&self) -> Partials<'_> {
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
