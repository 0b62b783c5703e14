//! Every flag of every command, with its help text.

mod comparing;
mod machine;
mod probe;
mod training;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::device::{Convolutions, DeviceChoice, DeviceChoices, Precision};
use crate::memory::MemoryLimit;
pub(crate) use comparing::{
    ActivationsArguments, BlocksArguments, CkaArguments, CosineArguments, DominantArguments, EpochsArguments,
    InputArgument, MeanArguments, PairsArgument, PcsArguments, PredictArguments, SparsityArguments,
};
use comparing::{
    BLOCKS_HELP, CKA_HELP, COSINE_HELP, DOMINANT_HELP, EPOCHS_HELP, MEAN_HELP, PCS_HELP, PREDICT_HELP, SPARSITY_HELP,
};
use machine::{BENCH_HELP, DOCTOR_HELP};
pub(crate) use machine::{BenchArguments, BenchCommand, DataCommand, DoctorArguments, FetchArgument, InfoArguments};
use probe::{ABLATE_HELP, PROBE_HELP};
pub(crate) use probe::{AblateArguments, ProbeArguments};
pub(crate) use training::{
    DataArguments, QuickstartArguments, SettingArguments, StudyArguments, SweepArguments, TrainArguments,
};
use training::{PLAN_HELP, QUICKSTART_HELP, STUDY_HELP};

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

/// The command line; a paragraph below the flags of a command is as wide as the terminal, however it is written in the source, and
/// a negative number is a value, whose own message says what is wrong with it.
pub(crate) fn command_line() -> clap::Command {
    as_it_is_shown(Arguments::command())
}

fn as_it_is_shown(command: clap::Command) -> clap::Command {
    let text = command.get_after_help().map(ToString::to_string);
    let command = command.mut_subcommands(as_it_is_shown).mut_args(|argument| {
        let takes_value = argument.get_long().is_some() && argument.get_action().takes_values();
        if takes_value { argument.allow_negative_numbers(true) } else { argument }
    });
    match text {
        Some(text) => command.after_help(whole_paragraphs(&text)),
        None => command,
    }
}

/// `text` with a line a paragraph. Lines that are indented, such as examples, are lines of their own.
fn whole_paragraphs(text: &str) -> String {
    let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
    let mut whole = String::new();
    let mut before = "";
    for line in text.lines() {
        if !whole.is_empty() {
            whole.push(if is_prose(before) && is_prose(line) { ' ' } else { '\n' });
        }
        whole.push_str(line);
        before = line;
    }
    whole
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Train a small family on the built-in data, compare its members, write the report
    #[command(after_help = QUICKSTART_HELP)]
    Quickstart(QuickstartArguments),
    /// Train one network
    #[command(
        after_help = "Example:\n  gramscope train --data cifar10 --depth 20 --width 1 --seed 0 --epochs 30 --out runs/r20\n\n\
        A run directory holds config.toml, metrics.jsonl, checkpoints/, predictions.safetensors (logits [images, classes] and labels of \
        the test images) and curves.png."
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
    /// Cosine similarity of the layers of one shape, coordinate by coordinate
    #[command(after_help = COSINE_HELP)]
    Cosine(CosineArguments),
    /// The test images that dominate a layer: those with the largest projections on its first principal component
    #[command(after_help = DOMINANT_HELP)]
    Dominant(DominantArguments),
    /// How much of every ReLU's output is zero, and which units are dead
    #[command(after_help = SPARSITY_HELP)]
    Sparsity(SparsityArguments),
    /// Predictions of groups of runs: accuracy with spread, how alike they are, on which images and classes two groups differ
    #[command(after_help = PREDICT_HELP)]
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
        after_help = "Example:\n  gramscope activations runs/r14 --out r14.safetensors --examples 1024 --layers 'add|relu2'\n\n\
        The file's metadata hold layers (in their order), layout, model, data (and data directory), split, labels (a JSON list, the \
        number of each image's class), classes (their names) and, where a GPU ran the network, computed with."
    )]
    Activations(ActivationsArguments),
    /// Write one self-contained HTML page about every run and every CKA result below a directory
    #[command(after_help = "Example:\n  gramscope report quickstart")]
    Report(ReportArguments),
    /// Check that every run and every result below a directory is as it was written, and that no finished run has lost a part
    #[command(after_help = "Example:\n  gramscope verify family\n\n\
        A run whose directory checkpoints is left out as a whole is a copy that is to have no weights, and is well without them.")]
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
    /// Whether the command, asked to stop, has something to keep, or to clear away.
    pub(crate) fn ends_gracefully(&self) -> bool {
        let trains = matches!(self, Self::Quickstart(_) | Self::Train(_) | Self::Sweep(_) | Self::Study(_));
        trains || matches!(self, Self::Cka(_) | Self::Epochs(_) | Self::Probe(_) | Self::Activations(_))
    }
}

