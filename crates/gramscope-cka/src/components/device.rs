//! First principal components, and the panels with and without them, on a GPU.

use std::fmt;
use std::sync::Arc;

use gramscope_cuda::{Component, Device, DeviceComponents, EigenSummary, Sums, Uploads, Values};

use super::in_layer;
use crate::activation::Activation;
use crate::components::FirstComponent;
use crate::cpu::{PrincipalRows, Principals, SMALLEST_REST, set_upright};
use crate::device::{STRIP, blocks_held, blocks_with, host_values, most_rows, panel_row, summary};
use crate::error::Error;
use crate::options::{DeviceMemory, Estimator};
use crate::rounds::Rounds;
use crate::scale::ldexp;
use crate::sums::Row;
use crate::totals::hsic_factor;

/// The layers of one model over one batch, on a GPU.
pub(crate) struct OnDevice {
    examples: usize,
    estimator: Estimator,
    device: Arc<Device>,
    free: u64,
    memory: DeviceMemory,
    /// None until the first layer is observed.
    work: Option<Work>,
    components: Vec<Option<FirstComponent>>,
    principals: Principals,
    rows: [Vec<f32>; 2],
}

struct Work {
    panels: DeviceComponents,
    uploads: Uploads,
}

/// One of the two panels, as the host would have it.
pub(crate) struct HostPanel {
    pub(crate) rows: Vec<Row>,
    /// `[layers, layers]`, the lower triangle: inner products of the rows.
    pub(crate) products: Vec<f64>,
}

impl OnDevice {
    pub(crate) fn new(
        device: Arc<Device>,
        layers: usize,
        examples: usize,
        estimator: Estimator,
        length: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            examples,
            estimator,
            free: device.memory()?.0,
            device,
            memory: DeviceMemory::default(),
            work: None,
            components: vec![None; layers],
            principals: Principals::default(),
            rows: [vec![0.0; length], vec![0.0; length]],
        })
    }

    /// One round for everything.
    pub(crate) fn all_at_once(layers: usize) -> Rounds {
        Rounds::all_at_once(&[layers], &[(0, 0)], STRIP)
    }

    pub(crate) fn plan_memory(&mut self, memory: DeviceMemory) {
        self.memory = memory;
    }

    /// Makes what the work is done with, and says how many rows of each panel there is room for.
    pub(crate) fn begin(&mut self) -> Result<usize, Error> {
        let DeviceMemory { features, largest_upload, other, taken, .. } = self.memory;
        let (n, layers) = (self.examples, self.components.len());
        let limit = self.memory.allowance(self.free);
        let biased = self.estimator == Estimator::Biased;
        let panels = |most| DeviceComponents::new(self.device.clone(), layers, n, biased, most);
        let probe = panels(1)?;
        let fixed = [largest_upload, other, taken].into_iter().fold(probe.other_bytes(features), u64::saturating_add);
        let least = layers.min(2);
        let needed = [DeviceComponents::decomposition_bytes(n, 1), probe.panel_bytes(least)];
        let needed = needed.into_iter().fold(fixed, u64::saturating_add);
        if needed > limit {
            let what = format!("the components of {n} examples");
            return Err(gramscope_cuda::Error::MemoryLimit { what, needed, limit, free: self.free }.into());
        }
        // Matrices that are decomposed together and a second upload may take part of what is left; rounds cost more.
        let left = limit - needed;
        let two = largest_upload <= left / 8;
        let left = left - if two { largest_upload } else { 0 };
        let multiprocessors = self.device.properties().multiprocessors as usize;
        let matrix = DeviceComponents::decomposition_bytes(n, 2) - DeviceComponents::decomposition_bytes(n, 1);
        let together = usize::try_from(left / 4 / matrix).unwrap_or(usize::MAX).saturating_add(1);
        let together = together.min(multiprocessors).min(layers);
        let taken = fixed + DeviceComponents::decomposition_bytes(n, together) + if two { largest_upload } else { 0 };
        let rows = most_rows(layers, limit.saturating_sub(taken), |rows| probe.panel_bytes(rows));
        drop(probe);
        let uploads = Uploads::new(self.device.clone(), two)?;
        self.work = Some(Work { panels: panels(together)?, uploads });
        Ok(rows)
    }

    /// Begins the first round.
    pub(crate) fn begin_rounds(&mut self, rounds: &Rounds) -> Result<(), Error> {
        Ok(self.work()?.panels.begin(rounds.held_rows() + rounds.passing_rows())?)
    }

    /// Whether [`Self::begin`] is yet to be called.
    pub(crate) fn is_new(&self) -> bool {
        self.work.is_none()
    }

    fn work(&mut self) -> Result<&mut Work, Error> {
        self.work.as_mut().ok_or(Error::NoBatchOpen)
    }

    /// Uploads a layer's output and enqueues the way to its rows; what the kernels do not take is done here.
    pub(crate) fn observe(&mut self, layer: usize, activation: Activation<'_>, rounds: &Rounds) -> Result<(), Error> {
        let row = panel_row(rounds, 0, layer);
        match host_values(activation) {
            Some(values) => {
                let Work { panels, uploads } = self.work()?;
                if panels.observe(layer, row, &uploads.upload(values)?)? {
                    self.decompose()?;
                }
            }
            None => self.observe_on_host(layer, row, activation)?,
        }
        self.multiply_passing(layer, rounds)
    }

    /// The same for values that are there.
    pub(crate) fn observe_values(&mut self, layer: usize, values: &Values<'_>, rounds: &Rounds) -> Result<(), Error> {
        if self.work()?.panels.observe(layer, panel_row(rounds, 0, layer), values)? {
            self.decompose()?;
        }
        self.multiply_passing(layer, rounds)
    }

    /// Multiplies what this layer completes.
    fn multiply_passing(&mut self, layer: usize, rounds: &Rounds) -> Result<(), Error> {
        let blocks = blocks_with(rounds, 0, layer);
        if !blocks.is_empty() {
            self.decompose()?;
            self.work()?.panels.add(&blocks)?;
        }
        Ok(())
    }

    fn observe_on_host(&mut self, layer: usize, row: usize, activation: Activation<'_>) -> Result<(), Error> {
        let [whole, rest] = &mut self.rows;
        let rows = PrincipalRows { whole, rest };
        let found = self.principals.rows(activation, self.estimator, rows).map_err(in_layer(layer))?;
        let (component, [whole, rest]) = found;
        self.components[layer] = component.map(FirstComponent::from);
        let rows = [(self.rows[0].as_slice(), summary(whole)), (self.rows[1].as_slice(), summary(rest))];
        let work = self.work.as_mut().ok_or(Error::NoBatchOpen)?;
        Ok(work.panels.observe_rows(layer, row, rows)?)
    }

    /// Finds the components of the layers that wait.
    fn decompose(&mut self) -> Result<(), Error> {
        for decomposed in self.work()?.panels.decompose()? {
            let (layer, row) = (decomposed.layer, decomposed.row);
            self.components[layer] = match decomposed.found {
                Component::Found(summary, vector) => component(summary, vector),
                Component::Unsettled(gram) => self.decompose_on_host(layer, row, gram)?,
            };
        }
        Ok(())
    }

    /// Decomposes a matrix that the kernels have given up.
    fn decompose_on_host(
        &mut self,
        layer: usize,
        row: usize,
        mut gram: Vec<f64>,
    ) -> Result<Option<FirstComponent>, Error> {
        let (n, estimator) = (self.examples, self.estimator);
        let found =
            self.principals.rest_of_gram(&mut gram, n, estimator, &mut self.rows[1]).map_err(in_layer(layer))?;
        let (component, rest) = found;
        let work = self.work.as_mut().ok_or(Error::NoBatchOpen)?;
        work.panels.observe_rest(layer, row, (&self.rows[1], summary(rest)))?;
        Ok(component.map(FirstComponent::from))
    }

    /// Ends a round.
    pub(crate) fn end_round(&mut self, rounds: &Rounds) -> Result<(), Error> {
        self.decompose()?;
        Ok(self.work()?.panels.add(&blocks_held(rounds))?)
    }

    /// The components, and the panels with and without them.
    pub(crate) fn finish(self) -> Result<(Vec<Option<FirstComponent>>, [HostPanel; 2]), Error> {
        let work = self.work.ok_or(Error::NoBatches)?;
        let [whole, rest] = work.panels.finish()?;
        let factor = hsic_factor(self.examples, self.estimator);
        let (whole, mut rest) = (HostPanel::new(whole, factor), HostPanel::new(rest, factor));
        for (row, component) in rest.rows.iter_mut().zip(&self.components) {
            if !component.as_ref().is_some_and(|component| is_more_than_rounding(*row, component)) {
                *row = Row::Zero;
            }
        }
        Ok((self.components, [whole, rest]))
    }
}

