//! Images and labels in memory, and the choice of class-balanced parts of them.

use std::path::{Path, PathBuf};

use super::DataError;

/// Two splits of labelled images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its name: `builtin`, `cifar10`, `cifar100` or `folder`.
    pub name: String,
    /// The classes' names; a label is an index into them.
    pub classes: Vec<String>,
    /// Height and width of every image, in pixels.
    pub image_side: usize,
    /// The images to learn from.
    pub train: Split,
    /// The images to be judged by.
    pub test: Split,
}

impl Dataset {
    /// What there is, in numbers.
    pub fn summary(&self) -> Summary {
        let classes = self.classes.len();
        Summary {
            name: self.name.clone(),
            classes: self.classes.clone(),
            image_side: self.image_side,
            train: self.train.class_counts(classes),
            test: self.test.class_counts(classes),
        }
    }
}

/// What a data set holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The data set's name.
    pub name: String,
    /// The classes' names.
    pub classes: Vec<String>,
    /// Height and width of every image, in pixels.
    pub image_side: usize,
    /// Training images of each class.
    pub train: Vec<usize>,
    /// Test images of each class.
    pub test: Vec<usize>,
}

/// Labelled images: 8-bit RGB, NHWC, row-major, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    images: Vec<u8>,
    labels: Vec<u32>,
    image_side: usize,
    /// A path an image, or none at all.
    files: Vec<PathBuf>,
}

impl Split {
    /// A split of `labels.len()` square RGB images with sides of `image_side` pixels.
    ///
    /// # Errors
    /// [`DataError::Misshapen`] unless `images` holds `labels.len() * image_side^2 * 3` bytes.
    pub fn new(images: Vec<u8>, labels: Vec<u32>, image_side: usize) -> Result<Self, DataError> {
        let expected = labels.len() * image_bytes(image_side);
        if images.len() != expected || image_side == 0 {
            return Err(DataError::Misshapen { images: labels.len(), image_side, found: images.len(), expected });
        }
        Ok(Self { images, labels, image_side, files: Vec::new() })
    }

    /// The same images, known to come from these files, one each, in their order.
    pub(super) fn with_files(self, files: Vec<PathBuf>) -> Self {
        debug_assert_eq!(files.len(), self.len());
        Self { files, ..self }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width of every image, in pixels.
    pub fn image_side(&self) -> usize {
        self.image_side
    }

    /// Every image, `[images, side, side, 3]` bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.images
    }

    /// Image `index` as `[side, side, 3]` bytes. Panics when there is no such image, as a slice does.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = image_bytes(self.image_side);
        &self.images[index * bytes..][..bytes]
    }

    /// The class of image `index`. Panics when there is no such image, as a slice does.
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// The class of every image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The file that image `index` comes from, relative to the directory of the data set; none of data whose images have no
    /// files of their own, nor of training images, of which nobody asks for it.
    pub fn file(&self, index: usize) -> Option<&Path> {
        self.files.get(index).map(PathBuf::as_path)
    }

    /// Number of images of each of `classes` classes.
    pub fn class_counts(&self, classes: usize) -> Vec<usize> {
        count(&self.labels, classes)
    }

    /// The images that a training fraction keeps, in ascending order: of every class c with n_c images the first
    /// round(`fraction` * n_c). It depends on no seed, and a smaller fraction's images are among a larger one's; 1 keeps
    /// all.
    ///
    /// # Errors
    /// [`DataError::Fraction`] outside (0, 1]; [`DataError::FractionLeavesNone`] where a class has no image or would
    /// keep none.
    pub fn fraction(&self, fraction: f64, classes: usize) -> Result<Vec<usize>, DataError> {
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(DataError::Fraction { fraction });
        }
        let counts = self.class_counts(classes);
        // Rounding to nearest, because a product such as 0.07 * 100 lies a little above or below a whole number.
        let quotas: Vec<usize> = counts.iter().map(|&count| (fraction * count as f64).round() as usize).collect();
        if let Some(class) = quotas.iter().position(|&quota| quota == 0) {
            return Err(DataError::FractionLeavesNone { fraction, class, images: counts[class] });
        }
        let mut taken = vec![0; classes];
        Ok((0..self.len())
            .filter(|&index| {
                let class = self.labels[index] as usize;
                taken[class] += 1;
                taken[class] <= quotas[class]
            })
            .collect())
    }

    /// The images at `indices`, in that order, as a split of their own.
    pub(super) fn select(&self, indices: &[usize]) -> Self {
        let mut images = Vec::with_capacity(indices.len() * image_bytes(self.image_side));
        for &index in indices {
            images.extend_from_slice(self.image(index));
        }
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        let files = indices.iter().filter_map(|&index| self.files.get(index).cloned()).collect();
        Self { images, labels, image_side: self.image_side, files }
    }
}

