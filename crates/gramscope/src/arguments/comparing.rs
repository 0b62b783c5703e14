//! Flags of what compares networks and looks into their activations and predictions: cka, blocks, mean, pcs, dominant, epochs,
//! activations, cosine, sparsity, predict.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gramscope_cka::{Estimator, Gram, Kernel};
use regex::Regex;

use super::{MachineArguments, RunsArguments};

/// Flags that say how a network computes: with stored activations there is none.
const NETWORK_FLAGS: [&str; 2] = ["precision", "convolutions"];

pub(crate) const CKA_HELP: &str = "\
Examples:
  gramscope cka runs/r14 --out cka/r14
  gramscope cka runs/a runs/b runs/c --pairs across --out cka/abc
  gramscope cka family --pairs same-architecture --mean --out family/seeds
  gramscope cka runs/r14@1 runs/r14 --pairs across --out cka/first-epoch
  gramscope cka runs/r14 --drop-dominant 0.01 --out cka/r14-without
  gramscope cka --activations torch.safetensors jax.safetensors --passes 10 --out cka/mine

Minibatches of stored activations are taken in the order of the file, once. Minibatch CKA is an estimate over random minibatches:
where that order is not random (sorted by class, say), --passes shuffles the examples, as test images are. Two files need the
same examples in the same order.

A comparison keeps its sums in DIR/unfinished-*.safetensors, every minute and when it is stopped (Ctrl-C, SIGTERM); the same command
goes on from them, on the same networks and images. They are removed once the results are written.

Writes cka.npz (float64 arrays cka and hsic_xy, rows the layers of model_x and columns those of model_y; hsic_xx and hsic_yy),
cka.json (models, layers, how and on what; batches are those of all passes, dropped the examples that each pass leaves over) and
cka.png for every pair compared: straight into DIR where there is one pair, into DIR/A__B where there are several.";

pub(crate) const BLOCKS_HELP: &str = "\
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

pub(crate) const MEAN_HELP: &str = "\
Examples:
  gramscope cka runs/r14-s0 runs/r14-s1 runs/r14-s2 --pairs within --out cka/r14
  gramscope mean cka/r14 --out mean/r14
  gramscope mean cka/a__b cka/a__c cka/b__c --out mean/across

Writes DIR/mean.npz (float64 arrays mean, variance, which is the unbiased one, and count, the maps in which the entry is
defined), DIR/mean.json (layers_x, layers_y, and the maps), DIR/mean.png and DIR/variance.png.";

pub(crate) const PCS_HELP: &str = "\
Examples:
  gramscope pcs runs/r14 --out pcs/r14
  gramscope pcs family --out family/pcs
  gramscope pcs runs/r14 --examples 2000 --layers 'add|relu2' --out pcs/r14-blocks
  gramscope pcs --activations mine.safetensors --out pcs/mine

Writes pcs.npz (float64 arrays variance_explained, second_over_first, cosine_sq, cka, cka_without_first, first_pc), pcs.json
and pcs.png (all four panels). The examples are one batch, the first N in order. Layers whose second eigenvalue is more than
0.99 times the first are named: their first component is not well defined.";

pub(crate) const DOMINANT_HELP: &str = "\
Examples:
  gramscope dominant runs/r14 --out dominant/r14
  gramscope dominant runs/r14 --layer stage2.block1.add --top 64 --out dominant/r14

Writes dominant.npz (a float64 array projections, of all images that were looked at), dominant.json (of the images that dominate:
their places among those, labels and projections, and of data in folders their files, from the directory of the data on) and
dominant.png (their images, those of each sign together).
CKA without such images: gramscope cka RUN --drop-dominant 0.01";

pub(crate) const EPOCHS_HELP: &str = "\
Example:
  gramscope train --depth 14 --seed 0 --epochs 20 --checkpoint-every 2 --out runs/r14
  gramscope epochs runs/r14 --out epochs/r14

Writes epochs.npz (float64 arrays cka [E,L,L], rows after the epoch and columns at the end; variance_explained [E,L] by first
principal components; cosine_sq [E,L] between a first component and the one at the end; first_pc [E,L,n], those components),
epochs.json and epochs.png. What has been compared is kept and gone on from as that of cka is.";

pub(crate) const COSINE_HELP: &str = "\
Examples:
  gramscope cosine runs/r14 --out cosine/r14
  gramscope cosine runs/r14@5 --layers 'add|relu2' --out cosine/r14-early
  gramscope cosine --activations mine.safetensors --out cosine/mine

Writes cosine.npz (float64 arrays cosine [L,L], the mean over examples of <x,y> / (|x| |y|), not centred; and count [L,L], the
examples that it is the mean of: one that either layer turns into zeros has no cosine), cosine.json and cosine.png. Layers of
different shapes (of stored activations: different numbers of features) cannot be compared: NaN, and a count of 0.";

