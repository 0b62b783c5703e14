//! CIFAR-10 and CIFAR-100 in the official binary format.
//!
//! Source: A. Krizhevsky, *Learning multiple layers of features from tiny images* (2009) and the format's description at
//! <https://www.cs.toronto.edu/~kriz/cifar.html>. A record is one label byte (CIFAR-10) or a coarse and a fine label byte
//! (CIFAR-100; the fine ones are the classes), then 1,024 red, 1,024 green and 1,024 blue bytes, row by row. Files are
//! records and nothing else, so a file's length is checked to the byte.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::dataset::{balanced_prefix, image_bytes};
use super::{DataConfig, DataError, Dataset, Split, cache_dir};
use crate::reading;

/// Height and width of every CIFAR image.
pub const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// One of the two data sets, as its files lie on disk.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The name of the data set in `--data`.
    pub name: &'static str,
    /// The folder that the official archive unpacks to.
    pub folder: &'static str,
    /// The files of the training split, in order.
    pub train: &'static [File],
    /// The file of the test split.
    pub test: File,
    /// The label bytes before the pixels; the last of them is the class.
    pub labels: &'static [Label],
    /// The file with the classes' names, a line each.
    pub names_file: &'static str,
    /// The classes' names, for directories without that file.
    pub names: &'static [&'static str],
}

/// A file of records.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// How many records it holds.
    pub records: usize,
}

/// One label byte of a record.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// What messages call it.
    pub kind: &'static str,
    /// It is below this.
    pub classes: usize,
}

/// CIFAR-10: 50,000 training and 10,000 test images of 10 classes.
pub const CIFAR10: Format = Format {
    name: "cifar10",
    folder: "cifar-10-batches-bin",
    train: &[
        File { name: "data_batch_1.bin", records: 10_000 },
        File { name: "data_batch_2.bin", records: 10_000 },
        File { name: "data_batch_3.bin", records: 10_000 },
        File { name: "data_batch_4.bin", records: 10_000 },
        File { name: "data_batch_5.bin", records: 10_000 },
    ],
    test: File { name: "test_batch.bin", records: 10_000 },
    labels: &[Label { kind: "label", classes: 10 }],
    names_file: "batches.meta.txt",
    names: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
};

/// CIFAR-100: 50,000 training and 10,000 test images of 100 classes.
pub const CIFAR100: Format = Format {
    name: "cifar100",
    folder: "cifar-100-binary",
    train: &[File { name: "train.bin", records: 50_000 }],
    test: File { name: "test.bin", records: 10_000 },
    labels: &[Label { kind: "coarse label", classes: 20 }, Label { kind: "fine label", classes: 100 }],
    names_file: "fine_label_names.txt",
    names: &CIFAR100_NAMES,
};

#[rustfmt::skip]
const CIFAR100_NAMES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

impl Format {
    /// The directory that holds the files: `dir` itself, or the archive's folder inside it. It is recognised by any one
    /// of its files of records, so that a missing one can be named.
    pub(super) fn find(&self, dir: &Path) -> Option<PathBuf> {
        [dir.to_path_buf(), dir.join(self.folder)]
            .into_iter()
            .find(|dir| self.files().any(|file| dir.join(file.name).is_file()))
    }

    /// Fails unless all files of records are in `dir`, or its folder, in their sizes.
    pub(super) fn check(&self, dir: &Path) -> Result<(), DataError> {
        let dir = self.find(dir).unwrap_or_else(|| dir.to_owned());
        self.files().try_for_each(|file| check_length(self, file, &dir.join(file.name)))
    }

    /// The names of the files of records, for messages.
    pub(super) fn file_names(&self) -> String {
        self.files().map(|file| file.name).collect::<Vec<_>>().join(", ")
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        self.train.iter().chain([&self.test])
    }

    fn record_bytes(&self) -> usize {
        self.labels.len() + 3 * PLANE
    }

    fn classes(&self) -> usize {
        self.labels[self.labels.len() - 1].classes
    }
}

/// Reads the data set of a resolved configuration.
pub(super) fn load(format: &Format, config: &DataConfig) -> Result<Dataset, DataError> {
    let dir = match &config.dir {
        Some(dir) => dir.clone(),
        None => cache_dir()?,
    };
    let dir = format.find(&dir).ok_or_else(|| not_there(format, config, &dir))?;
    Ok(Dataset {
        name: format.name.to_owned(),
        classes: class_names(format, &dir)?,
        image_side: SIDE,
        train: limited(read(format, format.train, &dir)?, config.train_images, "train_images")?,
        test: limited(read(format, &[format.test], &dir)?, config.test_images, "test_images")?,
    })
}

fn not_there(format: &Format, config: &DataConfig, dir: &Path) -> DataError {
    match &config.dir {
        Some(_) => DataError::UnknownLayout {
            dir: dir.to_path_buf(),
            looked_for: format!(
                "{} in the binary format has the files {}, here or in {}/{}",
                format.name,
                format.file_names(),
                format.folder,
                other_edition(dir).unwrap_or_default(),
            ),
        },
        None => DataError::Missing {
            path: dir.join(format.folder),
            hint: format!(
                "{0} has not been fetched yet: run `gramscope data fetch {0}`, or give the directory where its binary \
                 files lie",
                format.name
            ),
        },
    }
}

