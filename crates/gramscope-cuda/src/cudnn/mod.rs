//! cuDNN, where it has been asked for: the convolutions of networks, on a device's stream.
//!
//! A convolution, or one of its gradients, is a graph of cuDNN's operations; engines with settings compute it, and each becomes a
//! plan. Of those that compute as it is wanted ([`engines`]) the fastest is chosen, by measuring each once, and kept
//! ([`Choices`]): another measurement might choose another, with other bits. So the same choices, GPU and cuDNN give the same
//! bits. A plan is found where memory is taken for a batch, never while work is captured.

mod descriptor;
mod engines;
mod graph;
mod launch;
mod library;
#[cfg(test)]
mod real;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use crate::choices::{Choice, Choices};
use crate::device::{self, Device};
use crate::error::Error;
use crate::graph::without_captures;
use crate::launch::is_collecting;
use crate::plan::convolution::Product;
use crate::plan::{Arithmetic, Convolution};
use crate::stopwatch::Stopwatch;
use descriptor::attribute::{VARIANT_PACK_DATA_POINTERS, VARIANT_PACK_UNIQUE_IDS, VARIANT_PACK_WORKSPACE};
use descriptor::{Address, Descriptor, Kind, RawHandle};
use engines::{Plan, Target};
use graph::{Graph, Tensor};
use library::Library;

pub use launch::{Factors, Scratch};

/// The most bytes of device memory that a plan may work in.
pub const MOST_WORKSPACE: usize = 256 << 20;
/// Plans that are measured, of the most promising engines, and of those the ones that are compiled for it, which takes a second
/// each.
const MOST_MEASURED: usize = 8;
const MOST_COMPILED: usize = 3;
/// Measurements of a plan, of which the least counts, and launches a measurement.
const ROUNDS: usize = 3;
const LAUNCHES: usize = 4;
/// The widest alignment that engines ask for, in bytes.
const ALIGNMENT: usize = 16;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Problem {
    product: Product,
    convolution: Convolution,
    arithmetic: Arithmetic,
    /// Bytes that every tensor is aligned to.
    alignment: usize,
}

/// cuDNN on a device's stream.
pub(crate) struct Cudnn {
    /// None where a kernel of ours is to compute it.
    plans: Mutex<HashMap<Problem, Option<Plan>>>,
    api: &'static Library,
    handle: Handle,
    stream: Arc<CudaStream>,
    /// GPU and version, which choices are of.
    machine: String,
    choices: Arc<dyn Choices>,
}

/// cuDNN's state on a device.
struct Handle {
    api: &'static Library,
    raw: *mut c_void,
}

// SAFETY: a handle may be used from any thread by one at a time; whoever uses it holds the lock of the plans.
unsafe impl Send for Handle {}
// SAFETY: the same.
unsafe impl Sync for Handle {}

impl Handle {
    fn new(api: &'static Library, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        let _alone = without_captures();
        bind(stream)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the call writes one pointer, which `raw` is; the device's context is this thread's.
        let status = unsafe { (api.functions().cudnnCreate)(&raw mut raw) };
        api.check("starting cuDNN", status)?;
        let handle = Self { api, raw };
        // SAFETY: the handle is alive, and the stream as long as it.
        let status = unsafe { (api.functions().cudnnSetStream)(raw, stream.cu_stream().cast()) };
        api.check("giving cuDNN a stream", status)?;
        Ok(handle)
    }

