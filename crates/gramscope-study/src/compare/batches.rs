//! How examples are cut into minibatches.

use std::ops::Range;

use gramscope_nn::random::{Philox, Stream};

use super::CompareOptions;
use crate::{Error, Result, Setting};

/// The minibatches of one pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batches {
    /// At least one.
    pub(super) ranges: Vec<Range<usize>>,
    /// Examples at the end that are in none.
    pub(super) dropped: usize,
}

impl Batches {
    /// Cuts `examples` examples into batches of `options.batch_size`. The rest is dropped, or is a batch of its own if
    /// that is asked for and the estimator is defined for so few.
    ///
    /// # Errors
    /// [`Error::Incomparable`] where the estimator needs larger batches, or where there is not one whole batch and a
    /// partial one is not asked for.
    pub(super) fn cut(examples: usize, options: &CompareOptions) -> Result<Self> {
        let CompareOptions { batch_size, keep_partial, .. } = *options;
        let estimator = options.cka.estimator;
        let needed = estimator.minimum_examples();
        if batch_size < needed {
            let problem =
                format!("batches of {batch_size}: the {estimator} estimator needs at least {needed} examples in each");
            return Err(Error::incomparable(problem).mended_by(&[Setting::BatchSize]));
        }
        if examples < needed {
            return Err(Error::incomparable(format!(
                "there are only {examples} examples: the {estimator} estimator needs at least {needed}"
            )));
        }
        if examples < batch_size && !keep_partial {
            let problem = format!("{examples} examples do not fill one batch of {batch_size}; choose smaller ones");
            return Err(Error::incomparable(problem).mended_by(&[Setting::BatchSize, Setting::KeepPartial]));
        }
        let whole = examples / batch_size;
        let mut ranges: Vec<_> = (0..whole).map(|batch| batch * batch_size..(batch + 1) * batch_size).collect();
        let mut dropped = examples - whole * batch_size;
        if keep_partial && dropped >= needed {
            ranges.push(examples - dropped..examples);
            dropped = 0;
        } else if keep_partial && dropped > 0 {
            tracing::warn!(
                "the last {dropped} examples are left out: the {estimator} estimator needs batches of at least {needed}"
            );
        }
        Ok(Self { ranges, dropped })
    }

    /// Those of `passes` that are not over after the first `done` batches of all, and what is left of each.
    pub(super) fn after(&self, done: usize, passes: Range<u32>) -> impl Iterator<Item = (u32, &[Range<usize>])> {
        let all = self.ranges.len();
        let left = move |pass: u32| &self.ranges[done.saturating_sub(pass as usize * all).min(all)..];
        passes.map(move |pass| (pass, left(pass))).filter(|(_, left)| !left.is_empty())
    }

    /// Examples of the largest one, which comes first.
    pub(super) fn largest(&self) -> usize {
        self.ranges.first().map_or(0, Range::len)
    }

    /// Examples of the last one.
    pub(super) fn last(&self) -> usize {
        self.ranges.last().map_or(0, Range::len)
    }
}

/// The numbers of so many passes over the examples.
///
/// # Errors
/// [`Error::Incomparable`] for none, or more than 2^32 - 1.
pub(super) fn passes(passes: usize) -> Result<Range<u32>> {
    match u32::try_from(passes) {
        Ok(passes) if passes > 0 => Ok(0..passes),
        _ => {
            let problem = format!("{passes} passes: must be from 1 to {}", u32::MAX);
            Err(Error::incomparable(problem).mended_by(&[Setting::Passes]))
        }
    }
}

/// The order of so many examples in a pass, which depends on the seed and the pass alone.
pub(super) fn shuffled(examples: usize, pass: u32, seed: u64) -> Vec<usize> {
    Philox::new(seed, Stream::Evaluation).sequence(pass).permutation(examples)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gramscope_cka::{Estimator, Options};

    use super::*;

    fn options(batch_size: usize, keep_partial: bool) -> CompareOptions {
        CompareOptions { batch_size, keep_partial, ..CompareOptions::default() }
    }

    #[test]
    fn a_short_batch_is_dropped_unless_asked_for_and_large_enough() {
        let cut = |examples, batch_size, keep| Batches::cut(examples, &options(batch_size, keep)).unwrap();
        assert_eq!(cut(20, 8, false), Batches { ranges: vec![0..8, 8..16], dropped: 4 });
        assert_eq!(cut(20, 8, true), Batches { ranges: vec![0..8, 8..16, 16..20], dropped: 0 });
        assert_eq!(cut(19, 8, true), Batches { ranges: vec![0..8, 8..16], dropped: 3 });
        assert_eq!(cut(5, 8, true), Batches { ranges: std::iter::once(0..5).collect(), dropped: 0 });
        assert_eq!(cut(16, 8, false), cut(16, 8, true));
        assert_eq!([cut(20, 8, true).last(), cut(20, 8, false).last()], [4, 8]);
    }

    #[test]
    fn passes_are_gone_through_from_where_they_were_left() {
        let batches = Batches::cut(25, &options(8, false)).unwrap();
        let all: Vec<(u32, Range<usize>)> =
            (0..2).flat_map(|pass| batches.ranges.iter().map(move |range| (pass, range.clone()))).collect();
        for done in 0..=8 {
            let left =
                batches.after(done, 0..2).flat_map(|(pass, left)| left.iter().map(move |range| (pass, range.clone())));
            assert_eq!(left.collect::<Vec<_>>(), all[done.min(6)..], "after {done}");
        }
    }

    #[test]
    fn too_few_examples_say_what_would_help() {
        for (examples, options, parts) in [
            (7, options(8, false), ["7", "one batch of 8", "smaller ones"]),
            (3, options(8, true), ["3", "unbiased", "at least 4"]),
            (3, options(256, false), ["3", "unbiased", "at least 4"]),
            (0, options(256, true), ["0", "examples", "at least 4"]),
            (9, options(3, false), ["batches of 3", "unbiased", "at least 4"]),
        ] {
            let message = Batches::cut(examples, &options).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn the_biased_estimator_takes_pairs() {
        let cka = Options { estimator: Estimator::Biased, ..Options::default() };
        let options = CompareOptions { cka, batch_size: 3, keep_partial: true, ..CompareOptions::default() };
        assert_eq!(Batches::cut(5, &options).unwrap().ranges, [0..3, 3..5]);
        assert_eq!(Batches::cut(4, &options).unwrap(), Batches { ranges: std::iter::once(0..3).collect(), dropped: 1 });
    }
}