/// A hint for those who have one of the other two editions of CIFAR.
pub(super) fn other_edition(dir: &Path) -> Option<&'static str> {
    let python = ["data_batch_1", "train", "cifar-10-batches-py", "cifar-100-python"];
    let matlab = ["data_batch_1.mat", "train.mat", "cifar-10-batches-mat", "cifar-100-matlab"];
    let present = |names: [&str; 4]| {
        let [first, second, folder, other_folder] = names.map(|name| dir.join(name));
        first.is_file() || second.is_file() || folder.is_dir() || other_folder.is_dir()
    };
    if present(python) {
        return Some("; this looks like CIFAR's Python version: fetch the binary version");
    }
    present(matlab).then_some("; this looks like CIFAR's Matlab version: fetch the binary version")
}

fn limited(split: Split, limit: Option<usize>, key: &'static str) -> Result<Split, DataError> {
    match limit {
        None => Ok(split),
        Some(limit) => Ok(split.select(&balanced_prefix(split.labels(), limit, key)?)),
    }
}

/// Reads the records of all `files`, one file at a time.
fn read(format: &Format, files: &[File], dir: &Path) -> Result<Split, DataError> {
    // Before anything is taken memory for.
    for file in files {
        check_length(format, file, &dir.join(file.name))?;
    }
    let records: usize = files.iter().map(|file| file.records).sum();
    let mut images = vec![0; records * image_bytes(SIDE)];
    let mut labels = Vec::with_capacity(records);
    let mut rest = images.as_mut_slice();
    for file in files {
        let (target, after) = rest.split_at_mut(file.records * image_bytes(SIDE));
        let path = dir.join(file.name);
        let bytes = read_exactly(format, file, &path)?;
        labels.append(&mut read_labels(format, &bytes, &path)?);
        interleave(format, &bytes, target);
        rest = after;
    }
    Split::new(images, labels, SIDE)
}

/// The file's bytes, after its length has been checked.
fn read_exactly(format: &Format, file: &File, path: &Path) -> Result<Vec<u8>, DataError> {
    check_length(format, file, path)?;
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    // The file may have changed in between.
    if bytes.len() == file.records * format.record_bytes() {
        Ok(bytes)
    } else {
        Err(wrong_size(format, file, path, bytes.len() as u64))
    }
}

/// Fails unless the file is there and has its records.
fn check_length(format: &Format, file: &File, path: &Path) -> Result<(), DataError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == (file.records * format.record_bytes()) as u64 => Ok(()),
        Ok(metadata) => Err(wrong_size(format, file, path, metadata.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = format!(
                "it is a part of {} in the binary format; remove the folder, and unpack or fetch the archive again",
                format.name
            );
            Err(DataError::Missing { path: path.to_path_buf(), hint })
        }
        Err(error) => Err(DataError::io("read", path)(error)),
    }
}

fn wrong_size(format: &Format, file: &File, path: &Path, found: u64) -> DataError {
    DataError::WrongSize {
        path: path.to_path_buf(),
        found,
        expected: (file.records * format.record_bytes()) as u64,
        layout: format!("{} records of {} bytes", file.records, format.record_bytes()),
        hint: "it is truncated or of another format; remove the folder, and unpack or fetch the archive again",
    }
}

/// The class of every record, after all its label bytes have been checked.
fn read_labels(format: &Format, bytes: &[u8], path: &Path) -> Result<Vec<u32>, DataError> {
    let mut classes = Vec::with_capacity(bytes.len() / format.record_bytes());
    for (record, bytes) in bytes.chunks_exact(format.record_bytes()).enumerate() {
        for (&label, &Label { kind, classes }) in bytes.iter().zip(format.labels) {
            if usize::from(label) >= classes {
                return Err(DataError::LabelOutOfRange { path: path.to_path_buf(), record, kind, label, classes });
            }
        }
        classes.push(u32::from(bytes[format.labels.len() - 1]));
    }
    Ok(classes)
}

/// Writes the three planes of every record as interleaved pixels.
fn interleave(format: &Format, records: &[u8], images: &mut [u8]) {
    let records = records.par_chunks_exact(format.record_bytes());
    images.par_chunks_exact_mut(image_bytes(SIDE)).zip(records).for_each(|(image, record)| {
        let (red, planes) = record[format.labels.len()..].split_at(PLANE);
        let (green, blue) = planes.split_at(PLANE);
        for (pixel, ((&red, &green), &blue)) in image.chunks_exact_mut(3).zip(red.iter().zip(green).zip(blue)) {
            pixel.copy_from_slice(&[red, green, blue]);
        }
    });
}

/// The classes' names from the file beside the records, or the official ones where there is no such file.
fn class_names(format: &Format, dir: &Path) -> Result<Vec<String>, DataError> {
    let path = dir.join(format.names_file);
    let text = match reading::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(format.names.iter().map(|&name| name.to_owned()).collect());
        }
        Err(error) => return Err(DataError::io("read", &path)(error)),
    };
    let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.len() != format.classes() {
        let problem = format!("names {} classes, but there are {}", names.len(), format.classes());
        return Err(DataError::ClassNames { path, problem });
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
