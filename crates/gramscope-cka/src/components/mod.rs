//! First principal components of the layers of one model, over one batch, in Gram space.

#[cfg(feature = "cuda")]
mod device;

use std::ops::Range;
use std::sync::Arc;

use crate::activation::Activation;
use crate::attendance::Attendance;
use crate::comparison::Comparison;
use crate::cpu::{self, PrincipalError, PrincipalRows, Principals};
use crate::error::Error;
use crate::options::{Estimator, Memory};
use crate::rounds::{Panel, Rounds, TILE, Tile};
use crate::sums::Row;
use crate::totals::packed_length;
#[cfg(feature = "cuda")]
use device::OnDevice;

/// The first principal component of a layer's features over n examples: of K' = HKH, with K the linear Gram matrix and
/// H = I - 1 1^T / n, the largest eigenvalue and its eigenvector (Nguyen, Raghu and Kornblith 2021, section 5).
#[derive(Clone, Debug, PartialEq)]
pub struct FirstComponent {
    /// l_1, the sum of the squared projections of all examples on the component: sqrt(l_1) v_1 are the projections. Infinite
    /// or 0 where that is out of range; nothing else suffers from it.
    pub eigenvalue: f64,
    /// l_1 / tr K', the fraction of the variance that the component explains.
    pub variance_explained: f64,
    /// l_2 / l_1. Where it is near 1 the component is not well defined: a small change of the features turns it anywhere
    /// between the first two.
    pub second_over_first: f64,
    /// v_1, \[n\], of length one: the examples' coordinates along the component. Its sign means nothing; the largest entry is
    /// positive.
    pub vector: Vec<f64>,
}

/// The layers of one model, observed one after the other: their first principal components, how alike those are, and CKA
/// with and without them. Everything is linear and float64; between the layers, only panels of float32 are kept, two rows
/// of n(n-1)/2 a layer.
///
/// ```
/// use gramscope_cka::{Activation, Components, Estimator, Values};
///
/// # fn main() -> Result<(), gramscope_cka::Error> {
/// let layers = [[1.0f32, 0.0, 2.0, 5.0, 3.0], [1.0, 1.0, 2.0, 4.0, 0.0]]; // one feature each
/// let mut components = Components::new(2, 5, Estimator::Unbiased)?;
/// for (layer, values) in layers.iter().enumerate() {
///     components.observe(layer, Activation::new(Values::F32(values), 5)?)?;
/// }
/// let found = components.finish()?;
/// assert!((found.variance_explained[0] - 1.0).abs() < 1e-12); // a single feature has a single component
/// assert_eq!(found.undefined_without_first, [0, 1]); // and without it there is nothing left
/// # Ok(())
/// # }
/// ```
///
/// # Accuracy
/// Gram matrices are float64 products of features from which the trimmed mean was taken. The component's residual
/// |K' v_1 - l_1 v_1| is at most 1e-13 l_1 (1e-12 l_1 on a GPU), so that v_1 is off by an angle of about 1e-13 (1e-12) over
/// 1 - l_2 / l_1, and eigenvalues are off by the rounding of K'. CKA is within 1e-6 of float64, or the layer is named undefined.
#[derive(Debug)]
pub struct Components {
    examples: usize,
    estimator: Estimator,
    layers: Vec<Option<Observed>>,
    observed: Attendance,
    rounds: Rounds,
    whole: Products,
    rest: Products,
    principals: Principals,
    #[cfg(feature = "cuda")]
    device: Option<Box<OnDevice>>,
}

/// What is kept of a layer beside its rows of the panels.
#[derive(Debug)]
struct Observed {
    component: Option<FirstComponent>,
    whole: Row,
    rest: Row,
}

impl Components {
    /// For a model of `layers` layers and one batch of `examples`.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::TooFewExamples`], [`Error::TooManyExamples`].
    pub fn new(layers: usize, examples: usize, estimator: Estimator) -> Result<Self, Error> {
        if layers == 0 {
            return Err(Error::NoLayers { model: 0 });
        }
        let minimum = estimator.minimum_examples();
        if examples < minimum {
            return Err(Error::TooFewExamples { examples, minimum, estimator });
        }
        if examples.checked_mul(examples).is_none() {
            return Err(Error::TooManyExamples { examples });
        }
        Ok(Self {
            examples,
            estimator,
            layers: (0..layers).map(|_| None).collect(),
            observed: Attendance::new(&[layers]),
            rounds: Rounds::all_at_once(&[layers], &[(0, 0)], TILE),
            whole: Products::new(layers),
            rest: Products::new(layers),
            principals: Principals::default(),
            #[cfg(feature = "cuda")]
            device: None,
        })
    }

