//! `gramscope activations`: a network's activations for other tools.

use gramscope_study::activations::{self, ExportOptions};
use gramscope_train::Run;

use super::cka::show_progress;
use crate::arguments::ActivationsArguments;
use crate::console::{Console, Unit};
use crate::device;

/// Writes the activations of the run's test images.
pub(crate) fn run(arguments: &ActivationsArguments, console: &Console) -> anyhow::Result<()> {
    let run = Run::named(&arguments.run)?;
    let processor = device::processor(&arguments.device, console)?;
    let options = ExportOptions { examples: arguments.examples, layers: arguments.layers.clone() };
    let mut bar = console.progress(Unit::Passes, 0);
    let images = activations::export(&run, &arguments.out, &options, &processor, &mut |progress| {
        show_progress(&mut bar, "exporting", progress);
    })?;
    drop(bar);
    console.result(&format!("{}: activations of {images} test images", arguments.out.display()));
    Ok(())
}
