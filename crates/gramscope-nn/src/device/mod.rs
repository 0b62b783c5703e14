//! Networks on a GPU.
//!
//! A [`DeviceNetwork`] is a copy of a [`ResNet`](crate::ResNet) on a device: its parameters in one buffer, its running
//! statistics in another, and its programs (`crate::program`), whose steps are launched one after the other on one stream.
//! Memory is taken when a batch of a size is first seen, not in a step; batches that follow each other in an [`Order`] are
//! captured, and launched as a whole; nothing comes to the host but logits and, when they are asked for, the sums of the
//! losses. What is trained comes back with [`DeviceNetwork::write_back`].
//!
//! candle's tensors stay the currency at the border: what a network starts from and ends in are its `Var`s.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod executor;
#[cfg(feature = "cuda")]
mod images;
#[cfg(feature = "cuda")]
mod layout;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod network;
#[cfg(feature = "cuda")]
mod order;
#[cfg(feature = "cuda")]
mod pass;
#[cfg(feature = "cuda")]
mod replay;
#[cfg(feature = "cuda")]
mod stored;
#[cfg(feature = "cuda")]
mod tasks;

use std::ops::Range;

use crate::Shake;

#[cfg(not(feature = "cuda"))]
pub use absent::{DeviceNetwork, ImageNumbers, Order, StoredImages};
#[cfg(feature = "cuda")]
pub use images::{ImageNumbers, StoredImages};
#[cfg(feature = "cuda")]
pub use network::DeviceNetwork;
#[cfg(feature = "cuda")]
pub use order::Order;

/// The numbers of images in their data set, as a device takes them: no data set has as many as 2^32.
pub fn image_numbers(images: &[usize]) -> Vec<u32> {
    images.iter().map(|&image| u32::try_from(image).unwrap_or(u32::MAX)).collect()
}

/// Where the images of a batch come from.
pub enum Images<'a> {
    /// From the host.
    Host {
        /// `[n, side, side, 3]`, in `[0, 1]`.
        pixels: &'a [f32],
        /// One an image, or none where nothing is learnt.
        labels: &'a [u32],
        /// The random shares of the branches, where there are two and a step is taken; without, both have one half.
        shake: Option<Shake<'a>>,
    },
    /// From a data set on the device, as they are there.
    Stored {
        /// The data set.
        images: &'a StoredImages,
        /// The places in it.
        order: &'a [u32],
    },
    /// The same, in an order that is on the device already, so that nothing has to be waited for.
    Ordered {
        /// The data set.
        images: &'a StoredImages,
        /// The places in it.
        numbers: &'a ImageNumbers,
        /// Which of them.
        range: Range<usize>,
    },
    /// From a data set on the device, what comes next in an epoch, cropped, flipped and, where there are two branches, shared
    /// out among them as that says.
    Next {
        /// The data set.
        images: &'a StoredImages,
        /// The epoch's order.
        order: &'a mut Order,
        /// How many.
        count: usize,
    },
}

/// A layer's output on a device.
#[cfg(feature = "cuda")]
pub struct Observed<'a> {
    /// Its index in [`ResNet::layers`](crate::ResNet::layers).
    pub layer: usize,
    /// `[n, ...]`, row-major.
    pub values: gramscope_cuda::Values<'a>,
}

/// Takes in layers' outputs that are handed out together. They are there until it returns; their memory is used again by later
/// layers, behind whatever it enqueues on the device's stream.
#[cfg(feature = "cuda")]
pub type Observe<'a, E> = dyn FnMut(&[Observed<'_>]) -> Result<(), E> + 'a;

/// Takes in a layer's output, given its index in [`ResNet::layers`](crate::ResNet::layers), on the host.
pub type TakeLayer<'a, E> = dyn FnMut(usize, &[f32]) -> Result<(), E> + 'a;

/// Sums over training steps, one added to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Of the steps' mean cross-entropies.
    pub loss: f64,
    /// Images that were classified correctly, before the step.
    pub correct: f64,
}