    /// Whether a GPU takes so many examples; fewer are left to the host.
    pub fn takes_on_device(examples: usize) -> bool {
        examples >= gramscope_cuda::plan::EIGEN_VECTORS
    }

    /// The same on `device`, or on the host where there is none: Gram matrices of float64 products, the leading eigenpairs of
    /// many layers at a time by subspace iteration, their panels and CKA. A layer whose iteration does not settle within 320
    /// steps, fewer than eight examples, float64 values and what is not in memory are left to the host.
    ///
    /// # Errors
    /// Those of [`Self::new`], and [`Error::Device`].
    pub fn on(
        device: Option<Arc<gramscope_cuda::Device>>,
        layers: usize,
        examples: usize,
        estimator: Estimator,
    ) -> Result<Self, Error> {
        let components = Self::new(layers, examples, estimator)?;
        #[cfg(feature = "cuda")]
        if let Some(device) = device
            && Self::takes_on_device(examples)
        {
            let length = components.length()?;
            let on_device = OnDevice::new(device, layers, examples, estimator, length)?;
            let rounds = OnDevice::all_at_once(layers);
            return Ok(Self { rounds, device: Some(Box::new(on_device)), ..components });
        }
        #[cfg(not(feature = "cuda"))]
        drop(device);
        Ok(components)
    }

    /// Says how much memory may be taken; to be called before anything is observed. Where panels do not fit, the layers are to be
    /// observed in several rounds, in order ([`Self::wanted`], [`Self::next_round`]), with the same results, bit for bit.
    ///
    /// # Errors
    /// [`Error::TooManyExamples`], [`Error::PanelLimit`]; on a GPU [`Error::Device`]: too little memory, too.
    pub fn limit_memory(&mut self, memory: Memory) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some(device) = &mut self.device {
            device.plan_memory(memory.device);
            return self.begin_on_device();
        }
        self.rounds = self.rounds.for_batch(self.length()?, memory.panels / 2)?;
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn begin_on_device(&mut self) -> Result<(), Error> {
        if let Some(device) = &mut self.device {
            let too_many = Error::TooManyExamples { examples: self.examples };
            self.rounds = self.rounds.with_rows(device.begin()?).ok_or(too_many)?;
            device.begin_rounds(&self.rounds)?;
        }
        Ok(())
    }

    /// The layers that are to be observed in this round: all, where memory has room for all.
    pub fn wanted(&self) -> Range<usize> {
        self.rounds.wanted(0)
    }

    /// How many layers all rounds want together.
    pub fn observations(&self) -> usize {
        self.rounds.observations()
    }

    /// The most bytes that the panels of `layers` layers take for `examples`.
    pub fn panel_bytes(layers: usize, examples: usize) -> u64 {
        Comparison::panel_bytes(&[layers], examples).saturating_mul(2)
    }

    /// Ends a round. If true, another begins, for whose layers the same examples are to be observed again.
    ///
    /// # Errors
    /// [`Error::NotObserved`]; on a GPU [`Error::Device`] and, of layers of the round, [`Error::NonFinite`].
    pub fn next_round(&mut self) -> Result<bool, Error> {
        self.observed.check_round(&self.rounds, 0)?;
        if self.rounds.is_last() {
            return Ok(false);
        }
        self.multiply_held()?;
        self.rounds.advance();
        self.observed.clear();
        Ok(true)
    }

