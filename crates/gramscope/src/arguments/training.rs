//! Flags of what trains: quickstart, train, sweep, study.

use std::path::PathBuf;

use clap::Args;
use gramscope_nn::Family;

use super::{DeviceArguments, DevicesArguments, MemoryArguments};

pub(crate) const QUICKSTART_HELP: &str = "\
Example:
  gramscope quickstart --out quickstart

Leaves DIR/report.html (everything, interactive), DIR/maps.png (every network's map on one sheet), DIR/runs (a directory a
network, curves.png, accuracy.png) and DIR/cka (cka.npz, cka.json and cka.png for every pair).";

pub(crate) const PLAN_HELP: &str = "\
A plan is a TOML file. [data] and [train] hold what all runs share, [family] lists what varies; the runs are the product
of the lists:

  [data]
  name = \"builtin\"            # builtin, cifar10, cifar100 or folder (with dir)
  [train]
  epochs = 5                  # any setting of a run: batch_size, fraction, ...
  [family]
  depth = [14, 20]
  width = [1, 2]
  seed = [0, 1]

Examples:
  gramscope sweep family.toml --out family
  gramscope sweep family.toml --out family --device cuda:0,1 --jobs 4

A folder's dir is seen from where this runs. DIR holds a run directory for each of them, named by depth, width, seed and what else [family] lists
(resnet14-w1-s0-fraction0.25), and curves.png and accuracy.png (test accuracy against depth and width). Lists may grow: what is
trained stays.";

pub(crate) const STUDY_HELP: &str = "\
Examples:
  gramscope study
  gramscope study fig3-pcs --data builtin --scale 0.1 --out fig3
  gramscope study fig1-width --data cifar10 --scale 0.05
  gramscope study mine.toml --out mine --device cuda:0,1 --jobs 4

At scale S a study has S times the training images and epochs, and networks with S times the parameters: blocks and widths
both shrink by the cube root of S, so that networks stay as large beside their data as the paper's. There are S times the
seeds, and S times CKA's passes over the test images; minibatches shrink by the root of S. The work is that of the paper
times about S^3. The figure says at what scale it was made. Interrupted at any time, the same command goes on. A plan may grow:
what is trained and measured already stays. Several GPUs share the training (cuda:0,1), and the first of them
measures. Other data (--data) have as many images as the plan asks for, where it does.

Leaves DIR/figure.png, DIR/study.json (what was found), DIR/report.html, DIR/runs and a directory for each kind of result.

A plan of your own has a title, [data] and [train] as a plan of sweep, one or more [[family]] with the lists of one, and
[measure] with cka = \"within\" (or all, across, same-architecture, same-seed), mean, blocks, pcs, ablate, sparsity, predict,
epochs = true (the last for runs with checkpoint_every), and a table [measure.probe] with epochs and pool.";

#[derive(Args, Debug)]
pub(crate) struct QuickstartArguments {
    /// Where runs, results and the report go; run again with the same directory to go on
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    pub(crate) out: PathBuf,
    /// Training images of the family (the deep network uses a twentieth)
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
#[command(next_help_heading = "Data")]
pub(crate) struct DataArguments {
    /// builtin, cifar10, cifar100, or a directory (CIFAR's binary files, or train/ and test/ with a folder a class)
    #[arg(long, value_name = "NAME|DIR", default_value = "builtin")]
    pub(crate) data: String,
    /// Training images: of the built-in data as many as wanted [default: 10000], elsewhere the first N, class-balanced [default: all]
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
    /// Directory of the run; a run there that has no checkpoint yet is begun anew
    #[arg(long, value_name = "RUN")]
    pub(crate) out: PathBuf,
    /// Go on from the last checkpoint; starts where there is none, ends at once where the run is finished. Without any data and
    /// settings, with those of the run that is there; given ones must be the same
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) data: Option<DataArguments>,
    #[command(flatten)]
    pub(crate) settings: Option<SettingArguments>,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

pub(super) fn family(name: &str) -> Result<Family, String> {
    match name {
        "cifar" => Ok(Family::Cifar),
        "imagenet" => Ok(Family::ImageNet),
        _ => Err("the families are cifar and imagenet".to_owned()),
    }
}

/// Every setting of a run; the defaults are the paper's.
#[derive(Args, Debug)]
#[command(next_help_heading = "Network and training")]
pub(crate) struct SettingArguments {
    /// Family of the network: cifar, or imagenet, whose depth and width are those of its third stage
    #[arg(long, value_name = "NAME", default_value = "cifar", value_parser = family)]
    pub(crate) family: Family,
    /// Depth of the network, 6m + 2: 8, 14, 20, 26, 32, 38, 44, 56, 110, 164, ...; of imagenet 3b + 32: 50, 101, ...
    #[arg(long, required_unless_present = "resume")]
    pub(crate) depth: Option<usize>,
    /// Width: the stages have 16, 32 and 64 times this many channels, imagenet's third stage 1024; fractions are allowed
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
    /// Two residual branches in every block, mixed at random in training and evenly in evaluation (Shake-Shake)
    #[arg(long)]
    pub(crate) shake_shake: bool,
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
    /// Of that run take only the stem and the first K stages [default: all of it]
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
    pub(crate) devices: DevicesArguments,
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
    pub(crate) devices: DevicesArguments,
}
