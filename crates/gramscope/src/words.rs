//! Numbers and errors in words.

/// "1 batch", "20 batches".
pub(crate) fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// An error and what caused it, without what an error says of its cause itself.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn one_is_one() {
        assert_eq!(counted(1, "batch", "batches"), "1 batch");
        assert_eq!(counted(0, "batch", "batches"), "0 batches");
        assert_eq!(counted(21, "batch", "batches"), "21 batches");
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("no such file").context("cannot read a.png: no such file; replace it").context("no sheet");
        assert_eq!(told(&error), "no sheet: cannot read a.png: no such file; replace it");
    }
}
