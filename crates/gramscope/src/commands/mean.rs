//! `gramscope mean`: maps of the same layers, averaged.

use gramscope_study::Saved;
use gramscope_study::mean::{self, Mean};

use crate::arguments::MeanArguments;
use crate::console::Console;

/// Averages the maps and writes mean and variance.
pub(crate) fn run(arguments: &MeanArguments, console: &Console) -> anyhow::Result<()> {
    Mean::check(&arguments.out)?;
    let averaged = mean::average(&arguments.results)?;
    averaged.write(&arguments.out)?;
    let info = &averaged.info;
    console.result(&format!(
        "mean and variance of {} maps of {} x {} layers -> {}",
        info.maps.len(),
        info.layers_x.len(),
        info.layers_y.len(),
        arguments.out.display()
    ));
    Ok(())
}
