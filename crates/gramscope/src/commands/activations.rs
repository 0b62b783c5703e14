//! `gramscope activations`: a network's activations for other tools.

use gramscope_study::activations;
use gramscope_train::Run;
use gramscope_train::data::{self, DataConfig};

use crate::arguments::ActivationsArguments;
use crate::console::{Console, Unit};
use crate::device;

/// Writes the activations of the run's test images.
pub(crate) fn run(arguments: &ActivationsArguments, console: &Console) -> anyhow::Result<()> {
    let device = device::open(arguments.device.device, arguments.device.precision)?;
    let run = Run::open(&arguments.run)?;
    let network = run.network(&device)?;
    let dataset = data::load(&DataConfig { test_images: Some(arguments.examples), ..run.config().data.clone() })?;
    let indices: Vec<usize> = (0..dataset.test.len()).collect();
    let mut bar = console.progress(Unit::Batches, 0);
    activations::write_activations(
        &arguments.out,
        &network,
        &dataset.test,
        &indices,
        arguments.layers.as_ref(),
        &device,
        &mut |done, total| {
            bar.set_total(total as u64);
            bar.update(done as u64, "writing", "");
        },
    )?;
    drop(bar);
    console.result(&format!("{}: activations of {} test images", arguments.out.display(), indices.len()));
    Ok(())
}
