//! `gramscope dominant`: the test images that dominate a layer.

use anyhow::Context;
use gramscope_study::dominant::{self, DominantOptions};
use gramscope_study::pcs::CLOSE_EIGENVALUES;
use gramscope_train::Run;
use gramscope_train::data::DataConfig;

use super::cka::show_progress;
use crate::arguments::DominantArguments;
use crate::console::{Console, Unit};
use crate::{device, memory};

/// Finds the images and writes them.
pub(crate) fn run(arguments: &DominantArguments, console: &Console) -> anyhow::Result<()> {
    dominant::check(&arguments.out)?;
    let processor = device::processor(&arguments.device, console)?;
    let options = DominantOptions {
        examples: arguments.examples,
        layer: arguments.layer.clone(),
        top: arguments.top,
        data: arguments.data.as_deref().map(DataConfig::resolve_argument).transpose().context("--data")?,
        memory: memory::limits(arguments.memory.memory_limit, processor.gpu().is_some()),
    };
    let mut bar = console.progress(Unit::Passes, 0);
    let found = dominant::dominant(&Run::named(&arguments.run)?, &options, &processor, &mut |progress| {
        show_progress(&mut bar, "decomposing", progress);
    })?;
    drop(bar);
    dominant::write(&arguments.out, &found)?;
    let info = &found.info;
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
        arguments.out.display()
    ));
    Ok(())
}
