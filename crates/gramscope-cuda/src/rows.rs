//! From activations on the device to their panel rows: what is enqueued for layers together.
//!
//! Flags on the device decide which layers need better products than those that were made; the launches that would make them find
//! nothing to do where no layer does. So nothing is waited for, and what a launch itself costs is shared by all layers.

use cudarc::driver::{CudaSlice, CudaViewMut};

use crate::device::{Device, refused};
use crate::error::Error;
use crate::launchers::{Gram, GramMut, Launcher, Layers, Looking, Partials, PartialsMut, Values, Wanting};
use crate::memory::Buffer;
use crate::plan::{self, Better, Bounds, LAYERS_TOGETHER, LayersSplit};
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

/// Features that layers have together at most, unless one has more: what their shifts take stays small.
const COLUMNS_TOGETHER: usize = 1 << 20;

/// Where layers' rows and their summaries go, and where the first example of each is noted that is not finite.
pub(crate) struct Destination<'a> {
    pub(crate) rows: CudaViewMut<'a, f32>,
    pub(crate) summaries: CudaViewMut<'a, RowSummary>,
    pub(crate) first_bad: CudaViewMut<'a, i32>,
}

/// Everything between activations and their rows, used again and again. Buffers hold what there is of one layer after the other.
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
    /// Which products each layer wants.
    flags: CudaSlice<i32>,
    /// Flags of layers that all want float64 products.
    in_double: CudaSlice<i32>,
    arrivals: CudaSlice<u32>,
}

/// Layers on their way.
#[derive(Clone, Copy)]
struct Group<'a> {
    device: &'a Device,
    launcher: Launcher<'a>,
    settings: Settings,
    layers: &'a Layers<'a>,
}

