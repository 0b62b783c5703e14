//! The command line of Gramscope: reads arguments, calls the crates, shows progress, and turns every error into one
//! message and an exit code.

mod advice;
mod arguments;
mod bench;
mod commands;
mod console;
mod device;
mod doctor;
mod interrupt;
mod memory;
#[cfg(feature = "cuda")]
mod stored;
mod words;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;

use advice::Flags;
use arguments::{Arguments, Command};
use console::Console;
use interrupt::Interrupt;
use words::told;

/// Training allocates and frees the same large buffers every step; the system allocator gives each one back to the
/// kernel and faults it in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = arguments::command_line().get_matches();
    let flags = Flags::of_command(&matches);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let console = Arc::new(Console::new(arguments.quiet, arguments.json_logs()));
    let listening = if arguments.command.ends_gracefully() {
        let console = console.clone();
        Interrupt::listen_gracefully(move || {
            let text = "stopping as soon as nothing is lost by it; another signal ends it at once";
            console.note("stopping", text, serde_json::json!({}));
        })
    } else {
        Interrupt::listen()
    };
    let interrupt = match listening {
        Ok(interrupt) => interrupt,
        Err(error) => {
            console.error(&format!("cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match run_on(env::args_os(), arguments.command, &interrupt, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.error(&format!("{}{}", told(&error), flags.advice(&error)));
            interrupt.exit_code().unwrap_or(ExitCode::FAILURE)
        }
    }
}

/// Runs `command`, to which `arguments` were given.
fn run_on(
    mut arguments: impl Iterator<Item = OsString>,
    command: Command,
    interrupt: &Interrupt,
    console: &Console,
) -> anyhow::Result<()> {
    // Results name the files that they come from, in JSON.
    if let Some(argument) = arguments.find(|argument| argument.to_str().is_none()) {
        anyhow::bail!("{} is not Unicode: what comes out could not name it; rename it", argument.display());
    }
    run(command, interrupt, console)?;
    console.check_written()
}

fn run(command: Command, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(arguments) => commands::quickstart::run(&arguments, interrupt, console),
        Command::Train(arguments) => commands::train::run(&arguments, interrupt, console),
        Command::Sweep(arguments) => commands::sweep::run(&arguments, interrupt, console),
        Command::Cka(arguments) => commands::cka::run(&arguments, interrupt, console),
        Command::Blocks(arguments) => commands::blocks::run(&arguments, console),
        Command::Mean(arguments) => commands::mean::run(&arguments, console),
        Command::Pcs(arguments) => commands::pcs::run(&arguments, console),
        Command::Cosine(arguments) => commands::cosine::run(&arguments, console),
        Command::Dominant(arguments) => commands::dominant::run(&arguments, console),
        Command::Probe(arguments) => commands::probe::run(&arguments, interrupt, console),
        Command::Ablate(arguments) => commands::ablate::run(&arguments, interrupt, console),
        Command::Sparsity(arguments) => commands::sparsity::run(&arguments, console),
        Command::Predict(arguments) => commands::predict::run(&arguments, console),
        Command::Epochs(arguments) => commands::epochs::run(&arguments, interrupt, console),
        Command::Activations(arguments) => commands::activations::run(&arguments, interrupt, console),
        Command::Study(arguments) => commands::study::run(&arguments, interrupt, console),
        Command::Report(arguments) => commands::report::run(&arguments, console),
        Command::Verify(arguments) => commands::verify::run(&arguments, console),
        Command::Bench { command } => commands::bench::run(&command, console),
        Command::Doctor(arguments) => commands::doctor::run(&arguments, console),
        Command::Data { command } => commands::data::run(&command, console),
    }
}