/// How much memory a command may take.
#[derive(Args, Debug)]
pub(crate) struct MemoryArguments {
    /// The memory that may be taken, such as 4G or 1.5G: what does not fit is computed in parts, with the same results, or refused
    /// where it has no parts; the GPU's where one compares or runs the network [default: three quarters of what is free, or of what a
    /// container may have; nine tenths of what is free on a GPU]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_limit: Option<MemoryLimit>,
}

/// Where the network runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArguments {
    /// auto (the first GPU, else the CPU), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: DeviceChoice,
    #[command(flatten)]
    pub(crate) numerics: NumericsArguments,
}

/// Where a command computes, and in how much memory: the last of its flags, for whatever follows would stand under "Device".
#[derive(Args, Debug)]
pub(crate) struct MachineArguments {
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}

/// Several runs, and where the result of each goes.
#[derive(Args, Debug)]
pub(crate) struct RunsArguments {
    /// Run directories, directories of runs, or RUN@EPOCH for a run as it was kept after an epoch
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the results go: straight into DIR for one run, into DIR/RUN for each of several
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Where several networks are trained.
#[derive(Args, Debug)]
#[command(next_help_heading = "Device")]
pub(crate) struct DevicesArguments {
    /// auto (the first GPU, else the CPU), cpu, cuda, cuda:N, or several GPUs, which share the runs: cuda:0,1
    #[arg(long = "device", value_name = "DEVICE", default_value = "auto")]
    pub(crate) devices: DeviceChoices,
    /// Runs that each GPU trains at once: several small networks leave less of it idle, and each takes its own memory
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) jobs: NonZeroUsize,
    #[command(flatten)]
    pub(crate) numerics: NumericsArguments,
}

/// How a network computes.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct NumericsArguments {
    /// Arithmetic of the network
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: Precision,
    /// Whose convolutions a GPU runs: gramscope's own kernels, or cuDNN's engines, of which the fastest are kept once measured
    #[arg(long, value_enum, default_value = "own")]
    pub(crate) convolutions: Convolutions,
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

impl Arguments {
    /// Whether progress and messages are to be JSON: `--json` with a file asks for rows instead.
    pub(crate) fn json_logs(&self) -> bool {
        let rows = match &self.command {
            Command::Bench {
                command:
                    BenchCommand::Kernels { arguments, .. }
                    | BenchCommand::Cka { arguments, .. }
                    | BenchCommand::Train { arguments, .. }
                    | BenchCommand::Probe { arguments, .. },
            } => arguments.file.is_some(),
            _ => false,
        };
        self.json && !rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_whole_and_examples_stay_lines() {
        let text = "Examples:\n  one\n  two\n\nA paragraph\nof two lines.\n\n  [data]\n\nAnother.";
        assert_eq!(
            whole_paragraphs(text),
            "Examples:\n  one\n  two\n\nA paragraph of two lines.\n\n  [data]\n\nAnother."
        );
        command_line().debug_assert();
    }
}
