//! Flags of what is about this machine and its data: bench, doctor, data.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use gramscope_nn::Family;
use regex::{Regex, RegexBuilder};

use super::NumericsArguments;
use super::training::family;
use crate::device::DeviceChoice;

pub(crate) const BENCH_HELP: &str = "\
Examples:
  gramscope bench kernels --device cuda:0 --json kernels.jsonl
  gramscope bench kernels --device cuda:0 --only 'gram fused exact f32'
  gramscope bench cka --device cuda:0 --depth 110
  gramscope bench probe --depth 20";

pub(crate) const DOCTOR_HELP: &str = "\
Compares everything that computes with plain float64 loops, on inputs that are meant to hurt, a line each; exits 1 if
anything fails. Without a GPU, or in a build without CUDA, it checks the CPU and says why no GPU was checked.

Examples:
  gramscope doctor
  gramscope doctor --device cuda:0
  compute-sanitizer gramscope doctor --device cuda:0 --only '^(gram|hsic)'";

/// Names are asked for in letters of either case.
fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).case_insensitive(true).build()
}

/// What is measured.
#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// Every CUDA kernel at the shapes of real networks, beside its naive twin and, where they can be loaded, cuBLAS and cuDNN
    Kernels {
        /// Only those whose kernel, variant, dtype and shape in brackets, as the rows begin, match: 'gram fused exact f32 .256, 65536'
        #[arg(long, value_name = "REGEX", value_parser = pattern)]
        only: Option<Regex>,
        #[command(flatten)]
        arguments: BenchArguments,
    },
    /// All layers of a network compared with each other over a batch, next to its plain forward pass
    Cka {
        /// Family of the network: imagenet is ResNet-50 and its like, on images of 224 x 224
        #[arg(long, value_parser = family, default_value = "cifar")]
        family: Family,
        /// Depth of the network [default: 20, or 50 of ImageNet's family]
        #[arg(long)]
        depth: Option<usize>,
        /// Width of the network [default: 1]
        #[arg(long)]
        width: Option<f64>,
        /// Images a batch
        #[arg(long, value_name = "N", default_value = "256")]
        batch_size: NonZeroUsize,
        #[command(flatten)]
        numerics: NumericsArguments,
        #[command(flatten)]
        arguments: BenchArguments,
    },
    /// A training step, beside what its counted work would take at measured rates: of ResNet-14 and -20 at width 1 and of ResNet-14 at
    /// width 2, or of the network that is named
    Train {
        /// Family of the network: imagenet is ResNet-50 and its like, on images of 224 x 224
        #[arg(long, value_parser = family, default_value = "cifar")]
        family: Family,
        /// Depth of the network [default: 20, or 50 of ImageNet's family]
        #[arg(long)]
        depth: Option<usize>,
        /// Width of the network [default: 1]
        #[arg(long)]
        width: Option<f64>,
        /// Every network of depth 14, 20, 38 and 110 and width 1, 2, 4 and 10: hours on a CPU
        #[arg(long, conflicts_with_all = ["family", "depth", "width"])]
        all: bool,
        /// Images a step
        #[arg(long, value_name = "N", default_value = "128")]
        batch_size: NonZeroUsize,
        #[command(flatten)]
        numerics: NumericsArguments,
        /// On a GPU also so many of the same network at once, beside one after the other
        #[arg(long, value_name = "N", default_value = "1")]
        jobs: NonZeroUsize,
        #[command(flatten)]
        arguments: BenchArguments,
    },
    /// Linear probes on no layer, on those around the additions and on all layers, next to a plain forward pass
    Probe {
        /// Depth of the network
        #[arg(long, default_value_t = 20)]
        depth: usize,
        /// Width of the network
        #[arg(long, default_value_t = 1.0)]
        width: f64,
        /// Images a batch
        #[arg(long, value_name = "N", default_value = "128")]
        batch_size: NonZeroUsize,
        #[command(flatten)]
        arguments: BenchArguments,
    },
}

/// What all measurements share.
#[derive(Args, Debug)]
pub(crate) struct BenchArguments {
    /// auto (the first GPU, where there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// With --json FILE: write a JSON object a line to this file too
    // `--json` is every command's flag for logs, so the file cannot be its value here, and stands behind it.
    #[arg(value_name = "FILE", requires = "json")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArguments {
    /// auto (the first GPU, where there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Only the checks whose name matches, in letters of either case
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    pub(crate) only: Option<Regex>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum DataCommand {
    /// What can be named with --data, and what of it is on this machine
    List,
    /// Download a data set into the user's cache and check it; goes on where a broken download stopped
    #[command(after_help = "Example:\n  gramscope data fetch cifar10")]
    Fetch {
        /// The data set
        #[arg(value_enum)]
        name: FetchArgument,
    },
    /// Classes and counts of a data set, and a contact sheet of it as PNG
    #[command(after_help = "Example:\n  gramscope data info builtin --sheet builtin.png")]
    Info {
        #[command(flatten)]
        data: InfoArguments,
        /// Where the contact sheet goes
        #[arg(long, value_name = "FILE.png")]
        sheet: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct InfoArguments {
    /// builtin, cifar10, cifar100 or a directory
    #[arg(value_name = "NAME|DIR")]
    pub(crate) data: String,
    /// Side that the images of a folder are resized and cropped to [default: 32]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) image_side: Option<usize>,
}

/// Data sets with a known place to download from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FetchArgument {
    Cifar10,
    Cifar100,
}
