//! What to compute: estimator, kernel, and how carefully.

use std::fmt;
use std::str::FromStr;

use gramscope_cuda::plan;

use crate::error::{Error, ParseOptionError};

/// Which estimator of HSIC the similarities are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Estimator {
    /// HSIC_1 of Song et al. (JMLR 2012), through U-centring (Szekely and Rizzo 2014): minibatches of any size give the
    /// same expectation. Needs at least 4 examples a batch.
    #[default]
    Unbiased,
    /// HSIC_0 of Gretton et al. (2005): double centring, the diagonal included; larger in small batches. Needs at least 2
    /// examples a batch.
    Biased,
}

impl Estimator {
    /// The smallest batch for which the estimator is defined.
    pub fn minimum_examples(self) -> usize {
        match self {
            Self::Unbiased => 4,
            Self::Biased => 2,
        }
    }
}

impl fmt::Display for Estimator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Unbiased => "unbiased",
            Self::Biased => "biased",
        })
    }
}

impl FromStr for Estimator {
    type Err = ParseOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "unbiased" => Ok(Self::Unbiased),
            "biased" => Ok(Self::Biased),
            _ => Err(ParseOptionError::Estimator(text.to_owned())),
        }
    }
}

/// The memory that a comparison, or an analysis of components, may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The bytes of the host's that panels may have there; with `u64::MAX`, the default, as many as they want.
    pub panels: u64,
    /// Of the GPU, where one compares.
    pub device: DeviceMemory,
}

impl Default for Memory {
    fn default() -> Self {
        Self { panels: u64::MAX, device: DeviceMemory::default() }
    }
}

/// What a comparison on a GPU is to know of the memory there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The bytes that it may take; nine tenths of what is free, which is also the most, where nothing is said.
    pub limit: Option<u64>,
    /// Features of the largest layer.
    pub features: usize,
    /// Bytes of the largest activation that is uploaded.
    pub largest_upload: u64,
    /// Bytes that networks will yet take there.
    pub other: u64,
    /// Bytes that networks and their images took there before the comparison was made.
    pub taken: u64,
}

/// Of what is free on a device, the share that is never planned with, in parts: the driver rounds up what it gives.
const SPARE_PARTS: u64 = 10;

impl DeviceMemory {
    /// The bytes that may be taken in all, where so many are free beside those that were taken before.
    pub fn allowance(&self, free: u64) -> u64 {
        let most = free.saturating_add(self.taken) / SPARE_PARTS * (SPARE_PARTS - 1);
        self.limit.map_or(most, |asked| asked.min(most))
    }
}

/// Which similarity of two examples the Gram matrices hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Kernel {
    /// K_ij = <x_i, x_j>.
    #[default]
    Linear,
    /// K_ij = exp(-d_ij^2 / (2 t^2 M)), d the Euclidean distance and M the median of all n^2 squared distances of the
    /// batch, the zero diagonal included (Kornblith et al. 2019).
    Rbf {
        /// t, the bandwidth as a multiple of the square root of that median; positive and finite.
        bandwidth: f64,
    },
}

impl Kernel {
    /// Whether the kernel's parameters make sense.
    pub(crate) fn validate(self) -> Result<(), Error> {
        match self {
            Self::Rbf { bandwidth } if !(bandwidth > 0.0 && bandwidth.is_finite()) => {
                Err(Error::Bandwidth { bandwidth })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear => formatter.pad("linear"),
            Self::Rbf { bandwidth } => formatter.pad(&format!("rbf:{bandwidth}")),
        }
    }
}

impl FromStr for Kernel {
    type Err = ParseOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || ParseOptionError::Kernel(text.to_owned());
        if text == "linear" {
            return Ok(Self::Linear);
        }
        let bandwidth = text.strip_prefix("rbf:").ok_or_else(unknown)?;
        let kernel = Self::Rbf { bandwidth: bandwidth.parse().map_err(|_| unknown())? };
        kernel.validate().map_err(|_| unknown())?;
        Ok(kernel)
    }
}

/// How carefully Gram matrices are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gram {
    /// Every CKA entry is within 1e-6 of float64.
    #[default]
    Exact,
    /// Every CKA entry is within 1e-3 of float64 for batches of at least 32 examples. The RBF kernel is computed in float64
    /// either way.
    Fast,
}

impl fmt::Display for Gram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        })
    }
}

impl FromStr for Gram {
    type Err = ParseOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "exact" => Ok(Self::Exact),
            "fast" => Ok(Self::Fast),
            _ => Err(ParseOptionError::Gram(text.to_owned())),
        }
    }
}

/// Everything a comparison can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// The estimator of HSIC.
    pub estimator: Estimator,
    /// The kernel of the Gram matrices.
    pub kernel: Kernel,
    /// How carefully Gram matrices are computed.
    pub gram: Gram,
    /// Divides every example's activation by its Euclidean norm first, in float64; an activation of zeros stays zero. On a
    /// GPU such rows are computed on the host.
    pub normalise_examples: bool,
}

impl Options {
    /// Whether a comparison on a GPU takes layers over so many examples several at a time: its launches do, and the values are there.
    pub fn takes_together(self, examples: usize) -> bool {
        !self.normalise_examples && plan::most_together(examples, self.kernel != Kernel::Linear) > 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_survive_being_written_and_read() {
        for estimator in [Estimator::Unbiased, Estimator::Biased] {
            assert_eq!(estimator.to_string().parse::<Estimator>().unwrap(), estimator);
        }
        for kernel in [Kernel::Linear, Kernel::Rbf { bandwidth: 0.5 }, Kernel::Rbf { bandwidth: 1e-3 }] {
            assert_eq!(kernel.to_string().parse::<Kernel>().unwrap(), kernel);
        }
        for gram in [Gram::Exact, Gram::Fast] {
            assert_eq!(gram.to_string().parse::<Gram>().unwrap(), gram);
        }
    }

    #[test]
    fn what_is_no_option_is_refused_with_what_would_be() {
        for text in ["rbf", "rbf:", "rbf:0", "rbf:-1", "rbf:nan", "rbf:inf", "RBF:1", "gauss"] {
            let message = text.parse::<Kernel>().unwrap_err().to_string();
            assert!(message.contains(text) && message.contains("rbf:0.5"), "{message}");
        }
        assert!("Biased".parse::<Estimator>().unwrap_err().to_string().contains("unbiased"));
        assert!("slow".parse::<Gram>().unwrap_err().to_string().contains("exact"));
    }
    #[test]
    fn what_was_taken_counts_towards_what_may_be() {
        let memory = |limit, taken| DeviceMemory { limit, taken, ..DeviceMemory::default() };
        for (limit, taken, free, allowance) in [
            (None, 0, 100, 90),
            (None, 20, 80, 90),
            (Some(50), 20, 80, 50),
            (Some(500), 20, 80, 90),
            (Some(1), 20, 80, 1),
        ] {
            assert_eq!(memory(limit, taken).allowance(free), allowance, "{limit:?} {taken} {free}");
        }
    }
}
