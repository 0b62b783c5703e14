//! `gramscope verify`: are all runs and results below a directory as they were written, and all there?

use anyhow::bail;
use gramscope_study::verify::verify;

use crate::arguments::VerifyArguments;
use crate::console::Console;

/// Looks at everything, and names what is damaged or missing.
///
/// # Errors
/// Anything that is makes the command fail, after the rest has been looked at.
pub(crate) fn run(arguments: &VerifyArguments, console: &Console) -> anyhow::Result<()> {
    let files = verify(&arguments.dir)?;
    let damaged: Vec<_> = files.iter().filter_map(|file| Some((&file.path, file.problem.as_ref()?))).collect();
    for (path, problem) in &damaged {
        console.result(&format!("damaged or missing: {}\n  {problem}", path.display()));
    }
    let well = files.len() - damaged.len();
    console.result(&format!("{well} files as they were written, {} damaged or missing", damaged.len()));
    match damaged.first() {
        None => Ok(()),
        Some((path, _)) => bail!(
            "{} of {} files are damaged or missing, {} first; sweep and train --resume go on from the newest good checkpoint, results \
             are to be computed again",
            damaged.len(),
            files.len(),
            path.display()
        ),
    }
}
