//! Gramscope's CUDA kernels, compiled into the crate, and a safe launcher for each.
//!
//! kernels/ is compiled by nvcc when the crate is built with the feature `cuda` (machine code for compute capability 8.0
//! and 9.0, and PTX, from which the driver makes code for whatever is newer) and lies in the binary. The driver's library
//! is loaded when [`Device::open`] is first called, so that a binary built with CUDA starts where there is none, and says
//! so. Without the feature the crate needs no toolkit: [`Device::open`] then fails with [`Error::NotBuilt`].
//!
//! # Safety
//! This is the one crate of the workspace with `unsafe`. A launcher is a safe function: it takes views that know their
//! length, checks lengths, alignment, overlap and ranges, and ends in one `unsafe` block that says what the kernel reads
//! and writes and why that is in bounds. Buffers are cudarc's, which keep their memory alive. A [`Device`] has one stream, on
//! which all of its buffers come, are used and go, in order; launchers take no others. What a second stream copies to them
//! is ordered by events.
#![allow(unsafe_code, reason = "launching a kernel is unsafe, and this crate is where that is done")]

pub mod plan;
pub mod shapes;

mod choices;
mod error;

#[cfg(feature = "cuda")]
pub mod ceilings;
#[cfg(feature = "cuda")]
mod comparison;
#[cfg(feature = "cuda")]
mod components;
#[cfg(feature = "cuda")]
mod constants;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(feature = "cuda")]
mod cudnn;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod family;
#[cfg(feature = "cuda")]
mod first_components;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(feature = "cuda")]
mod images;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod launchers;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod nvtx;
#[cfg(feature = "cuda")]
mod probes;
#[cfg(feature = "cuda")]
mod rows;
#[cfg(feature = "cuda")]
mod stopwatch;
#[cfg(feature = "cuda")]
mod uploads;

#[cfg(not(feature = "cuda"))]
mod absent;

#[cfg(not(feature = "cuda"))]
pub use absent::{Device, Range, range};
pub use choices::{Choice, Choices};
#[cfg(feature = "cuda")]
pub use comparison::{Block, DeviceComparison, Stretch, Sums};
#[cfg(feature = "cuda")]
pub use components::{Component, Decomposed, DeviceComponents};
#[cfg(feature = "cuda")]
pub use cublas::Cublas;
/// Device memory that is freed when dropped.
#[cfg(feature = "cuda")]
pub use cudarc::driver::CudaSlice as Slice;
/// A part of device memory, to be read.
#[cfg(feature = "cuda")]
pub use cudarc::driver::CudaView as View;
/// A part of device memory, to be written.
#[cfg(feature = "cuda")]
pub use cudarc::driver::CudaViewMut as ViewMut;
#[cfg(feature = "cuda")]
pub use cudnn::{Factors, MOST_WORKSPACE, Scratch};
#[cfg(feature = "cuda")]
pub use device::{Device, Instant, Properties};
pub use error::{Bytes, BytesNeeded, Dimensions, Error, LEAST_CAPABILITY, OLDEST_DRIVER, Version};
#[cfg(feature = "cuda")]
pub use first_components::{ComponentsExtent, FirstComponents};
#[cfg(feature = "cuda")]
pub use graph::{Captured, Graph, Regions};
#[cfg(feature = "cuda")]
pub use launchers::{
    Activation, FirstComponent, Gram, GramMut, Grams, Launcher, Layers, Looking, MOST_EXAMPLES, MOST_FEATURES,
    MOST_LAYERS, PairSums, Panels, Partials, PartialsMut, ProbeBatch, ProbeOutcome, ProbeStep, ProductLengths, Seen,
    Uploaded, Values, Wanting,
};
#[cfg(feature = "cuda")]
pub use memory::disjoint_mut;
#[cfg(feature = "cuda")]
pub use nvtx::{Range, range};
pub use plan::convolution::Product;
pub use plan::{Arithmetic, Convolution};
#[cfg(feature = "cuda")]
pub use probes::{DeviceProbes, ProbeInput};
#[cfg(feature = "cuda")]
pub use rows::Settings;
pub use shapes::{BatchPlace, EigenSummary, LayerSum, ProbeRecord, RowSummary, Selection, Weight};
#[cfg(feature = "cuda")]
pub use stopwatch::Stopwatch;
#[cfg(feature = "cuda")]
pub use uploads::{HostValues, Uploads};

/// Bytes of pinned host memory that uploads to a device take.
pub const PINNED_BYTES: u64 = 16 << 20;
