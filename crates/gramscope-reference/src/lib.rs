//! Every definition that Gramscope rests on, in plain float64 loops that read like the formulas: the oracle of every test.
//!
//! Nothing here is fast, and nothing here depends on anything. Sources stand beside the definitions; the short forms are
//!
//! - Gretton et al. 2005: *Measuring statistical dependence with Hilbert-Schmidt norms* (biased HSIC);
//! - Song et al. 2012: *Feature selection via dependence maximization*, JMLR 13 (unbiased HSIC);
//! - Szekely and Rizzo 2014: *Partial distance correlation with methods for dissimilarities* (U-centring);
//! - Kornblith et al. 2019: *Similarity of neural network representations revisited* (CKA);
//! - Nguyen, Raghu, Kornblith 2021: *Do wide and deep networks learn the same things?* (minibatch CKA, first components);
//! - He et al. 2016: *Deep residual learning for image recognition* (the networks);
//! - Ioffe and Szegedy 2015: *Batch normalization*.

pub mod batch_norm;
pub mod cka;
pub mod components;
pub mod convolution;
pub mod cosine;
pub mod gram;
pub mod hsic;
pub mod linear;
pub mod loss;
pub mod pooling;
pub mod relu;
pub mod sgd;
pub mod softmax_regression;

mod difference;
mod matrix;
mod tensor;

pub use difference::largest_difference;
pub use matrix::Matrix;
pub use tensor::Tensor4;
