//! `gramscope dominant`: the test images that dominate a layer.

use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::dominant::{self, Dominant, DominantInfo, DominantOptions};
use gramscope_study::pcs::CLOSE_EIGENVALUES;

use super::{other_data, placed_runs, with_bar};
use crate::arguments::DominantArguments;
use crate::console::Console;
use crate::device;

/// Finds the images and writes them.
pub(crate) fn run(arguments: &DominantArguments, console: &Console) -> anyhow::Result<()> {
    let runs = placed_runs(&arguments.runs, Dominant::check)?;
    let (processor, memory) = device::machine(&arguments.machine, console)?;
    let options = DominantOptions {
        examples: arguments.examples,
        layer: arguments.layer.clone(),
        top: arguments.top,
        data: other_data(arguments.data.as_deref())?,
        memory,
    };
    for (run, dir) in &runs {
        let found =
            with_bar(console, "decomposing", |progress| dominant::dominant(run, &options, &processor, progress))?;
        found.write(dir)?;
        report(&found.info, dir, console);
    }
    Ok(())
}

/// A line of result, and a warning for a component that means little.
fn report(info: &DominantInfo, dir: &Path, console: &Console) {
    if info.second_over_first > CLOSE_EIGENVALUES {
        tracing::warn!(
            "{}: the first component of {} is not well defined, because the second explains nearly as much",
            info.model,
            info.layer
        );
    }
    console.result(&format!(
        "{}: {} of {} test images dominate {}, whose first component explains {:.1}% of its variance -> {}",
        info.model,
        info.dominant.len(),
        info.examples,
        info.layer,
        100.0 * info.variance_explained,
        dir.display()
    ));
}
