//! `--device`, `--jobs`, `--precision` and `--convolutions`: where networks run, how many at once, in which arithmetic and through
//! whose kernels.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use gramscope_cuda::plan::Arithmetic;
use gramscope_nn::Processor;
use gramscope_study::compare::MemoryLimits;
use gramscope_train::choices::KeptChoices;
use serde_json::json;

use crate::arguments::{DeviceArguments, DevicesArguments, MachineArguments, NumericsArguments};
use crate::console::Console;
use crate::memory;

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

/// What `--device` names where several GPUs may share the work: `cuda:0,cuda:1` or, shorter, `cuda:0,1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceChoices(Vec<DeviceChoice>);

impl FromStr for DeviceChoices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((first, others)) = text.split_once(',') else { return Ok(Self(vec![text.parse()?])) };
        let first = first.strip_prefix("cuda:").ok_or("expected several GPUs as in cuda:0,1")?;
        let numbers = others.split(',').map(|other| other.strip_prefix("cuda:").unwrap_or(other));
        let gpu = |number: &str| match number.parse() {
            Ok(number) => Ok(DeviceChoice::Cuda(number)),
            Err(_) => Err(format!("{number:?} is no number of a GPU; expected several as in cuda:0,1")),
        };
        let choices = [first].into_iter().chain(numbers).map(gpu).collect::<Result<Vec<_>, _>>()?;
        let distinct: BTreeSet<String> = choices.iter().map(DeviceChoice::to_string).collect();
        match distinct.len() == choices.len() {
            true => Ok(Self(choices)),
            false => Err("names a GPU twice; --jobs N trains N runs at once on each".to_owned()),
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

/// Whose convolutions a GPU runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Convolutions {
    /// gramscope's own kernels
    Own,
    /// cuDNN's engines (GPU only)
    Cudnn,
}

/// float32, through our own kernels.
pub(crate) const PLAIN: NumericsArguments =
    NumericsArguments { precision: Precision::F32, convolutions: Convolutions::Own };

/// The GPU that `choice` names; none for the CPU, which stands in for a GPU that need not be there.
///
/// # Errors
/// A GPU that was named and cannot be had.
pub(crate) fn gpu(choice: DeviceChoice, console: &Console) -> anyhow::Result<Option<Arc<gramscope_cuda::Device>>> {
    Ok(open(choice, console)?.map(Arc::new))
}

fn open(choice: DeviceChoice, console: &Console) -> anyhow::Result<Option<gramscope_cuda::Device>> {
    let number = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Auto => 0,
        DeviceChoice::Cuda(number) => number,
    };
    match gramscope_cuda::Device::open(number) {
        Ok(device) => Ok(Some(device)),
        // A build without CUDA was a choice too.
        Err(gramscope_cuda::Error::NotBuilt) if choice == DeviceChoice::Auto => Ok(None),
        Err(reason) if choice == DeviceChoice::Auto => {
            let fields = json!({ "device": "cpu", "reason": reason.to_string() });
            console.note("device", &format!("on the CPU: {reason}"), fields);
            Ok(None)
        }
        Err(reason) => Err(reason).with_context(|| format!("--device {choice}")),
    }
}

/// Where the networks run that a command is asked for.
///
/// # Errors
/// A GPU that was named and cannot be had, a precision that only GPUs have, or cuDNN where there is none.
pub(crate) fn processor(arguments: &DeviceArguments, console: &Console) -> anyhow::Result<Processor> {
    processor_of(arguments.device, arguments.numerics, console)
}

/// The same, and the memory that may be taken there.
///
/// # Errors
/// As [`processor`].
pub(crate) fn machine(arguments: &MachineArguments, console: &Console) -> anyhow::Result<(Processor, MemoryLimits)> {
    let processor = processor(&arguments.device, console)?;
    let limits = memory::limits(arguments.memory.memory_limit, processor.gpu().is_some());
    Ok((processor, limits))
}

/// Where networks run, from the parts of what is asked for.
///
/// # Errors
/// As [`processor`].
pub(crate) fn processor_of(
    choice: DeviceChoice,
    numerics: NumericsArguments,
    console: &Console,
) -> anyhow::Result<Processor> {
    let NumericsArguments { precision, convolutions } = numerics;
    let Some(device) = open(choice, console)? else { return only_plain(numerics).map(|()| Processor::Cpu) };
    let device = Arc::new(match convolutions {
        Convolutions::Own => device,
        Convolutions::Cudnn => {
            let choices = || anyhow::Ok(device.with_cudnn(Arc::new(KeptChoices::in_cache()?))?);
            choices().context("--convolutions cudnn")?
        }
    });
    let arithmetic = match precision {
        Precision::F32 => Arithmetic::Float32,
        Precision::Tf32 => Arithmetic::Tf32,
        Precision::Bf16 => Arithmetic::Bf16,
    };
    Ok(Processor::Gpu { device, arithmetic })
}

/// Where runs are trained at once: `--jobs` on each GPU of `--device`, on streams of their own; one on the CPU, whose threads
/// one run keeps busy.
///
/// # Errors
/// As [`processor`].
pub(crate) fn processors(arguments: &DevicesArguments, console: &Console) -> anyhow::Result<Vec<Processor>> {
    let &DevicesArguments { ref devices, jobs, numerics } = arguments;
    let mut processors = Vec::new();
    for &choice in &devices.0 {
        let processor = processor_of(choice, numerics, console)?;
        match &processor {
            Processor::Gpu { device, arithmetic } => {
                for _ in 1..jobs.get() {
                    let device = Arc::new(device.fork().with_context(|| format!("--jobs {jobs}"))?);
                    processors.push(Processor::Gpu { device, arithmetic: *arithmetic });
                }
            }
            Processor::Cpu => note_jobs_on_cpu(jobs, console),
        }
        processors.push(processor);
    }
    Ok(processors)
}

/// Says that `--jobs` changes nothing on the CPU, where it was asked for.
pub(crate) fn note_jobs_on_cpu(jobs: NonZeroUsize, console: &Console) {
    if jobs.get() > 1 {
        let text = "--jobs is for GPUs: on the CPU one run at a time keeps all threads busy";
        console.note("jobs", text, json!({ "jobs": 1, "reason": text }));
    }
}

fn only_plain(numerics: NumericsArguments) -> anyhow::Result<()> {
    if numerics.precision != Precision::F32 {
        bail!("--precision: the CPU computes in float32 only; leave the flag out or pass --precision f32");
    }
    if numerics.convolutions != Convolutions::Own {
        bail!("--convolutions: cuDNN is for GPUs, and the network runs on the CPU; leave the flag out");
    }
    Ok(())
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
        let several = Ok(DeviceChoices(vec![DeviceChoice::Cuda(0), DeviceChoice::Cuda(2)]));
        assert_eq!(("cuda:0,2".parse(), "cuda:0,cuda:2".parse()), (several.clone(), several));
        assert_eq!("auto".parse(), Ok(DeviceChoices(vec![DeviceChoice::Auto])));
        for wrong in ["", ",", "cuda:0,", "cuda:0,0", "cuda:0,cpu", "auto,1", "0,1", "cuda,1", "cuda:0,cuda:"] {
            assert!(wrong.parse::<DeviceChoices>().is_err(), "{wrong:?} was accepted");
        }
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda3"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong:?} was accepted");
        }
    }
}
