//! First principal components of the layers of one model, and its panels with and without them, on the device.
//!
//! Gram matrices are made of float64 products and wait, in float64, until there are as many as the device has
//! multiprocessors: one block finds the leading eigenpairs of one matrix, so that many at a time cost what one does.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use crate::comparison::{Block, DeviceComparison, Sums};
use crate::device::Device;
use crate::error::Error;
use crate::launchers::{Gram, GramMut, Grams, Values};
use crate::memory::Buffer;
use crate::plan::{self, PRINCIPAL_COMPONENTS};
use crate::rows::Settings;
use crate::shapes::{EigenSummary, RowSummary};

/// The layers of one model over one batch. Rows lie in two panels, at the same places of both; the caller sees to rounds as
/// for a [`DeviceComparison`].
pub struct DeviceComponents {
    device: Arc<Device>,
    whole: DeviceComparison,
    rest: DeviceComparison,
    examples: usize,
    /// Matrices that are decomposed together, at most.
    most: usize,
    /// Of the layers that wait: `[most, n, n]`, `[most, 3, n]`.
    k: Buffer<f64>,
    sums: Buffer<f64>,
    /// `[most, EIGEN_VECTORS, n]`.
    vectors: Buffer<f64>,
    scratch: Buffer<f64>,
    summaries: Buffer<EigenSummary>,
    /// `[n, n]`: a matrix without its first component.
    deflated: Buffer<f64>,
    /// `[n]`: of a layer's products, which only ask whether anything but rounding is left.
    reach: Buffer<f64>,
    no_reach: CudaSlice<f64>,
    waiting: Vec<Waiting>,
}

/// A layer whose Gram matrix waits to be decomposed.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    layer: usize,
    row: usize,
}

/// What has become of a layer's Gram matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Decomposed {
    /// The layer.
    pub layer: usize,
    /// Its row of the panels.
    pub row: usize,
    /// Its first component.
    pub found: Component,
}

/// A first principal component, or what it is to be found in.
#[derive(Clone, Debug, PartialEq)]
pub enum Component {
    /// Eigenvalues and trace of K' = HKH, and the first eigenvector \[n\], of length one, whose sign means nothing. The row
    /// without the component is on its way.
    Found(EigenSummary, Vec<f64>),
    /// The iteration has not settled: K `[n, n]`, to be decomposed on the host. The row without the component is missing.
    Unsettled(Vec<f64>),
}

