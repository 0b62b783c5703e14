//! All layers of one or several models, compared batch by batch without leaving the device.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaViewMut, DriverError, PinnedHostSlice};

use crate::device::{Device, insist, refused};
use crate::error::Error;
use crate::launchers::{Gram, GramMut, Layers, PairSums, Panels, Values, packed_length};
use crate::memory::Buffer;
use crate::plan;
use crate::rows::{Destination, Settings, Workspace};
use crate::shapes::{LayerSum, RowSummary, Weight};

/// Marks a layer none of whose examples is known to be bad.
const NONE_BAD: i32 = i32::MAX;

/// The sums over batches of all layers and pairs of layers, on the device; a batch's panel, and the way from activations to
/// its rows. Everything is enqueued on the device's stream and nothing is waited for but what a batch earlier was enqueued:
/// its flags come to the host while the next batch runs.
///
/// The caller sees to it that every layer of every model is observed in each batch, and that every pair of layers is added in
/// one of the batch's blocks while the panel holds the rows of both. So a panel that is larger than memory goes in rounds.
pub struct DeviceComparison {
    device: Arc<Device>,
    settings: Settings,
    /// Where each model's layers begin among all layers, and where the last one's end.
    starts: Vec<usize>,
    pairs: Vec<Pair>,
    workspace: Workspace,
    /// `[panel_rows, packed length]` of the batch that is open.
    panel: Buffer<f32>,
    panel_rows: usize,
    examples: usize,
    /// Layers that launches take together, at most.
    together: usize,
    summaries: CudaSlice<RowSummary>,
    /// Whether a layer's HSIC with itself, and what its unit does to the sums of its pairs, is in for this batch.
    has_units: Vec<bool>,
    sums: CudaSlice<LayerSum>,
    weights: CudaSlice<Weight>,
    first_bad: CudaSlice<i32>,
    none_bad: CudaSlice<i32>,
    products: Products,
    flags: Flags,
}

struct Pair {
    x: usize,
    y: usize,
    /// `[layers of x, layers of y]`.
    sums: CudaSlice<f64>,
}

/// Consecutive layers of a model, and the first of the panel's rows that are theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The layers.
    pub layers: Range<usize>,
    /// The row of the first; those of the others follow.
    pub row: usize,
}

/// Layers of one model that are to be multiplied with layers of another; where they are the same layers of the same model,
/// with those before them and themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The number of the pair of models.
    pub pair: usize,
    /// Layers of its first model.
    pub x: Stretch,
    /// Layers of its second: where that is the first, the same ones, or ones before them.
    pub y: Stretch,
}

/// Partial sums of panel times panel.
struct Products {
    partials: Buffer<f32>,
    exponents_x: Buffer<i32>,
    exponents_y: Buffer<i32>,
}

/// The flags of the last batch that was ended, on their way to the host, and room for the next one's.
struct Flags {
    coming: Option<Returned>,
    free: Option<Returned>,
    batches: usize,
}

/// A batch's flags in pinned memory, to which copies come in their own time.
struct Returned {
    batch: usize,
    host: PinnedHostSlice<i32>,
    /// The copy is there. cudarc's own event of the memory is not recorded where it tracks no events.
    arrived: CudaEvent,
    context: Arc<CudaContext>,
}

/// The sums over the batches that have ended. Pair (i, j) of two models is at `i * layers_y + j`; of a model with itself, only j <= i.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Each layer's HSIC with itself, the models one after the other.
    pub layers: Vec<LayerSum>,
    /// Each pair of models, in the order given; in the units of the two layers.
    pub pairs: Vec<Vec<f64>>,
}