/// Bytes of one RGB image.
pub(super) fn image_bytes(image_side: usize) -> usize {
    image_side * image_side * 3
}

/// Zeros for so many images, which the setting `key` asks for.
///
/// # Errors
/// [`DataError::Setting`] for more images than 2^31 or than memory can be asked for.
#[allow(clippy::slow_vector_initialization, reason = "vec! ends the process where there is no memory")]
pub(super) fn room(images: usize, image_side: usize, key: &'static str) -> Result<Vec<u8>, DataError> {
    let bytes = images.checked_mul(image_bytes(image_side)).filter(|_| images <= 1 << 31);
    let mut pixels = Vec::new();
    match bytes {
        Some(bytes) if pixels.try_reserve_exact(bytes).is_ok() => {
            pixels.resize(bytes, 0);
            Ok(pixels)
        }
        _ => {
            let problem = format!("asks for {images} images, more than fit in memory; ask for fewer");
            Err(DataError::Setting { key, problem })
        }
    }
}

/// The class-balanced prefix of `limit` of the images with these labels, as ascending indices: every class gives its
/// first images, turn by turn, until there are `limit`; a class that runs out is passed over.
///
/// # Errors
/// [`DataError::TooFewImages`] when there are fewer than `limit`; `key` names the setting.
pub fn balanced_prefix(labels: &[u32], limit: usize, key: &'static str) -> Result<Vec<usize>, DataError> {
    if limit > labels.len() {
        return Err(DataError::TooFewImages { key, asked: limit, found: labels.len() });
    }
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut seen = vec![0_usize; classes];
    let mut turns: Vec<(usize, u32, usize)> = labels
        .iter()
        .enumerate()
        .map(|(index, &label)| {
            let turn = seen[label as usize];
            seen[label as usize] += 1;
            (turn, label, index)
        })
        .collect();
    turns.sort_unstable();
    let mut chosen: Vec<usize> = turns[..limit].iter().map(|&(_, _, index)| index).collect();
    chosen.sort_unstable();
    Ok(chosen)
}