impl DeviceComponents {
    /// For `layers` layers over `examples`, at least [`plan::EIGEN_VECTORS`], of which `most` are decomposed together.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(device: Arc<Device>, layers: usize, examples: usize, biased: bool, most: usize) -> Result<Self, Error> {
        let settings = Settings { biased, exact: true, rbf: None };
        let panel = || DeviceComparison::new(device.clone(), &[layers], &[(0, 0)], settings);
        let what = "the decomposition of Gram matrices";
        Ok(Self {
            whole: panel()?,
            rest: panel()?,
            examples,
            most: most.max(1),
            k: Buffer::new(what),
            sums: Buffer::new(what),
            vectors: Buffer::new(what),
            scratch: Buffer::new(what),
            summaries: Buffer::new(what),
            deflated: Buffer::new(what),
            reach: Buffer::new(what),
            no_reach: device.zeros(what, examples)?,
            waiting: Vec::new(),
            device,
        })
    }

    /// Bytes of device memory that decomposing `most` matrices together takes.
    pub fn decomposition_bytes(examples: usize, most: usize) -> u64 {
        let (n, most) = (examples as u64, most as u64);
        let vectors = 2 * plan::EIGEN_VECTORS as u64 * n;
        let values = most * (n * n + 3 * n + vectors) + n * n + 2 * n;
        values * size_of::<f64>() as u64 + most * size_of::<EigenSummary>() as u64
    }

    /// Bytes of device memory that both panels take with `rows` rows each, with what multiplying them takes.
    pub fn panel_bytes(&self, rows: usize) -> u64 {
        2 * self.whole.panel_bytes(self.examples, rows)
    }

    /// Bytes of device memory that everything else takes where no layer has more than `features`.
    pub fn other_bytes(&self, features: usize) -> u64 {
        2 * (self.whole.sums_bytes() + self.whole.workspace_bytes(self.examples, features, 1))
    }

    /// Begins the batch; panels hold so many rows at a time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn begin(&mut self, rows: usize) -> Result<(), Error> {
        self.whole.begin_batch(self.examples, rows, 1)?;
        self.rest.begin_batch(self.examples, rows, 1)
    }

    /// Enqueues the way from a layer to its row of the first panel, and keeps its Gram matrix. True if no more can wait.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn observe(&mut self, layer: usize, row: usize, x: &Values<'_>) -> Result<bool, Error> {
        let (n, device) = (self.examples, self.device.clone());
        let (slot, most) = (self.waiting.len(), self.most);
        let mut all = self.k.at_least(&device, most * n * n)?;
        let k = all.slice_mut(slot * n * n..(slot + 1) * n * n);
        self.whole.gram(layer, x, &mut GramMut { k, reach: self.reach.at_least(&device, n)? })?;
        let all = self.k.view()?;
        let gram = Gram { k: all.slice(slot * n * n..(slot + 1) * n * n), reach: self.reach.view()? };
        let mut sums = self.sums.at_least(&device, most * 3 * n)?;
        self.whole.row_sums(&gram, &mut sums.slice_mut(slot * 3 * n..(slot + 1) * 3 * n))?;
        self.whole.observe_gram(layer, row, &gram)?;
        self.waiting.push(Waiting { layer, row });
        Ok(self.waiting.len() == most)
    }

    /// Takes in a layer whose rows, with and without its first component, were computed on the host.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Driver`].
    pub fn observe_rows(
        &mut self,
        layer: usize,
        row: usize,
        [whole, rest]: [(&[f32], RowSummary); 2],
    ) -> Result<(), Error> {
        self.whole.observe_row(0, layer, row, whole.0, whole.1)?;
        self.observe_rest(layer, row, rest)
    }

    /// Takes in a layer's row without its first component, which was computed on the host.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Driver`].
    pub fn observe_rest(
        &mut self,
        layer: usize,
        row: usize,
        (values, summary): (&[f32], RowSummary),
    ) -> Result<(), Error> {
        self.rest.observe_row(0, layer, row, values, summary)
    }

    /// Decomposes the matrices that wait, and enqueues the rows without first components. Waits for everything before.
    ///
    /// # Errors
    /// [`Error::NonFinite`]; [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn decompose(&mut self) -> Result<Vec<Decomposed>, Error> {
        if self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        let (n, device, count) = (self.examples, self.device.clone(), self.waiting.len());
        let length = plan::EIGEN_VECTORS * n;
        let (all, sums) = (self.k.view()?, self.sums.view()?);
        let grams = |first: usize, layers: usize| Grams {
            k: all.slice(first * n * n..(first + layers) * n * n),
            sums: sums.slice(first * 3 * n..(first + layers) * 3 * n),
            layers,
            examples: n,
        };
        device.launcher().eigen_subspace(
            &mut self.vectors.at_least(&device, self.most * length)?,
            &mut self.summaries.at_least(&device, self.most)?,
            &mut self.scratch.at_least(&device, self.most * length)?,
            &grams(0, count),
            PRINCIPAL_COMPONENTS,
        )?;
        self.whole.check_now()?;
        let (vectors, on_device) = (self.vectors.view()?, self.summaries.view()?);
        let summaries = device.download(&on_device)?;
        let mut decomposed = Vec::with_capacity(count);
        for (slot, Waiting { layer, row }) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let summary = summaries[slot];
            let found = if summary.residual <= PRINCIPAL_COMPONENTS.residual * summary.first {
                let vectors = vectors.slice(slot * length..(slot + 1) * length);
                let mut deflated = self.deflated.at_least(&device, n * n)?;
                let own = on_device.slice(slot..=slot);
                device.launcher().eigen_deflate(&mut deflated, &vectors, &own, &grams(slot, 1))?;
                let gram = Gram { k: self.deflated.view()?, reach: self.no_reach.as_view() };
                self.rest.observe_gram(layer, row, &gram)?;
                Component::Found(summary, device.download(&vectors.slice(..n))?)
            } else {
                Component::Unsettled(device.download(&grams(slot, 1).k)?)
            };
            decomposed.push(Decomposed { layer, row, found });
        }
        Ok(decomposed)
    }

    /// Enqueues the products of blocks of both panels, as [`DeviceComparison::add`] does. No layer of them may wait.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn add(&mut self, blocks: &[Block]) -> Result<(), Error> {
        self.whole.add(blocks)?;
        self.rest.add(blocks)
    }

    /// The sums of both panels. Waits for everything.
    ///
    /// # Errors
    /// [`Error::NonFinite`], [`Error::Driver`].
    pub fn finish(mut self) -> Result<[Sums; 2], Error> {
        Ok([self.whole.sums()?, self.rest.sums()?])
    }
}
