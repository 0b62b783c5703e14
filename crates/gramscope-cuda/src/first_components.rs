//! First principal components of some layers over one batch, for the penalty on them: memory that is taken once, and kernels
//! that decide everything on the device, so that all of it can be captured.
//!
//! Layers are observed one by one, and then decomposed together, a block each. Gram matrices are made of float64 products: a
//! batch has few examples, so that they cost little beside the convolutions, and there is nothing to be redone where columns
//! are far from zero or one example outweighs the others.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use crate::device::Device;
use crate::error::Error;
use crate::graph::Regions;
use crate::launchers::{Activation, FirstComponent, Gram, GramMut, Grams, Launcher, Layers, Values};
use crate::plan;
use crate::plan::training::{ANY_DEVICE, FIRST_COMPONENT};
use crate::shapes::EigenSummary;

/// How many layers there are, over how many examples, of how many features at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentsExtent {
    /// Layers.
    pub layers: usize,
    /// Examples of a batch, at most.
    pub examples: usize,
    /// Features of a layer, at most.
    pub features: usize,
}

impl ComponentsExtent {
    /// Partial sums of a Gram matrix: fewer examples may have more of them, in more parts.
    fn partials(self) -> usize {
        let of = |examples| plan::gram_double(examples, self.features, ANY_DEVICE).partials;
        (1..=self.examples).map(of).max().unwrap_or(0)
    }

    /// Bytes of device memory that [`FirstComponents`] take.
    pub fn bytes(self) -> u64 {
        let Self { layers, examples: n, features } = self;
        let a_layer = n * n + (3 + 2 * plan::EIGEN_VECTORS) * n;
        let values = layers * a_layer + n + self.partials();
        let bytes = values * size_of::<f64>() + layers * size_of::<EigenSummary>() + 2 * features * size_of::<f32>();
        (bytes + size_of::<i32>() + size_of::<u32>()) as u64
    }
}

/// The first components of a batch's layers, being found. Of a single example, which has no variance, there is nothing to
/// be found, and nothing is enqueued.
pub struct FirstComponents {
    layers: usize,
    /// Of every layer, one after the other for as many examples as a batch has: `[n, n]`, `[3, n]`.
    k: CudaSlice<f64>,
    sums: CudaSlice<f64>,
    /// `[EIGEN_VECTORS, n]` a layer.
    vectors: CudaSlice<f64>,
    scratch: CudaSlice<f64>,
    summaries: CudaSlice<EigenSummary>,
    /// Of the layer that is being observed.
    partials: CudaSlice<f64>,
    reach: CudaSlice<f64>,
    shift: CudaSlice<f32>,
    largest: CudaSlice<f32>,
    /// Nobody asks: what is not finite explains nothing, and the loss will say.
    first_bad: CudaSlice<i32>,
    arrivals: CudaSlice<u32>,
}

impl FirstComponents {
    /// Memory for batches within `extent`, which has no zero.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(device: &Device, extent: ComponentsExtent) -> Result<Self, Error> {
        let what = "the first components of a batch";
        let ComponentsExtent { layers, examples: n, features } = extent;
        let vectors = layers * plan::EIGEN_VECTORS * n;
        Ok(Self {
            layers,
            k: device.zeros(what, layers * n * n)?,
            sums: device.zeros(what, layers * 3 * n)?,
            vectors: device.zeros(what, vectors)?,
            scratch: device.zeros(what, vectors)?,
            summaries: device.zeros(what, layers)?,
            partials: device.zeros(what, extent.partials())?,
            reach: device.zeros(what, n)?,
            shift: device.zeros(what, features)?,
            largest: device.zeros(what, features)?,
            first_bad: device.zeros(what, 1)?,
            arrivals: device.zeros(what, 1)?,
        })
    }

    /// Enqueues the Gram matrix of the layer of number `layer`, `x` `[examples, features]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Launch`].
    pub fn observe(
        &mut self,
        launcher: Launcher<'_>,
        layer: usize,
        x: &Values<'_>,
        shape: [usize; 2],
    ) -> Result<(), Error> {
        let n = shape[0];
        if n < 2 {
            return Ok(());
        }
        let x = [x];
        let layers = Layers::alone(&x, n);
        let (shift, first_bad) = (&mut self.shift.as_view_mut(), &mut self.first_bad.as_view_mut());
        launcher.gram_shift(shift, &mut self.largest.as_view_mut(), first_bad, &layers)?;
        let (partials, shift) = (&mut self.partials.as_view_mut(), self.shift.as_view());
        let split = launcher.gram_double(partials, &layers, &shift, None, ANY_DEVICE)?;
        let k = self.k.slice_mut(layer * n * n..(layer + 1) * n * n);
        let mut gram = GramMut { k, reach: self.reach.as_view_mut() };
        launcher.ucenter_reduce_double(&mut gram, &self.partials.as_view(), None, n, &split.splits)?;
        let gram = Gram { k: self.k.slice(layer * n * n..(layer + 1) * n * n), reach: self.reach.as_view() };
        let (sums, arrivals) = (&mut self.sums.slice_mut(layer * 3 * n..(layer + 1) * 3 * n), &mut self.arrivals);
        launcher.ucenter_rows(sums, None, &mut arrivals.as_view_mut(), &gram, 1, n, true)
    }

    /// Enqueues the decomposition of all layers, which have been observed, over `examples`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Launch`].
    pub fn decompose(&mut self, launcher: Launcher<'_>, examples: usize) -> Result<(), Error> {
        if examples < 2 {
            return Ok(());
        }
        let Self { layers, k, sums, vectors, scratch, summaries, .. } = self;
        let grams = Grams { k: k.as_view(), sums: sums.as_view(), layers: *layers, examples };
        let (vectors, summaries) = (&mut vectors.as_view_mut(), &mut summaries.as_view_mut());
        launcher.eigen_subspace(vectors, summaries, &mut scratch.as_view_mut(), &grams, FIRST_COMPONENT)
    }

    /// Enqueues the addition to `dx` of the gradient of `weight` times what the first component of the layer of number
    /// `layer`, `x` `[examples, features]`, explains beyond `threshold`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's, and the layer")]
    pub fn add_gradient<T: Activation>(
        &self,
        launcher: Launcher<'_>,
        layer: usize,
        dx: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        weight: f64,
        threshold: f64,
        shape: [usize; 2],
    ) -> Result<(), Error> {
        if shape[0] < 2 {
            return Ok(());
        }
        let length = plan::EIGEN_VECTORS * shape[0];
        let component = FirstComponent {
            vector: self.vectors.slice(layer * length..(layer + 1) * length),
            summary: self.summaries.slice(layer..=layer),
        };
        launcher.first_component_gradient(dx, x, &component, weight, threshold, shape)
    }

    /// Shows all of its memory to `memory`.
    pub fn show<'a>(&'a mut self, memory: &mut Regions<'a>) {
        let Self {
            layers: _,
            k,
            sums,
            vectors,
            scratch,
            summaries,
            partials,
            reach,
            shift,
            largest,
            first_bad,
            arrivals,
        } = self;
        for buffer in [k, sums, vectors, scratch, partials, reach] {
            memory.writes(buffer);
        }
        for buffer in [shift, largest] {
            memory.writes(buffer);
        }
        memory.writes(summaries);
        memory.writes(first_bad);
        memory.writes(arrivals);
    }
}