    fn multiply_held(&mut self) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some(device) = &mut self.device {
            return device.end_round(&self.rounds);
        }
        let tiles = self.rounds.tiles_held();
        self.whole.add(&tiles);
        self.rest.add(&tiles);
        Ok(())
    }

    /// The length of a panel row.
    fn length(&self) -> Result<usize, Error> {
        packed_length(self.examples, self.estimator).ok_or(Error::TooManyExamples { examples: self.examples })
    }

    /// The first component of one layer's output; none where the layer is constant. Nothing is kept of it.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::WrongExamples`], [`Error::NonFinite`], [`Error::NoEigenvalues`].
    pub fn first(&mut self, layer: usize, activation: Activation<'_>) -> Result<Option<FirstComponent>, Error> {
        self.check_layer(layer, activation.examples())?;
        let found = self.principals.first(activation).map_err(in_layer(layer))?;
        Ok(found.map(FirstComponent::from))
    }

    /// Takes in one layer's output; nothing of it is kept but its first component and its rows of the panels.
    ///
    /// # Errors
    /// Those of [`Self::first`], [`Error::ObservedTwice`], [`Error::OutOfTurn`], [`Error::NoMemory`].
    pub fn observe(&mut self, layer: usize, activation: Activation<'_>) -> Result<(), Error> {
        self.check_turn(layer, activation.examples())?;
        #[cfg(feature = "cuda")]
        if self.device.is_some() {
            return self.observe_with(layer, |device, rounds| device.observe(layer, activation, rounds));
        }
        let length = self.length()?;
        self.whole.panel.resize(&self.rounds, length)?;
        self.rest.panel.resize(&self.rounds, length)?;
        let place = self.rounds.place(0, layer);
        let rows = PrincipalRows { whole: self.whole.panel.row_mut(place), rest: self.rest.panel.row_mut(place) };
        let (found, [whole, rest]) = self.principals.rows(activation, self.estimator, rows).map_err(in_layer(layer))?;
        self.layers[layer] = Some(Observed { component: found.map(FirstComponent::from), whole, rest });
        self.observed.add(0, layer);
        let tiles = self.rounds.tiles_with(0, layer);
        self.whole.add(&tiles);
        self.rest.add(&tiles);
        Ok(())
    }

    /// Whether [`Self::observe_on_device`] may be called: a GPU does the work.
    #[cfg(feature = "cuda")]
    pub fn takes_device_values(&self) -> bool {
        self.device.is_some()
    }

    /// The same for an output that is on the GPU already, `examples` rows of equal length one after the other, and is read by what
    /// is enqueued here on the device's stream.
    ///
    /// # Errors
    /// Those of [`Self::observe`] and [`Activation::new`]; [`Error::NotOnDevice`] where no GPU does the work.
    #[cfg(feature = "cuda")]
    pub fn observe_on_device(
        &mut self,
        layer: usize,
        values: &gramscope_cuda::Values<'_>,
        examples: usize,
    ) -> Result<(), Error> {
        crate::activation::check_shape(values.len(), examples)?;
        self.check_turn(layer, examples)?;
        self.observe_with(layer, |device, rounds| device.observe_values(layer, values, rounds))
    }

    /// Has the GPU take a layer in.
    #[cfg(feature = "cuda")]
    fn observe_with(
        &mut self,
        layer: usize,
        take: impl FnOnce(&mut OnDevice, &Rounds) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.device.as_ref().is_some_and(|device| device.is_new()) {
            self.begin_on_device()?;
        }
        take(self.device.as_mut().ok_or(Error::NotOnDevice)?, &self.rounds)?;
        self.observed.add(0, layer);
        Ok(())
    }

    /// Fetches what a GPU has found.
    #[cfg(feature = "cuda")]
    fn fetch(&mut self) -> Result<(), Error> {
        let Some(device) = self.device.take() else { return Ok(()) };
        let (components, [whole, rest]) = device.finish()?;
        let rows = whole.rows.into_iter().zip(rest.rows);
        let observed = |(component, (whole, rest))| Some(Observed { component, whole, rest });
        self.layers = components.into_iter().zip(rows).map(observed).collect();
        self.whole.products = whole.products;
        self.rest.products = rest.products;
        Ok(())
    }

    /// What came of it.
    ///
    /// # Errors
    /// [`Error::NotObserved`], [`Error::MoreRounds`]; on a GPU [`Error::Device`].
    pub fn finish(mut self) -> Result<ComponentSimilarity, Error> {
        if self.next_round()? {
            return Err(Error::MoreRounds { batch: 0 });
        }
        self.multiply_held()?;
        #[cfg(feature = "cuda")]
        self.fetch()?;
        let missing = |layer| Error::NotObserved { model: 0, layer, batch: 0 };
        let numbered = self.layers.into_iter().enumerate();
        let layers = numbered.map(|(layer, found)| found.ok_or(missing(layer))).collect::<Result<Vec<_>, _>>()?;
        let (whole, rest): (Vec<Row>, Vec<Row>) = layers.iter().map(|layer| (layer.whole, layer.rest)).unzip();
        let components: Vec<_> = layers.into_iter().map(|layer| layer.component).collect();
        let numbers = |number: fn(&FirstComponent) -> f64| -> Vec<f64> {
            components.iter().map(|component| component.as_ref().map_or(f64::NAN, number)).collect()
        };
        let undefined_rows = |rows: &[Row]| (0..rows.len()).filter(|&layer| norm(rows[layer]).is_nan()).collect();
        Ok(ComponentSimilarity {
            layers: components.len(),
            examples: self.examples,
            variance_explained: numbers(|component| component.variance_explained),
            second_over_first: numbers(|component| component.second_over_first),
            cosine_sq: squared_cosines(&components),
            cka: self.whole.cka(&whole),
            cka_without_first: self.rest.cka(&rest),
            undefined: (0..components.len()).filter(|&layer| components[layer].is_none()).collect(),
            undefined_cka: undefined_rows(&whole),
            undefined_without_first: undefined_rows(&rest),
            first_pc: components.into_iter().flat_map(|found| vector_or_nan(found, self.examples)).collect(),
        })
    }

    /// There is such a layer, with so many examples.
    fn check_layer(&self, layer: usize, found: usize) -> Result<(), Error> {
        self.observed.check_layer((0, layer), 0, (self.examples, found))
    }

    /// The same, and it is its turn.
    fn check_turn(&self, layer: usize, found: usize) -> Result<(), Error> {
        self.check_layer(layer, found)?;
        self.observed.check_turn(&self.rounds, (0, layer), 0)
    }
}

