//! How similar are the representations of two layers? Gram panels, HSIC accumulators and CKA matrices from borrowed views
//! of activations.
//!
//! [`Comparison`] is the front door. It is told how many layers the models have and which pairs of models to compare, and
//! is then handed every layer's output, batch by batch, from wherever the values come:
//!
//! ```
//! use gramscope_cka::{Activation, Comparison, Options, Values};
//!
//! # fn main() -> Result<(), gramscope_cka::Error> {
//! let batches = [[[1.0f32, 0.0, 2.0, 5.0], [1.0, 1.0, 2.0, 4.0]], [[3.0, 1.0, 0.0, 1.0], [0.0, 4.0, 4.0, 2.0]]];
//! let mut comparison = Comparison::new(&[2], &[(0, 0)], Options::default())?; // one model of two layers, with itself
//! for layers in &batches {
//!     comparison.begin_batch(4)?;
//!     for (layer, values) in layers.iter().enumerate() {
//!         comparison.observe(0, layer, Activation::new(Values::F32(values), 4)?)?;
//!     }
//!     comparison.end_batch()?;
//! }
//! let similarity = comparison.finish()?.remove(0);
//! assert_eq!(similarity.cka[0], 1.0); // a layer is like itself
//! # Ok(())
//! # }
//! ```
//!
//! # The life of an activation
//! An activation is read once and dropped. Slab by slab of features it is shifted by the trimmed mean of every column and
//! multiplied with its own transpose, one triangle only; the Gram matrix is centred and its strict upper triangle becomes
//! one float32 row of the model's *panel*. When all layers have been seen, panel times panel gives the HSIC of all pairs
//! of layers at once. Memory is the panel, n(n-1)/2 floats a layer, and a small workspace; features never count.
//!
//! Where the panel is too large for the memory there is ([`Comparison::limit_memory`]), a batch is observed in rounds, each of
//! which holds part of the layers while the later ones pass by. And an activation whose features are too many may lie
//! elsewhere and be read some features at a time ([`Activation::stored`]). Neither changes a bit of the results, nor does it
//! that a comparison ends after some of its batches, and another goes on from its sums ([`Comparison::totals`]).
//!
//! # Principal components
//! [`Components`] finds every layer's first principal component, from the same Gram matrices, and compares layers by it and
//! without it. It takes one batch.
//!
//! # Numbers
//! Products are float32, chains of them short, and whatever they are added to is float64. While it multiplies, the
//! workspace measures how much the result can be trusted; what cannot is redone in float64 before the activation is
//! dropped ([`Gram::Exact`], [`Gram::Fast`] say what is promised). Scales are powers of two and never overflow. Results
//! do not depend on the number of threads.
//!
//! # Sources
//! Kornblith, Norouzi, Lee, Hinton: *Similarity of neural network representations revisited* (ICML 2019): CKA and the
//! median bandwidth. Nguyen, Raghu, Kornblith: *Do wide and deep networks learn the same things?* (ICLR 2021): minibatch
//! CKA. Song, Smola, Gretton, Bedo, Borgwardt: *Feature selection via dependence maximization* (JMLR 2012): unbiased
//! HSIC. Szekely, Rizzo: *Partial distance correlation with methods for dissimilarities* (Annals of Statistics 2014):
//! U-centring, its numerically stable form.

mod activation;
mod attendance;
mod comparison;
mod components;
mod cpu;
#[cfg(feature = "cuda")]
mod device;
mod error;
mod normalise;
mod options;
mod rounds;
mod scale;
mod similarity;
mod sums;
mod totals;

pub use activation::{Activation, Format, ReadFeatures, Values};
pub use comparison::Comparison;
pub use components::{ComponentSimilarity, Components, FirstComponent};
pub use error::{Error, ParseOptionError};
pub use options::{DeviceMemory, Estimator, Gram, Kernel, Memory, Options};
pub use similarity::Similarity;
pub use sums::LayerSum;
pub use totals::Totals;
