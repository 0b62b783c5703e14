//! Whether results can go to a directory.

use std::path::Path;

use gramscope_train::atomic;

use crate::tree::RUN_MARK;
use crate::{Error, Result, Setting};

/// Fails where files of these `names` cannot go to `dir`: where it is a run's, or is no directory and cannot become one, or where one
/// of the names is taken and `is_result` says that what is there is none.
pub(super) fn check_place(dir: &Path, names: &[&str], is_result: impl FnOnce(&Path) -> bool) -> Result<()> {
    check_writable(dir)?;
    if dir.join(RUN_MARK).exists() {
        let problem = "holds a run; choose another place for the results";
        return Err(Error::file(dir, problem).mended_by(&[Setting::Out]));
    }
    match names.iter().find(|name| dir.join(name).exists()) {
        Some(name) if !is_result(dir) => {
            let problem =
                "there is a file of this name that belongs to no result; choose another place, or move it away";
            Err(Error::file(&dir.join(name), problem).mended_by(&[Setting::Out]))
        }
        _ => Ok(()),
    }
}

/// Fails where no file can be made in `dir`, or, while there is no such directory, in the nearest one above it that there is.
fn check_writable(dir: &Path) -> Result<()> {
    let here = if dir.is_absolute() { dir.to_owned() } else { Path::new(".").join(dir) };
    let Some(nearest) = here.ancestors().find(|place| place.exists()) else { return Ok(()) };
    if !nearest.is_dir() {
        let problem = "not a directory, so no results can go there; choose another place";
        return Err(Error::file(nearest, problem).mended_by(&[Setting::Out]));
    }
    // Gone again when it is dropped.
    atomic::NewFile::create(&nearest.join("results")).map(drop).map_err(Error::io("write to", dir))
}
