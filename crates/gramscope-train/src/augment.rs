//! The training images' order and their augmentation: reflect-pad, random crop, random horizontal flip, and, where it is
//! asked for, colour distortion ([`crate::colour`]).
//!
//! What happens to an image in an epoch is a pure function of (seed, epoch, index of the image in the data set's training
//! split), whatever the batch, the fraction of the images in use or the thread: the numbers come from
//! [`Stream::Augmentation`] at major = epoch, minor = index. The order of an epoch comes from [`Stream::Order`] at major =
//! epoch. That is all a resumed run, or a kernel on a GPU, needs to see the same images.

use candle_core::{Device, Tensor};
use gramscope_cuda::plan::Placing;
use gramscope_nn::random::{Philox, Stream};

use crate::batches::{self, CHANNELS, unit};
use crate::colour::ColourDistortion;
use crate::data::Split;
use crate::error::Result;
use crate::settings::TrainSettings;

/// The order in which an epoch (from 1) sees `images` images: a uniformly random permutation of 0..`images`.
pub fn order(seed: u64, epoch: u32, images: usize) -> Vec<usize> {
    Philox::new(seed, Stream::Order).sequence(epoch).permutation(images)
}

/// Where the crop of an image lies, and whether it is flipped afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Rows of the padded image above the crop, 0 to twice the padding.
    pub top: usize,
    /// Columns of the padded image left of the crop, 0 to twice the padding.
    pub left: usize,
    /// Whether left and right are exchanged.
    pub flipped: bool,
}

/// The augmentation of one run.
#[derive(Clone, Copy, Debug)]
pub struct Augmentation {
    seed: u64,
    generator: Philox,
    padding: usize,
    flip: bool,
    colour: Option<ColourDistortion>,
}

impl Augmentation {
    /// With the seed, padding, flip and colour distortion of `settings`. The padding must be smaller than the image side.
    pub fn new(settings: &TrainSettings) -> Self {
        Self {
            seed: settings.seed,
            generator: Philox::new(settings.seed, Stream::Augmentation),
            padding: settings.crop_padding,
            flip: settings.flip,
            colour: ColourDistortion::new(settings),
        }
    }

    /// What happens to image `index` of the training split in `epoch`. Word 0 of the random numbers gives the row, word 1
    /// the column and the highest bit of word 2 the flip; an offset's probability is off uniform by less than 2^-32.
    pub fn placement(&self, epoch: u32, index: usize) -> Placement {
        let words = self.generator.words(epoch, index as u64);
        let offsets = 2 * self.padding as u64 + 1;
        let offset = |word: u32| ((u64::from(word) * offsets) >> 32) as usize;
        Placement { top: offset(words[0]), left: offset(words[1]), flipped: self.flip && words[2] >> 31 == 1 }
    }

    /// How a GPU places images, by the same random numbers.
    pub(crate) fn placing(&self) -> Placing {
        Placing { seed: self.seed, padding: self.padding, flip: self.flip }
    }

    /// Writes an image of [side, side, 3] bytes to `pixels`, placed as `placement` says, as f32 in [0, 1].
    pub fn draw(&self, image: &[u8], side: usize, placement: Placement, pixels: &mut [f32]) {
        let columns: Vec<usize> = (0..side)
            .map(|x| {
                let x = if placement.flipped { side - 1 - x } else { x };
                reflect(x + placement.left, self.padding, side) * CHANNELS
            })
            .collect();
        let row_values = side * CHANNELS;
        for (y, row) in pixels.chunks_exact_mut(row_values).enumerate() {
            let source = &image[reflect(y + placement.top, self.padding, side) * row_values..][..row_values];
            for (pixel, &column) in row.chunks_exact_mut(CHANNELS).zip(&columns) {
                for (value, &byte) in pixel.iter_mut().zip(&source[column..][..CHANNELS]) {
                    *value = unit(byte);
                }
            }
        }
    }

    /// The images at `indices` as they are in `epoch`: [n, side, side, 3] f32 in [0, 1].
    ///
    /// # Errors
    /// [`crate::Error::Candle`] when the device has no memory.
    pub fn batch(&self, split: &Split, indices: &[usize], epoch: u32, device: &Device) -> Result<Tensor> {
        let side = split.image_side();
        batches::fill(split, indices, side, device, |index, pixels| {
            self.draw(split.image(index), side, self.placement(epoch, index), pixels);
            if let Some(colour) = &self.colour {
                colour.distort(epoch, index, pixels);
            }
        })
    }
}

