//! Products of panels, and their sums over batches.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::Device;
use gramscope_cuda::shapes::RowSummary;
use gramscope_emulation::Buffer;
use support::chain::{Model, Packed, Run, accumulate, accumulate_naive, factor, packed_length};
use support::inputs::Random;
use support::{ROOMY, SMALL, TIGHT};

/// The largest error of a product over the lengths of its rows: halves leave out up to 2^-23 of a value in either factor, and
/// the tensor cores truncate twice a step, 2^-24 of its sum on average.
const EXACT: f64 = 3e-7;

/// Rows of a panel: normal, the first of them resembling each other so that sums do not cancel, with exponents of their own.
fn rows(layers: usize, n: usize, seed: u64) -> Vec<Packed> {
    let mut random = Random::new(seed);
    let length = packed_length(n, false);
    let common: Vec<f64> = (0..length).map(|_| random.normal()).collect();
    (0..layers)
        .map(|layer| {
            let share = if layer % 2 == 0 { 0.9 } else { 0.0 };
            let row: Vec<f32> = common.iter().map(|value| (share * value + 0.3 * random.normal()) as f32).collect();
            let norm = row.iter().map(|&value| f64::from(value).powi(2)).sum();
            Packed { row, summary: RowSummary { norm, kappa: 1.0, exponent: layer as i32 % 5 - 2, state: 0 } }
        })
        .collect()
}

fn model(layers: usize, n: usize, seed: u64, run: Run) -> Model {
    let mut model = Model::new(layers);
    model.observe(&rows(layers, n, seed), n, run);
    model
}

fn products(x: &Model, y: &Model, symmetric: bool, n: usize, run: Run) -> Vec<f64> {
    let mut sums = Buffer::new(&vec![0.0; x.count() * y.count()]);
    accumulate(&mut sums, x, y, symmetric, n, run);
    sums.values().to_vec()
}

