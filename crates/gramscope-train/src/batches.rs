//! From images as bytes to tensors that a network takes.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::data::Split;
use crate::error::{Error, Result};

/// Colour channels of an image.
pub(crate) const CHANNELS: usize = 3;

/// The images at `indices` of a split, in that order, unaltered: [n, side, side, 3] f32 in [0, 1], where `image_side` is
/// the side that the network takes.
///
/// # Errors
/// [`Error::ImageSide`] when the split's images have another side, [`Error::Candle`] when the device has no memory.
pub fn images(split: &Split, indices: &[usize], image_side: usize, device: &Device) -> Result<Tensor> {
    fill(split, indices, image_side, device, |image, pixels| {
        for (pixel, &byte) in pixels.iter_mut().zip(split.image(image)) {
            *pixel = unit(byte);
        }
    })
}

/// Of `labels`, those at `indices`: \[n\] u32.
///
/// # Errors
/// [`Error::Candle`] when the device has no memory.
pub fn labels(labels: &[u32], indices: &[usize], device: &Device) -> Result<Tensor> {
    let labels: Vec<u32> = indices.iter().map(|&index| labels[index]).collect();
    Ok(Tensor::from_vec(labels, indices.len(), device)?)
}

/// A batch whose images `draw` puts in place, given an image's index and its [side, side, 3] pixels.
pub(crate) fn fill(
    split: &Split,
    indices: &[usize],
    image_side: usize,
    device: &Device,
    draw: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Tensor> {
    if split.image_side() != image_side {
        return Err(Error::ImageSide { expected: image_side, found: split.image_side() });
    }
    let values = image_side * image_side * CHANNELS;
    let mut pixels = vec![0.0; indices.len() * values];
    pixels.par_chunks_exact_mut(values).zip(indices).for_each(|(pixels, &image)| draw(image, pixels));
    Ok(Tensor::from_vec(pixels, (indices.len(), image_side, image_side, CHANNELS), device)?)
}

/// A byte's brightness in [0, 1].
pub(crate) fn unit(byte: u8) -> f32 {
    f32::from(byte) / 255.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn images_keep_their_order_layout_and_values() {
        const SIDE: usize = 3;
        let bytes: Vec<u8> = (0..4 * SIDE * SIDE * 3).map(|value| (value * 7 % 256) as u8).collect();
        let split = Split::new(bytes.clone(), vec![3, 1, 4, 1], SIDE).unwrap();
        let batch = images(&split, &[2, 0], SIDE, &Device::Cpu).unwrap();
        assert_eq!(batch.dims(), [2, SIDE, SIDE, 3]);
        let values: Vec<f32> = batch.flatten_all().unwrap().to_vec1().unwrap();
        let image = |index: usize| &bytes[index * 27..][..27];
        let expected: Vec<f32> = [image(2), image(0)].concat().iter().map(|&byte| f32::from(byte) / 255.0).collect();
        assert_eq!(values, expected);
        assert_eq!(labels(split.labels(), &[2, 0], &Device::Cpu).unwrap().to_vec1::<u32>().unwrap(), [4, 3]);
        assert_eq!((unit(0), unit(255)), (0.0, 1.0));
    }

    #[test]
    fn another_side_is_an_error_that_names_both() {
        let split = Split::new(vec![0; 27], vec![0], 3).unwrap();
        let error = images(&split, &[0], 8, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("3 x 3") && error.contains("8 x 8"), "{error}");
    }
}
