//! The built-in data set: ten classes of shapes and textures, drawn by the program.
//!
//! For those who have no data at hand, and for every test: nothing is downloaded, any number of images can be had, and
//! image `index` of a split is a pure function of (seed, split, index), whatever else is drawn, in whatever order, on
//! however many threads. Like small photographs, the images vary in everything but their class: position, size,
//! rotation, colour, background, clutter, occlusion and noise, so that a network has to learn shape and texture.

use rayon::prelude::*;

use gramscope_nn::random::{Philox, Stream};

use super::dataset::image_bytes;
use super::drawing::{self, Class};
use super::{DataConfig, DataError, DataName, Dataset, Split};

/// Training images by default.
pub const TRAIN_IMAGES: usize = 10_000;
/// Test images by default.
pub const TEST_IMAGES: usize = 2_000;
/// The seed of the images that [`super::load`] gives: the same for every run, whatever the run's own seed.
pub const SEED: u64 = 0;

/// Which of the two splits an image belongs to; they share no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The training split.
    Train,
    /// The test split.
    Test,
}

/// The classes' names, in the order of their labels.
pub fn class_names() -> Vec<String> {
    Class::ALL.iter().map(|class| class.name().to_owned()).collect()
}

/// The label of image `index`: the classes take turns, so every prefix of a split is balanced to within one image.
pub fn label(index: usize) -> u32 {
    (index % Class::ALL.len()) as u32
}

/// Draws image `index` of a split into `pixels`, `[side, side, 3]` bytes.
///
/// # Panics
/// When `pixels` has another length, or `index` is not below 2^31.
pub fn draw(seed: u64, part: Part, index: usize, side: usize, pixels: &mut [u8]) {
    assert_eq!(pixels.len(), image_bytes(side), "an image of side {side} has side * side * 3 bytes");
    let number = u32::try_from(index).ok().filter(|&n| n < 1 << 31).expect("an image's index is below 2^31");
    // Even numbers draw training images, odd ones test images: the two never share random numbers.
    let major = 2 * number + u32::from(part == Part::Test);
    let mut numbers = Philox::new(seed, Stream::Drawing).sequence(major);
    drawing::draw(Class::ALL[label(index) as usize], &mut numbers, side, pixels);
}

/// Draws the first `images` images of a split, on all threads.
///
/// # Errors
/// [`DataError::Setting`] for more images than 2^31 or than memory can be asked for.
pub fn split(seed: u64, part: Part, images: usize, side: usize) -> Result<Split, DataError> {
    let key = if part == Part::Train { "train_images" } else { "test_images" };
    let bytes = images.checked_mul(image_bytes(side)).filter(|_| images <= 1 << 31);
    let mut pixels = Vec::new();
    if !bytes.is_some_and(|bytes| pixels.try_reserve_exact(bytes).is_ok()) {
        let problem = format!("asks for {images} images, more than fit in memory; ask for fewer");
        return Err(DataError::Setting { key, problem });
    }
    pixels.resize(bytes.unwrap_or_default(), 0);
    pixels
        .par_chunks_exact_mut(image_bytes(side))
        .enumerate()
        .for_each(|(index, pixels)| draw(seed, part, index, side, pixels));
    Split::new(pixels, (0..images).map(label).collect(), side)
}

/// The built-in data set of a resolved configuration.
pub(super) fn load(config: &DataConfig) -> Result<Dataset, DataError> {
    let side = config.side();
    Ok(Dataset {
        name: DataName::Builtin.to_string(),
        classes: class_names(),
        image_side: side,
        train: split(SEED, Part::Train, config.train_images.unwrap_or(TRAIN_IMAGES), side)?,
        test: split(SEED, Part::Test, config.test_images.unwrap_or(TEST_IMAGES), side)?,
    })
}
