//! `--device` and `--precision`: where a network runs and in which arithmetic.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;
use candle_core::Device;

/// What `--device` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// The first GPU this build can use, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

/// Arithmetic of the network's forward and backward passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    /// float32
    F32,
    /// TF32 tensor cores (GPU only)
    Tf32,
    /// bfloat16 activations and products, float32 master weights (GPU only)
    Bf16,
}

/// The device that `choice` names.
///
/// # Errors
/// A CUDA device, or a precision only GPUs have, in a build that has no CUDA.
pub(crate) fn open(choice: DeviceChoice, precision: Precision) -> anyhow::Result<Device> {
    if let DeviceChoice::Cuda(number) = choice {
        bail!("--device cuda:{number}: this gramscope was built without CUDA; use --device cpu");
    }
    if precision != Precision::F32 {
        bail!("--precision: the CPU computes in float32 only; leave the flag out or pass --precision f32");
    }
    Ok(Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda3"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong:?} was accepted");
        }
    }
}
