//! Every launcher refuses what its kernel would read or write beyond, on the driver that runs the kernels' own sources: a buffer
//! that is one value short, a dimension that is out of range, larger than its buffers, or so large that lengths wrap around, a
//! start between two runs; and then nothing has been launched.
//!
//! Buffers that overlap are refused as well, but no safe program can pass them: what one of them is written through is borrowed
//! (the documentation of `Launcher` has an example that does not compile).
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

#[macro_use]
mod making;
mod comparing;
mod convolutions;
mod probing;
mod training;

#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;

use gramscope_cuda::{Device, Error, disjoint_mut};

use comparing::{ucenter_naive, ucenter_pack, ucenter_reduce, ucenter_rows};
use making::Dimension::Size;
use making::{Defect, Dimension, Family, Launch, Making};
use support::driver::{driver, on_fake_driver};

/// Every launcher.
fn families() -> impl Iterator<Item = &'static Family> {
    [comparing::FAMILIES, convolutions::FAMILIES, training::FAMILIES, probing::FAMILIES].into_iter().flatten()
}

#[test]
fn launchers_launch_what_is_right() {
    if let Some(trace) = on_fake_driver(&driver(), "launchers_launch_what_is_right") {
        assert!(trace.launches() >= families().count(), "{} launches", trace.launches());
        return;
    }
    let device = Device::open(0).unwrap();
    for family in families() {
        if let (Err(error), _) = family.try_with(&device, Defect::Nothing) {
            panic!("{}: {error}", family.name);
        }
    }
}

#[test]
fn launchers_refuse_what_is_wrong_and_launch_nothing() {
    if let Some(trace) = on_fake_driver(&driver(), "launchers_refuse_what_is_wrong_and_launch_nothing") {
        assert_eq!(trace.launches(), 0);
        return;
    }
    let device = Device::open(0).unwrap();
    for family in families() {
        let buffers = family.refuses(&device, Defect::Short(0), "at least");
        for index in 1..buffers {
            family.refuses(&device, Defect::Short(index), "at least");
        }
        for &index in family.runs {
            family.refuses(&device, Defect::Shifted(index), "aligned to");
        }
        for (index, dimension) in family.dimensions.iter().enumerate() {
            for value in dimension.wrong() {
                family.refuses(&device, Defect::Dimension(index, value), "");
            }
        }
    }
}

#[test]
fn layers_that_are_too_many_or_of_several_types_are_refused() {
    if let Some(trace) = on_fake_driver(&driver(), "layers_that_are_too_many_or_of_several_types_are_refused") {
        assert_eq!(trace.launches(), 0);
        return;
    }
    comparing::refused_together(&Device::open(0).unwrap());
}

/// Parts of a buffer that are borrowed at once lie where they were asked for, and are refused where two of them would be the same memory
/// or one would be none of the buffer's.
#[test]
fn parts_of_a_buffer_are_borrowed_apart() {
    if on_fake_driver(&driver(), "parts_of_a_buffer_are_borrowed_apart").is_some() {
        return;
    }
    let device = Device::open(0).unwrap();
    let mut buffer = device.upload("parts", &[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let parts = disjoint_mut(&mut buffer, &[4..6, 0..1, 1..4]).unwrap();
    let read: Vec<Vec<f32>> = parts.iter().map(|part| device.download(&part.as_view()).unwrap()).collect();
    assert_eq!(read, [vec![4.0, 5.0], vec![0.0], vec![1.0, 2.0, 3.0]]);
    let [backwards, beyond] = [std::ops::Range { start: 3, end: 2 }, 5..7];
    for wrong in [[0..3, 2..4], [2..4, 0..3], [1..5, 2..3], [0..6, 0..6], [0..1, beyond], [0..1, backwards]] {
        assert!(disjoint_mut(&mut buffer, &wrong).is_none(), "{wrong:?}");
    }
}

/// More parts than there are slabs to multiply; an addend without what says where its gradient goes.
#[test]
fn what_does_not_go_together_is_refused() {
    if let Some(trace) = on_fake_driver(&driver(), "what_does_not_go_together_is_refused") {
        assert_eq!(trace.launches(), 0);
        return;
    }
    const TOGETHER: &[(Launch, &[Dimension], &str)] = &[
        (comparing::hsic_mma, &[Size(3), Size(2), Size(70), Size(4)], "splits"),
        (training::addend_without_result, &[Size(3), Size(4)], "ReLU"),
    ];
    let device = Device::open(0).unwrap();
    for &(launch, dimensions, words) in TOGETHER {
        let making = Making { device: &device, dimensions, defect: Defect::Nothing, buffers: Cell::new(0) };
        let error = launch(&making).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }) && error.to_string().contains(words), "{error}");
    }
}

/// The unbiased estimator divides by n - 2 and n - 3; the biased one, and adding up products, do not.
#[test]
fn fewer_than_four_examples_are_for_the_biased_estimator_alone() {
    if on_fake_driver(&driver(), "fewer_than_four_examples_are_for_the_biased_estimator_alone").is_some() {
        return;
    }
    const FEW: &[(&str, Launch, bool)] = &[
        ("ucenter_rows", ucenter_rows, false),
        ("ucenter_pack", ucenter_pack, false),
        ("ucenter_naive", ucenter_naive, true),
        ("ucenter_reduce", ucenter_reduce, true),
    ];
    let device = Device::open(0).unwrap();
    for &(name, launch, biased) in FEW {
        for dimensions in [&[Size(2), Size(1)], &[Size(3), Size(1)], &[Size(4), Size(1)]] {
            let making = Making { device: &device, dimensions, defect: Defect::Nothing, buffers: Cell::new(0) };
            let (outcome, n) = (launch(&making), dimensions[0].value());
            assert_eq!(outcome.is_ok(), biased || n == 4, "{name}, {n} examples: {outcome:?}");
        }
    }
}
