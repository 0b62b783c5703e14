//! Which of cuDNN's engines computes what, once that has been measured.
//!
//! Engines differ in the order of their sums, so that their results differ in the last bits, and which one is the fastest depends
//! on the minute. So it is measured once and kept: the same choices give the same bits.

use std::fmt;
use std::str::FromStr;

/// What computes a convolution or one of its gradients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A kernel of ours: cuDNN has no engine that computes it as it is wanted.
    Own,
    /// An engine of cuDNN.
    Engine {
        /// Its number among those of the operation.
        index: i64,
        /// Its settings: kinds, as cuDNN numbers them, and values.
        knobs: Vec<(i32, i64)>,
    },
}

/// Keeps choices from one process to the next, by the text of what they are of: GPU, version of cuDNN, operation, shape, types.
pub trait Choices: fmt::Debug + Send + Sync {
    /// What was chosen.
    ///
    /// # Errors
    /// What a person should know of why that is not to be had.
    fn find(&self, of: &str) -> Result<Option<Choice>, String>;

    /// Keeps `choice`, unless there is one by now, and returns the one that is kept.
    ///
    /// # Errors
    /// As [`Choices::find`].
    fn keep(&self, of: &str, choice: Choice) -> Result<Choice, String>;

    /// What a person should know where cuDNN refuses what was chosen: another driver may compile other engines.
    fn refused(&self, of: &str, reason: &str) -> String {
        format!("{of}: the engine that was chosen is refused: {reason}")
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => formatter.write_str("own"),
            Self::Engine { index, knobs } => {
                write!(formatter, "{index}")?;
                knobs.iter().try_for_each(|(kind, value)| write!(formatter, " {kind}={value}"))
            }
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    /// What [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "own" {
            return Ok(Self::Own);
        }
        let wrong = || format!("{text:?} is no choice of an engine");
        let mut words = text.split(' ');
        let index = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let knob = |word: &str| {
            let (kind, value) = word.split_once('=')?;
            Some((kind.parse().ok()?, value.parse().ok()?))
        };
        let knobs = words.map(knob).collect::<Option<_>>().ok_or_else(wrong)?;
        Ok(Self::Engine { index, knobs })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let engine = |index, knobs: &[(i32, i64)]| Choice::Engine { index, knobs: knobs.to_vec() };
        for (choice, text) in
            [(Choice::Own, "own"), (engine(0, &[]), "0"), (engine(33, &[(2, 15), (25, -1)]), "33 2=15 25=-1")]
        {
            assert_eq!((choice.to_string().as_str(), text.parse()), (text, Ok(choice)));
        }
        for wrong in ["", "x", "1 2", "1 2=", "1  2=3", "own 1=2"] {
            assert!(wrong.parse::<Choice>().unwrap_err().contains("no choice"), "{wrong:?}");
        }
    }
}