impl DeviceComparison {
    /// A comparison of models with `layers[m]` layers each, of the `pairs` of models.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(
        device: Arc<Device>,
        layers: &[usize],
        pairs: &[(usize, usize)],
        settings: Settings,
    ) -> Result<Self, Error> {
        let mut starts = vec![0];
        starts.extend(layers.iter().scan(0, |end, &layers| {
            *end += layers;
            Some(*end)
        }));
        let total = starts[layers.len()];
        let what = format!("the sums of {total} layers");
        let pair = |&(x, y): &(usize, usize)| {
            Ok(Pair { x, y, sums: device.zeros("the sums of all pairs of layers", layers[x] * layers[y])? })
        };
        Ok(Self {
            pairs: pairs.iter().map(pair).collect::<Result<_, Error>>()?,
            workspace: Workspace::new(&device)?,
            settings,
            starts,
            panel: Buffer::new("the panel of a batch"),
            panel_rows: 0,
            examples: 0,
            together: 1,
            summaries: device.zeros(&what, total)?,
            has_units: vec![false; total],
            sums: device.zeros(&what, total)?,
            weights: device.zeros(&what, total)?,
            first_bad: device.zeros(&what, total)?,
            none_bad: device.upload(&what, &vec![NONE_BAD; total])?,
            products: Products::new(),
            flags: Flags { coming: None, free: None, batches: 0 },
            device,
        })
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes of device memory that a panel of `rows` rows takes for batches of `examples`, with what multiplying them takes.
    pub fn panel_bytes(&self, examples: usize, rows: usize) -> u64 {
        let length = packed_length(examples, self.settings.biased);
        let products = self.pairs.iter().map(|pair| self.product_values(pair, length, rows)).max().unwrap_or(0);
        (rows * length + products) as u64 * size_of::<f32>() as u64
    }

    /// Values, of four bytes each, that the products of some block of a pair take at most while the panel holds `rows` rows.
    fn product_values(&self, &Pair { x, y, .. }: &Pair, length: usize, rows: usize) -> usize {
        let [layers_x, layers_y] = [x, y].map(|model| self.layers(model));
        let splits =
            plan::hsic_mma(layers_x, layers_y, length, x == y, self.device.plan()).map_or(0, |split| split.splits);
        let [strips_x, strips_y] = [layers_x, layers_y].map(|layers| plan::strips(layers.min(rows)));
        // Rows of both are in the panel together: their product is no more than the triangle over all.
        let triangle = plan::triangle(plan::strips(rows) + 1);
        let tiles = if x == y { triangle } else { triangle.min(strips_x * strips_y) };
        splits * (tiles * plan::STRIP * plan::STRIP + (strips_x + strips_y) * plan::STRIP)
    }

    /// Bytes of device memory that the sums take, whatever the batch.
    pub fn sums_bytes(&self) -> u64 {
        let layer = size_of::<RowSummary>() + size_of::<LayerSum>() + size_of::<Weight>() + 2 * size_of::<i32>();
        let pairs: usize = self.pairs.iter().map(|pair| pair.sums.len()).sum();
        (self.has_units.len() * layer + pairs * size_of::<f64>()) as u64
    }

    /// Bytes of device memory that lie between activations of at most `features` features and their rows, at most, where up to
    /// `together` layers are on their way at a time.
    pub fn workspace_bytes(&self, examples: usize, features: usize, together: usize) -> u64 {
        Workspace::bytes(examples, features, together, self.settings, self.device.plan())
    }

    /// How many layers over so many examples can be taken together, where there is memory for them.
    pub fn most_together(&self, examples: usize) -> usize {
        plan::most_together(examples, self.settings.rbf.is_some())
    }

    /// Begins a batch of `examples`, of whose layers the panel holds so many `rows` at a time, and launches take `together`: how
    /// many does not matter to a bit.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn begin_batch(&mut self, examples: usize, rows: usize, together: usize) -> Result<(), Error> {
        if examples != self.examples {
            // Buffers that another size has left would take memory that nobody counts.
            self.workspace = Workspace::new(&self.device)?;
            self.products = Products::new();
            self.panel.clear();
        }
        self.examples = examples;
        self.together = together.min(self.most_together(examples));
        self.panel_rows = rows;
        self.panel.at_least(&self.device, rows * packed_length(examples, self.settings.biased))?;
        self.has_units.fill(false);
        let copied = self.device.stream().memcpy_dtod(&self.none_bad, &mut self.first_bad);
        copied.map_err(|error| refused("clearing the flags of a batch", error))
    }

    /// Enqueues the way from consecutive layers of `model`, from `layer` on, on the device, to rows of the panel, from `row` on.
    /// They share the device with others up to `sharing` features: as many as all the layers have that are handed over together,
    /// whether they are observed or not, so that a layer's bits do not depend on which of the others are. `x` may be freed or
    /// overwritten by whatever is enqueued on the same stream afterwards.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn observe(
        &mut self,
        model: usize,
        layer: usize,
        row: usize,
        mut x: &[&Values<'_>],
        sharing: usize,
    ) -> Result<(), Error> {
        let (mut place, mut row) = (self.starts[model] + layer, row);
        let (length, examples) = (self.length(), self.examples);
        while !x.is_empty() {
            let (together, rest) = x.split_at(Workspace::layers_together(x, examples, self.together));
            let (count, layers) = (together.len(), Layers { x: together, examples, sharing });
            let mut panel = self.panel.at_least(&self.device, self.panel_rows * length)?;
            let to = Destination {
                rows: panel.slice_mut(row * length..(row + count) * length),
                summaries: self.summaries.slice_mut(place..place + count),
                first_bad: self.first_bad.slice_mut(place..place + count),
            };
            self.workspace.rows(&self.device, self.settings, layers, to)?;
            (place, row, x) = (place + count, row + count, rest);
        }
        Ok(())
    }

    /// Enqueues the way from a layer of the only model to its Gram matrix, by float64 products.
    pub(crate) fn gram(&mut self, layer: usize, x: &Values<'_>, gram: &mut GramMut<'_>) -> Result<(), Error> {
        let mut first_bad = self.first_bad.slice_mut(layer..=layer);
        self.workspace.gram_in_double(&self.device, x, self.examples, &mut first_bad, gram)
    }

    /// Enqueues the row sums `[3, n]` of a Gram matrix with its diagonal.
    pub(crate) fn row_sums(&mut self, gram: &Gram<'_>, sums: &mut CudaViewMut<'_, f64>) -> Result<(), Error> {
        self.workspace.row_sums(&self.device, gram, self.examples, true, sums)
    }

    /// Enqueues the way from a Gram matrix that is good to float64 to its layer's row, in the only model.
    pub(crate) fn observe_gram(&mut self, layer: usize, row: usize, gram: &Gram<'_>) -> Result<(), Error> {
        let length = self.length();
        let mut panel = self.panel.at_least(&self.device, self.panel_rows * length)?;
        let to = Destination {
            rows: panel.slice_mut(row * length..(row + 1) * length),
            summaries: self.summaries.slice_mut(layer..=layer),
            first_bad: self.first_bad.slice_mut(layer..=layer),
        };
        self.workspace.row_of_gram(&self.device, self.settings, gram, self.examples, to)
    }

    /// Waits for everything, and looks at the flags of the batch that is open.
    pub(crate) fn check_now(&self) -> Result<(), Error> {
        self.check(self.flags.batches, &self.device.download(&self.first_bad)?)
    }

    /// Takes in a layer whose row was computed on the host.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Driver`].
    pub fn observe_row(
        &mut self,
        model: usize,
        layer: usize,
        row: usize,
        values: &[f32],
        summary: RowSummary,
    ) -> Result<(), Error> {
        let place = self.starts[model] + layer;
        let length = self.length();
        if values.len() != length {
            let (found, expected) = (format!("{} values", values.len()), length.to_string());
            return Err(Error::Argument { kernel: "a row of the panel", argument: "values", found, expected });
        }
        let mut panel = self.panel.at_least(&self.device, self.panel_rows * length)?;
        let what = "a row of the panel";
        self.device.copy_to(what, values, &mut panel.slice_mut(row * length..(row + 1) * length))?;
        self.device.copy_to(what, &[summary], &mut self.summaries.slice_mut(place..=place))
    }

    /// Enqueues the HSIC of the pairs of layers in `blocks`, whose rows are in the panel. Within a batch every pair is to be
    /// in one of them; in which does not matter to a bit of the sums.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn add(&mut self, blocks: &[Block]) -> Result<(), Error> {
        for block in blocks {
            let Pair { x, y, .. } = self.pairs[block.pair];
            self.add_units(self.places(x, &block.x.layers))?;
            self.add_units(self.places(y, &block.y.layers))?;
            self.multiply(block)?;
        }
        Ok(())
    }

    /// Ends the batch, and looks at the flags of the batch before.
    ///
    /// # Errors
    /// [`Error::NonFinite`] of the batch before; [`Error::Launch`], [`Error::Driver`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        let before = self.flags.send(&self.device, &self.first_bad)?;
        before.map_or(Ok(()), |(batch, flags)| self.check(batch, &flags))
    }

    /// Adds the HSIC with themselves of those among consecutive layers whose has not been added in this batch.
    fn add_units(&mut self, places: Range<usize>) -> Result<(), Error> {
        let factor = hsic_factor(self.examples, self.settings.biased);
        let mut from = places.start;
        while from < places.end {
            let has = self.has_units[from];
            let count = self.has_units[from..places.end].iter().take_while(|&&other| other == has).count();
            let run = from..from + count;
            if !has {
                self.device.launcher().hsic_units(
                    &mut self.sums.slice_mut(run.clone()),
                    &mut self.weights.slice_mut(run.clone()),
                    &self.summaries.slice(run.clone()),
                    count,
                    factor,
                )?;
                self.has_units[run].fill(true);
            }
            from += count;
        }
        Ok(())
    }

    /// Adds the products of a block's rows to the sums of their pairs.
    fn multiply(&mut self, block: &Block) -> Result<(), Error> {
        let factor = hsic_factor(self.examples, self.settings.biased);
        let length = self.length();
        let Pair { x, y, .. } = self.pairs[block.pair];
        let (places_x, places_y) = (self.places(x, &block.x.layers), self.places(y, &block.y.layers));
        let [layers_x, layers_y] = [x, y].map(|model| self.layers(model));
        let whole = plan::hsic_mma(layers_x, layers_y, length, x == y, self.device.plan());
        let panel = self.panel.view()?;
        let rows = |stretch: &Stretch| panel.slice(stretch.row * length..(stretch.row + stretch.layers.len()) * length);
        let panels = Panels {
            x: rows(&block.x),
            y: rows(&block.y),
            layers_x: block.x.layers.len(),
            layers_y: block.y.layers.len(),
            length,
            symmetric: x == y && block.x.layers == block.y.layers,
            splits: whole.map(|split| split.splits),
        };
        let first = block.x.layers.start * layers_y + block.y.layers.start;
        let mut sums = PairSums {
            sums: self.pairs[block.pair].sums.slice_mut(first..),
            stride: layers_y,
            weights_x: self.weights.slice(places_x),
            weights_y: self.weights.slice(places_y),
            factor,
        };
        self.products.add(&self.device, &panels, &mut sums)
    }

    fn layers(&self, model: usize) -> usize {
        self.starts[model + 1] - self.starts[model]
    }

    /// Where layers of a model are among all layers.
    fn places(&self, model: usize, layers: &Range<usize>) -> Range<usize> {
        self.starts[model] + layers.start..self.starts[model] + layers.end
    }

    /// The length of a row.
    fn length(&self) -> usize {
        packed_length(self.examples, self.settings.biased)
    }

    /// The sums over the batches that have ended, of which none is open. Waits for everything.
    ///
    /// # Errors
    /// [`Error::NonFinite`], [`Error::Driver`].
    pub fn sums(&mut self) -> Result<Sums, Error> {
        if let Some((batch, flags)) = self.flags.last()? {
            self.check(batch, &flags)?;
        }
        let pairs = self.pairs.iter().map(|pair| self.device.download(&pair.sums)).collect::<Result<_, _>>()?;
        Ok(Sums { layers: self.device.download(&self.sums)?, pairs })
    }

    /// Goes on from `sums` over so many `batches`, in the place of its own. No batch is open.
    ///
    /// # Errors
    /// [`Error::Argument`] for sums of other layers or pairs, [`Error::Driver`].
    pub fn go_on_from(&mut self, sums: &Sums, batches: usize) -> Result<(), Error> {
        let what = "the sums to go on from";
        if sums.pairs.len() != self.pairs.len() {
            let (found, expected) = (format!("{} pairs", sums.pairs.len()), self.pairs.len().to_string());
            return Err(Error::Argument { kernel: "a comparison", argument: what, found, expected });
        }
        self.device.copy_to(what, &sums.layers, &mut self.sums.slice_mut(..))?;
        for (pair, values) in self.pairs.iter_mut().zip(&sums.pairs) {
            self.device.copy_to(what, values, &mut pair.sums.slice_mut(..))?;
        }
        // Flags of a batch that is forgotten say nothing of those that follow.
        self.flags.last()?;
        self.flags.batches = batches;
        Ok(())
    }

    /// The first layer of a batch that held NaN or infinity, as an error.
    fn check(&self, batch: usize, flags: &[i32]) -> Result<(), Error> {
        let Some(place) = flags.iter().position(|&first| first != NONE_BAD) else { return Ok(()) };
        let model = self.starts.partition_point(|&start| start <= place) - 1;
        let example = usize::try_from(flags[place]).unwrap_or(0);
        Err(Error::NonFinite { model, layer: place - self.starts[model], batch, example })
    }
}

