//! The emulated tensor cores: fragments lie where PTX says, operands lose what their format drops, sums are truncated.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_emulation::{Buffer, Launch, Plain};
use half::{bf16, f16};
use support::inputs::Random;

const ROWS: usize = 16;
const COLUMNS: usize = 8;

fn multiply<T: Plain>(format: &str, a: &[T], b: &[T], d: &[f32]) -> Vec<f32> {
    let mut result = Buffer::new(d);
    let entry = format!("gs_proof_mma_{format}");
    let launch = Launch::new(&entry).blocks([1, 1, 1], 32, 768).output(&mut result);
    launch.input(&Buffer::new(a)).input(&Buffer::new(b)).run().unwrap();
    result.values().to_vec()
}

/// The product of small whole numbers, which every format holds exactly; entries tell rows and columns apart.
fn check_fragments<T: Plain>(format: &str, depth: usize, round: fn(f32) -> T) {
    let mut random = Random::new(1);
    let mut whole =
        |count: usize| (0..count).map(|_| (random.uniform() * 15.0).floor() as f32 - 7.0).collect::<Vec<_>>();
    let (a, b, d) = (whole(ROWS * depth), whole(COLUMNS * depth), whole(ROWS * COLUMNS));
    let rounded = |values: &[f32]| values.iter().map(|&value| round(value)).collect::<Vec<_>>();
    let found = multiply(format, &rounded(&a), &rounded(&b), &d);
    for (index, found) in found.iter().enumerate() {
        let (a, b) = (&a[index / COLUMNS * depth..][..depth], &b[index % COLUMNS * depth..][..depth]);
        let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert_eq!(*found, d[index] + product, "{format} {index}");
    }
}

#[test]
fn fragments_lie_where_they_should() {
    check_fragments("f16", 16, f16::from_f32);
    check_fragments("bf16", 16, bf16::from_f32);
    check_fragments("tf32", 8, |value| value);
}

/// Entry (0, 0) of the product of two first rows, added to `sum`.
fn first(format: &str, a: &[f32], b: &[f32], sum: f32) -> f32 {
    let depth = if format == "tf32" { 8 } else { 16 };
    let mut d = vec![0.0; ROWS * COLUMNS];
    d[0] = sum;
    let padded = |values: &[f32], rows: usize| {
        let mut padded = vec![0.0f32; rows * depth];
        padded[..values.len()].copy_from_slice(values);
        padded
    };
    let (a, b) = (padded(a, ROWS), padded(b, COLUMNS));
    let halves = |values: &[f32]| values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>();
    if format == "tf32" { multiply(format, &a, &b, &d)[0] } else { multiply(format, &halves(&a), &halves(&b), &d)[0] }
}

#[test]
fn tf32_drops_the_low_thirteen_bits() {
    let ulp = 2f32.powi(-10);
    // The last bit kept, and all that is dropped: not rounded up.
    let dropped = f32::from_bits(1.0f32.to_bits() | 0x1FFF);
    assert_eq!(first("tf32", &[1.0 + ulp], &[1.0], 0.0), 1.0 + ulp);
    assert_eq!(first("tf32", &[dropped], &[1.0], 0.0), 1.0);
    assert_eq!(first("tf32", &[-dropped], &[dropped], 0.0), -1.0);
}

#[test]
fn sums_are_truncated_towards_zero() {
    let ulp = f32::EPSILON;
    for sign in [1.0, -1.0] {
        // Three quarters of a unit in the last place would be rounded up.
        assert_eq!(first("f16", &[0.75 * sign * 1024.0 * ulp], &[2f32.powi(-10)], sign), sign);
        // Two halves in one step make a unit: alignment keeps one more bit.
        assert_eq!(first("f16", &[0.5 * 1024.0 * ulp; 2], &[2f32.powi(-10) * sign; 2], sign), sign * (1.0 + ulp));
        // What lies below that bit is lost before it is added.
        assert_eq!(first("f16", &[0.25 * 1024.0 * ulp; 4], &[2f32.powi(-10) * sign; 4], sign), sign);
    }
}

/// Half a unit in the last place is lost at the end of a group, two of one group make one: groups are of eight 16-bit products, and
/// of four of tf32.
#[test]
fn products_are_added_in_groups() {
    let (half, one) = (2f32.powi(-12), f32::EPSILON);
    let at = |places: [usize; 2]| {
        let mut values = [0.0; 8];
        places.into_iter().for_each(|place| values[place] = half);
        values
    };
    for (format, places, sum) in [
        ("f16", [3, 4], 1.0 + one),
        ("f16", [0, 7], 1.0 + one),
        ("tf32", [2, 3], 1.0 + one),
        ("tf32", [3, 4], 1.0),
        ("tf32", [4, 7], 1.0 + one),
    ] {
        assert_eq!(first(format, &at(places), &[half; 8], 1.0), sum, "{format} {places:?}");
    }
    // The groups of a row of sixteen.
    let mut halves = [0.0; 16];
    [halves[7], halves[8]] = [half; 2];
    assert_eq!(first("f16", &halves, &[half; 16], 1.0), 1.0);
}

#[test]
fn a_chain_of_truncated_sums_comes_out_too_small() {
    let mut random = Random::new(2);
    let (mut sum, mut exact) = (0.0f32, 0.0f64);
    for _ in 0..200 {
        let a: Vec<f32> = (0..16).map(|_| f16::from_f64(random.uniform()).to_f32()).collect();
        exact += a.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        sum = first("f16", &a, &a, sum);
    }
    let error = (f64::from(sum) - exact) / exact;
    // 400 steps. Each cuts eight products at 2^-24 of the sum, and the sum at 2^-23 of itself, and loses half of that on
    // average: five times 2^-24 of a sum that is half of the last on average, or less by the place of its leading bit.
    let lost = 400.0 * 0.5 * 5.0 * 2f64.powi(-24);
    assert!((-lost..-lost / 4.0).contains(&error), "{error:e}");
}

#[test]
fn infinities_and_nan_come_through() {
    assert_eq!(first("f16", &[f32::INFINITY], &[1.0], 1.0), f32::INFINITY);
    assert!(first("f16", &[f32::INFINITY], &[0.0], 1.0).is_nan());
    assert!(first("tf32", &[f32::NAN], &[1.0], 1.0).is_nan());
}
