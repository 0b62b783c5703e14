//! How much memory a command may take: what it is told, or else a safe share of what there is.

use std::str::FromStr;

use gramscope_nn::memory;
use gramscope_study::compare::MemoryLimits;

/// The share of what there is that is taken unless something else is asked for, in quarters.
const QUARTERS: u64 = 3;

/// More bytes than any machine has: 8 PiB.
const MOST: f64 = (1u64 << 53) as f64;

/// A number of bytes, as `--memory-limit` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit(u64);

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a size; give a number with K, M, G or T, such as 4G or 1.5G");
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(wrong()),
        };
        if !digits.chars().all(|character| character.is_ascii_digit() || character == '.') {
            return Err(wrong());
        }
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        // Whole bytes, of which float64 has every number below 2^53 (8 PiB).
        let bytes = (number * (1u64 << shift) as f64).floor();
        if (1.0..=MOST).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// The bytes that may be taken; none where nothing is asked for and the system does not say what it has.
fn limit(asked: Option<MemoryLimit>) -> Option<u64> {
    match asked {
        Some(MemoryLimit(bytes)) => Some(bytes),
        None => memory::available().map(|bytes| bytes / 4 * QUARTERS),
    }
}

/// What may be taken of the host's memory and, where a GPU does the work, of its: what is asked for is meant for the one that
/// does it.
pub(crate) fn limits(asked: Option<MemoryLimit>, on_gpu: bool) -> MemoryLimits {
    match asked {
        Some(MemoryLimit(bytes)) if on_gpu => MemoryLimits { host: limit(None), device: Some(bytes) },
        _ => MemoryLimits { host: limit(asked), device: None },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_and_anything_else_is_refused() {
        for (text, bytes) in [
            ("4G", 4 << 30),
            ("512m", 512 << 20),
            ("1KiB", 1 << 10),
            ("2TB", 2 << 40),
            ("77", 77),
            ("1.5G", 3 << 29),
            (".5k", 512),
        ] {
            assert_eq!(text.parse(), Ok(MemoryLimit(bytes)));
        }
        for text in ["", "G", "4X", "-1G", "1.5.0G", "1e3", "inf", ".", "0.5", "0", "0M", "4 G", "99999999999T", "4GG"]
        {
            let message = text.parse::<MemoryLimit>().unwrap_err();
            assert!(message.contains("4G or 1.5G"), "{message}");
        }
    }

    #[test]
    fn what_is_asked_for_is_meant_for_what_does_the_work() {
        let asked = Some(MemoryLimit(77));
        assert_eq!(limits(asked, false), MemoryLimits { host: Some(77), device: None });
        assert_eq!(limits(asked, true).device, Some(77));
        assert_eq!(limits(None, true).device, None);
    }
}