impl Group<'_> {
    /// Whether a block can hold all rows of a slab.
    fn is_fused(&self) -> bool {
        plan::gram_fused(self.layers.examples, 1, self.device.plan()).is_some()
    }
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
            flags: device.zeros(what, LAYERS_TOGETHER)?,
            in_double: device.upload(what, &[Better::Double.flag(); LAYERS_TOGETHER])?,
            arrivals: device.zeros(what, LAYERS_TOGETHER)?,
        })
    }

    /// How many of `x`, from the first on and of at most so many, can be taken together.
    pub(crate) fn layers_together(x: &[&Values<'_>], examples: usize, most: usize) -> usize {
        let mut columns = 0;
        let fits = |x: &&&Values<'_>| {
            columns += x.len() / examples.max(1);
            columns <= COLUMNS_TOGETHER
        };
        let alike = x.iter().take_while(|other| other.stored() == x[0].stored());
        alike.take(most).take_while(fits).count().max(1)
    }

    /// The most bytes that it takes for `examples` rows of up to `together` layers at a time, of at most `features` each.
    pub(crate) fn bytes(
        examples: usize,
        features: usize,
        together: usize,
        settings: Settings,
        device: plan::Device,
    ) -> u64 {
        let n = examples as u64;
        let columns = (together * features).min(COLUMNS_TOGETHER).max(features);
        let splits = match settings.rbf {
            // Of distances there are only float64 sums.
            Some(_) => 0,
            None if plan::most_together(examples, false) == 1 => {
                plan::gram_tiled(examples, features, device).map_or(0, |alone| alone.splits)
            }
            None => plan::most_splits(features, together, columns, device),
        };
        let lengths = plan::gram_lengths(examples, splits);
        let products = (lengths.partials + 2 * lengths.exponents) * size_of::<f32>();
        // Blocks are a tile each, and two of them are resident at once. Layers share what keeps the device busy, and each has a part
        // at least; none has more than alone.
        let alone = plan::gram_double(examples, features, device).splits;
        let tiles = plan::triangle(examples.div_ceil(plan::DOUBLE_TILE));
        let busy = (2 * (device.multiprocessors + together)).div_ceil(tiles) + 1;
        let splits = (busy + together - 1).min(together * alone);
        let double = plan::gram_lengths(examples, splits).partials * size_of::<f64>();
        let shifts = 2 * columns * size_of::<f32>();
        // K, or distances and K.
        let matrices = if settings.rbf.is_some() { 2 } else { 1 };
        // Reach, three kinds of sums, norms.
        let a_layer = (matrices * n * n + 5 * n) * size_of::<f64>() as u64;
        // Flags, those of layers that all want float64, arrivals.
        let flags = 3 * LAYERS_TOGETHER * size_of::<i32>();
        (products + double + shifts + flags) as u64 + together as u64 * a_layer
    }

    /// Enqueues all that turns `layers`, as many as can be taken together, into their centred, packed Gram matrices. Nothing is
    /// waited for.
    pub(crate) fn rows(
        &mut self,
        device: &Device,
        settings: Settings,
        mut layers: Layers<'_>,
        mut to: Destination<'_>,
    ) -> Result<(), Error> {
        if plan::most_together(layers.examples, settings.rbf.is_some()) == 1 {
            // It shares the device with nobody.
            layers.sharing = layers.columns();
        }
        let group = Group { device, launcher: device.launcher(), settings, layers: &layers };
        // The exponential of the RBF kernel carries rounding of the distances into every entry, whatever kappa says.
        if settings.rbf.is_some() || settings.exact && layers.examples < plan::DOUBLE_BELOW {
            self.shift(group, &mut to.first_bad)?;
            match settings.rbf {
                Some(bandwidth) => self.rbf(group, bandwidth)?,
                None => self.double(group, None)?,
            }
            return self.pack(group, to, true);
        }
        // The tiled kernels need the shifts, the fused ones find them; the float64 ones take what there is.
        if !group.is_fused() {
            self.shift(group, &mut to.first_bad)?;
        }
        let first_bad = &mut to.first_bad;
        if settings.exact {
            self.products(group, true, None, (Better::Double, plan::EXACT), first_bad)?;
        } else {
            self.products(group, false, None, (Better::Exact, plan::FAST), first_bad)?;
            self.products(group, true, Some(Better::Exact), (Better::Double, plan::FAST_REDONE), first_bad)?;
        }
        self.double(group, Some(Better::Double))?;
        self.pack(group, to, false)
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
        let (x, launcher) = ([x], device.launcher());
        let layers = Layers::alone(&x, examples);
        let features = layers.sharing;
        let mut shift = self.shift.at_least(device, features)?;
        launcher.gram_shift(&mut shift, &mut self.largest.at_least(device, features)?, first_bad, &layers)?;
        let length = plan::gram_double(examples, features, device.plan()).partials;
        let mut partials = self.double_partials.at_least(device, length)?;
        let split = launcher.gram_double(&mut partials, &layers, &self.shift.view()?, None, device.plan())?;
        launcher.ucenter_reduce_double(gram, &self.double_partials.view()?, None, examples, &split.splits)
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
        device.launcher().ucenter_rows(sums, None, &mut self.arrivals.as_view_mut(), gram, 1, examples, biased)
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
        launcher.ucenter_rows(&mut sums, None, arrivals, gram, 1, examples, settings.biased)?;
        launcher.ucenter_pack(
            &mut to.rows,
            &mut to.summaries,
            &mut self.norms.at_least(device, examples)?,
            arrivals,
            gram,
            &self.sums.view()?,
            &self.in_double.as_view(),
            None,
            1,
            examples,
            settings.biased,
        )
    }

    /// Tensor-core products of the layers that want them (`only`; none: all), their sums, and the verdict on them.
    fn products(
        &mut self,
        group: Group<'_>,
        exact: bool,
        only: Option<Better>,
        verdict: (Better, Bounds),
        first_bad: &mut CudaViewMut<'_, i32>,
    ) -> Result<(), Error> {
        let Group { device, launcher, layers, .. } = group;
        let (examples, count) = (layers.examples, layers.count());
        let planned = |features, device| match group.is_fused() {
            true => plan::gram_fused(examples, features, device),
            false => plan::gram_tiled(examples, features, device),
        };
        let split = LayersSplit::new(&layers.features(), layers.sharing, device.plan(), planned);
        let (sums, exponents) = split.map_or((0, 0), |split| (split.partials, split.exponents));
        let wanting = only.map(|products| Wanting { products, flags: self.flags.as_view() });
        let mut partials = PartialsMut {
            sums: self.partials.at_least(device, sums)?,
            exponents: self.exponents.at_least(device, exponents)?,
            reaches: self.reaches.at_least(device, exponents)?,
        };
        let split = if group.is_fused() {
            let mut shift = self.shift.at_least(device, layers.columns())?;
            launcher.gram_fused(exact, &mut partials, &mut shift, first_bad, layers, wanting.as_ref())?
        } else {
            let (shift, largest) = (self.shift.view()?, self.largest.view()?);
            launcher.gram_tiled(exact, &mut partials, layers, &shift, &largest, wanting.as_ref())?
        };
        let (sums, exponents) = (self.partials.view()?, self.exponents.view()?);
        let partials = Partials { sums, exponents, reaches: self.reaches.view()? };
        let k = self.k.at_least(device, count * examples * examples)?;
        let reach = self.reach.at_least(device, count * examples)?;
        launcher.ucenter_reduce(&mut GramMut { k, reach }, &partials, wanting.as_ref(), examples, &split.splits)?;
        self.row_sums_of(group, only, Some(verdict))
    }

    /// Row sums of what has been multiplied for the layers that wanted it, and the verdict on it.
    fn row_sums_of(
        &mut self,
        group: Group<'_>,
        only: Option<Better>,
        verdict: Option<(Better, Bounds)>,
    ) -> Result<(), Error> {
        let Group { device, launcher, settings, layers } = group;
        launcher.ucenter_rows(
            &mut self.sums.at_least(device, 3 * layers.count() * layers.examples)?,
            Some(&mut Looking { flags: self.flags.as_view_mut(), only, verdict }),
            &mut self.arrivals.as_view_mut(),
            &Gram { k: self.k.view()?, reach: self.reach.view()? },
            layers.count(),
            layers.examples,
            settings.biased,
        )
    }

    fn shift(&mut self, group: Group<'_>, first_bad: &mut CudaViewMut<'_, i32>) -> Result<(), Error> {
        let Group { device, launcher, layers, .. } = group;
        let mut shift = self.shift.at_least(device, layers.columns())?;
        launcher.gram_shift(&mut shift, &mut self.largest.at_least(device, layers.columns())?, first_bad, layers)
    }

    /// Float64 products of the layers that want them (`only`; none: all), and their row sums.
    fn double(&mut self, group: Group<'_>, only: Option<Better>) -> Result<(), Error> {
        let Group { device, launcher, layers, .. } = group;
        let (examples, count) = (layers.examples, layers.count());
        let planned = |features, device| Some(plan::gram_double(examples, features, device));
        let split = LayersSplit::new(&layers.features(), layers.sharing, device.plan(), planned);
        let wanting = only.map(|products| Wanting { products, flags: self.flags.as_view() });
        let mut partials = self.double_partials.at_least(device, split.map_or(0, |split| split.partials))?;
        let (shift, plan) = (self.shift.view()?, device.plan());
        let split = launcher.gram_double(&mut partials, layers, &shift, wanting.as_ref(), plan)?;
        let k = self.k.at_least(device, count * examples * examples)?;
        let reach = self.reach.at_least(device, count * examples)?;
        let (gram, partials) = (&mut GramMut { k, reach }, self.double_partials.view()?);
        launcher.ucenter_reduce_double(gram, &partials, wanting.as_ref(), examples, &split.splits)?;
        self.row_sums_of(group, only, None)
    }

    /// The RBF kernel of the only layer from float64 distances, and its row sums.
    fn rbf(&mut self, group: Group<'_>, bandwidth: f64) -> Result<(), Error> {
        let Group { device, launcher, layers, .. } = group;
        let examples = layers.examples;
        let length = plan::gram_double(examples, layers.sharing, device.plan()).partials;
        let mut partials = self.double_partials.at_least(device, length)?;
        let split = launcher.gram_distances(&mut partials, layers)?;
        let k = self.distances.at_least(device, examples * examples)?;
        let reach = self.reach.at_least(device, examples)?;
        let (gram, partials) = (&mut GramMut { k, reach }, self.double_partials.view()?);
        launcher.ucenter_reduce_double(gram, &partials, None, examples, &split.splits)?;

        let mut selection = self.selection.at_least(device, 1)?;
        let mut histogram = self.histogram.at_least(device, plan::RADIX_BINS)?;
        let (distances, mut arrivals) = (self.distances.view()?, self.arrivals.as_view_mut());
        launcher.rbf_median(&mut selection, &mut histogram, &mut arrivals, &distances, examples)?;
        let mut k = self.k.at_least(device, examples * examples)?;
        let mut undefined = self.undefined.at_least(device, 1)?;
        launcher.rbf_apply(&mut k, &mut undefined, &distances, &selection.as_view(), examples, bandwidth)?;
        // The kernel's values are no sums of products that could have cancelled.
        let cleared = device.stream().memset_zeros(&mut self.reach.at_least(device, examples)?);
        cleared.map_err(|error| refused("clearing the reach", error))?;
        self.row_sums_of(group, None, None)
    }

    /// `in_double`: all layers have float64 products, whatever their flags say.
    fn pack(&mut self, group: Group<'_>, mut to: Destination<'_>, in_double: bool) -> Result<(), Error> {
        let Group { device, launcher, settings, layers } = group;
        let flags = if in_double { &self.in_double } else { &self.flags };
        let undefined = settings.rbf.map(|_| self.undefined.view()).transpose()?;
        launcher.ucenter_pack(
            &mut to.rows,
            &mut to.summaries,
            &mut self.norms.at_least(device, layers.count() * layers.examples)?,
            &mut self.arrivals.as_view_mut(),
            &Gram { k: self.k.view()?, reach: self.reach.view()? },
            &self.sums.view()?,
            &flags.as_view(),
            undefined.as_ref(),
            layers.count(),
            layers.examples,
            settings.biased,
        )
    }
}
