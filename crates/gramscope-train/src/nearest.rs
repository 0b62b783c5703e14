//! What a name that nobody knows was most likely meant to be.

/// The likeness, by Jaro's measure, from which a key may be another: it can be nothing but one of those there are.
pub(crate) const LIKELY_KEY: f64 = 0.75;
/// The same of a name that might as well be a directory's.
pub(crate) const LIKELY_NAME: f64 = 0.8;

/// The name of `known` that looks most like `written`, if one is as like as `likely`; case, dashes and underscores aside.
pub(crate) fn nearest(
    written: &str,
    known: impl IntoIterator<Item = &'static str>,
    likely: f64,
) -> Option<&'static str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let written = plain(written);
    known
        .into_iter()
        .map(|name| (strsim::jaro(&written, &plain(name)), name))
        .filter(|&(likeness, _)| likeness >= likely)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TrainSettings;

    #[test]
    fn a_slip_is_seen_through_and_another_word_is_not() {
        for (written, meant) in [
            ("depht", Some("depth")),
            ("Batch-Size", Some("batch_size")),
            ("batchsize", Some("batch_size")),
            ("minibatch_size", Some("batch_size")),
            ("crop", Some("crop_padding")),
            ("color_jitter", Some("colour_distortion")),
            ("optimizer", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, TrainSettings::KEYS, LIKELY_KEY), meant, "{written}");
        }
    }
}
