//! `gramscope activations`: a network's activations for other tools.

use gramscope_study::activations::{self, ExportOptions};
use gramscope_train::Run;

use super::{other_data, with_bar};
use crate::arguments::ActivationsArguments;
use crate::console::Console;
use crate::device;
use crate::interrupt::Interrupt;

/// Writes the activations of the run's test images.
pub(crate) fn run(arguments: &ActivationsArguments, interrupt: &Interrupt, console: &Console) -> anyhow::Result<()> {
    let run = Run::named(&arguments.run)?;
    let (processor, memory) = device::machine(&arguments.machine, console)?;
    let options = ExportOptions {
        examples: arguments.examples,
        data: other_data(arguments.data.as_deref())?,
        layers: arguments.layers.clone(),
        memory,
    };
    let images = with_bar(console, "exporting", |progress| {
        activations::export(&run, &arguments.out, &options, &processor, interrupt.requested(), progress)
    })?;
    console.result(&format!("{}: activations of {images} test images", arguments.out.display()));
    Ok(())
}