/// What a model's [`Components`] come to. Matrices are row-major [layers, layers], symmetric; undefined entries are NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentSimilarity {
    /// The number of layers, L.
    pub layers: usize,
    /// The number of examples, n.
    pub examples: usize,
    /// l_1 / tr K', \[L\].
    pub variance_explained: Vec<f64>,
    /// l_2 / l_1, \[L\].
    pub second_over_first: Vec<f64>,
    /// <v_1^X, v_1^Y>^2, \[L, L\].
    pub cosine_sq: Vec<f64>,
    /// CKA of the one batch, \[L, L\].
    pub cka: Vec<f64>,
    /// CKA of K' - l_1 v_1 v_1^T, \[L, L\]: of the features without their first component.
    pub cka_without_first: Vec<f64>,
    /// v_1 of every layer, \[L, n\]; its largest entry is positive.
    pub first_pc: Vec<f64>,
    /// Layers that are constant: they have no component.
    pub undefined: Vec<usize>,
    /// Layers without CKA: their HSIC with themselves is 0. They are constant or, with the unbiased estimator, alive in one
    /// example only.
    pub undefined_cka: Vec<usize>,
    /// Layers without CKA once the first component is gone: nothing is left, or less than float64 can tell from nothing
    /// (1e-9 of l_1).
    pub undefined_without_first: Vec<usize>,
}

/// Packed, centred Gram matrices, and their inner products as far as they are known.
#[derive(Debug)]
struct Products {
    layers: usize,
    panel: Panel,
    /// `[layers, layers]`, the lower triangle.
    products: Vec<f64>,
}

impl Products {
    fn new(layers: usize) -> Self {
        Self { layers, panel: Panel::default(), products: vec![0.0; layers * layers] }
    }

    fn add(&mut self, tiles: &[Tile]) {
        cpu::add_products(&self.panel, tiles, |_, i, j, product| self.products[i * self.layers + j] = product);
    }

    /// CKA of all pairs of layers, whose rows are `kinds`.
    fn cka(self, kinds: &[Row]) -> Vec<f64> {
        let norms: Vec<f64> = kinds.iter().map(|&kind| norm(kind)).collect();
        let mut cka = self.products;
        for i in 0..self.layers {
            for j in 0..=i {
                let place = &mut cka[i * self.layers + j];
                // Of a layer with itself the product is known in float64 already.
                let product = if i == j { norms[i] } else { *place };
                *place = product / (norms[i] * norms[j]).sqrt();
            }
        }
        mirror(&mut cka, self.layers);
        cka
    }
}

/// A row's squared length; NaN where its layer has no similarity.
fn norm(row: Row) -> f64 {
    match row {
        Row::Centred { norm, .. } => norm,
        Row::Zero | Row::Undefined => f64::NAN,
    }
}

fn squared_cosines(components: &[Option<FirstComponent>]) -> Vec<f64> {
    let layers = components.len();
    let mut cosines = vec![f64::NAN; layers * layers];
    for (i, x) in components.iter().enumerate() {
        for (j, y) in components[..=i].iter().enumerate() {
            if let (Some(x), Some(y)) = (x, y) {
                let inner: f64 = x.vector.iter().zip(&y.vector).map(|(a, b)| a * b).sum();
                cosines[i * layers + j] = inner * inner;
            }
        }
    }
    mirror(&mut cosines, layers);
    cosines
}

/// Copies the lower triangle to the upper one.
fn mirror(matrix: &mut [f64], side: usize) {
    for i in 0..side {
        for j in 0..i {
            matrix[j * side + i] = matrix[i * side + j];
        }
    }
}

fn vector_or_nan(component: Option<FirstComponent>, examples: usize) -> Vec<f64> {
    component.map_or_else(|| vec![f64::NAN; examples], |component| component.vector)
}

impl From<cpu::Principal> for FirstComponent {
    fn from(found: cpu::Principal) -> Self {
        let cpu::Principal { eigenvalue, fraction, second_over_first, vector, .. } = found;
        Self { eigenvalue, variance_explained: fraction, second_over_first, vector }
    }
}

/// For `map_err`: the layer that has no component.
fn in_layer(layer: usize) -> impl FnOnce(PrincipalError) -> Error {
    move |reason| match reason {
        PrincipalError::Unusable(unusable) => unusable.of(0, layer, 0),
        PrincipalError::NoEigenvalues => Error::NoEigenvalues { layer },
    }
}
