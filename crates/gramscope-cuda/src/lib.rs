//! What the kernels of kernels/ need to be launched: their geometry, [`plan`], and what they are told by value, [`shapes`].

pub mod plan;
pub mod shapes;
