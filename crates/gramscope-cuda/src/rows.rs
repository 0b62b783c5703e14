//! From an activation on the device to its panel row.

use cudarc::driver::{CudaSlice, CudaViewMut};

use crate::device::{Device, refused};
use crate::error::Error;
use crate::launchers::{Gram, GramMut, Launcher, Partials, PartialsMut, Values};
use crate::memory::Buffer;
use crate::plan::{self, Bounds, Split};
use crate::shapes::{RowSummary, Selection};

/// How Gram matrices are computed and centred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Double centring and the diagonal, instead of U-centring without it.
    pub biased: bool,
    /// Every CKA entry within 1e-6 of float64, instead of 1e-3.
    pub exact: bool,
    /// The RBF kernel with this bandwidth, instead of the linear one.
    pub rbf: Option<f64>,
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
    reaches: Buffer<f32>,
    double_partials: Buffer<f64>,
    shift: Buffer<f32>,
    largest: Buffer<f32>,
    k: Buffer<f64>,
    reach: Buffer<f64>,
    sums: Buffer<f64>,
    norms: Buffer<f64>,
    distances: Buffer<f64>,
    histogram: Buffer<u32>,
    selection: Buffer<Selection>,
    undefined: Buffer<i32>,
    /// Whether centring magnifies the errors of one product too much.
    again: CudaSlice<i32>,
    /// Whether it does so for those of compensated products.
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

/// Which flag on the device decides whether a step is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// One product will not do.
    Again,
    /// Compensated products will not do.
    Redo,
}

/// What decides whether the step that was taken will do.
#[derive(Clone, Copy)]
struct Verdict {
    /// The flag it is left in.
    flag: When,
    bounds: Bounds,
}

impl Workspace {
    pub(crate) fn new(device: &Device) -> Result<Self, Error> {
        let what = "the Gram kernels' workspace";
        Ok(Self {
            partials: Buffer::new(what),
            exponents: Buffer::new(what),
            reaches: Buffer::new(what),
            double_partials: Buffer::new(what),
            shift: Buffer::new(what),
            largest: Buffer::new(what),
            k: Buffer::new(what),
            reach: Buffer::new(what),
            sums: Buffer::new(what),
            norms: Buffer::new(what),
            distances: Buffer::new(what),
            histogram: Buffer::new(what),
            selection: Buffer::new(what),
            undefined: Buffer::new(what),
            again: device.zeros(what, 1)?,
            redo: device.zeros(what, 1)?,
            always: device.upload(what, &[1])?,
            arrivals: device.zeros(what, 1)?,
        })
    }

    /// The most bytes that it takes for `examples` rows of `features`.
    pub(crate) fn bytes(examples: usize, features: usize, settings: Settings, device: plan::Device) -> u64 {
        let n = examples as u64;
        let double = plan::gram_double(examples, features, device).partials as u64 * size_of::<f64>() as u64;
        let split =
            plan::gram_fused(examples, features, device).or_else(|| plan::gram_tiled(examples, features, device));
        let products = split.map_or(0, |split| (split.partials + 2 * split.exponents) as u64 * size_of::<f32>() as u64);
        let shifts = 2 * features as u64 * size_of::<f32>() as u64;
        // K, or distances and K.
        let matrices = if settings.rbf.is_some() { 2 } else { 1 };
        // Reach, three kinds of sums, norms.
        double + products + shifts + (matrices * n * n + 5 * n) * size_of::<f64>() as u64
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
        // The exponential of the RBF kernel carries rounding of the distances into every entry, whatever kappa says.
        if settings.rbf.is_some() || settings.exact && examples < plan::DOUBLE_BELOW {
            self.shift(layer, &mut to.first_bad, When::Always)?;
            match settings.rbf {
                Some(bandwidth) => self.rbf(layer, bandwidth)?,
                None => self.double(layer, When::Always)?,
            }
            return self.pack(layer, to, When::Always);
        }
        // The tiled kernels need the shifts, and leave them to the float64 ones; the fused ones find their own.
        let tiled = self.split(layer, true).is_none();
        if tiled {
            self.shift(layer, &mut to.first_bad, When::Always)?;
        }
        let verdict = |flag, bounds| Verdict { flag, bounds };
        if settings.exact {
            let verdict = verdict(When::Redo, plan::EXACT);
            self.products(layer, true, When::Always, verdict, &mut to.first_bad)?;
        } else {
            let once = verdict(When::Again, plan::FAST);
            self.products(layer, false, When::Always, once, &mut to.first_bad)?;
            // Products that are not needed leave no verdict.
            let cleared = device.stream().memset_zeros(&mut self.redo);
            cleared.map_err(|error| refused("clearing a flag", error))?;
            let twice = verdict(When::Redo, plan::FAST_REDONE);
            self.products(layer, true, When::Again, twice, &mut to.first_bad)?;
        }
        if !tiled {
            self.shift(layer, &mut to.first_bad, When::Redo)?;
        }
        self.double(layer, When::Redo)?;
        self.pack(layer, to, When::Redo)
    }

