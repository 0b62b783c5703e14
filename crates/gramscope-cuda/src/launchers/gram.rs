//! kernels/gram/gram.cu.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DeviceRepr, PushKernelArg};
use half::{bf16, f16};

use super::{Launcher, MOST_FEATURES, Needed, check_flag, checked_examples, enqueue, push_flag};
use crate::error::Error;
use crate::functions::{Functions, GramFunctions, Kernel};
use crate::launch::{Arguments, wrong};
use crate::plan::{self, Split};
use crate::shapes::GramShape;

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

/// A type that activations are stored in.
trait Stored: DeviceRepr {
    fn functions(functions: &Functions) -> &GramFunctions;
}

impl Stored for f16 {
    fn functions(functions: &Functions) -> &GramFunctions {
        &functions.gram_f16
    }
}

impl Stored for bf16 {
    fn functions(functions: &Functions) -> &GramFunctions {
        &functions.gram_bf16
    }
}

impl Stored for f32 {
    fn functions(functions: &Functions) -> &GramFunctions {
        &functions.gram_f32
    }
}

/// Calls a generic method of the launcher for whichever type the values are of.
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
    /// Each feature's shift, its trimmed mean (sum - max - min) / (n - 2), and the largest |x|; lowers `first_bad`
    /// to the first example that is not finite.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_shift(
        &self,
        shift: &mut CudaViewMut<'_, f32>,
        largest: &mut CudaViewMut<'_, f32>,
        first_bad: &mut CudaViewMut<'_, i32>,
        x: &Values<'_>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
    ) -> Result<(), Error> {
        for_type!(x, x => self.shift(shift, largest, first_bad, x, needed, [examples, features]))
    }

    /// The Gram matrix `k` `[n, n]` of the shifted columns, an entry a thread, in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_naive(
        &self,
        k: &mut CudaViewMut<'_, f64>,
        x: &Values<'_>,
        shift: &CudaView<'_, f32>,
        [examples, features]: [usize; 2],
    ) -> Result<(), Error> {
        for_type!(x, x => self.naive(k, x, shift, [examples, features]))
    }

    /// Partial sums of the Gram matrix, one triangle, of up to [`plan::FUSED_ROWS`] examples, which are shifted on the way:
    /// `exact` by error-compensated products, else by one product of float16 halves.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_fused(
        &self,
        exact: bool,
        partials: &mut PartialsMut<'_>,
        first_bad: &mut CudaViewMut<'_, i32>,
        x: &Values<'_>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
    ) -> Result<Split, Error> {
        for_type!(x, x => self.fused(exact, partials, first_bad, x, needed, [examples, features]))
    }

    /// The same for any number of examples, given what [`Launcher::gram_shift`] found.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn gram_tiled(
        &self,
        exact: bool,
        partials: &mut PartialsMut<'_>,
        x: &Values<'_>,
        shift: &CudaView<'_, f32>,
        largest: &CudaView<'_, f32>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
    ) -> Result<Split, Error> {
        for_type!(x, x => self.tiled(exact, partials, x, shift, largest, needed, [examples, features]))
    }

    /// Partial sums in float64, given the shifts, split as suits `device`: this one, unless bits must not depend on it.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_double(
        &self,
        partials: &mut CudaViewMut<'_, f64>,
        x: &Values<'_>,
        shift: &CudaView<'_, f32>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
        device: plan::Device,
    ) -> Result<Split, Error> {
        for_type!(x, x => self.double(partials, x, shift, needed, [examples, features], device))
    }

    /// Partial sums in float64 of the squared distances of all pairs of examples; they lie as those of
    /// [`Launcher::gram_double`].
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn gram_distances(
        &self,
        partials: &mut CudaViewMut<'_, f64>,
        x: &Values<'_>,
        shape: [usize; 2],
    ) -> Result<Split, Error> {
        for_type!(x, x => self.distances(partials, x, shape))
    }

    fn shift<T: Stored>(
        &self,
        shift: &mut CudaViewMut<'_, f32>,
        largest: &mut CudaViewMut<'_, f32>,
        first_bad: &mut CudaViewMut<'_, i32>,
        x: &CudaView<'_, T>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
    ) -> Result<(), Error> {
        let kernel = &T::functions(self.device.functions()).shift;
        let shape = shape(kernel, examples, features)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("shift", shift, features)?;
        check.writes("largest", largest, features)?;
        check.writes("first_bad", first_bad, 1)?;
        check.reads("x", x, examples * features)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(shift).arg(largest).arg(first_bad).arg(x);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: a thread a feature below `features` reads its column of x [examples, features] and writes its place of
        // shift and largest [features]; first_bad and needed are one int. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::gram_shift(features), arguments) }
    }

    fn naive<T: Stored>(
        &self,
        k: &mut CudaViewMut<'_, f64>,
        x: &CudaView<'_, T>,
        shift: &CudaView<'_, f32>,
        [examples, features]: [usize; 2],
    ) -> Result<(), Error> {
        let kernel = &T::functions(self.device.functions()).naive;
        let shape = shape(kernel, examples, features)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", k, examples * examples)?;
        check.reads("x", x, examples * features)?;
        check.reads("shift", shift, features)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(k).arg(x).arg(shift).arg(&shape);
        // SAFETY: a thread an entry of k [examples, examples] reads two rows of x [examples, features] and shift
        // [features]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::entries(examples), arguments) }
    }

    fn fused<T: Stored>(
        &self,
        exact: bool,
        partials: &mut PartialsMut<'_>,
        first_bad: &mut CudaViewMut<'_, i32>,
        x: &CudaView<'_, T>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
    ) -> Result<Split, Error> {
        let functions = T::functions(self.device.functions());
        let kernel = if exact { &functions.fused_exact } else { &functions.fused_fast };
        let shape = shape(kernel, examples, features)?;
        let split = plan::gram_fused(examples, features, self.device.plan())
            .ok_or_else(|| wrong(kernel.name, "examples", examples, format!("at most {}", plan::FUSED_ROWS)))?;
        let shape = GramShape { buffers: narrow(split.buffers), ..shape };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", &partials.sums, split.partials)?;
        check.writes("exponents", &partials.exponents, split.exponents)?;
        check.writes("reaches", &partials.reaches, split.exponents)?;
        check.writes("first_bad", first_bad, 1)?;
        check.reads("x", x, examples * features)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut partials.sums).arg(&mut partials.exponents).arg(&mut partials.reaches).arg(first_bad).arg(x);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: block b reads its range of features of x [examples, features] and writes tile set b of `splits` sets of
        // partial sums, of exponents and of reaches, whose total lengths are the plan's and have been checked; shared memory holds
        // `buffers` slabs, as the plan made it.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    fn tiled<T: Stored>(
        &self,
        exact: bool,
        partials: &mut PartialsMut<'_>,
        x: &CudaView<'_, T>,
        shift: &CudaView<'_, f32>,
        largest: &CudaView<'_, f32>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
    ) -> Result<Split, Error> {
        let functions = T::functions(self.device.functions());
        let kernel = if exact { &functions.tiled_exact } else { &functions.tiled_fast };
        let shape = shape(kernel, examples, features)?;
        let shared = self.device.properties().shared_bytes;
        let split = plan::gram_tiled(examples, features, self.device.plan())
            .ok_or_else(|| wrong(kernel.name, "shared memory a block", shared, "more"))?;
        let shape = GramShape { buffers: narrow(split.buffers), ..shape };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", &partials.sums, split.partials)?;
        check.writes("exponents", &partials.exponents, split.exponents)?;
        check.writes("reaches", &partials.reaches, split.exponents)?;
        check.reads("x", x, examples * features)?;
        check.reads("shift", shift, features)?;
        check.reads("largest", largest, features)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut partials.sums).arg(&mut partials.exponents).arg(&mut partials.reaches);
        arguments.arg(x).arg(shift).arg(largest);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: block (tile, split) reads two strips of rows and a range of features of x [examples, features], shift
        // and largest [features], and writes its tile of its split's set of partial sums, exponents and reaches, whose total lengths
        // are the plan's and have been checked; shared memory holds `buffers` slabs, as the plan made it.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    fn double<T: Stored>(
        &self,
        partials: &mut CudaViewMut<'_, f64>,
        x: &CudaView<'_, T>,
        shift: &CudaView<'_, f32>,
        needed: Needed<'_>,
        [examples, features]: [usize; 2],
        device: plan::Device,
    ) -> Result<Split, Error> {
        let kernel = &T::functions(self.device.functions()).double;
        let shape = shape(kernel, examples, features)?;
        let split = plan::gram_double(examples, features, device);
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", partials, split.partials)?;
        check.reads("x", x, examples * features)?;
        check.reads("shift", shift, features)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials).arg(x).arg(shift);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: block (tile, split) reads two strips of rows and a range of features of x [examples, features] and shift
        // [features], and writes its tile of its split's set of partial sums, whose total length is the plan's and has been
        // checked.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }

    fn distances<T: Stored>(
        &self,
        partials: &mut CudaViewMut<'_, f64>,
        x: &CudaView<'_, T>,
        [examples, features]: [usize; 2],
    ) -> Result<Split, Error> {
        let kernel = &T::functions(self.device.functions()).distances;
        let shape = shape(kernel, examples, features)?;
        let split = plan::gram_double(examples, features, self.device.plan());
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("partials", partials, split.partials)?;
        check.reads("x", x, examples * features)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials).arg(x).arg(&shape);
        // SAFETY: block (tile, split) reads two strips of rows and a range of features of x [examples, features], and writes
        // its tile of its split's set of partial sums, whose total length is the plan's and has been checked.
        unsafe { enqueue(kernel, split.geometry, arguments) }?;
        Ok(split)
    }
}

/// The shape, in range; without buffers.
fn shape(kernel: &Kernel, examples: usize, features: usize) -> Result<GramShape, Error> {
    let most = || wrong(kernel.name, "features", features, format!("from 1 to {MOST_FEATURES}"));
    if !(1..=MOST_FEATURES).contains(&features) {
        return Err(most());
    }
    let features = i64::try_from(features).map_err(|_| most())?;
    Ok(GramShape { features, examples: checked_examples(kernel, examples)?, buffers: 0 })
}

/// A number of the plan's, which are small.
fn narrow(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
