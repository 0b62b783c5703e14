//! `gramscope doctor`: what this machine has, and whether its numbers are right.

use crate::arguments::DoctorArguments;
use crate::console::Console;
use crate::doctor;

/// Checks everything there is, or what was asked for.
pub(crate) fn run(arguments: &DoctorArguments, console: &Console) -> anyhow::Result<()> {
    doctor::run(arguments.device, arguments.only.as_ref(), console)
}
