//! The mixture of two branches: in float32 to the last bit what gramscope-nn does on the CPU, and its shares.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::{Device, Tensor};
use gramscope_cuda::plan::training as plan;
use gramscope_cuda::shapes::{MixingShape, SharesShape};
use gramscope_emulation::{Buffer, Launch};
use gramscope_nn::ops::{elementwise, mixing};
use half::bf16;
use support::Element;
use support::inputs::Random;

/// Images and values of each: whole runs of both types, of one alone, and parts of them; images that end within a run; more
/// than a block has.
const SHAPES: [(usize, usize); 7] = [(1, 1), (2, 4), (3, 8), (5, 7), (2, 13), (7, 324), (3, 2056)];

fn normal<T: Element>(length: usize, seed: u64) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..length).map(|_| T::round(random.normal())).collect()
}

fn uniform(length: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.uniform() as f32).collect()
}

/// The shares of `blocks` blocks for the `batch` images from `first` on in `order`.
fn shares(seed: u64, order: &[u32], [first, epoch]: [u32; 2], blocks: usize, batch: usize) -> Vec<f32> {
    let mut shares = Buffer::<f32>::poisoned(blocks * 2 * batch);
    let (order, place) = (Buffer::new(order), Buffer::new(&[first, epoch]));
    let entries = order.values().len() as i32;
    let shape = SharesShape { seed, entries, batch: batch as i32, blocks: blocks as i32, padding: 0 };
    let launch = Launch::new("gs_mixing_shares").geometry(plan::values(blocks * batch)).output(&mut shares);
    launch.input(&order).input(&place).value(shape).run().unwrap();
    shares.values().to_vec()
}

#[test]
fn shares_are_the_cpus() {
    let order = [9u32, 4, 0, 49_999, 7, 7, u32::MAX - 1];
    for (seed, epoch, first, batch, blocks) in
        [(0, 1, 0, 7, 1), (u64::MAX - 3, 300, 1, 5, 54), (7, u32::MAX, 6, 1, 3), (1 << 40, 2, 2, 3, 100)]
    {
        let found = shares(seed, &order, [first as u32, epoch], blocks, batch);
        let images: Vec<usize> = order[first..][..batch].iter().map(|&image| image as usize).collect();
        let expected = (0..blocks).flat_map(|block| mixing::shares(seed, epoch, block, &images).concat());
        assert_eq!(found, expected.collect::<Vec<_>>(), "{seed}, {epoch}");
        assert!(found.iter().all(|share| (0.0..1.0).contains(share)));
    }
}

#[test]
fn images_beyond_the_order_have_no_shares() {
    for (first, expected) in [(1, [false, false, true]), (3, [true; 3]), (u32::MAX, [true; 3])] {
        let found = shares(1, &[2, 1, 0], [first, 1], 2, 3);
        let missing: Vec<bool> = found.iter().map(|share| share.is_nan()).collect();
        assert_eq!(missing, [expected; 4].concat(), "from {first}");
    }
}

/// What is mixed, at `shift` values behind an aligned address where that is not 0.
struct Branches<T> {
    shape: (usize, usize),
    shift: usize,
    a: Vec<T>,
    b: Vec<T>,
}

impl<T: Element> Branches<T> {
    fn new(shape: (usize, usize), shift: usize) -> Self {
        let length = shape.0 * shape.1;
        Self { shape, shift, a: normal(length, 1), b: normal(length, 2) }
    }

    fn launch<'a>(&self, entry: &'a str) -> Launch<'a> {
        Launch::new(entry).geometry(plan::runs(self.a.len(), size_of::<T>())).seed(3)
    }

    fn value(&self) -> MixingShape {
        MixingShape { images: self.shape.0 as i32, length: self.shape.1 as i32 }
    }

    /// The mixture, its sum with `addend`, and the result, which is the same whatever is looked at.
    fn mixed(&self, addend: &[T], shares: Option<&[f32]>) -> [Vec<T>; 3] {
        let (a, b, addend) = (Buffer::misaligned(&self.a, self.shift), Buffer::new(&self.b), Buffer::new(addend));
        let shares = shares.map(Buffer::new);
        let entry = format!("gs_mixing_forward_{}", T::SUFFIX);
        let results = [[false, false], [true, false], [false, true], [true, true]].map(|looks| {
            let [mut mixture, mut sum, mut y] = [(); 3].map(|()| Buffer::<T>::poisoned(self.a.len()));
            let launch = self.launch(&entry).output(&mut y);
            let launch = looks
                .into_iter()
                .zip([&mut mixture, &mut sum])
                .fold(launch, |launch, (looks, seen)| if looks { launch.output(seen) } else { launch.null() });
            let launch = launch.input(&a).input(&b).input(&addend);
            let launch = match &shares {
                Some(shares) => launch.input(shares),
                None => launch.null(),
            };
            launch.value(self.value()).run().unwrap();
            [mixture, sum, y].map(|buffer| buffer.values().to_vec())
        });
        let bits = |values: &[T]| values.iter().map(|value| value.widen().to_bits()).collect::<Vec<_>>();
        let [unseen, first, second, seen] = &results;
        assert!([unseen, first, second].iter().all(|results| bits(&results[2]) == bits(&seen[2])));
        assert!(bits(&first[0]) == bits(&seen[0]) && bits(&second[1]) == bits(&seen[1]));
        seen.clone()
    }

    /// `dmixed`, `dother` and `daddend` from the gradient `a` of the result `b`.
    fn backward(&self, shares: &[f32]) -> [Vec<T>; 3] {
        let mut dmixed = Buffer::misaligned(&self.a, self.shift);
        let (y, shares) = (Buffer::new(&self.b), Buffer::new(shares));
        let [mut dother, mut daddend] = [(); 2].map(|()| Buffer::<T>::poisoned(self.a.len()));
        let entry = format!("gs_mixing_backward_{}", T::SUFFIX);
        let launch = self.launch(&entry).output(&mut dmixed).output(&mut dother).output(&mut daddend);
        launch.input(&y).input(&shares).value(self.value()).run().unwrap();
        [dmixed, dother, daddend].map(|buffer| buffer.values().to_vec())
    }
}