fn count(labels: &[u32], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for &label in labels {
        counts[label as usize] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A split of 1 x 1 images, image i holding the byte i, with these labels.
    fn split(labels: &[u32]) -> Split {
        let images = (0..labels.len()).flat_map(|index| [index as u8; 3]).collect();
        Split::new(images, labels.to_vec(), 1).unwrap()
    }

    /// Classes of 8, 5 and 3 images, out of order.
    const LABELS: [u32; 16] = [0, 0, 1, 2, 0, 1, 1, 0, 0, 0, 2, 1, 0, 0, 2, 1];

    #[test]
    fn pixels_and_labels_must_belong_together() {
        assert!(Split::new(vec![0; 2 * 12], vec![0, 1], 2).is_ok());
        for (bytes, side) in [(23, 2), (25, 2), (0, 2), (0, 0)] {
            let error = Split::new(vec![0; bytes], vec![0, 1], side).unwrap_err();
            assert!(matches!(error, DataError::Misshapen { .. }), "{error}");
        }
    }

    #[test]
    fn images_are_counted_by_class() {
        assert_eq!(split(&LABELS).class_counts(4), [8, 5, 3, 0]);
        assert_eq!(split(&LABELS).select(&[10, 2]), Split::new(vec![10, 10, 10, 2, 2, 2], vec![2, 1], 1).unwrap());
    }

    #[test]
    fn chosen_images_keep_their_files() {
        let split = split(&LABELS);
        assert!((0..split.len()).all(|index| split.file(index).is_none()), "of images without files");
        let named = split.with_files((0..LABELS.len()).map(|index| format!("{index}.png").into()).collect());
        let chosen = named.select(&[10, 2]);
        assert_eq!([0, 1].map(|index| chosen.file(index).unwrap()), [Path::new("10.png"), Path::new("2.png")]);
    }

    #[test]
    fn a_fraction_keeps_the_first_images_of_every_class() {
        let split = split(&LABELS);
        // round(8/2) = 4, round(5/2) = 3, round(3/2) = 2.
        assert_eq!(split.fraction(0.5, 3).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 10]);
        assert_eq!(split.fraction(1.0, 3).unwrap(), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_smaller_fraction_lies_inside_a_larger_one() {
        let split = split(&LABELS.repeat(7));
        let mut smaller = Vec::new();
        for percent in 3..=100 {
            let larger = split.fraction(f64::from(percent) / 100.0, 3).unwrap();
            assert!(smaller.iter().all(|index| larger.contains(index)), "at {percent}%");
            smaller = larger;
        }
        assert_eq!(smaller.len(), split.len());
    }

    /// Products such as 0.07 * 100 = 7.000000000000001 and 0.29 * 100 = 28.999999999999996 are whole numbers to a person.
    #[test]
    fn fractions_of_round_numbers_are_exact() {
        let labels: Vec<u32> = (0..300).map(|index| index % 3).collect();
        for percent in 1..=100_usize {
            let kept = split_of_zeros(&labels).fraction(percent as f64 / 100.0, 3).unwrap();
            assert_eq!(kept.len(), 3 * percent);
        }
    }

    fn split_of_zeros(labels: &[u32]) -> Split {
        Split::new(vec![0; 3 * labels.len()], labels.to_vec(), 1).unwrap()
    }

    #[test]
    fn impossible_fractions_are_errors() {
        let split = split(&LABELS);
        for fraction in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            assert!(matches!(split.fraction(fraction, 3), Err(DataError::Fraction { .. })), "{fraction}");
        }
        let error = split.fraction(0.1, 3).unwrap_err();
        assert!(matches!(error, DataError::FractionLeavesNone { class: 2, images: 3, .. }), "{error}");
        let error = split.fraction(1.0, 4).unwrap_err();
        assert!(matches!(error, DataError::FractionLeavesNone { class: 3, images: 0, .. }), "{error}");
    }

    #[test]
    fn a_limit_is_balanced_nested_and_a_prefix_of_every_class() {
        let mut smaller = Vec::new();
        for limit in 0..=LABELS.len() {
            let chosen = balanced_prefix(&LABELS, limit, "train_images").unwrap();
            assert_eq!(chosen.len(), limit);
            assert!(chosen.is_sorted() && smaller.iter().all(|index| chosen.contains(index)), "at {limit}");
            let counts = split(&LABELS).select(&chosen).class_counts(3);
            for (class, &kept) in counts.iter().enumerate() {
                let of_class = |index: &usize| LABELS[*index] as usize == class;
                let first: Vec<usize> = (0..LABELS.len()).filter(of_class).take(kept).collect();
                assert_eq!(chosen.iter().copied().filter(of_class).collect::<Vec<_>>(), first);
            }
            if limit <= 9 {
                // Until class 2 runs out, no class is more than one image ahead of another.
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            }
            smaller = chosen;
        }
        let error = balanced_prefix(&LABELS, 17, "test_images").unwrap_err();
        assert!(error.to_string().contains("`test_images` asks for 17 images, but there are only 16"), "{error}");
    }
}
