//! What `gramscope doctor` looks at: the machine, the numbers of the CPU's paths, and those of the GPU's.
//!
//! Every check compares with `gramscope-reference`, plain float64 loops over the definitions, on inputs that are meant to
//! hurt. A check is a line: pass or fail, what was checked, and the worst error next to what is allowed. NaN fails.

mod cka;
#[cfg(feature = "cuda")]
mod convolutions;
#[cfg(feature = "cuda")]
mod gpu;
mod inputs;
#[cfg(feature = "cuda")]
mod kernels;
mod machine;
#[cfg(feature = "cuda")]
mod networks;
#[cfg(feature = "cuda")]
mod probes;
mod training;
#[cfg(feature = "cuda")]
mod training_kernels;

use regex::Regex;

use crate::console::Console;
use crate::device::DeviceChoice;
use crate::words::told;

/// Checks everything there is, or what of it `only` matches, a line each.
///
/// # Errors
/// A GPU that was asked for and cannot be had; any check that fails; no check that matches.
pub(crate) fn run(choice: DeviceChoice, only: Option<&Regex>, console: &Console) -> anyhow::Result<()> {
    let mut report = Report { console, only, checks: 0, failed: 0 };
    machine::describe(&report);
    let gpu = machine::gpu(choice, &report)?;
    report.heading("CPU");
    cka::check(&mut report, "CKA", &cka::HOST, cka::cases());
    training::check(&mut report);
    #[cfg(feature = "cuda")]
    if let Some(device) = gpu {
        gpu::check(&mut report, &device);
    }
    #[cfg(not(feature = "cuda"))]
    let _ = gpu;
    report.end()
}

/// The lines so far.
pub(crate) struct Report<'a> {
    console: &'a Console,
    /// Which checks are wanted, by name.
    only: Option<&'a Regex>,
    checks: usize,
    failed: usize,
}

impl Report<'_> {
    fn heading(&self, text: &str) {
        self.console.result(&format!("\n{text}"));
    }

    fn fact(&self, name: &str, value: &str) {
        self.console.result(&format!("  {name:<12} {value}"));
    }

    /// Whether the check of this name is wanted.
    fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only.is_match(name))
    }

    /// The line of one check, where it is wanted: what it found, or why it failed.
    fn check(&mut self, name: &str, outcome: impl FnOnce() -> anyhow::Result<Finding>) {
        if !self.wants(name) {
            return;
        }
        self.checks += 1;
        let (verdict, detail) = match outcome() {
            Ok(finding) if finding.passes() => ("pass", finding.to_string()),
            Ok(finding) => ("FAIL", finding.to_string()),
            Err(error) => ("FAIL", told(&error)),
        };
        if verdict != "pass" {
            self.failed += 1;
        }
        self.console.result(&format!("  {verdict}  {name}: {detail}"));
    }

    fn end(self) -> anyhow::Result<()> {
        if let (0, Some(only)) = (self.checks, self.only) {
            anyhow::bail!("--only {only} matches none of the checks; without it all their names are listed");
        }
        if self.failed > 0 {
            anyhow::bail!("{} of {} checks failed; their lines begin with FAIL", self.failed, self.checks);
        }
        self.console.result(&format!("\nAll {} checks passed.", self.checks));
        Ok(())
    }
}

/// The worst error of a check, and what is allowed.
#[derive(Clone, Copy, Debug)]
struct Finding {
    error: f64,
    allowed: f64,
    /// How many values were compared.
    values: usize,
}

impl Finding {
    /// Nothing compared yet.
    fn new(allowed: f64) -> Self {
        Self { error: 0.0, allowed, values: 0 }
    }

    /// Compares `found` with `expected`; NaN is right where NaN is expected, and there only.
    fn compare(&mut self, found: f64, expected: f64) {
        self.values += 1;
        let error = if found.is_nan() && expected.is_nan() { 0.0 } else { (found - expected).abs() };
        // NaN and infinity must stay.
        if error.is_nan() || self.error.is_nan() {
            self.error = f64::NAN;
        } else {
            self.error = self.error.max(error);
        }
    }

    /// Compares entry by entry, relative to `scale`.
    fn compare_all(&mut self, found: impl IntoIterator<Item = f64>, expected: &[f64], scale: f64) {
        let mut count = 0;
        for (found, expected) in found.into_iter().zip(expected) {
            self.compare(found / scale, expected / scale);
            count += 1;
        }
        if count != expected.len() {
            self.error = f64::NAN;
        }
    }

    fn passes(&self) -> bool {
        self.values > 0 && self.error <= self.allowed
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { error, allowed, values } = self;
        write!(formatter, "{values} values, worst error {error:.1e} (allowed {allowed:.1e})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_fails_unless_it_is_expected() {
        let finding = |found: f64, expected: f64| {
            let mut finding = Finding::new(0.5);
            finding.compare(1.0, 1.0);
            finding.compare(found, expected);
            finding.compare(1.0, 1.0);
            finding.passes()
        };
        assert!(finding(f64::NAN, f64::NAN) && finding(1.0, 1.5));
        assert!(!finding(f64::NAN, 1.0) && !finding(1.0, f64::NAN) && !finding(1.0, 2.0));
        assert!(!Finding::new(1.0).passes(), "nothing compared is nothing passed");
        let mut short = Finding::new(1.0);
        short.compare_all([1.0], &[1.0, 1.0], 1.0);
        assert!(!short.passes(), "a missing value passes");
    }
}
