//! From an activation on the device to its panel row.

use cudarc::driver::{CudaSlice, CudaViewMut};

use crate::device::Device;
use crate::error::Error;
use crate::launchers::{Launcher, Partials, PartialsMut, Values};
use crate::memory::Buffer;
use crate::plan;
use crate::shapes::RowSummary;

/// Batches below this size are computed in float64 where the result is to be exact: float32 costs about 2e-7 kappa at n = 4.
const DOUBLE_BELOW: usize = 32;

/// How Gram matrices are computed and centred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Double centring and the diagonal, instead of U-centring without it.
    pub biased: bool,
    /// Every CKA entry within 1e-6 of float64, instead of 1e-3.
    pub exact: bool,
}

impl Settings {
    /// The kappa up to which the tensor cores' products will do: centring magnifies their error by it.
    fn largest_kappa(self) -> f64 {
        if self.exact { 32.0 } else { 4096.0 }
    }
}

/// Where a layer's row and its summary go, and where the first example is noted that is not finite.
pub(crate) struct Destination<'a> {
    pub(crate) row: CudaViewMut<'a, f32>,
    pub(crate) summary: CudaViewMut<'a, RowSummary>,
    pub(crate) first_bad: CudaViewMut<'a, i32>,
}

/// Everything between an activation and its row, used again for every layer.
pub(crate) struct Workspace {
    partials: Buffer<f32>,
    exponents: Buffer<i32>,
    double_partials: Buffer<f64>,
    shift: Buffer<f32>,
    largest: Buffer<f32>,
    k: Buffer<f64>,
    sums: Buffer<f64>,
    norms: Buffer<f64>,
    /// Whether the kappa test has failed.
    redo: CudaSlice<i32>,
    /// True.
    always: CudaSlice<i32>,
    arrivals: CudaSlice<u32>,
}

/// A layer on its way.
#[derive(Clone, Copy)]
struct Layer<'a> {
    device: &'a Device,
    launcher: Launcher<'a>,
    settings: Settings,
    x: &'a Values<'a>,
    /// Examples, features.
    shape: [usize; 2],
}

/// Whether float64 is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Double {
    Always,
    /// Where the kappa test says so, on the device.
    IfNeeded,
}

impl Workspace {
    pub(crate) fn new(device: &Device) -> Result<Self, Error> {
        let what = "the Gram kernels' workspace";
        Ok(Self {
            partials: Buffer::new(what),
            exponents: Buffer::new(what),
            double_partials: Buffer::new(what),
            shift: Buffer::new(what),
            largest: Buffer::new(what),
            k: Buffer::new(what),
            sums: Buffer::new(what),
            norms: Buffer::new(what),
            redo: device.zeros(what, 1)?,
            always: device.upload(what, &[1])?,
            arrivals: device.zeros(what, 1)?,
        })
    }

    /// Enqueues all that turns `x` `[examples, features]` into its centred, packed Gram matrix. Nothing is waited for:
    /// the float64 kernels return at once unless the kappa test, on the device, has failed.
    pub(crate) fn row(
        &mut self,
        device: &Device,
        settings: Settings,
        x: &Values<'_>,
        examples: usize,
        mut to: Destination<'_>,
    ) -> Result<(), Error> {
        let layer = Layer { device, launcher: device.launcher(), settings, x, shape: [examples, x.len() / examples] };
        let double = if settings.exact && examples < DOUBLE_BELOW { Double::Always } else { Double::IfNeeded };
        if double == Double::IfNeeded {
            self.single(layer, &mut to.first_bad)?;
        }
        // The tiled kernels have left their shifts; the fused ones leave none.
        if double == Double::Always || examples <= plan::FUSED_ROWS {
            self.shift(layer, &mut to.first_bad, double)?;
        }
        self.double(layer, double)?;
        self.pack(layer, to, double)
    }

    /// Tensor-core products, their sums, and the verdict on them.
    fn single(&mut self, layer: Layer<'_>, first_bad: &mut CudaViewMut<'_, i32>) -> Result<(), Error> {
        let Layer { device, launcher, settings: Settings { biased, exact }, x, shape } = layer;
        let [examples, features] = shape;
        let fused = plan::gram_fused(examples, features, device.plan());
        let tiled = || plan::gram_tiled(examples, features, device.plan());
        let split = fused.or_else(tiled);
        let (sums, exponents) = split.map_or((0, 0), |split| (split.partials, split.exponents));
        if fused.is_none() {
            self.shift(layer, first_bad, Double::Always)?;
        }
        let mut partials = PartialsMut {
            sums: self.partials.at_least(device, sums)?,
            exponents: self.exponents.at_least(device, exponents)?,
        };
        let split = if fused.is_some() {
            launcher.gram_fused(exact, &mut partials, first_bad, x, None, shape)?
        } else {
            let (shift, largest) = (self.shift.view()?, self.largest.view()?);
            launcher.gram_tiled(exact, &mut partials, x, &shift, &largest, None, shape)?
        };
        let partials = Partials { sums: self.partials.view()?, exponents: self.exponents.view()? };
        let mut k = self.k.at_least(device, examples * examples)?;
        launcher.ucenter_reduce(&mut k, &partials, None, examples, split)?;
        launcher.ucenter_rows(
            &mut self.sums.at_least(device, 3 * examples)?,
            Some(&mut self.redo.as_view_mut()),
            &mut self.arrivals.as_view_mut(),
            &self.k.view()?,
            None,
            examples,
            biased,
            layer.settings.largest_kappa(),
        )
    }

    fn shift(&mut self, layer: Layer<'_>, first_bad: &mut CudaViewMut<'_, i32>, double: Double) -> Result<(), Error> {
        let features = layer.shape[1];
        let redo = self.redo.as_view();
        let needed = (double == Double::IfNeeded).then_some(&redo);
        layer.launcher.gram_shift(
            &mut self.shift.at_least(layer.device, features)?,
            &mut self.largest.at_least(layer.device, features)?,
            first_bad,
            layer.x,
            needed,
            layer.shape,
        )
    }

    /// Float64 products and their sums.
    fn double(&mut self, layer: Layer<'_>, double: Double) -> Result<(), Error> {
        let Layer { device, launcher, x, shape, .. } = layer;
        let [examples, features] = shape;
        let redo = self.redo.as_view();
        let needed = (double == Double::IfNeeded).then_some(&redo);
        let length = plan::gram_double(examples, features, device.plan()).partials;
        let mut partials = self.double_partials.at_least(device, length)?;
        let split = launcher.gram_double(&mut partials, x, &self.shift.view()?, needed, shape)?;
        let mut k = self.k.at_least(device, examples * examples)?;
        launcher.ucenter_reduce_double(&mut k, &self.double_partials.view()?, needed, examples, split)?;
        launcher.ucenter_rows(
            &mut self.sums.at_least(device, 3 * examples)?,
            None,
            &mut self.arrivals.as_view_mut(),
            &self.k.view()?,
            needed,
            examples,
            layer.settings.biased,
            layer.settings.largest_kappa(),
        )
    }

    fn pack(&mut self, layer: Layer<'_>, mut to: Destination<'_>, double: Double) -> Result<(), Error> {
        let examples = layer.shape[0];
        let in_double = if double == Double::Always { &self.always } else { &self.redo };
        layer.launcher.ucenter_pack(
            &mut to.row,
            &mut to.summary,
            &mut self.norms.at_least(layer.device, examples)?,
            &mut self.arrivals.as_view_mut(),
            &self.k.view()?,
            &self.sums.view()?,
            &in_double.as_view(),
            None,
            examples,
            layer.settings.biased,
        )
    }
}
