//! Every flag of every command, with its help text.

mod probe;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gramscope_cka::{Estimator, Gram, Kernel};
use regex::Regex;

use crate::commands::predict::{self, PredictArguments};
use crate::commands::sparsity::{SPARSITY_HELP, SparsityArguments};
use crate::device::{DeviceChoice, Precision};
use crate::memory::MemoryLimit;
use probe::{ABLATE_HELP, PROBE_HELP};
pub(crate) use probe::{AblateArguments, ProbeArguments};

const EXAMPLES: &str = "\
Examples:
  gramscope quickstart
  gramscope train --data builtin --depth 14 --width 1 --seed 0 --epochs 5 --out runs/r14
  gramscope cka runs/r14 --out cka/r14
  gramscope cka --activations mine.safetensors --out cka/mine
  gramscope report .";

/// Train families of residual networks and measure how similar their representations are, layer against layer.
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say nothing but errors
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Write progress and messages as JSON, one object a line, to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Train a small family on the built-in data, compare its members, write the report
    #[command(after_help = QUICKSTART_HELP)]
    Quickstart(QuickstartArguments),
    /// Train one network
    #[command(
        after_help = "Example:\n  gramscope train --data cifar10 --depth 20 --width 1 --seed 0 --epochs 30 --out runs/r20\n\n\
        A run directory holds config.toml, metrics.jsonl, checkpoints/, predictions.safetensors and curves.png."
    )]
    Train(TrainArguments),
    /// Train a whole family from a plan; resumable, skips what is done
    #[command(after_help = PLAN_HELP)]
    Sweep(SweepArguments),
    /// Compare the layers of runs, or of stored activations, with minibatch CKA
    #[command(after_help = CKA_HELP)]
    Cka(CkaArguments),
    /// Find and measure block structure in the CKA map of one network
    #[command(after_help = BLOCKS_HELP)]
    Blocks(BlocksArguments),
    /// Mean and variance of CKA maps of the same layers, entry by entry: over seeds, say
    #[command(after_help = MEAN_HELP)]
    Mean(MeanArguments),
    /// First principal components of every layer: what they explain, how alike they are, CKA without them
    #[command(after_help = PCS_HELP)]
    Pcs(PcsArguments),
    /// The test images that dominate a layer: those with the largest projections on its first principal component
    #[command(after_help = DOMINANT_HELP)]
    Dominant(DominantArguments),
    /// How much of every ReLU's output is zero, and which units are dead
    #[command(after_help = SPARSITY_HELP)]
    Sparsity(SparsityArguments),
    /// Predictions of groups of runs: accuracy with spread, how alike they are, on which images and classes two groups differ
    #[command(after_help = predict::HELP)]
    Predict(PredictArguments),
    /// A network over its training: every kept epoch's layers against those at the end
    #[command(after_help = EPOCHS_HELP)]
    Epochs(EpochsArguments),
    /// A figure of the paper, from nothing: train its networks, measure them, draw it; without a name, list the studies
    #[command(after_help = STUDY_HELP)]
    Study(StudyArguments),
    /// Linear probes: what can be read off the layers of a run
    #[command(after_help = PROBE_HELP)]
    Probe(ProbeArguments),
    /// Test accuracy of runs without some of their residual blocks
    #[command(after_help = ABLATE_HELP)]
    Ablate(AblateArguments),
    /// Write a run's activations to a safetensors file, for other tools
    #[command(
        after_help = "Example:\n  gramscope activations runs/r14 --out r14.safetensors --examples 1024 --layers 'add|relu2'"
    )]
    Activations(ActivationsArguments),
    /// Write one self-contained HTML page about every run and every CKA result below a directory
    #[command(after_help = "Example:\n  gramscope report quickstart")]
    Report(ReportArguments),
    /// Check that every run and every CKA result below a directory is as it was written
    #[command(after_help = "Example:\n  gramscope verify family")]
    Verify(VerifyArguments),
    /// Measure kernels, comparisons or training on this machine
    #[command(after_help = BENCH_HELP)]
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// What this machine has, and whether its numbers are right
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArguments),
    /// List, fetch or describe data sets
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
}

