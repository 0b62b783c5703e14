//! What a network's activations are stored as on the device.

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::bf16;

use crate::family::Typed;

/// A type that a network's activations are stored as: `f32` or `bf16`.
pub trait Activation: DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + Stored + 'static {}

impl Activation for f32 {}
impl Activation for bf16 {}

/// Keeps others from being one, and finds the kernels.
#[allow(unnameable_types, reason = "it seals Activation")]
pub trait Stored {
    /// A family's kernels for this type.
    #[allow(private_interfaces, reason = "only launchers look for kernels")]
    fn kernels<K>(family: &Typed<K>) -> &K;
}

impl Stored for f32 {
    #[allow(private_interfaces, reason = "only launchers look for kernels")]
    fn kernels<K>(family: &Typed<K>) -> &K {
        &family.f32
    }
}

impl Stored for bf16 {
    #[allow(private_interfaces, reason = "only launchers look for kernels")]
    fn kernels<K>(family: &Typed<K>) -> &K {
        &family.bf16
    }
}
