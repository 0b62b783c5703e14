//! The operations of a residual network, forward and backward, as plain functions over tensors.
//!
//! Each is a candle custom operation with a CPU body (`cpu.rs` of its folder); a GPU has kernels instead. They are applied without
//! candle's autograd: a network's backward pass is a part of its `program`, so that an activation is freed as soon as nothing needs
//! it, no gradient is computed that nobody asks for, and none is stored only to be added to zeros.
//!
//! Activations are NHWC and f32; arguments that are not contiguous are copied first. Results are the same bits for any
//! number of threads: work is cut into pieces that depend on the shapes alone, and partial sums are added in the order
//! of the pieces.

pub mod batch_norm;
pub mod convolution;
pub mod elementwise;
pub mod first_component;
pub mod lanes;
pub mod linear;
pub mod loss;
pub mod max_pooling;
pub mod mixing;
pub mod pooling;
pub mod sgd;

mod scratch;
mod values;