    /// Ends it, once.
    fn end(&mut self) {
        let raw = std::mem::replace(&mut self.raw, std::ptr::null_mut());
        if !raw.is_null() {
            // SAFETY: the handle is alive until now and is used no more. There is nothing to be done about an error.
            let _ = unsafe { (self.api.functions().cudnnDestroy)(raw) };
        }
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        let _alone = without_captures();
        // What is enqueued may use what plans and handle have.
        device::insist(self.stream.context(), || self.stream.synchronize());
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        self.handle.end();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes the device's context this thread's: cuDNN works on the current one.
fn bind(stream: &CudaStream) -> Result<(), Error> {
    stream.context().bind_to_thread().map_err(|error| device::refused("turning to the device", error))
}

impl Cudnn {
    /// cuDNN on `stream` of the GPU of this name.
    ///
    /// # Errors
    /// [`Error::NoCudnn`], [`Error::CudnnTooOld`], [`Error::Cudnn`].
    pub(crate) fn new(stream: &Arc<CudaStream>, gpu: &str, choices: Arc<dyn Choices>) -> Result<Self, Error> {
        let api = Library::get()?;
        Ok(Self {
            plans: Mutex::default(),
            api,
            handle: Handle::new(api, stream)?,
            stream: stream.clone(),
            machine: format!("{gpu}, cuDNN {}", api.version()),
            choices,
        })
    }

    /// The same on another stream of the same GPU.
    pub(crate) fn fork(&self, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        Ok(Self {
            plans: Mutex::default(),
            api: self.api,
            handle: Handle::new(self.api, stream)?,
            stream: stream.clone(),
            machine: self.machine.clone(),
            choices: self.choices.clone(),
        })
    }

    /// Does `work` with the plan of `problem`, found first where it is not known yet; none where a kernel of ours is to compute
    /// it.
    fn with_plan<R>(
        &self,
        device: &Device,
        problem: &Problem,
        work: impl FnOnce(Option<&Plan>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let lock = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        bind(&self.stream)?;
        let mut plans = lock();
        if !plans.contains_key(problem) {
            if is_collecting() {
                let action = format!("planning a convolution ({})", problem.describe());
                return Err(Error::Cudnn { action, message: "work is being captured".to_owned() });
            }
            drop(plans);
            // Before the plans are locked: whoever captures locks them, too. And plans are tried by one thread at a time, or they would
            // measure each other.
            let _alone = without_captures();
            plans = lock();
            if !plans.contains_key(problem) {
                let plan = self.find(device, problem)?;
                plans.insert(*problem, plan);
            }
        }
        work(plans.get(problem).and_then(Option::as_ref))
    }

    /// The plan that has been chosen or, where none has, that of the fastest engine.
    fn find(&self, device: &Device, problem: &Problem) -> Result<Option<Plan>, Error> {
        let of = format!("{}, {}", self.machine, problem.describe());
        let target = Target::Handle(RawHandle(self.handle.raw));
        let graph = Graph::new(self.api, &target, problem)?;
        let kept = |message| Error::Choices { message };
        let choice = match self.choices.find(&of).map_err(kept)? {
            Some(choice) => choice,
            None => {
                let Some(fastest) = self.measure(device, &target, &graph, problem)? else { return Ok(None) };
                self.choices.keep(&of, fastest).map_err(kept)?
            }
        };
        match choice {
            Choice::Own => Ok(None),
            Choice::Engine { index, knobs } => {
                let plan = engines::config(self.api, &target, &graph, index, &knobs)
                    .and_then(|config| Plan::new(self.api, &target, config));
                plan.map(Some).map_err(|reason| kept(self.choices.refused(&of, &reason.to_string())))
            }
        }
    }

    /// The engine that is the fastest on tensors of its own, by the least of a few measurements, or a kernel of ours where there is
    /// none. Nothing where there is none and one failed, as they do where a library that they are compiled with is missing: that can
    /// change.
    fn measure(
        &self,
        device: &Device,
        target: &Target,
        graph: &Graph,
        problem: &Problem,
    ) -> Result<Option<Choice>, Error> {
        let tensors = Tensors::new(device, problem)?;
        let pack = |workspace: u64| tensors.pack(self.api, workspace);
        let mut best: Option<(f64, Choice)> = None;
        let candidates = engines::candidates(self.api, target, graph, problem.arithmetic)?;
        let mut stopwatch = Stopwatch::new(device)?;
        let (mut measured, mut compiled, mut failed) = (0, 0, 0);
        for engines::Candidate { choice, config, is_compiled } in candidates {
            if measured == MOST_MEASURED {
                break;
            }
            if is_compiled {
                if compiled == MOST_COMPILED {
                    continue;
                }
                compiled += 1;
            }
            // An engine that is offered may refuse all the same.
            let Ok(plan) = Plan::new(self.api, target, config) else {
                failed += 1;
                continue;
            };
            if plan.workspace > MOST_WORKSPACE {
                continue;
            }
            let workspace = device.zeros::<u8>("cuDNN's workspace", plan.workspace.max(1))?;
            let (workspace, _in_use) = workspace.device_ptr(&self.stream);
            let pack = pack(workspace)?;
            // The first launch loads kernels. What an engine has enqueued before it refuses is over before its kernels go.
            let first = self.execute(&plan, &pack);
            device.synchronise()?;
            if first.is_err() {
                failed += 1;
                continue;
            }
            measured += 1;
            for _ in 0..ROUNDS {
                let time = stopwatch.microseconds(|| (0..LAUNCHES).try_for_each(|_| self.execute(&plan, &pack)));
                if time.is_err() {
                    device.synchronise()?;
                }
                let time = time?;
                if best.as_ref().is_none_or(|(least, _)| time < *least) {
                    best = Some((time, choice.clone()));
                }
            }
        }
        match best {
            Some((_, choice)) => Ok(Some(choice)),
            None => Ok((failed == 0).then_some(Choice::Own)),
        }
    }

    /// Enqueues a plan over the tensors of a pack. Whoever calls it holds the lock of the plans, and has turned to the device.
    fn execute(&self, plan: &Plan, pack: &Descriptor) -> Result<(), Error> {
        // SAFETY: handle, plan and pack are alive; the plan reads and writes the tensors of its graph, and its workspace, which
        // whoever made the pack has seen to.
        let status =
            unsafe { (self.api.functions().cudnnBackendExecute)(self.handle.raw, plan.plan.raw(), pack.raw()) };
        self.api.check("convolving", status)
    }
}

/// A variant pack: where the tensors of a graph, and the workspace, are.
fn pack(api: &'static Library, tensors: &[(Tensor, u64)], workspace: u64) -> Result<Descriptor, Error> {
    let (numbers, addresses): (Vec<i64>, Vec<Address>) =
        tensors.iter().map(|&(tensor, address)| (tensor as i64, Address(address))).unzip();
    Descriptor::new(api, Kind::VariantPack)?
        .with(VARIANT_PACK_UNIQUE_IDS, &numbers)?
        .with(VARIANT_PACK_DATA_POINTERS, &addresses)?
        .with(VARIANT_PACK_WORKSPACE, &[Address(workspace)])?
        .finalised()
}

/// Tensors to measure on. They hold zeros: what is multiplied does not matter to the time.
struct Tensors(Vec<(Tensor, CudaSlice<u8>)>);

impl Tensors {
    fn new(device: &Device, problem: &Problem) -> Result<Self, Error> {
        let Problem { product, convolution, arithmetic, .. } = problem;
        let stored = if *arithmetic == Arithmetic::Bf16 { 2 } else { size_of::<f32>() };
        let weight = if *product == Product::WeightGradient { size_of::<f32>() } else { stored };
        let of = |(tensor, bytes): (Tensor, usize)| Ok((tensor, device.zeros("a convolution to measure", bytes)?));
        let mut lengths = vec![
            (Tensor::Images, convolution.x_length() * stored),
            (Tensor::Weights, convolution.weight_length() * weight),
            (Tensor::Results, convolution.y_length() * stored),
        ];
        if *product == Product::Forward {
            lengths.push((Tensor::Biases, convolution.to * size_of::<f32>()));
        }
        lengths.into_iter().map(of).collect::<Result<_, Error>>().map(Self)
    }

    fn pack(&self, api: &'static Library, workspace: u64) -> Result<Descriptor, Error> {
        let address = |(tensor, slice): &(Tensor, CudaSlice<u8>)| (*tensor, slice.device_ptr(slice.stream()).0);
        pack(api, &self.0.iter().map(address).collect::<Vec<_>>(), workspace)
    }
}

impl Problem {
    /// In words, by which choices are kept.
    fn describe(&self) -> String {
        let Self { product, convolution, arithmetic, alignment } = self;
        let Convolution { images, height, width, from, to, kernel, stride, padding } = convolution;
        let product = match product {
            Product::Forward => "forward",
            Product::InputGradient { adds: false } => "input gradient",
            Product::InputGradient { adds: true } => "input gradient added",
            Product::WeightGradient => "weight gradient",
        };
        let arithmetic = match arithmetic {
            Arithmetic::Float32 => "f32",
            Arithmetic::Tf32 => "tf32",
            Arithmetic::Bf16 => "bf16",
        };
        format!(
            "{product}, {arithmetic}, {images} x {height} x {width} x {from} to {to}, kernel {kernel}, stride {stride}, \
             padding {padding}, aligned to {alignment}"
        )
    }
}
