//! Names for what may have equal ones.

use std::collections::HashSet;

use gramscope_train::Run;

/// The names of the runs; equal ones get a number.
pub fn run_names(runs: &[Run]) -> Vec<String> {
    let mut taken = HashSet::new();
    runs.iter().map(|run| unused(&run.name(), &mut taken)).collect()
}

/// `name`, or else the first of `name-2`, `name-3`, ... that is not among the `taken`, to which it is added.
pub(crate) fn unused(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| taken.insert(name.to_lowercase())).expect("there are more numbers than names")
}
