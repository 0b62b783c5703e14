//! `gramscope sparsity`: zeros in the outputs of a run's ReLUs.

use gramscope_study::Saved;
use gramscope_study::sparsity::{self, Sparsity, SparsityOptions};

use super::{other_data, placed_runs, with_bar};
use crate::arguments::SparsityArguments;
use crate::console::Console;
use crate::device;

/// Counts and writes the result.
pub(crate) fn run(arguments: &SparsityArguments, console: &Console) -> anyhow::Result<()> {
    let runs = placed_runs(&arguments.runs, Sparsity::check)?;
    let (processor, memory) = device::machine(&arguments.machine, console)?;
    let options =
        SparsityOptions { examples: arguments.examples, data: other_data(arguments.data.as_deref())?, memory };
    for (run, dir) in &runs {
        let result = with_bar(console, "counting", |progress| sparsity::sparsity(run, &options, &processor, progress))?;
        result.write(dir)?;
        console.result(&format!("{}: {} -> {}", result.info.model, result.summary(), dir.display()));
    }
    Ok(())
}