impl Products {
    fn new() -> Self {
        let what = "the products of panels";
        Self { partials: Buffer::new(what), exponents_x: Buffer::new(what), exponents_y: Buffer::new(what) }
    }

    /// Adds the products of two panels to the sums of their pairs.
    fn add(&mut self, device: &Device, panels: &Panels<'_>, sums: &mut PairSums<'_>) -> Result<(), Error> {
        let launcher = device.launcher();
        let needed = launcher.hsic_lengths(panels)?;
        let split = launcher.hsic_mma(
            &mut self.partials.at_least(device, needed.partials)?,
            &mut self.exponents_x.at_least(device, needed.exponents_x)?,
            &mut self.exponents_y.at_least(device, needed.exponents_y)?,
            panels,
        )?;
        let (partials, x, y) = (self.partials.view()?, self.exponents_x.view()?, self.exponents_y.view()?);
        launcher.hsic_accumulate(sums, &partials, &x, &y, panels, split.splits)
    }
}

impl Flags {
    /// Sends a batch's flags on their way and returns those of the batch before, which may have to be waited for.
    fn send(&mut self, device: &Device, flags: &CudaSlice<i32>) -> Result<Option<(usize, Vec<i32>)>, Error> {
        let copying = |error| refused("copying the flags of a batch", error);
        let mut next = match self.free.take() {
            Some(next) => next,
            None => Returned::new(device, flags.len()).map_err(copying)?,
        };
        next.batch = self.batches;
        device.stream().memcpy_dtoh(flags, &mut next.host).map_err(copying)?;
        let recorded = next.arrived.record(device.stream());
        let before = self.last();
        self.coming = Some(next);
        self.batches += 1;
        recorded.map_err(copying)?;
        before
    }

