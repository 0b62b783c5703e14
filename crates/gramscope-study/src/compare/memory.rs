//! What of the memory that a command may take is for what.

use gramscope_cka::Comparison;
use gramscope_nn::Backend;
use half::bf16;

use super::{Model, TestImages};
use crate::{Error, Fewer, Result};

/// Bytes of the process, and of reading, drawing and writing what does not grow.
const PROCESS: u64 = 96 << 20;
/// Bytes an entry of a map: sums and results, and what drawing and writing them takes for a while.
const ENTRY: u64 = 64;

/// The bytes of memory that a command may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Of the host's; as much as is wanted where there is no limit.
    pub host: Option<u64>,
    /// Of the GPU's, where one runs networks or compares; most of what is free there where there is no limit.
    pub device: Option<u64>,
}

/// What a comparison needs memory for.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    /// The comparison, as an error's message calls it.
    pub(crate) what: String,
    /// Examples in a batch.
    pub(crate) examples: usize,
    /// Entries of all maps.
    pub(crate) entries: u64,
    /// Bytes of a layer's rows of the panels.
    pub(crate) row: u64,
    /// Rows of the panels that there can be a use for at once.
    pub(crate) rows: u64,
    /// Bytes of the largest layer over a batch where it is read from a file.
    pub(crate) largest_layer: u64,
    /// Bytes of everything else.
    pub(crate) other: u64,
    /// What there can be less of.
    pub(crate) lower: &'static [Fewer],
}

/// What may be taken for what; no limit is a limit that is never met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Bytes of panels.
    pub(crate) panels: u64,
    /// Bytes of a layer over a batch; what is larger is to stay in its file.
    pub(crate) layer: u64,
}

impl Needs {
    /// How `limit` is shared out.
    ///
    /// # Errors
    /// [`Error::Memory`] where not even two layers can be in memory side by side.
    pub(crate) fn within(&self, limit: Option<u64>) -> Result<Shares> {
        let Some(limit) = limit else { return Ok(Shares { panels: u64::MAX, layer: u64::MAX }) };
        let [workspace, reading] = Comparison::workspace_bytes(self.examples);
        let entries = self.entries.saturating_mul(ENTRY);
        let fixed = [entries, workspace, self.other].into_iter().fold(PROCESS, u64::saturating_add);
        let least = self.row.saturating_mul(self.rows.min(2));
        let left = limit.saturating_sub(fixed);
        // Whole layers are read faster than parts, panels in one round faster than in several.
        let whole = self.largest_layer <= (left / 4).max(reading);
        let (layer, taken) = if whole { (u64::MAX, self.largest_layer) } else { (reading, reading) };
        let needed = [least, taken].into_iter().fold(fixed, u64::saturating_add);
        if needed > limit {
            let Self { what, lower, .. } = self;
            return Err(Error::Memory { what: what.clone(), needed, limit, lower });
        }
        Ok(Shares { panels: left - taken, layer })
    }
}

/// What batches need memory for of which only one is in memory, and whose size does not matter to the result.
#[derive(Clone, Debug)]
pub(crate) struct BatchNeeds {
    /// What an example is, as an error's message calls several.
    pub(crate) what: String,
    /// Bytes of an example.
    pub(crate) example: u64,
    /// Entries of all maps.
    pub(crate) entries: u64,
    /// Bytes of everything else.
    pub(crate) other: u64,
    /// What there can be less of.
    pub(crate) lower: &'static [Fewer],
}

impl BatchNeeds {
    /// Of batches of `data` on their way through `model`, so many images of which take so many `bytes`.
    ///
    /// # Errors
    /// Those of `bytes`.
    pub(crate) fn of_images(
        what: &str,
        model: &Model,
        data: &TestImages,
        bytes: &dyn Fn(usize) -> Result<u64>,
    ) -> Result<Self> {
        let (fixed, first) = (bytes(0)?, bytes(1)?);
        let (what, other) = (what.to_owned(), data.bytes() + model.bytes() + fixed);
        Ok(Self { what, example: first - fixed, entries: 0, other, lower: &[Fewer::Examples] })
    }

