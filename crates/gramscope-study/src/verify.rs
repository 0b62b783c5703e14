//! Is everything below a directory as it was written?

use std::path::Path;

use gramscope_train::Verified;

use crate::{
    Error, Result, ablate, blocks, cosine, dominant, epochs, mean, pcs, predict, probe, results, sparsity, studies,
    tree,
};

/// Looks at every run and every result below `dir`: the settings, the line of each epoch, and all checksums.
///
/// # Errors
/// [`Error::Io`] where a directory cannot be listed, [`Error::File`] where there is nothing to look at.
pub fn verify(dir: &Path) -> Result<Vec<Verified>> {
    let mut files = Vec::new();
    for dir in tree::directories(dir)? {
        if dir.join(tree::RUN_MARK).is_file() {
            files.extend(gramscope_train::verify(&dir)?);
        }
        if results::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(results::NUMBERS), results::load(&dir)));
        }
        if pcs::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(pcs::NUMBERS), pcs::load(&dir)));
        }
        if dominant::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(dominant::NUMBERS), dominant::load(&dir)));
        }
        if cosine::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(cosine::NUMBERS), cosine::load(&dir)));
        }
        if sparsity::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(sparsity::NUMBERS), sparsity::load(&dir)));
        }
        if dir.join(studies::INFO).is_file() {
            files.push(Verified::new(dir.join(studies::INFO), studies::load(&dir)));
        }
        if epochs::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(epochs::NUMBERS), epochs::load(&dir)));
        }
        if dir.join(blocks::BLOCKS).is_file() {
            files.push(Verified::new(dir.join(blocks::BLOCKS), blocks::load(&dir)));
        }
        if probe::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(probe::PROBES), probe::load(&dir)));
        }
        if ablate::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(ablate::ABLATIONS), ablate::load(&dir)));
        }
        if mean::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(mean::NUMBERS), mean::load(&dir)));
        }
        if predict::FILES.any_in(&dir) {
            files.push(Verified::new(dir.join(predict::NUMBERS), predict::load(&dir)));
        }
    }
    if files.is_empty() {
        return Err(Error::file(dir, "there is neither a run nor a result below it"));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::results::NUMBERS;
    use crate::results::tests::made;

    #[test]
    fn damage_is_named_and_the_rest_is_well() {
        let dir = tempfile::tempdir().unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("neither"));
        for name in ["a", "b"] {
            results::save(&dir.path().join("deep").join(name), &made(name, name)).unwrap();
        }
        let problems =
            || -> Vec<bool> { verify(dir.path()).unwrap().iter().map(|verified| verified.problem.is_some()).collect() };
        assert_eq!(problems(), [false, false]);
        let path = dir.path().join("deep").join("b").join(NUMBERS);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(problems(), [false, true]);
    }
}
