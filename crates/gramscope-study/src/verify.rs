//! Is everything below a directory as it was written?

use std::path::Path;

use gramscope_train::Verified;

use crate::ablate::AblateResult;
use crate::blocks::BlocksInfo;
use crate::cosine::CosineResult;
use crate::dominant::Dominant;
use crate::epochs::EpochsResult;
use crate::mean::Mean;
use crate::pair::PairResult;
use crate::pcs::PcsResult;
use crate::predict::PredictResult;
use crate::probe::ProbeResult;
use crate::sparsity::Sparsity;
use crate::studies::StudyInfo;
use crate::{Error, Result, Saved, tree};

/// Every kind of result: whether the one in a directory, if there is one, is as it was written.
const KINDS: [fn(&Path) -> Option<Verified>; 12] = [
    verified::<PairResult>,
    verified::<PcsResult>,
    verified::<Dominant>,
    verified::<CosineResult>,
    verified::<Sparsity>,
    verified::<StudyInfo>,
    verified::<EpochsResult>,
    verified::<BlocksInfo>,
    verified::<ProbeResult>,
    verified::<AblateResult>,
    verified::<Mean>,
    verified::<PredictResult>,
];

fn verified<R: Saved>(dir: &Path) -> Option<Verified> {
    R::any_in(dir).then(|| Verified::new(dir.join(R::SEALED[0]), R::load(dir)))
}

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
        files.extend(KINDS.iter().filter_map(|verified| verified(&dir)));
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
    use crate::pair::NUMBERS;
    use crate::pair::tests::made;

    #[test]
    fn damage_is_named_and_the_rest_is_well() {
        let dir = tempfile::tempdir().unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("neither"));
        for name in ["a", "b"] {
            made(name, name).save(&dir.path().join("deep").join(name)).unwrap();
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
