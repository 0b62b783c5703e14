//! The command line of Gramscope.

fn main() {}