pub(crate) const SPARSITY_HELP: &str = "\
Examples:
  gramscope sparsity runs/r14 --out sparsity/r14
  gramscope sparsity runs/r14 --data cifar100 --examples 1000 --out sparsity/r14-elsewhere

Writes sparsity.npz (float64 arrays zeros, the fraction of each ReLU's values that are zero; dead, the number of its units,
that is channels, that are zero at every position of every image; unit_zeros, that fraction for each unit, layer after
layer), sparsity.json (layers, units of each, the data) and sparsity.png.";

pub(crate) const PREDICT_HELP: &str = "\
Runs that differ in their seed alone are one group, named by what they share.

Examples:
  gramscope predict family --out family/predict
  gramscope predict runs/* --between 'depth 62, width 1' 'depth 14, width 2' --out predict

Writes predict.npz (float64 arrays agreement, kl, hellinger, entropy over runs, the same over groups with group_ before their
names, example_accuracy, half_accuracy, class_accuracy), predict.json, accuracies.json (each group's accuracy with its spread),
classes.json (Welch's t test of every class, p values corrected by Holm's method, effect sizes), and the pictures
predict-maps.png, examples.png and classes.png. Classes have names where the runs' predictions.safetensors record them and agree.
kl has KL(p, q) with p the row's run and q the column's, in nats.";

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
    /// Run directories, directories of runs, or RUN@EPOCH for a run as it was kept after an epoch
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// One file of activations (compared with itself) or two, as safetensors: a tensor a layer, examples first
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = NETWORK_FLAGS)]
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
    /// Passes over the examples, each in a fresh order [default: 10 over test images, one in the file's order over stored
    /// activations]
    #[arg(long)]
    pub(crate) passes: Option<usize>,
    /// Seed of those orders; of stored activations without --passes, of one [default: 0]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Use only the first N examples (of test images, class-balanced)
    #[arg(long, value_name = "N")]
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
    /// The layer that --drop-dominant goes by, instead of that whose first component explains most
    #[arg(long, value_name = "NAME", requires = "drop_dominant")]
    pub(crate) dominant_layer: Option<String>,
    /// Use a last short batch instead of dropping it
    #[arg(long)]
    pub(crate) keep_partial: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
pub(crate) struct BlocksArguments {
    /// The map, or the mean of several networks' maps: its npz file, the json file beside it, or the directory that holds both
    #[arg(value_name = "CKA.npz")]
    pub(crate) map: PathBuf,
    /// Where blocks.json and blocks.png go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct MeanArguments {
    /// Results of cka: npz or json files, their directories, or directories above them (for every map within a network there)
    #[arg(value_name = "RESULT", required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// Where the mean maps go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// What layers are looked at, of runs or of stored activations, and where the results go.
#[derive(Args, Debug)]
pub(crate) struct SourceArguments {
    /// Run directories, directories of runs, or RUN@EPOCH for a run as it was kept after an epoch
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Stored activations instead of a run, as safetensors: a tensor a layer, examples first
    #[arg(long, value_name = "FILE", conflicts_with_all = NETWORK_FLAGS)]
    pub(crate) activations: Option<PathBuf>,
    /// Where the results go: straight into DIR for one run, into DIR/RUN for each of several
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
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["runs", "activations"]))]
pub(crate) struct PcsArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// Normalise with the mean and variance of the examples, as in training, instead of the running ones
    #[arg(long, conflicts_with = "activations")]
    pub(crate) batch_statistics: bool,
    /// Of CKA, with and without the first component: unbiased (HSIC_1) or biased (HSIC_0)
    #[arg(long, default_value = "unbiased")]
    pub(crate) estimator: Estimator,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
pub(crate) struct DominantArguments {
    #[command(flatten)]
    pub(crate) runs: RunsArguments,
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
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
pub(crate) struct EpochsArguments {
    /// Run directories, or directories of runs, that kept epochs (train --checkpoint-every N)
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the results go: straight into DIR for one run, into DIR/RUN for each of several
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
    pub(crate) machine: MachineArguments,
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
    /// Feed this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    /// Only the layers whose name matches
    #[arg(long, value_name = "REGEX")]
    pub(crate) layers: Option<Regex>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["runs", "activations"]))]
pub(crate) struct CosineArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
pub(crate) struct SparsityArguments {
    #[command(flatten)]
    pub(crate) runs: RunsArguments,
    /// Use only the first N test images, class-balanced [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Feed this data's test images instead of the data the run was trained on
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
pub(crate) struct PredictArguments {
    /// Run directories, or directories of runs: finished ones that were tested on the same images
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// The two groups that are compared image by image and class by class [default: the first and the last, from small to large]
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    pub(crate) between: Option<Vec<String>>,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
