//! All layers of one or several models, compared batch by batch without leaving the device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, PinnedHostSlice};

use crate::device::{Device, refused};
use crate::error::Error;
use crate::launchers::{PairSums, Panels, Values, packed_length};
use crate::memory::Buffer;
use crate::rows::{Destination, Settings, Workspace};
use crate::shapes::{LayerSum, RowSummary, Weight};

/// Marks a layer none of whose examples is known to be bad.
const NONE_BAD: i32 = i32::MAX;

/// The sums over batches of all layers and pairs of layers, on the device; a batch's panel, and the way from activations to
/// its rows. Everything is enqueued on the device's stream and nothing is waited for but what a batch earlier was enqueued:
/// its flags come to the host while the next batch runs.
///
/// The caller sees to it that every layer of every model is observed once in each batch.
pub struct DeviceComparison {
    device: Arc<Device>,
    settings: Settings,
    /// Where each model's layers begin among all layers, and where the last one's end.
    starts: Vec<usize>,
    pairs: Vec<Pair>,
    workspace: Workspace,
    /// `[layers, packed length]` of the batch that is open.
    panel: Buffer<f32>,
    examples: usize,
    rows: CudaSlice<RowSummary>,
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

/// Partial sums of panel times panel.
struct Products {
    partials: Buffer<f32>,
    exponents_x: Buffer<i32>,
    exponents_y: Buffer<i32>,
}

/// The flags of the last batch that was ended, on their way to the host, and room for the next one's.
struct Flags {
    coming: Option<(usize, PinnedHostSlice<i32>)>,
    free: Option<PinnedHostSlice<i32>>,
    batches: usize,
}

/// What a comparison ends in. Pair (i, j) of two models is at `i * layers_y + j`; of a model with itself, only j <= i.
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
            examples: 0,
            rows: device.zeros(&what, total)?,
            sums: device.zeros(&what, total)?,
            weights: device.zeros(&what, total)?,
            first_bad: device.zeros(&what, total)?,
            none_bad: device.upload(&what, &vec![NONE_BAD; total])?,
            products: Products {
                partials: Buffer::new("the products of panels"),
                exponents_x: Buffer::new("the products of panels"),
                exponents_y: Buffer::new("the products of panels"),
            },
            flags: Flags { coming: None, free: None, batches: 0 },
            device,
        })
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Begins a batch of `examples`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn begin_batch(&mut self, examples: usize) -> Result<(), Error> {
        self.examples = examples;
        let layers = self.layers();
        self.panel.at_least(&self.device, layers * packed_length(examples, self.settings.biased))?;
        let copied = self.device.stream().memcpy_dtod(&self.none_bad, &mut self.first_bad);
        copied.map_err(|error| refused("clearing the flags of a batch", error))
    }

    /// Enqueues the way from layer `layer` of `model`, on the device, to its row. `x` may be freed or overwritten by
    /// whatever is enqueued on the same stream afterwards.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn observe(&mut self, model: usize, layer: usize, x: &Values<'_>) -> Result<(), Error> {
        let place = self.starts[model] + layer;
        let length = packed_length(self.examples, self.settings.biased);
        let mut panel = self.panel.at_least(&self.device, self.layers() * length)?;
        let to = Destination {
            row: panel.slice_mut(place * length..(place + 1) * length),
            summary: self.rows.slice_mut(place..=place),
            first_bad: self.first_bad.slice_mut(place..=place),
        };
        self.workspace.row(&self.device, self.settings, x, self.examples, to)
    }

    /// Takes in a layer whose row was computed on the host.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Driver`].
    pub fn observe_row(&mut self, model: usize, layer: usize, row: &[f32], summary: RowSummary) -> Result<(), Error> {
        let place = self.starts[model] + layer;
        let length = packed_length(self.examples, self.settings.biased);
        if row.len() != length {
            let (found, expected) = (format!("{} values", row.len()), length.to_string());
            return Err(Error::Argument { kernel: "a row of the panel", argument: "row", found, expected });
        }
        let mut panel = self.panel.at_least(&self.device, self.layers() * length)?;
        let copying = |error| refused("copying a row of the panel", error);
        let stream = self.device.stream();
        stream.memcpy_htod(row, &mut panel.slice_mut(place * length..(place + 1) * length)).map_err(copying)?;
        stream.memcpy_htod(&[summary], &mut self.rows.slice_mut(place..=place)).map_err(copying)
    }

    /// Ends the batch: enqueues the HSIC of all pairs of layers, and looks at the flags of the batch before.
    ///
    /// # Errors
    /// [`Error::NonFinite`] of the batch before; [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        let factor = hsic_factor(self.examples, self.settings.biased);
        let launcher = self.device.launcher();
        let layers = self.layers();
        launcher.hsic_units(
            &mut self.sums.as_view_mut(),
            &mut self.weights.as_view_mut(),
            &self.rows.as_view(),
            layers,
            factor,
        )?;
        let length = packed_length(self.examples, self.settings.biased);
        let panel = self.panel.view()?;
        for pair in &mut self.pairs {
            let range = |model: usize| self.starts[model]..self.starts[model + 1];
            let rows = |model: usize| panel.slice(range(model).start * length..range(model).end * length);
            let panels = Panels {
                x: rows(pair.x),
                y: rows(pair.y),
                layers_x: range(pair.x).len(),
                layers_y: range(pair.y).len(),
                length,
                symmetric: pair.x == pair.y,
            };
            let mut sums = PairSums {
                sums: pair.sums.as_view_mut(),
                stride: panels.layers_y,
                weights_x: self.weights.slice(range(pair.x)),
                weights_y: self.weights.slice(range(pair.y)),
                factor,
            };
            self.products.add(&self.device, &panels, &mut sums)?;
        }
        let before = self.flags.send(&self.device, &self.first_bad)?;
        before.map_or(Ok(()), |(batch, flags)| self.check(batch, &flags))
    }

    /// The sums over all batches. Waits for everything.
    ///
    /// # Errors
    /// [`Error::NonFinite`], [`Error::Driver`].
    pub fn finish(mut self) -> Result<Sums, Error> {
        if let Some((batch, flags)) = self.flags.last()? {
            self.check(batch, &flags)?;
        }
        let pairs = self.pairs.iter().map(|pair| self.device.download(&pair.sums)).collect::<Result<_, _>>()?;
        Ok(Sums { layers: self.device.download(&self.sums)?, pairs })
    }

    fn layers(&self) -> usize {
        self.rows.len()
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
        launcher.hsic_accumulate(sums, &partials, &x, &y, panels, split)
    }
}

