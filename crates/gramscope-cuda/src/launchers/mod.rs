//! One safe launcher a kernel. What a kernel computes, and what its buffers hold, stands at its head in kernels/.

mod activation;
mod augment;
mod batch_norm;
mod convolution;
mod eigen;
mod elementwise;
mod first_component;
mod gram;
mod hsic;
mod kernels;
mod loss;
mod mixing;
mod pooling;
mod probe;
mod rbf;
mod seen;
mod sgd;
mod ucenter;

pub use activation::Activation;
pub use eigen::Grams;
pub use first_component::FirstComponent;
pub use gram::{Layers, Partials, PartialsMut, Uploaded, Values};
pub use hsic::{PairSums, Panels, ProductLengths};
pub(crate) use kernels::Kernels;
pub use probe::{ProbeBatch, ProbeOutcome, ProbeStep};
pub use seen::Seen;
pub(crate) use ucenter::packed_length;
pub use ucenter::{Gram, GramMut, Looking};

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, LaunchArgs, PushKernelArg};

use crate::device::Device;
use crate::error::{Dimensions, Error};
use crate::family::Kernel;
use crate::launch::{self, Arguments, wrong};
use crate::plan::{self, Better, Geometry};

/// The most examples a batch may have: the kernels address the entries of a Gram matrix in 32 bits.
pub const MOST_EXAMPLES: usize = 32_768;
/// The most features an activation may have.
pub const MOST_FEATURES: usize = 1 << 31;
/// The most layers a panel may have.
pub const MOST_LAYERS: usize = 1 << 20;

/// Fewer than so many values may an activation have that is addressed in 31 bits; a block of threads more must fit, too.
const MOST_VALUES: usize = (1 << 31) - plan::ENTRY_THREADS;

/// The most parts that anything is summed in: a grid's second dimension.
const MOST_SPLITS: usize = 65_535;

/// The most values of an array that is taken value by value.
const MOST_LENGTH: usize = 1 << 40;

/// A device's kernels, about to be launched on its stream.
///
/// Whatever they are given, its methods launch nothing that would read or write beyond a buffer. That none is written while it is
/// read is for the borrow checker:
///
/// ```compile_fail,E0502
/// fn in_place(launcher: gramscope_cuda::Launcher<'_>, mut x: gramscope_cuda::Slice<f32>) {
///     launcher.max_pool(&mut x.as_view_mut(), &x.as_view(), 1, 2, 2, 1).unwrap();
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Launcher<'a> {
    device: &'a Device,
    stream: &'a Arc<CudaStream>,
}

/// The layers that a launch is for, among those that it is given: what the others have stays as it is.
#[derive(Debug)]
pub struct Wanting<'a> {
    /// Those that want these products,
    pub products: Better,
    /// as the flag of each says.
    pub flags: CudaView<'a, i32>,
}

impl Wanting<'_> {
    /// What a kernel is told: 0 where the launch is for all layers.
    fn products(only: Option<&Self>) -> i32 {
        only.map_or(0, |only| only.products.flag())
    }

    /// There is a flag a layer.
    fn check(only: Option<&Self>, arguments: &mut Arguments<'_>, layers: usize) -> Result<(), Error> {
        only.map_or(Ok(()), |only| arguments.reads("flags", &only.flags, layers))
    }
}

/// Stands for a pointer that is not given.
const NULL: u64 = 0;

impl Device {
    /// The kernels, to be launched on this device's own stream.
    pub fn launcher(&self) -> Launcher<'_> {
        Launcher { device: self, stream: self.stream() }
    }

    /// What launch geometry depends on.
    pub fn plan(&self) -> plan::Device {
        let properties = self.properties();
        plan::Device {
            multiprocessors: properties.multiprocessors as usize,
            shared_bytes: properties.shared_bytes as usize,
        }
    }
}

impl<'a> Launcher<'a> {
    /// The device.
    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// The stream that it launches on.
    pub(crate) fn stream(&self) -> &'a Arc<CudaStream> {
        self.stream
    }
}

/// How a kernel is launched, for messages and for the driver.
fn dimensions(geometry: Geometry) -> Dimensions {
    let shared_bytes = u32::try_from(geometry.shared_bytes).unwrap_or(u32::MAX);
    Dimensions { grid: geometry.grid, block: geometry.block, shared_bytes }
}

/// `examples` as the kernels take it.
fn checked_examples(kernel: &Kernel, examples: usize) -> Result<i32, Error> {
    let expected = || format!("from 2 to {MOST_EXAMPLES}");
    if !(2..=MOST_EXAMPLES).contains(&examples) {
        return Err(wrong(kernel.name, "examples", examples, expected()));
    }
    i32::try_from(examples).map_err(|_| wrong(kernel.name, "examples", examples, expected()))
}

/// `count` of something that is counted in 32 bits, at least 1 and at most `most`.
fn checked_count(kernel: &Kernel, what: &'static str, count: usize, most: usize) -> Result<i32, Error> {
    let small = i32::try_from(count).ok().filter(|_| (1..=most).contains(&count));
    small.ok_or_else(|| wrong(kernel.name, what, count, format!("from 1 to {most}")))
}

/// `count` values that the kernels address in 31 bits.
fn checked_values(kernel: &Kernel, what: &'static str, dimensions: &[usize]) -> Result<usize, Error> {
    let product = dimensions.iter().try_fold(1usize, |product, dimension| product.checked_mul(*dimension));
    let count = product.filter(|count| (1..MOST_VALUES).contains(count));
    count.ok_or_else(|| wrong(kernel.name, what, format!("{dimensions:?}"), format!("from 1 to {MOST_VALUES} values")))
}

/// The length of an array whose runs are counted in 31 bits.
fn checked_length(kernel: &Kernel, length: usize) -> Result<i64, Error> {
    let expected = || format!("from 1 to {MOST_LENGTH}");
    let small = i64::try_from(length).ok().filter(|_| (1..=MOST_LENGTH).contains(&length));
    small.ok_or_else(|| wrong(kernel.name, "length", length, expected()))
}

/// The view, or a null pointer.
fn push_view<'a, 'b: 'a, T>(arguments: &mut LaunchArgs<'a>, view: Option<&'b CudaView<'b, T>>) {
    match view {
        Some(view) => arguments.arg(view),
        None => arguments.arg(&NULL),
    };
}

/// Enqueues `kernel` with the arguments pushed.
///
/// # Safety
/// The arguments are those of the kernel's signature, in its order, and what it reads and writes with this geometry lies
/// in the buffers pushed.
unsafe fn enqueue(kernel: &Kernel, geometry: Geometry, mut arguments: LaunchArgs<'_>) -> Result<(), Error> {
    let dimensions = dimensions(geometry);
    // SAFETY: the caller's promise.
    let launched = unsafe { arguments.launch(launch::config(dimensions)) };
    launched.map(drop).map_err(|error| launch::refused(kernel.name, dimensions, error))
}
