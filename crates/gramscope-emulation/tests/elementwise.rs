//! ReLU and copies in bfloat16, to the last bit.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::training as plan;
use gramscope_cuda::shapes::ElementwiseShape;
use gramscope_emulation::{Buffer, Launch};
use half::bf16;
use support::Element;
use support::inputs::Random;

fn normal<T: Element>(length: usize, seed: u64) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..length).map(|_| T::round(random.normal())).collect()
}

/// Whole runs, parts of them, pointers that are aligned and ones that are not.
fn check<T: Element>() {
    for length in [1, 3, 4, 8, 1023, 2048, 2049] {
        for shift in [0, 1] {
            let a = normal::<T>(length, 1);
            let shape = ElementwiseShape { length: length as i64 };
            let geometry = plan::runs(length, size_of::<T>());
            let mut x = Buffer::misaligned(&a, shift);
            let name = format!("gs_elementwise_relu_{}", T::SUFFIX);
            Launch::new(&name).geometry(geometry).output(&mut x).value(shape).run().unwrap();
            let expected: Vec<T> = a.iter().map(|a| T::round(a.widen().max(0.0))).collect();
            assert_eq!(x.values(), expected, "{length} values, {shift} off");
        }
    }
}

#[test]
fn rectified_values_are_exact() {
    check::<f32>();
    check::<bf16>();
}

/// Half's conversion rounds to nearest, ties to even; NaN stays NaN.
#[test]
fn narrow_copies_are_rounded_once() {
    let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -3.4e38, 1e-40, f32::INFINITY];
    for length in [1, 3, 4, 1023, 2049] {
        for shift in [0, 1] {
            let mut x = normal::<f32>(length, 3);
            for (x, tie) in x.iter_mut().zip(ties) {
                *x = tie;
            }
            let (mut narrow, x_there) = (Buffer::misaligned(&vec![bf16::NAN; length], shift), Buffer::new(&x));
            let shape = ElementwiseShape { length: length as i64 };
            let launch = Launch::new("gs_elementwise_narrow").geometry(plan::runs(length, size_of::<f32>()));
            launch.output(&mut narrow).input(&x_there).value(shape).run().unwrap();
            let expected: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            assert_eq!(narrow.values(), expected, "{length} values, {shift} off");
        }
    }
    let (mut narrow, x) = (Buffer::<bf16>::poisoned(1), Buffer::new(&[f32::NAN]));
    let launch = Launch::new("gs_elementwise_narrow").geometry(plan::runs(1, size_of::<f32>()));
    launch.output(&mut narrow).input(&x).value(ElementwiseShape { length: 1 }).run().unwrap();
    assert!(narrow.values()[0].is_nan());
}

#[test]
fn nan_stays_nan() {
    let values = [f32::NAN, -1.0, f32::NEG_INFINITY, f32::INFINITY, -0.0];
    let mut x = Buffer::new(&values);
    let shape = ElementwiseShape { length: 5 };
    let launch = Launch::new("gs_elementwise_relu_f32").geometry(plan::runs(5, 4));
    launch.output(&mut x).value(shape).run().unwrap();
    assert!(x.values()[0].is_nan());
    assert_eq!(x.values()[1..], [0.0, 0.0, f32::INFINITY, 0.0]);
    let mut x = Buffer::new(&values.map(bf16::from_f32));
    let launch = Launch::new("gs_elementwise_relu_bf16").geometry(plan::runs(5, 2));
    launch.output(&mut x).value(shape).run().unwrap();
    assert!(x.values()[0].is_nan() && x.values()[1..].iter().all(|value| *value >= bf16::ZERO));
}
