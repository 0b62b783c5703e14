//! Results on disk: what every kind of result has in common, and the formats they lie in. Numbers are sealed with a description that
//! holds the checksum of both; every file is written to a temporary name and renamed.

mod files;
pub(crate) mod npz;
mod place;
mod sealed;
mod staged;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use gramscope_train::atomic;

pub(crate) use files::{Files, InfoFile, ListFiles};
pub(crate) use npz::{Array, Npz};
pub use staged::Staged;

use crate::{Error, Result, plot};
use place::check_place;

/// A kind of result, as it lies in a directory.
pub trait Saved: Sized {
    /// The files that hold it, the numbers first, their description last.
    const SEALED: &'static [&'static str];
    /// Lists for other tools that follow from those files.
    const EXCERPTS: &'static [&'static str] = &[];
    /// Its pictures, at least one. The first is the one that every result has, and the last to be drawn: where it is, the result is
    /// whole.
    const PICTURES: &'static [&'static str];

    /// Writes the files that hold it into `dir`, whole but for their names: an earlier result there stays until they are published.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or written, [`Error::File`] where it names a file whose name is not Unicode.
    fn stage(&self, dir: &Path) -> Result<Staged>;

    /// Writes the files that hold it into `dir`; an earlier result there is replaced.
    ///
    /// # Errors
    /// Those of [`Self::stage`].
    fn save(&self, dir: &Path) -> Result<()> {
        self.stage(dir)?.publish()
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for one that does not hold a result, or where the files do not belong
    /// together.
    fn load(dir: &Path) -> Result<Self>;

    /// Whether such a result lies in `dir`, or what is left of one by a process that was killed while it saved: of several files, some.
    /// This is for kinds of one file.
    fn is_in(dir: &Path) -> bool {
        Self::load(dir).is_ok()
    }

    /// Whether it holds what its pictures show. Where it does not, they are drawn by whoever has that, and [`Self::write`] leaves them.
    fn shows(&self) -> bool {
        true
    }

    /// Draws its pictures into `dir`; nothing for a result that does not hold what they show.
    ///
    /// # Errors
    /// What drawing may say.
    fn draw(&self, dir: &Path) -> Result<()> {
        let _ = dir;
        Ok(())
    }

    /// Fails where a result cannot go to `dir`, so that this is known before anything is computed. The directory need not exist, and
    /// may hold other things, an earlier result among them.
    ///
    /// # Errors
    /// [`Error::File`] for a run directory, for something that is not a directory, and where one of the files' names is taken by
    /// something that is not such a result; [`Error::Io`] where nothing can be written.
    fn check(dir: &Path) -> Result<()> {
        check_place(dir, &[Self::SEALED, Self::EXCERPTS, Self::PICTURES].concat(), Self::is_in)
    }

    /// Writes its files into `dir` and draws its pictures; an earlier result there is replaced once the files are on the disk, its
    /// pictures first: none stands beside numbers that it does not show. A picture that cannot be drawn or removed is logged as a warning.
    ///
    /// # Errors
    /// Those of [`Self::check`], before anything is written, and those of [`Self::save`].
    fn write(&self, dir: &Path) -> Result<()> {
        Self::check(dir)?;
        let staged = self.stage(dir)?;
        if self.shows() {
            Self::remove_pictures(dir);
        }
        staged.publish()?;
        plot::warn_about(self.draw(dir));
        Ok(())
    }

    /// Removes the pictures of an earlier result from `dir`; one that cannot be removed is logged as a warning.
    fn remove_pictures(dir: &Path) {
        for path in Self::PICTURES.iter().map(|name| dir.join(name)).filter(|path| path.is_file()) {
            if let Err(reason) = fs::remove_file(&path) {
                tracing::warn!("{}: the picture of an earlier result stays: {reason}", path.display());
            }
        }
    }

    /// Whether one of the files that hold such a result lies in `dir`.
    fn any_in(dir: &Path) -> bool {
        Self::SEALED.iter().any(|name| dir.join(name).is_file())
    }
}

/// Makes the directory of a result ready to be written to.
///
/// # Errors
/// [`Error::Io`] where it cannot be made, or cleared of what a killed process left.
pub(crate) fn prepare(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("make the directory", dir))?;
    atomic::remove_left(dir).map_err(Error::io("clear of temporary files", dir))
}

/// Where in `layers` the `names` are.
pub(crate) fn positions(layers: &[String], names: &[String]) -> Vec<usize> {
    let names: HashSet<&String> = names.iter().collect();
    (0..layers.len()).filter(|&layer| names.contains(&layers[layer])).collect()
}