    /// How many examples, at most `most`, a batch may have within `limit`.
    ///
    /// # Errors
    /// [`Error::Memory`] where it may not have one.
    pub(crate) fn within(&self, limit: Option<u64>, most: usize) -> Result<usize> {
        let Some(limit) = limit else { return Ok(most) };
        let fixed = [self.entries.saturating_mul(ENTRY), self.other].into_iter().fold(PROCESS, u64::saturating_add);
        let needed = fixed.saturating_add(self.example);
        if needed > limit {
            return Err(Error::Memory { what: self.what.clone(), needed, limit, lower: self.lower });
        }
        let fitting = (limit - fixed) / self.example.max(1);
        Ok(usize::try_from(fitting).map_or(most, |fitting| fitting.min(most)))
    }
}

/// Fails where `what` needs more than `limit`: so many `bytes` beside those of the process.
///
/// # Errors
/// [`Error::Memory`], with what there can be less of.
pub(crate) fn check_memory(what: String, bytes: u64, limit: Option<u64>, lower: &'static [Fewer]) -> Result<()> {
    let needed = PROCESS.saturating_add(bytes);
    match limit {
        Some(limit) if needed > limit => Err(Error::Memory { what, needed, limit, lower }),
        _ => Ok(()),
    }
}

/// The most bytes of the host's memory that running any of `models` over a batch of `examples` takes, beside what they are
/// themselves. Of a network on a GPU one layer at a time comes here, unless it `stays` there: as it is stored, and as float32.
pub(crate) fn forward_bytes(models: &[Model], examples: usize, stays: bool) -> u64 {
    let copied = |model: &Model| match model.processor().backend() {
        _ if stays => 0,
        Backend::CudaBf16 | Backend::CudaBf16Cudnn => size_of::<bf16>() + size_of::<f32>(),
        _ => size_of::<f32>(),
    };
    let bytes = |model: &Model| match model.gpu() {
        None => model.network.observation_bytes(examples),
        Some(_) => ((copied(model) * model.largest_output()) as u64).saturating_mul(examples as u64),
    };
    models.iter().map(bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;

    fn needs() -> Needs {
        Needs {
            what: "batches of 256".to_owned(),
            examples: 256,
            entries: 0,
            row: MIB,
            rows: 2000,
            largest_layer: 100 * MIB,
            other: 0,
            lower: &[Fewer::InBatch],
        }
    }

    #[test]
    fn what_there_is_is_shared_out_and_never_more() {
        assert_eq!(needs().within(None).unwrap(), Shares { panels: u64::MAX, layer: u64::MAX });
        let [workspace, reading] = Comparison::workspace_bytes(256);
        let fixed = PROCESS + workspace;
        for limit in (200..4000).step_by(50).map(|mib| mib * MIB) {
            match needs().within(Some(limit)) {
                Ok(Shares { panels, layer: u64::MAX }) => assert_eq!(fixed + panels + 100 * MIB, limit),
                Ok(Shares { panels, layer }) => assert_eq!((fixed + panels + reading, layer), (limit, reading)),
                Err(error) => assert!(limit < fixed + reading.min(100 * MIB) + 2 * MIB, "{limit}: {error}"),
            }
        }
    }

    #[test]
    fn batches_have_as_many_examples_as_fit() {
        let lower = &[Fewer::Examples];
        let needs = BatchNeeds { what: "images".to_owned(), example: MIB, entries: 0, other: 4 * MIB, lower };
        let within = |mib: u64| needs.within(Some(PROCESS + mib * MIB), 64);
        assert_eq!(needs.within(None, 64).unwrap(), 64);
        for (mib, examples) in [(5, 1), (6, 2), (67, 63), (68, 64), (1000, 64)] {
            assert_eq!(within(mib).unwrap(), examples, "{mib} MiB");
        }
        let message = within(4).unwrap_err().to_string();
        assert!(
            message.contains("images need 101.0 MiB")
                && message.contains("100.0 MiB; choose fewer examples, or allow more"),
            "{message}"
        );
        let huge = BatchNeeds { example: u64::MAX, entries: u64::MAX, ..needs };
        assert!(huge.within(Some(u64::MAX - 1), 64).is_err());
    }

    #[test]
    fn what_does_not_fit_says_what_was_needed_and_what_would_help() {
        let message = needs().within(Some(50 * MIB)).unwrap_err().to_string();
        for part in ["batches of 256", "50.0 MiB", "smaller batches, or allow more"] {
            assert!(message.contains(part), "{part} is missing from: {message}");
        }
        let huge = Needs { entries: u64::MAX, row: u64::MAX, largest_layer: u64::MAX, ..needs() };
        assert!(huge.within(Some(u64::MAX - 1)).is_err());
    }
}
