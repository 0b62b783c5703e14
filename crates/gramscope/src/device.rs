//! `--device` and `--precision`: where a network runs and in which arithmetic.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use candle_core::Device;
use serde_json::json;

use crate::console::Console;

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

/// The GPU that `choice` names; none for the CPU, which stands in for a GPU that need not be there.
///
/// # Errors
/// A GPU that was named and cannot be had.
pub(crate) fn gpu(choice: DeviceChoice, console: &Console) -> anyhow::Result<Option<Arc<gramscope_cuda::Device>>> {
    let number = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Auto => 0,
        DeviceChoice::Cuda(number) => number,
    };
    match gramscope_cuda::Device::open(number) {
        Ok(device) => Ok(Some(Arc::new(device))),
        // A build without CUDA was a choice too.
        Err(gramscope_cuda::Error::NotBuilt) if choice == DeviceChoice::Auto => Ok(None),
        Err(reason) if choice == DeviceChoice::Auto => {
            let fields = json!({ "device": "cpu", "reason": reason.to_string() });
            console.note("device", &format!("comparing on the CPU: {reason}"), fields);
            Ok(None)
        }
        Err(reason) => Err(reason).with_context(|| format!("--device {choice}")),
    }
}

/// Where the networks that `choice` asks for run: candle's CPU, in every build so far.
///
/// # Errors
/// A CUDA device, or a precision only GPUs have.
pub(crate) fn open(choice: DeviceChoice, precision: Precision) -> anyhow::Result<Device> {
    if let DeviceChoice::Cuda(number) = choice {
        if !cfg!(feature = "cuda") {
            bail!("--device cuda:{number}: this gramscope was built without CUDA; use --device cpu");
        }
        bail!(
            "--device cuda:{number}: networks run on the CPU so far, only stored activations are compared on a GPU with CUDA; use --device cpu"
        );
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
