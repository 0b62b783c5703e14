//! Augmentation: in float32 to the last bit what gramscope-train does on the CPU; the random numbers, those of gramscope-nn.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::Device;
use gramscope_cuda::plan::training as plan;
use gramscope_cuda::shapes::{AugmentShape, BatchPlace};
use gramscope_emulation::{Buffer, Launch};
use gramscope_nn::random::{Philox, Stream};
use gramscope_train::TrainSettings;
use gramscope_train::augment::Augmentation;
use gramscope_train::data::Split;
use half::bf16;
use support::Element;
use support::inputs::Random;

fn words(seed: u64, stream: u32, major: u32, minor: u64) -> Vec<u32> {
    let mut words = Buffer::<u32>::poisoned(4);
    let launch = Launch::new("gs_philox_words").output(&mut words);
    launch.value(seed).value(stream).value(major).value(minor).run().unwrap();
    words.values().to_vec()
}

/// The known-answer vectors published with the authors' Random123 library.
#[test]
fn random_words_are_philoxs() {
    assert_eq!(words(0, 0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let all = u64::MAX;
    assert_eq!(words(all, u32::MAX, u32::MAX, all), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let pi = words(0x299f_31d0_a409_3822, 0x0370_7344, 0x1319_8a2e, 0x85a3_08d3_243f_6a88);
    assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

#[test]
fn random_words_are_the_cpus() {
    for (seed, major, minor) in [(0, 1, 0), (7, 300, 49_999), (u64::MAX - 5, u32::MAX, 1 << 40)] {
        let stream = Stream::Augmentation;
        assert_eq!(words(seed, stream as u32, major, minor), Philox::new(seed, stream).words(major, minor));
    }
}

/// Made images of `side` pixels, and their labels.
fn made(count: usize, side: usize) -> (Vec<u8>, Vec<u32>) {
    let mut random = Random::new(side as u64);
    let pixels = (0..count * side * side * 3).map(|_| (random.uniform() * 256.0) as u8).collect();
    (pixels, (0..count as u32).map(|index| index % 7).collect())
}

/// Where five of six images lie: the fourth is not there.
const PART: [u32; 6] = [3, 1, 4, u32::MAX, 0, 2];

/// Of made images and labels, those at `places`.
fn of(places: &[usize], pixels: &[u8], labels: &[u32], side: usize) -> (Vec<u8>, Vec<u32>) {
    let image = |&place: &usize| &pixels[place * side * side * 3..][..side * side * 3];
    (places.iter().flat_map(image).copied().collect(), places.iter().map(|&place| labels[place]).collect())
}

/// Images and labels of the batch of `batch` from `place` on in `order`, of images that lie at `rows`.
fn augment<T: Element>(
    pixels: &[u8],
    labels: &[u32],
    rows: &[u32],
    order: &[u32],
    (place, batch): (BatchPlace, usize),
    side: usize,
    shape: AugmentShape,
) -> (Vec<T>, Vec<u32>) {
    let (count, stored) = (rows.len() as i64, labels.len() as i32);
    let shape =
        AugmentShape { count, stored, entries: order.len() as i32, batch: batch as i32, side: side as i32, ..shape };
    let places = batch * side * side;
    let (mut images, mut labels_out) = (Buffer::<T>::poisoned(places * 3), Buffer::<u32>::poisoned(batch));
    let (pixels, labels) = (Buffer::new(pixels), Buffer::new(labels));
    let (rows, order) = (Buffer::new(rows), Buffer::new(order));
    let place = Buffer::new(&[place.first, place.epoch]);
    let name = format!("gs_augment_crop_{}", T::SUFFIX);
    let launch = Launch::new(&name).geometry(plan::values(places)).seed(1).output(&mut images).output(&mut labels_out);
    launch.input(&pixels).input(&labels).input(&rows).input(&order).input(&place).value(shape).run().unwrap();
    (images.values().to_vec(), labels_out.values().to_vec())
}

#[test]
fn batches_are_the_cpus() {
    let order = [4u32, 0, 5, 5, 2, 1];
    // Of an epoch, the batch is neither the first nor the last.
    let epochs = [&[3, 3][..], &order, &[0]].concat();
    for (side, crop_padding, flip) in
        [(1, 0, true), (5, 4, true), (8, 0, false), (8, 0, true), (32, 4, true), (7, 3, false)]
    {
        let (pixels, labels) = made(6, side);
        let split = Split::new(pixels.clone(), labels.clone(), side).unwrap();
        for (seed, epoch) in [(0, 1), (u64::MAX, 300)] {
            let settings = TrainSettings { seed, crop_padding, flip, ..TrainSettings::default() };
            let indices = order.map(|index| index as usize);
            let cpu = Augmentation::new(&settings).batch(&split, &indices, epoch, &Device::Cpu).unwrap();
            let cpu: Vec<f32> = cpu.flatten_all().unwrap().to_vec1().unwrap();
            let padding = crop_padding as i32;
            let shape = AugmentShape { seed, padding, flip: flip.into(), ..AugmentShape::default() };
            let batch = (BatchPlace { first: 2, epoch }, order.len());
            let bf16s: Vec<bf16> = cpu.iter().map(|value| bf16::from_f32(*value)).collect();
            // All in their order, and without the one that is not asked for, in another.
            for (rows, stored) in [([0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3, 4, 5]), (PART, vec![4, 1, 5, 0, 2])] {
                let (pixels, labels_of) = of(&stored, &pixels, &labels, side);
                let (images, labels_out) = augment::<f32>(&pixels, &labels_of, &rows, &epochs, batch, side, shape);
                assert_eq!(images, cpu, "{stored:?} {side} {crop_padding} {flip} {seed} {epoch}");
                assert_eq!(labels_out, indices.map(|index| labels[index]));
                let (images, _) = augment::<bf16>(&pixels, &labels_of, &rows, &epochs, batch, side, shape);
                assert_eq!(images, bf16s);
            }
        }
    }
}

/// Which of three images are NaN and have no label.
fn missing(rows: &[u32], order: &[u32], first: u32) -> Vec<bool> {
    let (pixels, labels) = made(3, 4);
    let shape = AugmentShape { seed: 1, padding: 2, flip: 1, ..AugmentShape::default() };
    let batch = (BatchPlace { first, epoch: 1 }, 3);
    let (images, labels_out) = augment::<f32>(&pixels, &labels, rows, order, batch, 4, shape);
    let missing: Vec<bool> = labels_out.iter().map(|&label| label == u32::MAX).collect();
    for (index, value) in images.iter().enumerate() {
        assert_eq!(value.is_nan(), missing[index / (4 * 4 * 3)], "{index}");
    }
    missing
}

#[test]
fn an_order_beyond_the_images_and_images_beyond_the_order_read_nothing() {
    for (rows, beyond) in
        [([0, 1, 2], 3), ([0, 1, 2], 1 << 31), ([0, 1, 2], u32::MAX), ([0, 3, 2], 1), ([0, u32::MAX, 2], 1)]
    {
        assert_eq!(missing(&rows, &[2, beyond, 0], 0), [false, true, false]);
    }
    assert_eq!(missing(&[0, 1, 2], &[1, 2, 0], 1), [false, false, true]);
    assert_eq!(missing(&[0, 1, 2], &[1, 2, 0], u32::MAX), [true; 3]);
}

#[test]
fn a_batch_moves_the_place_on() {
    let mut place = Buffer::new(&[7u32, 3]);
    Launch::new("gs_augment_advance").geometry(plan::advance()).output(&mut place).value(5u32).run().unwrap();
    assert_eq!(place.values(), [12, 3]);
}
