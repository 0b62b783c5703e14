//! `gramscope sparsity`: zeros in the outputs of a run's ReLUs.

use gramscope_study::Saved;
use gramscope_study::sparsity::{self, Sparsity, SparsityOptions};

use super::{opened, other_data, placed, with_bar};
use crate::arguments::SparsityArguments;
use crate::console::Console;
use crate::{device, memory};

/// Counts and writes the result.
pub(crate) fn run(arguments: &SparsityArguments, console: &Console) -> anyhow::Result<()> {
    let runs = placed(opened(&arguments.runs, false)?, &arguments.out, Sparsity::check)?;
    let processor = device::processor(&arguments.device, console)?;
    let options = SparsityOptions {
        examples: arguments.examples,
        data: other_data(arguments.data.as_deref())?,
        memory: memory::limits(arguments.memory.memory_limit, processor.gpu().is_some()),
    };
    for (run, dir) in &runs {
        let result = with_bar(console, "counting", |progress| sparsity::sparsity(run, &options, &processor, progress))?;
        result.write(dir)?;
        console.result(&format!("{}: {} -> {}", result.info.model, result.summary(), dir.display()));
    }
    Ok(())
}