    /// Enqueues all that turns `x` `[examples, features]` into its Gram matrix by float64 products.
    pub(crate) fn gram_in_double(
        &mut self,
        device: &Device,
        x: &Values<'_>,
        examples: usize,
        first_bad: &mut CudaViewMut<'_, i32>,
        gram: &mut GramMut<'_>,
    ) -> Result<(), Error> {
        let shape = [examples, x.len() / examples];
        let launcher = device.launcher();
        let mut shift = self.shift.at_least(device, shape[1])?;
        launcher.gram_shift(&mut shift, &mut self.largest.at_least(device, shape[1])?, first_bad, x, None, shape)?;
        let length = plan::gram_double(examples, shape[1], device.plan()).partials;
        let mut partials = self.double_partials.at_least(device, length)?;
        let split = launcher.gram_double(&mut partials, x, &self.shift.view()?, None, shape, device.plan())?;
        launcher.ucenter_reduce_double(gram, &self.double_partials.view()?, None, examples, split.splits)
    }

    /// Enqueues the row sums `[3, n]` of a Gram matrix.
    pub(crate) fn row_sums(
        &mut self,
        device: &Device,
        gram: &Gram<'_>,
        examples: usize,
        biased: bool,
        sums: &mut CudaViewMut<'_, f64>,
    ) -> Result<(), Error> {
        let arrivals = &mut self.arrivals.as_view_mut();
        device.launcher().ucenter_rows(sums, None, arrivals, gram, None, examples, biased, plan::EXACT)
    }

    /// Enqueues the way from a Gram matrix that is good to float64 to its row.
    pub(crate) fn row_of_gram(
        &mut self,
        device: &Device,
        settings: Settings,
        gram: &Gram<'_>,
        examples: usize,
        mut to: Destination<'_>,
    ) -> Result<(), Error> {
        let mut sums = self.sums.at_least(device, 3 * examples)?;
        let arrivals = &mut self.arrivals.as_view_mut();
        let launcher = device.launcher();
        launcher.ucenter_rows(&mut sums, None, arrivals, gram, None, examples, settings.biased, plan::EXACT)?;
        launcher.ucenter_pack(
            &mut to.row,
            &mut to.summary,
            &mut self.norms.at_least(device, examples)?,
            arrivals,
            gram,
            &self.sums.view()?,
            &self.always.as_view(),
            None,
            examples,
            settings.biased,
        )
    }

    /// The geometry of the fused or of the tiled kernels; none where the shape is not for them.
    fn split(&self, layer: Layer<'_>, fused: bool) -> Option<Split> {
        let ([examples, features], device) = (layer.shape, layer.device.plan());
        if fused { plan::gram_fused(examples, features, device) } else { plan::gram_tiled(examples, features, device) }
    }

    /// Tensor-core products, their sums, and the verdict on them.
    fn products(
        &mut self,
        layer: Layer<'_>,
        exact: bool,
        when: When,
        verdict: Verdict,
        first_bad: &mut CudaViewMut<'_, i32>,
    ) -> Result<(), Error> {
        let Layer { device, launcher, x, shape, .. } = layer;
        let examples = shape[0];
        let fused = self.split(layer, true);
        let split = fused.or_else(|| self.split(layer, false));
        let (sums, exponents) = split.map_or((0, 0), |split| (split.partials, split.exponents));
        let (again, redo) = (self.again.as_view(), self.redo.as_view());
        let needed = match when {
            When::Always => None,
            When::Again => Some(&again),
            When::Redo => Some(&redo),
        };
        let mut partials = PartialsMut {
            sums: self.partials.at_least(device, sums)?,
            exponents: self.exponents.at_least(device, exponents)?,
            reaches: self.reaches.at_least(device, exponents)?,
        };
        let split = if fused.is_some() {
            launcher.gram_fused(exact, &mut partials, first_bad, x, needed, shape)?
        } else {
            let (shift, largest) = (self.shift.view()?, self.largest.view()?);
            launcher.gram_tiled(exact, &mut partials, x, &shift, &largest, needed, shape)?
        };
        let (sums, exponents) = (self.partials.view()?, self.exponents.view()?);
        let partials = Partials { sums, exponents, reaches: self.reaches.view()? };
        let (k, reach) = (self.k.at_least(device, examples * examples)?, self.reach.at_least(device, examples)?);
        launcher.ucenter_reduce(&mut GramMut { k, reach }, &partials, needed, examples, split.splits)?;
        self.rows(layer, when, Some(verdict))
    }

