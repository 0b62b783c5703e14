//! `gramscope report`: one page about everything below a directory.

use crate::arguments::ReportArguments;
use crate::console::Console;

/// Writes DIR/report.html.
pub(crate) fn run(arguments: &ReportArguments, console: &Console) -> anyhow::Result<()> {
    let page = gramscope_study::report::write(&arguments.dir)?;
    console.result(&format!("{}", page.display()));
    Ok(())
}