/// Compares with the naive twin, and that with plain loops.
fn check(layers: [usize; 2], n: usize, symmetric: bool, run: Run) {
    let x = model(layers[0], n, 1, run);
    let y = if symmetric { None } else { Some(model(layers[1], n, 2, run)) };
    let y = y.as_ref().unwrap_or(&x);
    let found = products(&x, y, symmetric, n, run);
    let mut naive = Buffer::new(&vec![0.0; found.len()]);
    accumulate_naive(&mut naive, &x, y, symmetric, n, run);
    let (rows_x, rows_y) = (rows(layers[0], n, 1), rows(layers[1], n, if symmetric { 1 } else { 2 }));
    for (index, (&found, &naive)) in found.iter().zip(naive.values()).enumerate() {
        let (i, j) = (index / layers[1], index % layers[1]);
        if symmetric && j > i {
            assert_eq!((found, naive), (0.0, 0.0));
            continue;
        }
        let (a, b) = (&rows_x[i], &rows_y[j]);
        let truth: f64 =
            a.row.iter().zip(&b.row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() * factor(n, false);
        // In one batch every layer's unit is its own exponent.
        let scale = (a.summary.norm * b.summary.norm).sqrt() * factor(n, false);
        assert!((naive - truth).abs() <= 1e-13 * scale, "naive {i}, {j}: {naive} {truth}");
        assert!((found - truth).abs() <= EXACT * scale, "{layers:?} n = {n} {i}, {j}: {found} {truth}");
    }
}

#[test]
fn one_model_with_itself() {
    for (layers, n) in [(1, 4), (3, 5), (16, 33), (17, 46), (33, 31)] {
        check([layers, layers], n, true, Run::default());
    }
}

#[test]
fn two_models() {
    for (layers, n) in [([1, 1], 4), ([3, 17], 5), ([16, 2], 33), ([33, 15], 46), ([5, 9], 64)] {
        check(layers, n, false, Run::default());
    }
}

#[test]
fn more_layers_than_a_tile() {
    check([130, 130], 12, true, Run::default());
    check([129, 150], 12, false, Run::default());
    check([5, 129], 12, false, Run::default());
}

#[test]
fn panels_at_any_address() {
    for shift in [1, 2] {
        check([5, 5], 33, true, Run { shift, ..Run::default() });
        check([4, 6], 32, false, Run { shift, ..Run::default() });
    }
}

#[test]
fn many_chains_in_one_block() {
    // 65 examples are 2,080 entries, 65 slabs: the last is flushed in the turn behind a flush.
    for n in [65, 90] {
        check([4, 4], n, true, Run { device: Device { multiprocessors: 1, ..SMALL }, ..Run::default() });
    }
}

#[test]
fn neither_the_order_of_threads_nor_the_ring_shows() {
    let bits = |seed, device| {
        let run = Run { seed, device, ..Run::default() };
        let (x, y) = (model(20, 40, 3, run), model(7, 40, 4, run));
        (products(&x, &x, true, 40, run), products(&x, &y, false, 40, run))
    };
    let first = bits(1, SMALL);
    assert!([2, 3].iter().all(|&seed| bits(seed, SMALL) == first));
    assert!([ROOMY, TIGHT].iter().all(|&device| bits(1, device) == first));
}

#[test]
fn rows_in_blocks_are_the_same_sums() {
    let (n, run) = (20, Run::default());
    let (all_x, all_y) = (rows(21, n, 5), rows(9, n, 6));
    let part = |rows: &[Packed]| {
        let mut model = Model::new(rows.len());
        model.observe(rows, n, run);
        model
    };
    let whole = products(&part(&all_x), &part(&all_y), false, n, run);
    let [above, below] = [&all_x[..16], &all_x[16..]].map(|rows| products(&part(rows), &part(&all_y), false, n, run));
    assert_eq!(whole, [above, below].concat());
}

#[test]
fn batches_of_any_scale_add_up() {
    let (n, run) = (6, Run::default());
    let mut model = Model::new(2);
    let mut sums = Buffer::new(&[0.0; 4]);
    let one = |exponent| Packed {
        row: vec![1.0; packed_length(n, false)],
        summary: RowSummary { norm: packed_length(n, false) as f64, kappa: 1.0, exponent, state: 0 },
    };
    // The second layer is some 2^2000 times the first in places; sums are held in the largest unit met.
    let exponents = [[0, 900], [7, -900], [-9, 900], [8, 0]];
    for [first, second] in exponents {
        model.observe(&[one(first), one(second)], n, run);
        accumulate(&mut sums, &model, &model, true, n, run);
    }
    let row = packed_length(n, false) as f64 * factor(n, false);
    let sum = |units: [i32; 2], layers: [usize; 2]| {
        let term = |e: &[i32; 2]| 2f64.powi(e[layers[0]] - units[0]) * 2f64.powi(e[layers[1]] - units[1]);
        exponents.iter().map(term).sum::<f64>() * row
    };
    let [first, second] = [model.layers.values()[0], model.layers.values()[1]];
    assert_eq!((first.unit, second.unit), (8, 900));
    for (found, truth) in [
        (first.own, sum([8, 8], [0, 0])),
        (second.own, sum([900, 900], [1, 1])),
        (sums.values()[0], sum([8, 8], [0, 0])),
        (sums.values()[2], sum([900, 8], [1, 0])),
        (sums.values()[3], sum([900, 900], [1, 1])),
    ] {
        assert!((found - truth).abs() <= 1e-14 * truth, "{found} {truth}");
    }
}

#[test]
fn zero_and_undefined_rows() {
    let (n, run) = (6, Run::default());
    let row = |state, value: f32| Packed {
        row: vec![value; packed_length(n, false)],
        summary: RowSummary { norm: f64::from(value) * packed_length(n, false) as f64, kappa: 1.0, exponent: 3, state },
    };
    let mut model = Model::new(3);
    model.observe(&[row(1, 0.0), row(0, 1.0), row(2, 0.0)], n, run);
    assert_eq!([0, 1, 2].map(|layer| model.layers.values()[layer].state), [0, 1, 2]);
    assert_eq!(model.layers.values()[0].own, 0.0);
    model.observe(&[row(0, 1.0), row(1, 0.0), row(0, 1.0)], n, run);
    // Undefined once is undefined for good.
    assert_eq!([0, 1, 2].map(|layer| model.layers.values()[layer].state), [1, 1, 2]);
    let own = packed_length(n, false) as f64 * factor(n, false);
    assert_eq!([0, 1].map(|layer| model.layers.values()[layer].own), [own, own]);
}
