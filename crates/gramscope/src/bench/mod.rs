//! What `gramscope bench` measures: rows of time and work, one JSON object a line.
//!
//! A row says how long something took (the median of several measurements after a warm-up), what it moved and computed, and
//! what share that is of what the machine can do at best, measured in the same run.

pub(crate) mod ceilings;
pub(crate) mod cka;
#[cfg(feature = "cuda")]
pub(crate) mod kernels;
pub(crate) mod probe;
mod rounds;
pub(crate) mod train;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::console::Console;

/// Rows as they come: a line each on stdout and, as JSON, in a file.
pub(crate) struct Rows<'a> {
    console: &'a Console,
    json: Option<BufWriter<File>>,
}

impl<'a> Rows<'a> {
    /// Rows that go to `json` too, where there is one.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub(crate) fn new(console: &'a Console, json: Option<&Path>) -> anyhow::Result<Self> {
        let create = |path: &Path| File::create(path).with_context(|| format!("--json {}", path.display()));
        Ok(Self { console, json: json.map(create).transpose()?.map(BufWriter::new) })
    }

    /// Something that rows alone do not say.
    #[cfg(feature = "cuda")]
    fn note(&self, text: &str) {
        self.console.note("bench", text, serde_json::json!({ "message": text }));
    }

    /// One measurement: `text` for people, `fields` for programs.
    ///
    /// # Errors
    /// A file that cannot be written.
    fn row(&mut self, text: &str, fields: &Value) -> anyhow::Result<()> {
        self.console.result(text);
        if let Some(json) = &mut self.json {
            writeln!(json, "{fields}").and_then(|()| json.flush()).context("--json")?;
        }
        Ok(())
    }
}

/// The middle one.
///
/// # Panics
/// If there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(super::median(vec![9.0, 1.0, 5.0]), 5.0);
    }
}
