//! A folder of images: `train/` and `test/`, and in each a folder a class with JPEG and PNG files.
//!
//! Classes are numbered by name, images of a class by file name. An image is turned as its EXIF data says, the largest
//! centred square is cut out of it and resized (bilinear, averaging where it shrinks): the same as resizing the shorter
//! side and cutting out the centre, up to rounding. An image whose shorter side is right already keeps its pixels
//! exactly. Images are decoded on all threads, straight into the data set's bytes. Which files the test images come from is kept.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor, ErrorKind};
use std::path::{Path, PathBuf};

use image::error::{LimitError, LimitErrorKind};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use rayon::prelude::*;

use super::dataset::{balanced_prefix, image_bytes, room};
use super::{DataConfig, DataError, DataName, Dataset, Split};

const TRAIN: &str = "train";
const TEST: &str = "test";
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Larger images are refused: few photographers make them, and a few of them at once would fill the memory. The pixels are
/// counted too, as a picture of one bit a pixel becomes three bytes a pixel.
const LARGEST_SIDE: u32 = 30_000;
const MOST_PIXELS: u64 = 100_000_000;
const LARGEST_IMAGE_BYTES: u64 = 512 << 20;

/// Whether `dir` has the two splits.
pub(super) fn looks_like(dir: &Path) -> bool {
    dir.join(TRAIN).is_dir() && dir.join(TEST).is_dir()
}

/// Reads the data set of a resolved configuration.
pub(super) fn load(config: &DataConfig) -> Result<Dataset, DataError> {
    let dir = config.dir.as_deref().expect("a resolved configuration of a folder has a directory");
    let side = config.side();
    let (train_dir, test_dir) = (dir.join(TRAIN), dir.join(TEST));
    let classes = class_folders(&train_dir)?;
    for class in class_folders(&test_dir)? {
        if !classes.contains(&class) {
            return Err(DataError::UnknownTestClass { path: test_dir.join(class), train: train_dir });
        }
    }
    let train = list(&train_dir, &classes)?;
    let test = list(&test_dir, &classes)?;
    let learnt: BTreeSet<u32> = train.iter().map(|file| file.label).collect();
    if let Some((_, class)) = (0..).zip(&classes).find(|(label, _)| !learnt.contains(label)) {
        return Err(no_images(train_dir.join(class)));
    }
    if test.is_empty() {
        return Err(no_images(test_dir));
    }
    // Whatever is wrong with the limits is said before the long work of decoding.
    let train = limited(train, config.train_images, "train_images")?;
    let test = limited(test, config.test_images, "test_images")?;
    let files = test.iter().map(|file| file.path.strip_prefix(dir).unwrap_or(&file.path).to_path_buf()).collect();
    Ok(Dataset {
        name: DataName::Folder.to_string(),
        classes,
        image_side: side,
        train: read(&train, side, "train_images")?,
        test: read(&test, side, "test_images")?.with_files(files),
    })
}

/// An image file and its class.
struct Labelled {
    path: PathBuf,
    label: u32,
}

/// The names of the class folders of a split, sorted.
fn class_folders(split: &Path) -> Result<Vec<String>, DataError> {
    let mut classes = Vec::new();
    for path in entries(split)? {
        if path.is_dir() {
            let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| DataError::Setting {
                key: "dir",
                problem: format!("holds the class folder {}, whose name is not UTF-8; rename it", path.display()),
            })?;
            classes.push(name.to_owned());
        }
    }
    if classes.is_empty() {
        let expected = "a folder a class, with JPEG or PNG images in it";
        return Err(DataError::Empty { path: split.to_path_buf(), what: "class folders", expected });
    }
    Ok(classes)
}

/// The images of a split in the order of classes and file names. A class may have no folder here.
fn list(split: &Path, classes: &[String]) -> Result<Vec<Labelled>, DataError> {
    let mut files = Vec::new();
    for (label, class) in (0_u32..).zip(classes) {
        let folder = split.join(class);
        if !folder.is_dir() {
            tracing::warn!("{} has no folder {class}: that class is not tested", split.display());
            continue;
        }
        let mut others = 0_usize;
        for path in entries(&folder)? {
            if is_image(&path) {
                files.push(Labelled { path, label });
            } else {
                others += 1;
            }
        }
        if others > 0 {
            tracing::warn!("{}: passed over {others} entries that are not .jpg, .jpeg or .png files", folder.display());
        }
    }
    Ok(files)
}

/// What is in a folder, sorted by name, without hidden entries.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let listing = fs::read_dir(folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => DataError::Missing {
            path: folder.to_path_buf(),
            hint: "an image folder holds train/ and test/ with a folder a class".to_owned(),
        },
        _ => DataError::io("list", folder)(error),
    })?;
    let mut paths = Vec::new();
    for entry in listing {
        let entry = entry.map_err(DataError::io("list", folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) && path.is_file()
}

fn no_images(path: PathBuf) -> DataError {
    DataError::Empty { path, what: "images", expected: ".jpg, .jpeg or .png files" }
}

fn limited(files: Vec<Labelled>, limit: Option<usize>, key: &'static str) -> Result<Vec<Labelled>, DataError> {
    let Some(limit) = limit else { return Ok(files) };
    let labels: Vec<u32> = files.iter().map(|file| file.label).collect();
    let mut keep = vec![false; files.len()];
    for index in balanced_prefix(&labels, limit, key)? {
        keep[index] = true;
    }
    Ok(files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect())
}

/// Decodes the images on all threads. Of several that fail, the first in order is reported.
fn read(files: &[Labelled], side: usize, key: &'static str) -> Result<Split, DataError> {
    let mut images = room(files.len(), side, key)?;
    let failure = images
        .par_chunks_exact_mut(image_bytes(side))
        .zip(files)
        .find_map_first(|(target, file)| decode_into(&file.path, side, target).err());
    match failure {
        Some(error) => Err(error),
        None => Split::new(images, files.iter().map(|file| file.label).collect(), side),
    }
}

/// Writes the image in `path` as `[side, side, 3]` bytes.
fn decode_into(path: &Path, side: usize, target: &mut [u8]) -> Result<(), DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    let image = decode(&bytes).map_err(|source| DataError::Image { path: path.to_path_buf(), source })?;
    target.copy_from_slice(centre(image, side).as_raw());
    Ok(())
}

/// The image as 8-bit RGB, upright. Transparency is dropped.
fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(bytes) {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the file ends in the middle of the picture").into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(LARGEST_IMAGE_BYTES);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    // The decoder knows the image's size from its header now; nothing as large as the image has been allocated yet.
    limits.reserve(decoder.total_bytes())?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(ImageError::Limits(LimitError::from_kind(LimitErrorKind::DimensionError)));
    }
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Whether the end-of-image marker follows the last start of a scan. The decoder fills what is missing with grey and says
/// nothing; inside a scan's data the marker cannot occur (ITU-T T.81, B.1.1.5).
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    last(END_OF_IMAGE) > last(START_OF_SCAN)
}

/// The largest centred square, resized to sides of `side` pixels.
fn centre(image: RgbImage, side: usize) -> RgbImage {
    let side = u32::try_from(side).expect("an image side is at most a thousand pixels");
    let (width, height) = image.dimensions();
    let shorter = width.min(height);
    let square = imageops::crop_imm(&image, (width - shorter) / 2, (height - shorter) / 2, shorter, shorter);
    if shorter == side { square.to_image() } else { imageops::resize(&*square, side, side, FilterType::Triangle) }
}

#[cfg(test)]
mod tests;
