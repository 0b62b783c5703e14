//! What a name that nobody knows was most likely meant to be.

/// The likeness, by Jaro's measure, from which one name may be another.
const LIKELY: f64 = 0.8;

/// The name of `known` that looks most like `written`, if one does; case, dashes and underscores aside.
pub(crate) fn nearest(written: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let written = plain(written);
    known
        .into_iter()
        .map(|name| (strsim::jaro(&written, &plain(name)), name))
        .filter(|&(likeness, _)| likeness >= LIKELY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_seen_through_and_another_word_is_not() {
        for (written, meant) in [
            ("depht", Some("depth")),
            ("Batch-Size", Some("batch_size")),
            ("batchsize", Some("batch_size")),
            ("learning", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, ["depth", "width", "batch_size"]), meant, "{written}");
        }
    }
}
