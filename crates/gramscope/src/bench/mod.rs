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
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::console::Console;

/// Rows as they come: a line each on stdout and, as JSON, in a file.
pub(crate) struct Rows<'a> {
    console: &'a Console,
    json: Option<RowFile>,
}

/// A file of rows. Those of an earlier call stay until there is a row to take their place.
struct RowFile {
    file: File,
    begun: bool,
}

impl<'a> Rows<'a> {
    /// Rows that go to `json` too, where there is one.
    ///
    /// # Errors
    /// A file that cannot be written, or that holds something else.
    pub(crate) fn new(console: &'a Console, json: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| RowFile::open(path).with_context(|| format!("--json {}", path.display()));
        Ok(Self { console, json: json.map(open).transpose()? })
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
            json.append(fields).context("--json")?;
        }
        Ok(())
    }
}

impl RowFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut first = Vec::new();
        if path.is_file() {
            File::open(path)?.take(1).read_to_end(&mut first)?;
        }
        if first.iter().any(|&byte| byte != b'{') {
            bail!("there is a file of this name that holds no rows; choose another, or move it away");
        }
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self { file, begun: false })
    }

    fn append(&mut self, fields: &Value) -> std::io::Result<()> {
        if !self.begun && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.begun = true;
        writeln!(self.file, "{fields}")
    }
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// If there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(super::median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(super::median(vec![9.0, 1.0, 5.0, 2.0]), 3.5);
    }
}
