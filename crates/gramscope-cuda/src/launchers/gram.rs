//! kernels/gram/gram.cu.

use std::mem::{Discriminant, discriminant};

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DevicePtr, PushKernelArg};
use half::{bf16, f16};

use super::{Launcher, MOST_FEATURES, Wanting, checked_examples, enqueue, push_view};
use crate::error::Error;
use crate::family::{Element, Family, Kernel, kernels};
use crate::launch::{Arguments, wrong};
use crate::plan::{self, LAYERS_TOGETHER, LayersSplit};
use crate::shapes::{GramShape, LayerSplits, LayerValues};

kernels! {
    /// The kernels of one type of stored values.
    TypedGramKernels of an element {
        shift: "gs_gram_shift",
        naive: "gs_gram_naive",
        fused_exact: "gs_gram_fused_exact",
        fused_fast: "gs_gram_fused_fast",
        tiled_exact: "gs_gram_tiled_exact",
        tiled_fast: "gs_gram_tiled_fast",
        double: "gs_gram_double",
        distances: "gs_gram_distances",
    }
}

/// The kernels of this family.
pub(crate) struct GramKernels {
    f16: TypedGramKernels,
    bf16: TypedGramKernels,
    f32: TypedGramKernels,
}

impl GramKernels {
    pub(super) fn load(family: &Family) -> Result<Self, Error> {
        let load = |element| TypedGramKernels::load(family, element);
        Ok(Self { f16: load(Element::F16)?, bf16: load(Element::Bf16)?, f32: load(Element::F32)? })
    }
}

/// A layer's output over a batch on the device: `[examples, features]`, row-major.
#[derive(Debug)]
pub enum Values<'a> {
    /// IEEE half precision.
    F16(CudaView<'a, f16>),
    /// bfloat16.
    Bf16(CudaView<'a, bf16>),
    /// Single precision.
    F32(CudaView<'a, f32>),
}

/// A layer's output that has been copied to the device.
#[derive(Debug)]
pub enum Uploaded {
    /// IEEE half precision.
    F16(CudaSlice<f16>),
    /// bfloat16.
    Bf16(CudaSlice<bf16>),
    /// Single precision.
    F32(CudaSlice<f32>),
}

impl Uploaded {
    /// Its values.
    pub fn view(&self) -> Values<'_> {
        match self {
            Self::F16(values) => Values::F16(values.as_view()),
            Self::Bf16(values) => Values::Bf16(values.as_view()),
            Self::F32(values) => Values::F32(values.as_view()),
        }
    }
}

/// Does the same with the view of whichever type the values are of.
macro_rules! for_type {
    ($x:expr, $view:ident => $call:expr) => {
        match $x {
            Values::F16($view) => $call,
            Values::Bf16($view) => $call,
            Values::F32($view) => $call,
        }
    };
}

impl Values<'_> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        for_type!(self, view => view.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their address, once `check` has looked at the first `length` of them.
    pub(crate) fn address(&self, check: &mut Arguments<'_>, length: usize) -> Result<u64, Error> {
        for_type!(self, view => {
            check.reads("x", view, length)?;
            Ok(view.device_ptr(check.stream()).0)
        })
    }

    /// Which type they are of.
    pub(crate) fn stored(&self) -> Discriminant<Self> {
        discriminant(self)
    }
}

/// Layers over the same examples that one launch takes together, all stored as one type. What is said of a buffer of theirs
/// below is of one layer after the other.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// From 1 to [`LAYERS_TOGETHER`], each `[examples, features]` with features of its own, row-major.
    pub x: &'a [&'a Values<'a>],
    /// Examples.
    pub examples: usize,
    /// Features of all the layers that the device is shared among, whether they are in this launch or not: at least those of any
    /// layer. What a layer's features are split into depends on its part of them.
    pub sharing: usize,
}

