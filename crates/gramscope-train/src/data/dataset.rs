//! Images and labels in memory, and the choice of class-balanced parts of them.

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
        Ok(Self { images, labels, image_side })
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
        Self { images, labels, image_side: self.image_side }
    }
}

/// Bytes of one RGB image.
pub(super) fn image_bytes(image_side: usize) -> usize {
    image_side * image_side * 3
}

/// The class-balanced prefix of `limit` of the images with these labels, as ascending indices: every class gives its
/// first images, turn by turn, until there are `limit`; a class that runs out is passed over.
///
/// # Errors
/// [`DataError::TooFewImages`] when there are fewer than `limit`; `key` names the setting.
pub(super) fn balanced_prefix(labels: &[u32], limit: usize, key: &'static str) -> Result<Vec<usize>, DataError> {
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
