//! Flags of the experiments that look into one network: linear probes and deleted blocks.

use clap::Args;
use regex::Regex;

use super::{MachineArguments, RunsArguments};

pub(crate) const PROBE_HELP: &str = "\
Examples:
  gramscope probe runs/r14 --out probe/r14
  gramscope probe runs/r14 --epochs 20 --examples 2000 --layers 'relu2|pool' --out probe/r14-relu

The probes of all layers are trained together, one pass over the images an epoch. Writes probe.json (a list: layer,
accuracy_train, accuracy_test), probe-about.json (the settings, and the checksum of both) and probe.png. accuracy_train is
that of the last epoch as it runs: each image counts before the step it is used in.

What the probes have learned is kept in DIR/unfinished-*.safetensors, every minute and when they are stopped (Ctrl-C, SIGTERM); the same
command goes on from there. It is removed once the results are written.";

pub(crate) const ABLATE_HELP: &str = "\
Examples:
  gramscope ablate runs/r38 --out ablate/r38
  gramscope ablate family --each --out ablate
  gramscope ablate runs/r38 --block stage2.block3 --out ablate/r38

Deletes the last block of a stage, the last two, ... all of them, stage by stage. Of a deleted block the residual branch
contributes nothing; its shortcut and the ReLU after the addition stay. Writes ablate.json (a list: stage, deleted,
accuracy), ablate-about.json (the blocks deleted alone, and the checksum of both) and ablate.png.";

#[derive(Args, Debug)]
pub(crate) struct ProbeArguments {
    #[command(flatten)]
    pub(crate) runs: RunsArguments,
    /// Passes over the training images
    #[arg(long, value_name = "E", default_value_t = 300)]
    pub(crate) epochs: usize,
    /// Learning rate of the probes
    #[arg(long, value_name = "LR", default_value_t = 0.01)]
    pub(crate) learning_rate: f64,
    /// Momentum of SGD
    #[arg(long, default_value_t = 0.9)]
    pub(crate) momentum: f64,
    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) batch_size: usize,
    /// Take the maximum over 2 x 2 pixels before the probe
    #[arg(long)]
    pub(crate) pool: bool,
    /// Only the layers whose name matches [default: right before and right after each addition; without additions, the last two
    /// of each block]
    #[arg(long, value_name = "REGEX")]
    pub(crate) layers: Option<Regex>,
    /// Train on the first N training images, class-balanced [default: all that the run was trained on]
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Train and test on this data instead of the images the run was trained and tested on
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    /// Seed of the order of the images
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

#[derive(Args, Debug)]
pub(crate) struct AblateArguments {
    #[command(flatten)]
    pub(crate) runs: RunsArguments,
    /// Delete this block alone, too; may be given several times
    #[arg(long, value_name = "BLOCK", conflicts_with = "each")]
    pub(crate) block: Vec<String>,
    /// Delete every block alone, too
    #[arg(long)]
    pub(crate) each: bool,
    /// Use only the first N test images, class-balanced
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Feed this data's test images instead of the data the runs were trained on
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}