impl<'a> Layers<'a> {
    /// A layer that has the device for itself.
    pub fn alone(x: &'a [&'a Values<'a>; 1], examples: usize) -> Self {
        Self { x, examples, sharing: x[0].len() / examples.max(1) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.x.len()
    }

    /// Features of all of them.
    pub fn columns(&self) -> usize {
        self.features().iter().sum()
    }

    /// The features of each.
    pub fn features(&self) -> Vec<usize> {
        self.x.iter().map(|x| x.len().div_ceil(self.examples.max(1))).collect()
    }

    /// Kernels for the type that they are stored as.
    fn kernels<'k>(&self, kernels: &'k GramKernels) -> &'k TypedGramKernels {
        match self.x.first() {
            Some(Values::F16(_)) => &kernels.f16,
            Some(Values::Bf16(_)) => &kernels.bf16,
            Some(Values::F32(_)) | None => &kernels.f32,
        }
    }

    /// The number of examples; that and all others in range.
    fn checked(&self, kernel: &Kernel) -> Result<i32, Error> {
        let examples = checked_examples(kernel, self.examples)?;
        let (count, most) = (self.count(), format!("from 1 to {LAYERS_TOGETHER}"));
        if !(1..=LAYERS_TOGETHER).contains(&count) {
            return Err(wrong(kernel.name, "layers", count, most));
        }
        for x in self.x {
            let features = x.len().div_ceil(self.examples);
            if !(1..=MOST_FEATURES).contains(&features) {
                return Err(wrong(kernel.name, "features", features, format!("from 1 to {MOST_FEATURES}")));
            }
            if x.stored() != self.x[0].stored() {
                return Err(wrong(kernel.name, "x", "layers of several types", "of one"));
            }
        }
        Ok(examples)
    }

    /// Their activations as kernels are told of them, once `check` has looked at them: whole rows. [`Self::checked`] comes first.
    fn values(&self, check: &mut Arguments<'_>) -> Result<LayerValues, Error> {
        let mut layers = Vec::with_capacity(self.count());
        for (x, features) in self.x.iter().zip(self.features()) {
            let address = x.address(check, self.examples * features)?;
            layers.push((address, i64::try_from(features).unwrap_or(i64::MAX)));
        }
        Ok(LayerValues::new(&layers))
    }
}

/// Partial sums that a Gram kernel has left: float32 with an exponent a row.
#[derive(Debug)]
pub struct Partials<'a> {
    /// The sums.
    pub sums: CudaView<'a, f32>,
    /// Their exponents.
    pub exponents: CudaView<'a, i32>,
    /// What each row's products could have come to: as many as exponents.
    pub reaches: CudaView<'a, f32>,
}

/// Where a Gram kernel leaves its partial sums.
#[derive(Debug)]
pub struct PartialsMut<'a> {
    /// The sums.
    pub sums: CudaViewMut<'a, f32>,
    /// Their exponents.
    pub exponents: CudaViewMut<'a, i32>,
    /// What each row's products could have come to: as many as exponents.
    pub reaches: CudaViewMut<'a, f32>,
}

