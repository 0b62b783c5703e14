//! The whole chain: gram, ucenter, hsic, CKA.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_reference::Matrix;
use gramscope_reference::cka::{Estimator, Kernel, minibatch};
use half::{bf16, f16};
use support::chain::{Products, Run, cka};
use support::inputs::{self, normal, pair, rectified};
use support::{Element, rounded};

/// The largest error of CKA among `layers`, and of them with themselves, against float64; NaN if an entry is.
fn largest_error<T: Element>(layers: &[Matrix], run: Run) -> f64 {
    let layers: Vec<Matrix> = layers.iter().map(rounded::<T>).collect();
    let found = cka::<T>(std::slice::from_ref(&layers), None, run);
    let estimator = if run.biased { Estimator::Biased } else { Estimator::Unbiased };
    let mut largest = 0.0f64;
    for i in 0..layers.len() {
        for j in 0..layers.len() {
            let (x, y) = (std::slice::from_ref(&layers[i]), std::slice::from_ref(&layers[j]));
            let error = (found.get(i, j) - minibatch(x, y, Kernel::Linear, estimator)).abs();
            largest = if error.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(error) };
        }
    }
    largest
}

#[test]
fn explore() {
    let mut cases: Vec<(String, Vec<Matrix>)> = Vec::new();
    for (n, p) in [(32, 513), (64, 1000), (128, 700), (256, 513)] {
        let (x, y) = pair(n, p, p / 2, 7);
        cases.push((format!("pair {n} {p}"), vec![x, y]));
        cases.push((format!("rectified {n} {p}"), vec![rectified(n, p, 1), rectified(n, p, 2), normal(n, p, 3)]));
        cases
            .push((format!("offset {n} {p}"), vec![inputs::offset(n, p, 1), inputs::offset(n, p, 2), normal(n, p, 3)]));
        for e in [2, 4, 6, 8] {
            let f = 10f64.powi(e);
            cases.push((
                format!("outlier 1e{e} {n} {p}"),
                vec![
                    inputs::outlier(n, p, f, 1),
                    inputs::offset_outlier(n, p, f, 2),
                    normal(n, p, 3),
                    rectified(n, p, 5),
                ],
            ));
        }
        cases.push((format!("duplicated {n} {p}"), vec![inputs::duplicated(n, p, 1), normal(n, p, 2)]));
        cases.push((format!("constant {n} {p}"), vec![inputs::constant_columns(n, p, 1), normal(n, p, 2)]));
        cases.push((format!("growing {n} {p}"), vec![inputs::growing(n, p, 1), normal(n, p, 2), rectified(n, p, 3)]));
        cases.push((
            format!("p small {n}"),
            vec![normal(n, 1, 1), normal(n, 3, 2), rectified(n, 7, 3), rectified(n, 1, 4)],
        ));
        let x = rectified(n, p, 1);
        cases.push((
            format!("scales {n} {p}"),
            vec![
                x.clone(),
                inputs::scaled(&x, 1e-15),
                inputs::scaled(&x, 1e25),
                inputs::scaled(&normal(n, p, 4), 1e-37),
                inputs::scaled(&normal(n, p, 5), 1e37),
            ],
        ));
    }
    for (name, layers) in cases {
        let e = |products| largest_error::<f32>(&layers, Run { products, ..Run::default() });
        println!("{name}: exact {:e} fast {:e}", e(Products::Exact), e(Products::Fast));
    }
}