#[test]
fn mixtures_are_the_cpus() {
    for shape in SHAPES {
        for shift in [0, 1] {
            let branches = Branches::<f32>::new(shape, shift);
            let (addend, drawn) = (normal::<f32>(branches.a.len(), 3), uniform(shape.0, 4));
            let tensor = |values: &[f32]| Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap();
            let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let shares = Tensor::from_vec(drawn.clone(), shape.0, &Device::Cpu).unwrap();
            let halves = Tensor::full(0.5f32, shape.0, &Device::Cpu).unwrap();
            let cpu = |mixed: Tensor| {
                let sum = elementwise::add(mixed.copy().unwrap(), &tensor(&addend)).unwrap();
                let y = elementwise::relu(sum.copy().unwrap()).unwrap();
                [mixed, sum, y].map(values)
            };
            let expected = cpu(mixing::mix(tensor(&branches.a), &tensor(&branches.b), &shares).unwrap());
            assert_eq!(branches.mixed(&addend, Some(&drawn)), expected, "{shape:?}, {shift} off");
            let expected = cpu(mixing::mix(tensor(&branches.a), &tensor(&branches.b), &halves).unwrap());
            assert_eq!(branches.mixed(&addend, None), expected, "{shape:?}, {shift} off");

            let dsum = elementwise::relu_backward(tensor(&branches.a), &tensor(&branches.b)).unwrap();
            let part = |first| {
                let part = tensor(&addend);
                mixing::part_into(&part, &dsum, &shares, first).unwrap();
                values(part)
            };
            let expected = [part(true), part(false), values(dsum.copy().unwrap())];
            assert_eq!(branches.backward(&drawn), expected, "{shape:?}, {shift} off");
        }
    }
}

/// Against float64: a rounding to 8 bits is off by at most 2^-8 of the result, and before it products and sums in float32 by
/// roundings of 2^-24 of the terms, of which three follow each other, and which the addend may have cancelled. So the sum is not
/// that of the mixture that was rounded to be stored.
#[test]
fn bf16_is_rounded_once() {
    for shape in SHAPES {
        for shift in [0, 1] {
            let branches = Branches::<bf16>::new(shape, shift);
            let (addend, drawn) = (normal::<bf16>(branches.a.len(), 3), uniform(shape.0, 4));
            let close = |found: bf16, expected: f64, terms: f64, what: &str| {
                let off = (found.widen() - expected).abs();
                let allowed = expected.abs() / 256.0 + 3.0 / f64::from(1 << 24) * terms;
                assert!(off <= allowed, "{what}, {shape:?}, {shift} off: {found} is not {expected}");
            };
            let [mixture, sum, y] = branches.mixed(&addend, Some(&drawn));
            let [da, db, daddend] = branches.backward(&drawn);
            for index in 0..branches.a.len() {
                let share = f64::from(drawn[index / shape.1]);
                let (a, b, c) = (branches.a[index].widen(), branches.b[index].widen(), addend[index].widen());
                let (mixed, terms) = (share * a + (1.0 - share) * b, a.abs() + b.abs() + c.abs());
                close(mixture[index], mixed, terms, "mixture");
                close(sum[index], mixed + c, terms, "sum");
                close(y[index], (mixed + c).max(0.0), terms, "result");
                let g = if b > 0.0 { a } else { 0.0 };
                close(da[index], share * g, terms, "da");
                close(db[index], (1.0 - share) * g, terms, "db");
                assert_eq!(daddend[index].widen(), g);
            }
        }
    }
}

#[test]
fn nan_stays_nan() {
    let mut branches = Branches::<f32>::new((2, 3), 0);
    branches.a[1] = f32::NAN;
    branches.b[5] = f32::NAN;
    for values in branches.mixed(&[1.0; 6], None) {
        let missing: Vec<bool> = values.iter().map(|value| value.is_nan()).collect();
        assert_eq!(missing, [false, true, false, false, false, true]);
    }
    for values in branches.mixed(&[1.0; 6], Some(&[0.5, f32::NAN])) {
        let missing: Vec<bool> = values.iter().map(|value| value.is_nan()).collect();
        assert_eq!(missing, [false, true, false, true, true, true]);
    }
    let [da, db, _] = branches.backward(&[f32::NAN, 0.5]);
    assert!(da[..3].iter().chain(&db[..3]).all(|gradient| gradient.is_nan()));
}
