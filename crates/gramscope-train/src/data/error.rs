//! What can be wrong with data, its configuration and its download.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk;

/// An error of this module. Every message names the file, key or address at fault and what would mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A `--data` argument that is neither a name nor a directory.
    #[error(
        "there is no data set and no directory called '{argument}'{}; give builtin, cifar10, cifar100 or a directory",
        did_you_mean(.nearest)
    )]
    UnknownName {
        /// The argument.
        argument: String,
        /// The known name that looks most like it, if one does.
        nearest: Option<&'static str>,
    },
    /// A directory of no known layout.
    #[error("{} holds no data set that gramscope knows: {looked_for}", .dir.display())]
    UnknownLayout {
        /// The directory.
        dir: PathBuf,
        /// What was looked for in it, and what would help.
        looked_for: String,
    },
    /// A setting that does not fit the data set or is out of range.
    #[error("the data setting `{key}` {problem}")]
    Setting {
        /// The setting's key in the \[data\] table.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// More images asked for than there are.
    #[error("the data setting `{key}` asks for {asked} images, but there are only {found}; give at most {found}")]
    TooFewImages {
        /// The setting's key in the \[data\] table.
        key: &'static str,
        /// Images asked for.
        asked: usize,
        /// Images there are.
        found: usize,
    },
    /// A training fraction outside (0, 1].
    #[error("the training fraction is {fraction}, but it must be above 0 and at most 1")]
    Fraction {
        /// The fraction asked for.
        fraction: f64,
    },
    /// A training fraction that leaves a class without images.
    #[error(
        "the training fraction {fraction} leaves no image of class {class}, which has {images}; use a larger fraction \
         or more images"
    )]
    FractionLeavesNone {
        /// The fraction asked for.
        fraction: f64,
        /// The class.
        class: usize,
        /// Its number of images.
        images: usize,
    },
    /// Pixels and labels that do not belong together.
    #[error("{images} images of {image_side} x {image_side} RGB pixels are {expected} bytes, but there are {found}")]
    Misshapen {
        /// Number of labels.
        images: usize,
        /// Side of an image, in pixels.
        image_side: usize,
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// A file or directory that could not be read or written.
    #[error("cannot {action} {}: {source}{}", .path.display(), disk::remedy(.source))]
    Io {
        /// What was being done to it.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or directory that should be there and is not.
    #[error("{} is missing: {hint}", .path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
        /// Why it is needed and where it comes from.
        hint: String,
    },
    /// A file of the wrong length.
    #[error("{} has {found} bytes, but {expected} were expected ({layout}): {hint}", .path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Bytes it has.
        found: u64,
        /// Bytes it should have.
        expected: u64,
        /// What the expected bytes are.
        layout: String,
        /// What would mend it.
        hint: &'static str,
    },
    /// A label that is no class.
    #[error(
        "{}: record {record} has the {kind} {label}, but labels run from 0 to {}; the file is damaged or not of this \
         format: unpack the archive again",
        .path.display(), .classes - 1
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// The record, counted from 0.
        record: usize,
        /// Which of a record's labels: `label`, `coarse label` or `fine label`.
        kind: &'static str,
        /// The label found.
        label: u8,
        /// Number of classes.
        classes: usize,
    },
    /// A file of class names that does not name every class once.
    #[error("{} {problem}; unpack the archive again, or remove the file to use the official names", .path.display())]
    ClassNames {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An image that could not be decoded.
    #[error("cannot decode the image {}: {source}; replace or remove it", .path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// The decoder's reason.
        source: image::ImageError,
    },
    /// A class folder without images, or a split without class folders.
    #[error("{} holds no {what}; expected {expected}", .path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A class of the test split that the training split lacks.
    #[error(
        "the class folder {} has no counterpart in {}, so nothing could be learnt about it; add the class there or \
         remove the folder",
        .path.display(), .train.display()
    )]
    UnknownTestClass {
        /// The test split's class folder.
        path: PathBuf,
        /// The training split.
        train: PathBuf,
    },
    /// The user's cache directory could not be determined.
    #[error("cannot tell where the cache is, because there is no home directory; set XDG_CACHE_HOME to a directory")]
    NoCache,
    /// Another process is fetching the same archive.
    #[error("{} is in use: another process is fetching it; wait for it to finish", .path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// A server that could not be reached or did not answer.
    #[error(
        "cannot reach {url}: {reason}; check the connection and try again, or download that file elsewhere, lay it there as {} and give \
         the same command{}", .partial.display(), if *.received { " (what was received earlier is kept there)" } else { "" }
    )]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        reason: String,
        /// The partial file.
        partial: PathBuf,
        /// Whether an earlier call left something in it.
        received: bool,
    },
    /// A server that refused.
    #[error("{url} answered with HTTP status {status}; check the address, or try again later")]
    Refused {
        /// The address.
        url: String,
        /// The status code.
        status: u16,
    },
    /// A server that offers something of another size than the archive.
    #[error("{url} offers {found} bytes, but the archive has {expected}; this is not the published archive")]
    WrongOffer {
        /// The address.
        url: String,
        /// Bytes offered.
        found: u64,
        /// Bytes the archive has.
        expected: u64,
    },
    /// A download that broke off.
    #[error(
        "the download of {url} broke off after {received} of {expected} bytes: {reason}; they are kept as {}, and \
         fetching again continues from there",
        .partial.display()
    )]
    Interrupted {
        /// The address.
        url: String,
        /// Why.
        reason: String,
        /// Bytes received so far, earlier calls included.
        received: u64,
        /// Bytes of the whole archive.
        expected: u64,
        /// The partial file.
        partial: PathBuf,
    },
    /// A downloaded archive whose MD5 is not the published one.
    #[error(
        "what was downloaded from {url} has the MD5 {found}, but {expected} is published; the download was deleted: \
         fetch again"
    )]
    WrongChecksum {
        /// The address.
        url: String,
        /// MD5 of the download.
        found: String,
        /// MD5 published.
        expected: String,
    },
    /// An archive that cannot be unpacked, or must not be.
    #[error("cannot unpack {}: {problem}; nothing was installed", .path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl DataError {
    /// Turns a system error into [`DataError::Io`].
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}