impl fmt::Debug for OnDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OnDevice").field("layers", &self.components.len()).finish()
    }
}

impl HostPanel {
    /// Of one batch: sums are HSIC, `factor` times inner products, in the units of the rows.
    fn new(sums: Sums, factor: f64) -> Self {
        let row = |sum: gramscope_cuda::LayerSum| match sum.state {
            gramscope_cuda::LayerSum::SUMMED if sum.own > 0.0 => {
                Row::Centred { exponent: sum.unit, norm: sum.own / factor }
            }
            gramscope_cuda::LayerSum::UNDEFINED => Row::Undefined,
            _ => Row::Zero,
        };
        let products = sums.pairs.into_iter().flatten().map(|sum| sum / factor).collect();
        Self { rows: sums.layers.into_iter().map(row).collect(), products }
    }
}

/// The component that an eigenpair is; none where the layer is constant.
fn component(summary: EigenSummary, mut vector: Vec<f64>) -> Option<FirstComponent> {
    let EigenSummary { first, second, trace, .. } = summary;
    set_upright(&mut vector);
    (trace > 0.0).then(|| FirstComponent {
        eigenvalue: first,
        variance_explained: first / trace,
        second_over_first: second / first,
        vector,
    })
}

/// Whether a row without a component is more than rounding of the component.
fn is_more_than_rounding(row: Row, component: &FirstComponent) -> bool {
    match row {
        Row::Centred { exponent, norm } => ldexp((2.0 * norm).sqrt(), exponent) > SMALLEST_REST * component.eigenvalue,
        Row::Zero | Row::Undefined => false,
    }
}