    /// Row sums of what has been multiplied, and the verdict on it.
    fn rows(&mut self, layer: Layer<'_>, when: When, verdict: Option<Verdict>) -> Result<(), Error> {
        let examples = layer.shape[0];
        let (mut again, mut redo) = (self.again.as_view_mut(), self.redo.as_view_mut());
        // The flag that is read is not the one that is written.
        let (again_read, redo_read);
        let (needed, written) = match (when, verdict.map(|verdict| verdict.flag)) {
            (When::Again, written) => {
                again_read = again.as_view();
                (Some(&again_read), written.map(|_| &mut redo))
            }
            (When::Redo, _) => {
                redo_read = redo.as_view();
                (Some(&redo_read), None)
            }
            (When::Always, Some(When::Again)) => (None, Some(&mut again)),
            (When::Always, Some(_)) => (None, Some(&mut redo)),
            (When::Always, None) => (None, None),
        };
        layer.launcher.ucenter_rows(
            &mut self.sums.at_least(layer.device, 3 * examples)?,
            written,
            &mut self.arrivals.as_view_mut(),
            &Gram { k: self.k.view()?, reach: self.reach.view()? },
            needed,
            examples,
            layer.settings.biased,
            verdict.map_or(plan::FAST_REDONE, |verdict| verdict.bounds),
        )
    }

    fn shift(&mut self, layer: Layer<'_>, first_bad: &mut CudaViewMut<'_, i32>, when: When) -> Result<(), Error> {
        let features = layer.shape[1];
        let redo = self.redo.as_view();
        let needed = (when != When::Always).then_some(&redo);
        layer.launcher.gram_shift(
            &mut self.shift.at_least(layer.device, features)?,
            &mut self.largest.at_least(layer.device, features)?,
            first_bad,
            layer.x,
            needed,
            layer.shape,
        )
    }

    /// Float64 products and their row sums.
    fn double(&mut self, layer: Layer<'_>, when: When) -> Result<(), Error> {
        let Layer { device, launcher, x, shape, .. } = layer;
        let [examples, features] = shape;
        let redo = self.redo.as_view();
        let needed = (when != When::Always).then_some(&redo);
        let length = plan::gram_double(examples, features, device.plan()).partials;
        let mut partials = self.double_partials.at_least(device, length)?;
        let split = launcher.gram_double(&mut partials, x, &self.shift.view()?, needed, shape, device.plan())?;
        let (k, reach) = (self.k.at_least(device, examples * examples)?, self.reach.at_least(device, examples)?);
        let partials = self.double_partials.view()?;
        launcher.ucenter_reduce_double(&mut GramMut { k, reach }, &partials, needed, examples, split.splits)?;
        self.rows(layer, when, None)
    }

    /// The RBF kernel from float64 distances, and its row sums.
    fn rbf(&mut self, layer: Layer<'_>, bandwidth: f64) -> Result<(), Error> {
        let Layer { device, launcher, x, shape, .. } = layer;
        let [examples, features] = shape;
        let length = plan::gram_double(examples, features, device.plan()).partials;
        let mut partials = self.double_partials.at_least(device, length)?;
        let split = launcher.gram_distances(&mut partials, x, shape)?;
        let (k, reach) =
            (self.distances.at_least(device, examples * examples)?, self.reach.at_least(device, examples)?);
        let partials = self.double_partials.view()?;
        launcher.ucenter_reduce_double(&mut GramMut { k, reach }, &partials, None, examples, split.splits)?;

        let mut selection = self.selection.at_least(device, 1)?;
        let mut histogram = self.histogram.at_least(device, plan::RADIX_BINS)?;
        launcher.rbf_start(&mut selection, &mut histogram, examples)?;
        let (distances, mut arrivals) = (self.distances.view()?, self.arrivals.as_view_mut());
        for pass in 0..plan::RADIX_PASSES {
            launcher.rbf_select(&mut selection, &mut histogram, &mut arrivals, &distances, examples, pass)?;
        }
        launcher.rbf_above(&mut selection, &distances, examples)?;
        let mut k = self.k.at_least(device, examples * examples)?;
        let mut undefined = self.undefined.at_least(device, 1)?;
        launcher.rbf_apply(&mut k, &mut undefined, &distances, &selection.as_view(), examples, bandwidth)?;
        // The kernel's values are no sums of products that could have cancelled.
        let cleared = device.stream().memset_zeros(&mut self.reach.at_least(device, examples)?);
        cleared.map_err(|error| refused("clearing the reach", error))?;
        self.rows(layer, When::Always, None)
    }

    fn pack(&mut self, layer: Layer<'_>, mut to: Destination<'_>, when: When) -> Result<(), Error> {
        let examples = layer.shape[0];
        let in_double = if when == When::Always { &self.always } else { &self.redo };
        let undefined = layer.settings.rbf.map(|_| self.undefined.view()).transpose()?;
        layer.launcher.ucenter_pack(
            &mut to.row,
            &mut to.summary,
            &mut self.norms.at_least(layer.device, examples)?,
            &mut self.arrivals.as_view_mut(),
            &Gram { k: self.k.view()?, reach: self.reach.view()? },
            &self.sums.view()?,
            &in_double.as_view(),
            undefined.as_ref(),
            examples,
            layer.settings.biased,
        )
    }
}
