//! The built-in data set: ten classes of shapes and textures, drawn by the program.
//!
//! For those who have no data at hand, and for every test: nothing is downloaded, any number of images can be had, and
//! image `index` of a split is a pure function of (seed, split, index), whatever else is drawn, in whatever order, on
//! however many threads. Like small photographs, the images vary in everything but their class: position, size,
//! rotation, colour, background, clutter, occlusion and noise, so that a network has to learn shape and texture.

use rayon::prelude::*;

use gramscope_nn::random::{Philox, Stream};

use super::dataset::{image_bytes, room};
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
    let mut pixels = room(images, side, key)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn image(seed: u64, part: Part, index: usize, side: usize) -> Vec<u8> {
        let mut pixels = vec![0; image_bytes(side)];
        draw(seed, part, index, side, &mut pixels);
        pixels
    }

    /// Mean absolute difference of two images, in grey levels.
    fn difference(a: &[u8], b: &[u8]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
    }

    #[test]
    fn an_image_depends_on_nothing_but_seed_split_and_index() {
        let whole = split(3, Part::Train, 37, 32).unwrap();
        for index in [0, 1, 9, 10, 36] {
            assert_eq!(whole.image(index), image(3, Part::Train, index, 32), "image {index}");
        }
        let prefix = split(3, Part::Train, 11, 32).unwrap();
        for index in 0..prefix.len() {
            assert_eq!(prefix.image(index), whole.image(index), "image {index}");
        }
    }

    /// Images of another seed, split or index are other pictures, not the same one with other noise: unrelated colours
    /// differ by a third of the range on average, noise alone by a few grey levels.
    #[test]
    fn seed_split_and_index_all_matter() {
        const PICTURES: usize = 40;
        let mean = |other: &dyn Fn(usize) -> Vec<u8>| {
            let differences = (0..PICTURES).map(|index| difference(&image(0, Part::Train, index, 16), &other(index)));
            differences.sum::<f64>() / PICTURES as f64
        };
        for (what, mean) in [
            ("seed", mean(&|index| image(1, Part::Train, index, 16))),
            ("high word of the seed", mean(&|index| image(1 << 32, Part::Train, index, 16))),
            ("split", mean(&|index| image(0, Part::Test, index, 16))),
            ("index", mean(&|index| image(0, Part::Train, index + 10, 16))),
        ] {
            assert!(mean > 20.0, "another {what} changes images by {mean} grey levels only");
        }
    }

    /// Pairs (split, index) that a careless numbering would confuse.
    #[test]
    fn the_splits_share_no_image() {
        let train: Vec<Vec<u8>> = (0..60).map(|index| image(0, Part::Train, index, 8)).collect();
        for index in 0..60 {
            let test = image(0, Part::Test, index, 8);
            assert!(train.iter().all(|train| *train != test), "test image {index} is a training image");
        }
    }

    #[test]
    fn every_prefix_is_balanced() {
        let split = split(0, Part::Test, 53, 8).unwrap();
        for length in 0..=split.len() {
            let mut counts = [0_usize; 10];
            split.labels()[..length].iter().for_each(|&label| counts[label as usize] += 1);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{length}: {counts:?}");
        }
    }

    /// The same scene at twice the side: averaging 2 x 2 pixels gives about the smaller image. Edges and grain differ, by
    /// far less than unrelated pictures do.
    #[test]
    fn the_side_changes_the_resolution_not_the_scene() {
        const SIDE: usize = 32;
        let mut total = 0.0;
        for index in 0..30 {
            let (small, large) = (image(0, Part::Train, index, SIDE), image(0, Part::Train, index, 2 * SIDE));
            let shrunk: Vec<u8> = (0..small.len())
                .map(|at| {
                    let (row, column, channel) = (at / 3 / SIDE, at / 3 % SIDE, at % 3);
                    let corner = 3 * (2 * row * 2 * SIDE + 2 * column) + channel;
                    let below = corner + 3 * 2 * SIDE;
                    let sum: u32 = [corner, corner + 3, below, below + 3].map(|at| u32::from(large[at])).iter().sum();
                    (sum / 4) as u8
                })
                .collect();
            total += difference(&small, &shrunk);
        }
        let mean = total / 30.0;
        assert!(mean < 10.0, "{mean} grey levels");
        for side in [8, 9, 31, 65] {
            assert_eq!(split(0, Part::Test, 3, side).unwrap().image(2).len(), side * side * 3);
        }
    }

    /// No class can be told by its mean colour or brightness: over many images each class has the same, within five
    /// standard errors. The standard deviation of an image's mean is below 50 grey levels.
    #[test]
    fn classes_do_not_differ_in_brightness() {
        const EACH: usize = 200;
        let split = split(5, Part::Train, 10 * EACH, 8).unwrap();
        let mut sums = [[0.0; 3]; 10];
        for index in 0..split.len() {
            for pixel in split.image(index).chunks_exact(3) {
                for (sum, &value) in sums[split.label(index) as usize].iter_mut().zip(pixel) {
                    *sum += f64::from(value) / (64 * EACH) as f64;
                }
            }
        }
        let tolerance = 5.0 * 50.0 * (2.0 / EACH as f64).sqrt();
        for means in &sums {
            for (mean, first) in means.iter().zip(&sums[0]) {
                assert!((mean - first).abs() <= tolerance, "{sums:?}");
            }
        }
    }

    /// What was published must not change: results on the built-in data are compared across versions. Mean red, green and
    /// blue of the first images of each split; a grey level of room for other machines' sines.
    #[test]
    fn the_first_images_are_the_ones_that_were_published() {
        let means = |part, index| {
            let mut means = [0.0; 3];
            for pixel in image(SEED, part, index, 32).chunks_exact(3) {
                means.iter_mut().zip(pixel).for_each(|(mean, &value)| *mean += f64::from(value) / 1024.0);
            }
            means
        };
        for (part, index, expected) in PUBLISHED {
            let found = means(part, index);
            let close = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 1.0);
            assert!(close, "{part:?} {index}: {found:?}, expected {expected:?}");
        }
    }

    const PUBLISHED: [(Part, usize, [f64; 3]); 4] = [
        (Part::Train, 0, [55.0, 132.7, 132.7]),
        (Part::Train, 7, [111.8, 112.7, 103.0]),
        (Part::Test, 4, [91.9, 100.7, 82.0]),
        (Part::Test, 1999, [94.7, 84.9, 99.5]),
    ];

    #[test]
    fn too_many_images_are_an_error() {
        for images in [usize::MAX, (1 << 31) + 1] {
            let error = split(0, Part::Test, images, 32).unwrap_err();
            assert!(error.to_string().contains("`test_images` asks for"), "{error}");
        }
    }

    #[test]
    fn the_configuration_sets_the_size() {
        let config =
            DataConfig { train_images: Some(12), test_images: Some(3), image_side: Some(9), ..DataConfig::default() };
        let dataset = crate::data::load(&config).unwrap();
        let summary = dataset.summary();
        assert_eq!(summary.classes.len(), 10);
        assert_eq!((summary.image_side, dataset.train.len(), dataset.test.len()), (9, 12, 3));
        assert_eq!(summary.train, [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(dataset.train.image(11), image(SEED, Part::Train, 11, 9));
        assert_eq!(dataset.test.image(2), image(SEED, Part::Test, 2, 9));
    }
}