impl Flags {
    /// Sends a batch's flags on their way and returns those of the batch before, which may have to be waited for.
    fn send(&mut self, device: &Device, flags: &CudaSlice<i32>) -> Result<Option<(usize, Vec<i32>)>, Error> {
        let copying = |error| refused("copying the flags of a batch", error);
        let mut host = match self.free.take() {
            Some(host) => host,
            // SAFETY: the memory is written by the copy below before anything reads it.
            None => unsafe { device.stream().context().alloc_pinned(flags.len()) }.map_err(copying)?,
        };
        device.stream().memcpy_dtoh(flags, &mut host).map_err(copying)?;
        let before = self.last()?;
        self.coming = Some((self.batches, host));
        self.batches += 1;
        Ok(before)
    }

    /// The flags that were sent last, once they have come.
    fn last(&mut self) -> Result<Option<(usize, Vec<i32>)>, Error> {
        let Some((batch, host)) = self.coming.take() else { return Ok(None) };
        // This waits for the copy, and for nothing enqueued after it.
        let flags = host.as_slice().map(<[i32]>::to_vec);
        self.free = Some(host);
        flags.map(|flags| Some((batch, flags))).map_err(|error| refused("running a batch", error))
    }
}

/// What the inner product of two packed rows is multiplied by to give HSIC: 2 because a triangle stands for the whole, over
/// n(n-3) or (n-1)^2.
fn hsic_factor(examples: usize, biased: bool) -> f64 {
    let n = examples as f64;
    if biased { 2.0 / ((n - 1.0) * (n - 1.0)) } else { 2.0 / (n * (n - 3.0)) }
}