impl Command {
    /// Whether the command, once stopped, can be taken up where it was.
    pub(crate) fn goes_on_later(&self) -> bool {
        matches!(self, Self::Quickstart(_) | Self::Train(_) | Self::Sweep(_) | Self::Study(_))
    }
}

const QUICKSTART_HELP: &str = "\
Example:
  gramscope quickstart --out quickstart

Leaves DIR/report.html (everything, interactive), DIR/maps.png (every network's map on one sheet), DIR/runs (a directory a
network, curves.png, accuracy.png) and DIR/cka (cka.npz, cka.json and cka.png for every pair).";

const PLAN_HELP: &str = "\
A plan is a TOML file. [data] and [train] hold what all runs share, [family] lists what varies; the runs are the product
of the lists:

  [data]
  name = \"builtin\"            # builtin, cifar10, cifar100 or folder (with dir)
  [train]
  epochs = 5                  # any setting of a run: batch_size, learning_rate, fraction, residual, ...
  [family]
  depth = [14, 20]
  width = [1, 2]
  seed = [0, 1]

Example:
  gramscope sweep family.toml --out family

DIR holds a run directory for each of them, and curves.png and accuracy.png (test accuracy against depth and width).";

const CKA_HELP: &str = "\
Examples:
  gramscope cka runs/r14 --out cka/r14
  gramscope cka runs/a runs/b runs/c --pairs across --out cka/abc
  gramscope cka family/* --pairs same-architecture --mean --out family/seeds
  gramscope cka runs/r14@1 runs/r14 --pairs across --out cka/first-epoch
  gramscope cka runs/r14 --drop-dominant 0.01 --out cka/r14-without
  gramscope cka --activations torch.safetensors jax.safetensors --out cka/mine

Writes cka.npz (float64 arrays cka, hsic_xy, hsic_xx, hsic_yy), cka.json and cka.png for every pair compared: straight
into DIR where there is one pair, into DIR/A__B where there are several.";

const BENCH_HELP: &str = "\
Example:
  gramscope bench kernels --device cuda:0 --json kernels.jsonl";

const DOCTOR_HELP: &str = "\
Compares everything that computes with plain float64 loops, on inputs that are meant to hurt, a line each; exits 1 if
anything fails. Without a GPU, or in a build without CUDA, it checks the CPU and says why no GPU was checked.

Examples:
  gramscope doctor
  gramscope doctor --device cuda:0";

const BLOCKS_HELP: &str = "\
Example:
  gramscope cka runs/r38 --out cka/r38
  gramscope blocks cka/r38/cka.npz --out cka/r38

A block is a large contiguous range of layers with nearly equal representations: a bright square on the diagonal that
stands out from the layers beside it. Both are compared at equal distances, so that a map that merely fades away from
its diagonal has none. Layers that residual connections skip (the dark lines of the checkerboard) and undefined layers
do not break it.

Writes DIR/blocks.json and DIR/blocks.png, the map with its blocks outlined. The json holds `score`, from 0 to 1, and
`blocks`, each with first, last (layers are numbered from 0), first_name, last_name, layers, mean_cka, share (of the
network), margin (CKA above the surroundings) and contrast (the share of 1 - CKA that is gone inside); the score is
share times contrast, summed.

A map of another tool will do: an npz with a square array `cka` (float64 or float32) and, beside it, a json of the
same name with the names of the layers as `layers_x`.";

const MEAN_HELP: &str = "\
Examples:
  gramscope cka runs/r14-s0 runs/r14-s1 runs/r14-s2 --pairs within --out cka/r14
  gramscope mean cka/r14 --out mean/r14
  gramscope mean cka/a__b cka/a__c cka/b__c --out mean/across

Writes DIR/mean.npz (float64 arrays mean, variance, which is the unbiased one, and count, the maps in which the entry is
defined), DIR/mean.json (layers_x, layers_y, and the maps), DIR/mean.png and DIR/variance.png.";

const PCS_HELP: &str = "\
Examples:
  gramscope pcs runs/r14 --out pcs/r14
  gramscope pcs runs/r14 --examples 2000 --layers 'add|relu2' --out pcs/r14-blocks
  gramscope pcs --activations mine.safetensors --out pcs/mine

Writes pcs.npz (float64 arrays variance_explained, second_over_first, cosine_sq, cka, cka_without_first, first_pc), pcs.json
and pcs.png (all four panels). The examples are one batch, the first N in order. Layers whose second eigenvalue is more than
0.99 times the first are named: their first component is not well defined.";

const DOMINANT_HELP: &str = "\
Examples:
  gramscope dominant runs/r14 --out dominant/r14
  gramscope dominant runs/r14 --layer stage2.block1.add --top 64 --out dominant/r14

Writes dominant.png (the images, those of each sign together) and dominant.json (their places in the data, labels and
projections). CKA without such images: gramscope cka RUN --drop-dominant 0.01";

const EPOCHS_HELP: &str = "\
Example:
  gramscope train --depth 14 --seed 0 --epochs 20 --checkpoint-every 2 --out runs/r14
  gramscope epochs runs/r14 --out epochs/r14

Writes epochs.npz (float64 arrays cka [E,L,L], rows after the epoch and columns at the end; variance_explained [E,L] by first
principal components; cosine_sq [E,L] between a first component and the one at the end), epochs.json and epochs.png.";

const STUDY_HELP: &str = "\
Examples:
  gramscope study
  gramscope study fig3-pcs --data builtin --scale 0.1 --out fig3
  gramscope study fig1-width --data cifar10 --scale 0.05
  gramscope study mine.toml --out mine

At scale S a study has S times the training images and epochs, and networks with S times the parameters: blocks and widths
both shrink by the cube root of S, so that networks stay as large beside their data as the paper's. The work is that of the
paper times about S^3. The figure says at what scale it was made. Interrupted at any time, the same command goes on.

Leaves DIR/figure.png, DIR/study.json (what was found), DIR/report.html, DIR/runs and a directory for each kind of result.

A plan of your own has a title, [data] and [train] as a plan of sweep, one or more [[family]] with the lists of one, and
[measure] with cka = \"within\" (or all, across, same-architecture, same-seed), mean, blocks, pcs, ablate, sparsity, predict,
epochs = true (the last for runs with checkpoint_every), and a table [measure.probe] with epochs and pool.";

/// How much memory a command may take.
#[derive(Args, Debug)]
pub(crate) struct MemoryArguments {
    /// The memory that may be taken, such as 4G or 512M: what does not fit is computed in parts, with the same results
    /// [default: three quarters of what is free, or of what a container may have]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_limit: Option<MemoryLimit>,
}

/// Where the network runs.
#[derive(Args, Debug)]
pub(crate) struct DeviceArguments {
    /// auto (the first GPU, else the CPU), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Arithmetic of the network
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: Precision,
}

#[derive(Args, Debug)]
pub(crate) struct QuickstartArguments {
    /// Where runs, results and the report go; run again with the same directory to go on
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    pub(crate) out: PathBuf,
    /// Training images of the family (the overparameterised network uses a tenth)
    #[arg(long, value_name = "N")]
    pub(crate) train_images: Option<usize>,
    /// Test images
    #[arg(long, value_name = "N")]
    pub(crate) test_images: Option<usize>,
    /// Epochs a network of the family is trained for
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

/// Which data, and how much of it.
#[derive(Args, Debug)]
pub(crate) struct DataArguments {
    /// builtin, cifar10, cifar100, or a directory (CIFAR's binary files, or train/ and test/ with a folder a class)
    #[arg(long, value_name = "NAME|DIR", default_value = "builtin")]
    pub(crate) data: String,
    /// Training images: of the built-in data as many as wanted [default: 10000], elsewhere the first N [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) train_images: Option<usize>,
    /// Test images, likewise [default: 2000 of the built-in data, elsewhere all]
    #[arg(long, value_name = "N")]
    pub(crate) test_images: Option<usize>,
    /// Side that the images of a folder are resized and cropped to [default: 32]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) image_side: Option<usize>,
}

#[derive(Args, Debug)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    pub(crate) data: DataArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    /// Directory of the run
    #[arg(long, value_name = "RUN")]
    pub(crate) out: PathBuf,
    /// Go on from the last checkpoint; starts where there is none, ends at once where the run is finished
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

/// Every setting of a run; the defaults are the paper's.
#[derive(Args, Debug)]
pub(crate) struct SettingArguments {
    /// Depth of the network, 6m + 2: 8, 14, 20, 26, 32, 38, 44, 56, 110, 164, ...
    #[arg(long)]
    pub(crate) depth: usize,
    /// Width: the stages have 16, 32 and 64 times this many channels; fractions are allowed
    #[arg(long, default_value_t = 1.0)]
    pub(crate) width: f64,
    /// Seed of the initial weights, the order of the images and the augmentation
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Passes over the training images [default: 300]
    #[arg(long, value_name = "E")]
    pub(crate) epochs: Option<usize>,
    /// Fraction of the training images, class-balanced, the same for every seed [default: 1]
    #[arg(long, value_name = "F")]
    pub(crate) fraction: Option<f64>,
    /// Images a step; a last short batch is dropped [default: 128]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Learning rate at the start; falls to 0 along a cosine [default: 0.01]
    #[arg(long, value_name = "LR")]
    pub(crate) learning_rate: Option<f64>,
    /// Momentum of SGD [default: 0.9]
    #[arg(long)]
    pub(crate) momentum: Option<f64>,
    /// The loss has this times the sum of the squared weights added to it [default: 0.0001]
    #[arg(long)]
    pub(crate) weight_decay: Option<f64>,
    /// Leave out additions and shortcuts
    #[arg(long)]
    pub(crate) no_residual: bool,
    /// Pixels reflected around an image before the random crop; 0 turns cropping off [default: 4]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) crop_padding: Option<usize>,
    /// Do not flip images at random
    #[arg(long)]
    pub(crate) no_flip: bool,
    /// Distort the colours of training images as SimCLR does, with this strength from 0 to 1 [default: 0]
    #[arg(long, value_name = "S")]
    pub(crate) colour_distortion: Option<f64>,
    /// Train on labels drawn at random, one for each image once and for all; test labels stay
    #[arg(long)]
    pub(crate) random_labels: bool,
    /// Start with the weights and batch-norm statistics of this finished run instead of random ones
    #[arg(long, value_name = "RUN")]
    pub(crate) init_from: Option<PathBuf>,
    /// Of that run take only the stem and the first K stages, 0 to 3 [default: all of it]
    #[arg(long, value_name = "K")]
    pub(crate) init_stages: Option<usize>,
    /// Add to the loss, for every block, this times what the first principal component of its output explains of the
    /// variance beyond --first-pc-threshold [default: 0]
    #[arg(long, value_name = "LAMBDA")]
    pub(crate) first_pc_penalty: Option<f64>,
    /// The fraction of the variance that costs nothing [default: 0.2]
    #[arg(long, value_name = "F")]
    pub(crate) first_pc_threshold: Option<f64>,
    /// Keep the weights of every N-th epoch for later comparison
    #[arg(long, value_name = "N")]
    pub(crate) checkpoint_every: Option<usize>,
}

#[derive(Args, Debug)]
pub(crate) struct SweepArguments {
    /// The plan
    #[arg(value_name = "PLAN.toml")]
    pub(crate) plan: PathBuf,
    /// Directory of the family, a run directory for each of its members
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

/// Which pairs of runs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PairsArgument {
    /// Each run with itself
    Within,
    /// Each run with every other
    Across,
    /// Both
    All,
    /// Runs that differ in their seed alone, each with every other
    SameArchitecture,
    /// Runs of one seed that differ in anything else, each with every other
    SameSeed,
}

/// What networks are compared on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputArgument {
    /// Test images
    Images,
    /// Random bytes
    Noise,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["runs", "activations"]))]
pub(crate) struct CkaArguments {
    /// Run directories, or RUN@EPOCH for a run as it was kept after an epoch
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// One file of activations (compared with itself) or two, as safetensors: a tensor a layer, examples first
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    pub(crate) activations: Vec<PathBuf>,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Pairs of runs [default: within for one run, all for several]
    #[arg(long, value_enum, conflicts_with = "activations")]
    pub(crate) pairs: Option<PairsArgument>,
    /// Write mean and variance over the pairs of each two architectures too, into DIR/mean
    #[arg(long, conflicts_with = "activations")]
    pub(crate) mean: bool,
    /// Normalise with the mean and variance of each minibatch, as in training, instead of the running ones
    #[arg(long, conflicts_with = "activations")]
    pub(crate) batch_statistics: bool,
    /// Passes over the test images, each in a fresh order
    #[arg(long, default_value_t = 10, conflicts_with = "activations")]
    pub(crate) passes: usize,
    /// Seed of those orders
    #[arg(long, default_value_t = 0, conflicts_with = "activations")]
    pub(crate) seed: u64,
    /// Use only the first N test images, class-balanced
    #[arg(long, value_name = "N", conflicts_with = "activations")]
    pub(crate) examples: Option<usize>,
    /// Feed this data's test images instead of the data the runs were trained on
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "activations")]
    pub(crate) data: Option<String>,
    /// What is fed: images, or as many images of the same size of uniformly random bytes, drawn from --seed
    #[arg(long, value_enum, default_value = "images", conflicts_with = "activations")]
    pub(crate) input: InputArgument,
    /// Examples a minibatch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch_size: usize,
    /// unbiased (HSIC_1) or biased (HSIC_0)
    #[arg(long, default_value = "unbiased")]
    pub(crate) estimator: Estimator,
    /// linear, or rbf:T with the bandwidth T times the root of the median squared distance
    #[arg(long, default_value = "linear")]
    pub(crate) kernel: Kernel,
    /// exact (within 1e-6 of float64) or fast (within 1e-3)
    #[arg(long, default_value = "exact")]
    pub(crate) gram: Gram,
    /// Divide every example's activation by its Euclidean norm first
    #[arg(long)]
    pub(crate) normalise_examples: bool,
    /// Only the layers whose name matches
    #[arg(long, value_name = "REGEX")]
    pub(crate) layers: Option<Regex>,
    /// Leave out this fraction of the images: those with the largest absolute projections on the first principal component of
    /// the run's layer whose first component explains most of its variance (of several runs: each run's). The images are then
    /// the first --examples [default: 1024, or all where there are fewer]
    #[arg(long, value_name = "FRACTION", conflicts_with = "activations")]
    pub(crate) drop_dominant: Option<f64>,
    /// Use a last short batch instead of dropping it
    #[arg(long)]
    pub(crate) keep_partial: bool,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

#[derive(Args, Debug)]
pub(crate) struct BlocksArguments {
    /// The map: its npz file, the json file beside it, or the directory that holds both
    #[arg(value_name = "CKA.npz")]
    pub(crate) map: PathBuf,
    /// Where blocks.json and blocks.png go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct MeanArguments {
    /// Results: npz or json files, their directories, or directories above them (for every map within a network there)
    #[arg(value_name = "RESULT", required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// Where the mean maps go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["run", "activations"]))]
pub(crate) struct PcsArguments {
    /// Run directory, or RUN@EPOCH for a run as it was kept after an epoch
    pub(crate) run: Option<PathBuf>,
    /// Stored activations instead of a run, as safetensors: a tensor a layer, examples first
    #[arg(long, value_name = "FILE")]
    pub(crate) activations: Option<PathBuf>,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How many examples, the first in order (of test images, class-balanced) [default: 1024, or all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Only the layers whose name matches
    #[arg(long, value_name = "REGEX")]
    pub(crate) layers: Option<Regex>,
    /// Feed this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "activations")]
    pub(crate) data: Option<String>,
    /// Normalise with the mean and variance of the examples, as in training, instead of the running ones
    #[arg(long, conflicts_with = "activations")]
    pub(crate) batch_statistics: bool,
    /// Of CKA, with and without the first component: unbiased (HSIC_1) or biased (HSIC_0)
    #[arg(long, default_value = "unbiased")]
    pub(crate) estimator: Estimator,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

#[derive(Args, Debug)]
pub(crate) struct DominantArguments {
    /// Run directory, or RUN@EPOCH for a run as it was kept after an epoch
    pub(crate) run: PathBuf,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The layer [default: that whose first component explains the largest fraction of its variance]
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
    /// How many images are shown [default: 32, or all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
    /// How many test images are looked at, the first in order, class-balanced [default: 1024, or all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Look at this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

#[derive(Args, Debug)]
pub(crate) struct EpochsArguments {
    /// Run directory, of a run that kept epochs (train --checkpoint-every N)
    pub(crate) run: PathBuf,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Passes over the test images, each in a fresh order
    #[arg(long, default_value_t = 1)]
    pub(crate) passes: usize,
    /// Seed of those orders
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Use only the first N test images, class-balanced [default: all for CKA, 1024 for first components]
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Feed this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    /// Examples a minibatch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch_size: usize,
    /// unbiased (HSIC_1) or biased (HSIC_0)
    #[arg(long, default_value = "unbiased")]
    pub(crate) estimator: Estimator,
    /// Only the layers whose name matches
    #[arg(long, value_name = "REGEX")]
    pub(crate) layers: Option<Regex>,
    /// Normalise with the mean and variance of each batch, as in training, instead of the running ones
    #[arg(long)]
    pub(crate) batch_statistics: bool,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

#[derive(Args, Debug)]
pub(crate) struct StudyArguments {
    /// One of the shipped studies, or a plan of your own that ends in .toml; without it, the shipped ones are listed
    pub(crate) name: Option<String>,
    /// Where everything goes [default: a directory of the study's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Share of the paper's size, above 0 and at most 1
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// builtin, cifar10, cifar100 or a directory, instead of the study's own data
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

#[derive(Args, Debug)]
pub(crate) struct ActivationsArguments {
    /// Run directory, or RUN@EPOCH for a run as it was kept after an epoch
    pub(crate) run: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// How many test images, class-balanced, in the order of the data [default: 1024, or all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Only the layers whose name matches
    #[arg(long, value_name = "REGEX")]
    pub(crate) layers: Option<Regex>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArguments {
    /// Directory with runs and results anywhere below it; the page is DIR/report.html
    pub(crate) dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArguments {
    /// Directory with runs and results anywhere below it
    pub(crate) dir: PathBuf,
}

/// What is measured.
#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// Every CUDA kernel at the shapes of real networks
    Kernels(BenchArguments),
    /// All layers of a network compared with each other over a batch, next to its forward pass
    Cka {
        /// Depth of the network
        #[arg(long, default_value_t = 20)]
        depth: usize,
        /// Width of the network
        #[arg(long, default_value_t = 1.0)]
        width: f64,
        #[command(flatten)]
        arguments: BenchArguments,
    },
    /// A training step: of ResNet-14 and -20 at width 1 and of ResNet-14 at width 2, or of the network that is named
    Train {
        /// Depth of the network [default: 20 where a width is named]
        #[arg(long)]
        depth: Option<usize>,
        /// Width of the network [default: 1 where a depth is named]
        #[arg(long)]
        width: Option<f64>,
        /// Images a step
        #[arg(long, value_name = "N", default_value_t = 128)]
        batch_size: usize,
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

impl Arguments {
    /// Whether progress and messages are to be JSON: `--json` with a file asks for rows instead.
    pub(crate) fn json_logs(&self) -> bool {
        let rows = match &self.command {
            Command::Bench {
                command:
                    BenchCommand::Kernels(arguments)
                    | BenchCommand::Cka { arguments, .. }
                    | BenchCommand::Train { arguments, .. },
            } => arguments.file.is_some(),
            _ => false,
        };
        self.json && !rows
    }
}