    /// The flags that were sent last, once they have come.
    fn last(&mut self) -> Result<Option<(usize, Vec<i32>)>, Error> {
        let Some(last) = self.coming.take() else { return Ok(None) };
        let flags = last.wait();
        let batch = last.batch;
        self.free = Some(last);
        flags.map(|flags| Some((batch, flags))).map_err(|error| refused("running a batch", error))
    }
}

impl Returned {
    fn new(device: &Device, length: usize) -> Result<Self, DriverError> {
        let context = device.stream().context();
        // SAFETY: a copy writes the memory before anything reads it.
        let host = unsafe { context.alloc_pinned(length) }?;
        Ok(Self { batch: 0, host, arrived: context.new_event(None)?, context: context.clone() })
    }

    /// Waits for the copy, and for nothing enqueued after it.
    fn wait(&self) -> Result<Vec<i32>, DriverError> {
        self.arrived.synchronize()?;
        Ok(self.host.as_slice()?.to_vec())
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        // Pinned memory must not go while it is being copied to.
        insist(&self.context, || self.arrived.synchronize());
    }
}

/// What the inner product of two packed rows is multiplied by to give HSIC: 2 because a triangle stands for the whole, over
/// n(n-3) or (n-1)^2.
fn hsic_factor(examples: usize, biased: bool) -> f64 {
    let n = examples as f64;
    if biased { 2.0 / ((n - 1.0) * (n - 1.0)) } else { 2.0 / (n * (n - 3.0)) }
}