impl Launcher<'_> {
    /// Each feature's shift, its trimmed mean (sum - max - min) / (n - 2), and the largest |x|; lowers `first_bad` of a layer to
    /// its first example that is not finite.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_shift(
        &self,
        shift: &mut CudaViewMut<'_, f32>,
        largest: &mut CudaViewMut<'_, f32>,
        first_bad: &mut CudaViewMut<'_, i32>,
        layers: &Layers<'_>,
    ) -> Result<(), Error> {
        let kernel = &layers.kernels(&self.device.kernels().gram).shift;
        let shape = GramShape { examples: layers.checked(kernel)?, ..GramShape::default() };
        let features = layers.features();
        let columns = layers.columns();
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("shift", shift, columns)?;
        check.writes("largest", largest, columns)?;
        check.writes("first_bad", first_bad, layers.count())?;
        let values = layers.values(&mut check)?;
        let geometry = plan::gram_shift(features.into_iter().max().unwrap_or(0), layers.count());
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(shift).arg(largest).arg(first_bad).arg(&values).arg(&shape);
        // SAFETY: a thread a feature of a layer reads its column of that layer's x [examples, features] and writes its place of shift
        // and largest, which have one for each feature of all layers; first_bad is an int a layer. All these lengths have been checked.
        unsafe { enqueue(kernel, geometry, arguments) }
    }

    /// The Gram matrices `k` `[n, n]` of the shifted columns, an entry a thread, in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_naive(
        &self,
        k: &mut CudaViewMut<'_, f64>,
        layers: &Layers<'_>,
        shift: &CudaView<'_, f32>,
    ) -> Result<(), Error> {
        let kernel = &layers.kernels(&self.device.kernels().gram).naive;
        let shape = GramShape { examples: layers.checked(kernel)?, ..GramShape::default() };
        let examples = layers.examples;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", k, layers.count() * examples * examples)?;
        let values = layers.values(&mut check)?;
        check.reads("shift", shift, layers.columns())?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(k).arg(&values).arg(shift).arg(&shape);
        // SAFETY: a thread an entry of a layer's k [examples, examples] reads two rows of that layer's x [examples, features] and its part
        // of shift, which has one for each feature of all layers. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::gram_naive(examples, layers.count()), arguments) }
    }

    /// Partial sums of the Gram matrices, one triangle, of up to [`plan::FUSED_ROWS`] examples, whose columns are shifted on the
    /// way, by what is left in `shift`: `exact` by error-compensated products, else by one product of float16 halves.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_fused(
        &self,
        exact: bool,
        partials: &mut PartialsMut<'_>,
        shift: &mut CudaViewMut<'_, f32>,
        first_bad: &mut CudaViewMut<'_, i32>,
        layers: &Layers<'_>,
        only: Option<&Wanting<'_>>,
    ) -> Result<LayersSplit, Error> {
        let kernels = layers.kernels(&self.device.kernels().gram);
        let kernel = if exact { &kernels.fused_exact } else { &kernels.fused_fast };
        let examples = layers.checked(kernel)?;
        let planned = |features, device| plan::gram_fused(layers.examples, features, device);
        let split = self
            .split(layers, planned)
            .ok_or_else(|| wrong(kernel.name, "examples", examples, "as many as one block holds"))?;
        let shape = gram_shape(examples, &split, only);
        let mut check = Arguments::new(kernel.name, self.stream);
        check_partials(&mut check, partials, &split)?;
        check.writes("shift", shift, layers.columns())?;
        check.writes("first_bad", first_bad, layers.count())?;
        let values = layers.values(&mut check)?;
        Wanting::check(only, &mut check, layers.count())?;
        let splits = LayerSplits::new(&split.splits);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut partials.sums).arg(&mut partials.exponents).arg(&mut partials.reaches);
        arguments.arg(shift).arg(first_bad).arg(&values);
        push_view(&mut arguments, only.map(|only| &only.flags));
        arguments.arg(&splits).arg(&shape);
        // SAFETY: block b, one of a layer's splits, reads its range of features of that layer's x [examples, features], writes their shifts and
        // tile set b of the partial sums, of exponents and of reaches, whose total lengths are the plan's; flags and first_bad are an int a layer. All have been checked; shared memory holds
        // `buffers` slabs, as the plan made it.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    /// The same for any number of examples, given what [`Launcher::gram_shift`] found.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_tiled(
        &self,
        exact: bool,
        partials: &mut PartialsMut<'_>,
        layers: &Layers<'_>,
        shift: &CudaView<'_, f32>,
        largest: &CudaView<'_, f32>,
        only: Option<&Wanting<'_>>,
    ) -> Result<LayersSplit, Error> {
        let kernels = layers.kernels(&self.device.kernels().gram);
        let kernel = if exact { &kernels.tiled_exact } else { &kernels.tiled_fast };
        let examples = layers.checked(kernel)?;
        let shared = self.device.properties().shared_bytes;
        let planned = |features, device| plan::gram_tiled(layers.examples, features, device);
        let split =
            self.split(layers, planned).ok_or_else(|| wrong(kernel.name, "shared memory a block", shared, "more"))?;
        let shape = gram_shape(examples, &split, only);
        let columns = layers.columns();
        let mut check = Arguments::new(kernel.name, self.stream);
        check_partials(&mut check, partials, &split)?;
        let values = layers.values(&mut check)?;
        check.reads("shift", shift, columns)?;
        check.reads("largest", largest, columns)?;
        Wanting::check(only, &mut check, layers.count())?;
        let splits = LayerSplits::new(&split.splits);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut partials.sums).arg(&mut partials.exponents).arg(&mut partials.reaches);
        arguments.arg(&values).arg(shift).arg(largest);
        push_view(&mut arguments, only.map(|only| &only.flags));
        arguments.arg(&splits).arg(&shape);
        // SAFETY: block (tile, split), the split being one of a layer's, reads two strips of rows and a range of features of that layer's x
        // [examples, features], shift and largest, which have one for each feature of all layers, and writes its tile of its split's set of
        // partial sums, exponents and reaches, whose total lengths are the plan's; flags are an int a layer. All have been checked; shared memory
        // holds `buffers` slabs, as the plan made it.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    /// Partial sums in float64, given the shifts, split as suits `device`: this one, unless bits must not depend on it.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_double(
        &self,
        partials: &mut CudaViewMut<'_, f64>,
        layers: &Layers<'_>,
        shift: &CudaView<'_, f32>,
        only: Option<&Wanting<'_>>,
        device: plan::Device,
    ) -> Result<LayersSplit, Error> {
        let kernel = &layers.kernels(&self.device.kernels().gram).double;
        let examples = layers.checked(kernel)?;
        let split = double_split(kernel, layers, device)?;
        let shape = gram_shape(examples, &split, only);
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", partials, split.partials)?;
        let values = layers.values(&mut check)?;
        check.reads("shift", shift, layers.columns())?;
        Wanting::check(only, &mut check, layers.count())?;
        let splits = LayerSplits::new(&split.splits);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials).arg(&values).arg(shift);
        push_view(&mut arguments, only.map(|only| &only.flags));
        arguments.arg(&splits).arg(&shape);
        // SAFETY: block (tile, split), the split being one of a layer's, reads two strips of rows and a range of features of that layer's x
        // [examples, features] and its part of shift, which has one for each feature of all layers, and writes its tile of its split's set of
        // partial sums, whose total length is the plan's; flags are an int a layer. All have been checked.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    /// Partial sums in float64 of the squared distances of all pairs of examples; they lie as those of
    /// [`Launcher::gram_double`].
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_distances(
        &self,
        partials: &mut CudaViewMut<'_, f64>,
        layers: &Layers<'_>,
    ) -> Result<LayersSplit, Error> {
        let kernel = &layers.kernels(&self.device.kernels().gram).distances;
        let examples = layers.checked(kernel)?;
        let split = double_split(kernel, layers, self.device.plan())?;
        let shape = gram_shape(examples, &split, None);
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", partials, split.partials)?;
        let values = layers.values(&mut check)?;
        let splits = LayerSplits::new(&split.splits);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials).arg(&values).arg(&splits).arg(&shape);
        // SAFETY: as for the products, without shifts.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    /// How layers are split on this device, each as `planned` splits it alone.
    fn split(
        &self,
        layers: &Layers<'_>,
        planned: impl Fn(usize, plan::Device) -> Option<plan::Split>,
    ) -> Option<LayersSplit> {
        LayersSplit::new(&layers.features(), layers.sharing, self.device.plan(), planned)
    }
}

/// How layers are split for float64 products.
fn double_split(kernel: &Kernel, layers: &Layers<'_>, device: plan::Device) -> Result<LayersSplit, Error> {
    let planned = |features, device| Some(plan::gram_double(layers.examples, features, device));
    let split = LayersSplit::new(&layers.features(), layers.sharing, device, planned);
    split.ok_or_else(|| wrong(kernel.name, "layers", 0, "at least 1"))
}

fn gram_shape(examples: i32, split: &LayersSplit, only: Option<&Wanting<'_>>) -> GramShape {
    // The plan's numbers of buffers are small.
    let buffers = i32::try_from(split.buffers).unwrap_or(i32::MAX);
    GramShape { examples, buffers, products: Wanting::products(only), padding: 0 }
}

fn check_partials(check: &mut Arguments<'_>, partials: &PartialsMut<'_>, split: &LayersSplit) -> Result<(), Error> {
    check.writes("partials", &partials.sums, split.partials)?;
    check.writes("exponents", &partials.exponents, split.exponents)?;
    check.writes("reaches", &partials.reaches, split.exponents)
}