/// Which of `len` rows (or columns) lies at `position` once `padding` reflected ones are on either side, the edge itself not
/// repeated (NumPy's `reflect`): 2 1 | 0 1 2 3 | 2 1. `padding` must be smaller than `len`.
fn reflect(position: usize, padding: usize, len: usize) -> usize {
    let distance = position.abs_diff(padding);
    // Right of the padded-left edge by `distance`; beyond the last row it comes back.
    if position >= padding && distance >= len { 2 * (len - 1) - distance } else { distance }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn augmentation(seed: u64, crop_padding: usize, flip: bool) -> Augmentation {
        Augmentation::new(&TrainSettings { seed, crop_padding, flip, ..TrainSettings::default() })
    }

    fn random_bytes(len: usize) -> Vec<u8> {
        let mut numbers = Philox::new(9, Stream::Drawing).sequence(0);
        (0..len).map(|_| numbers.next_u32() as u8).collect()
    }

    /// np.pad([0, 1, 2, 3], 3, mode="reflect") and np.pad([0, 1, 2, 3, 4], 2, mode="reflect").
    #[test]
    fn reflection_is_numpys() {
        let padded =
            |len, padding| -> Vec<usize> { (0..len + 2 * padding).map(|at| reflect(at, padding, len)).collect() };
        assert_eq!(padded(4, 3), [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        assert_eq!(padded(5, 2), [2, 1, 0, 1, 2, 3, 4, 3, 2]);
        assert_eq!(padded(3, 0), [0, 1, 2]);
        assert_eq!(padded(1, 0), [0]);
    }

    /// The padded image written out row by row by mirroring outwards, cropped by slicing, flipped by reversing.
    fn brute_force(image: &[u8], side: usize, padding: usize, placement: Placement) -> Vec<f32> {
        let mirror = |line: Vec<usize>| -> Vec<usize> {
            let before = line[1..=padding].iter().rev();
            let after = line[line.len() - 1 - padding..line.len() - 1].iter().rev();
            before.chain(&line).chain(after).copied().collect()
        };
        let lines = mirror((0..side).collect());
        let mut pixels = Vec::new();
        for &row in &lines[placement.top..][..side] {
            let mut columns = lines[placement.left..][..side].to_vec();
            if placement.flipped {
                columns.reverse();
            }
            for column in columns {
                for channel in 0..3 {
                    pixels.push(f32::from(image[(row * side + column) * 3 + channel]) / 255.0);
                }
            }
        }
        pixels
    }

    #[test]
    fn every_placement_is_that_of_the_padded_image() {
        for (side, padding) in [(1, 0), (2, 1), (5, 4), (7, 3), (8, 0)] {
            let image = random_bytes(side * side * 3);
            let augmentation = augmentation(0, padding, true);
            for top in 0..=2 * padding {
                for left in 0..=2 * padding {
                    for flipped in [false, true] {
                        let placement = Placement { top, left, flipped };
                        let mut pixels = vec![f32::NAN; image.len()];
                        augmentation.draw(&image, side, placement, &mut pixels);
                        assert_eq!(
                            pixels,
                            brute_force(&image, side, padding, placement),
                            "{side} {padding} {placement:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_untouched_placement_is_the_image() {
        let image = random_bytes(32 * 32 * 3);
        let mut pixels = vec![f32::NAN; image.len()];
        augmentation(0, 4, true).draw(&image, 32, Placement { top: 4, left: 4, flipped: false }, &mut pixels);
        assert!(pixels.iter().zip(&image).all(|(&pixel, &byte)| pixel == f32::from(byte) / 255.0));
    }

    /// Each count of N draws with probability p lies within five standard deviations, sqrt(N p (1 - p)), of N p.
    #[test]
    fn offsets_and_flips_are_uniform() {
        const N: usize = 20_000;
        let augmentation = augmentation(5, 4, true);
        let placements: Vec<Placement> = (0..N).map(|index| augmentation.placement(3, index)).collect();
        let check = |what: &str, p: f64, chosen: &dyn Fn(&Placement) -> bool| {
            let count = placements.iter().filter(|placement| chosen(placement)).count() as f64;
            let (mean, deviation) = (N as f64 * p, (N as f64 * p * (1.0 - p)).sqrt());
            assert!((count - mean).abs() <= 5.0 * deviation, "{what}: {count} of {N}, expected {mean}");
        };
        for offset in 0..=8 {
            check(&format!("top {offset}"), 1.0 / 9.0, &|placement| placement.top == offset);
            check(&format!("left {offset}"), 1.0 / 9.0, &|placement| placement.left == offset);
        }
        check("flipped", 0.5, &|placement| placement.flipped);
        check("flipped in a corner", 1.0 / 162.0, &|p| p.flipped && p.top == 0 && p.left == 8);
        assert!(placements.iter().all(|placement| placement.top <= 8 && placement.left <= 8));
    }

    #[test]
    fn the_placement_depends_on_seed_epoch_and_image_alone() {
        let sixteen = |seed, epoch| -> Vec<Placement> {
            (0..16).map(|index| augmentation(seed, 4, true).placement(epoch, index)).collect()
        };
        assert_eq!(sixteen(1, 1), sixteen(1, 1));
        assert_ne!(sixteen(1, 1), sixteen(2, 1));
        assert_ne!(sixteen(1, 1), sixteen(1, 2));
        let off = augmentation(1, 0, false);
        assert!((0..64).all(|index| off.placement(1, index) == Placement { top: 0, left: 0, flipped: false }));
    }

    #[test]
    fn a_batch_holds_each_image_as_it_is_alone() {
        const SIDE: usize = 5;
        let split = Split::new(random_bytes(6 * SIDE * SIDE * 3), vec![0; 6], SIDE).unwrap();
        let augmentation = augmentation(2, 4, true);
        let batch = |indices: &[usize]| -> Vec<f32> {
            let batch = augmentation.batch(&split, indices, 7, &Device::Cpu).unwrap();
            assert_eq!(batch.dims(), [indices.len(), SIDE, SIDE, 3]);
            batch.flatten_all().unwrap().to_vec1().unwrap()
        };
        assert_eq!(batch(&[4, 0, 5]), [batch(&[4]), batch(&[0]), batch(&[5])].concat());
    }

    #[test]
    fn the_order_is_a_new_permutation_each_epoch() {
        let first = order(3, 1, 101);
        assert_ne!(first, order(3, 2, 101));
        assert_ne!(first, order(4, 1, 101));
        assert_eq!(first, order(3, 1, 101));
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..101).collect::<Vec<_>>());
    }
}
