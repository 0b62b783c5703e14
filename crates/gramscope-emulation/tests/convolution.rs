//! Convolutions and their gradients against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::convolution as plan;
use gramscope_cuda::plan::{Convolution, Geometry};
use gramscope_cuda::shapes::ConvolutionShape;
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::{Tensor4, convolution as reference};
use half::bf16;
use support::Element;
use support::inputs::Random;

/// float32's unit roundoff.
const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// (images, height, width, from, to, kernel, stride, padding)
type Case = (usize, usize, usize, usize, usize, usize, usize, usize);

fn convolution((images, height, width, from, to, kernel, stride, padding): Case) -> Convolution {
    Convolution { images, height, width, from, to, kernel, stride, padding }
}

/// What a convolution and its gradients are computed from, as float64 sees it.
struct Inputs {
    x: Tensor4,
    weight: Tensor4,
    bias: Vec<f64>,
    dy: Tensor4,
    /// What dx holds where the gradient is added to it.
    before: Tensor4,
}

impl Inputs {
    /// Normal numbers, as they are once stored.
    fn new<T: Element>(c: &Convolution) -> Self {
        let mut random = Random::new(41);
        let mut tensor = |shape: [usize; 4], round: fn(f64) -> f64| {
            Tensor4::new(shape, (0..shape.iter().product()).map(|_| round(random.normal())).collect())
        };
        let (activation, parameter) = (|value| T::round(value).widen(), |value| f64::from(value as f32));
        let (x_shape, y_shape) =
            ([c.images, c.height, c.width, c.from], [c.images, c.out_height(), c.out_width(), c.to]);
        Self {
            x: tensor(x_shape, activation),
            weight: tensor([c.to, c.kernel, c.kernel, c.from], parameter),
            bias: tensor([1, 1, 1, c.to], parameter).data,
            dy: tensor(y_shape, activation),
            before: tensor(x_shape, activation),
        }
    }

    fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        let values = |values: &[f64]| values.iter().map(|&value| change(value)).collect::<Vec<_>>();
        let tensor = |tensor: &Tensor4| Tensor4::new(tensor.shape, values(&tensor.data));
        Self {
            x: tensor(&self.x),
            weight: tensor(&self.weight),
            bias: values(&self.bias),
            dy: tensor(&self.dy),
            before: tensor(&self.before),
        }
    }

    fn results(&self, c: &Convolution) -> Results<f64> {
        let y = reference::forward(&self.x, &self.weight, &self.bias, c.stride, c.padding);
        let gradients = reference::backward(&self.x, &self.weight, &self.dy, c.stride, c.padding);
        Results {
            added: gradients.dx.zip(&self.before, |a, b| a + b).data,
            y: y.data,
            dx: gradients.dx.data,
            dweight: gradients.dweight.data,
            dbias: gradients.dbias,
        }
    }
}

/// What comes out; float64's, or the kernels' as float64 sees them.
#[derive(PartialEq)]
struct Results<V> {
    y: Vec<V>,
    dx: Vec<V>,
    /// dx, added to what was there.
    added: Vec<V>,
    dweight: Vec<V>,
    dbias: Vec<V>,
}

/// How kernels are run.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    seed: u64,
    /// Values that every buffer begins behind an aligned address.
    shift: usize,
}

fn buffer<T: Element>(values: &[f64], run: Run) -> Buffer<T> {
    Buffer::misaligned(&values.iter().map(|&value| T::round(value)).collect::<Vec<_>>(), run.shift)
}

fn widened<T: Element>(buffer: &Buffer<T>) -> Vec<f64> {
    buffer.values().iter().map(|value| value.widen()).collect()
}

/// One launch after the other, as the launchers do it.
struct Kernels {
    shape: ConvolutionShape,
    run: Run,
}

impl Kernels {
    fn launch<'b>(&self, entry: &'b str, geometry: Geometry) -> Launch<'b> {
        Launch::new(entry).geometry(geometry).seed(self.run.seed)
    }
}

fn naive<T: Element>(c: &Convolution, inputs: &Inputs, run: Run) -> Results<f64> {
    let kernels = Kernels { shape: c.shape().unwrap(), run };
    let [forward, input_gradient, weight_gradient] = ["forward", "input_gradient", "weight_gradient"]
        .map(|product| format!("gs_convolution_{product}_naive_{}", T::SUFFIX));
    let (x, dy) = (buffer::<T>(&inputs.x.data, run), buffer::<T>(&inputs.dy.data, run));
    let (weight, bias) = (buffer::<f32>(&inputs.weight.data, run), buffer::<f32>(&inputs.bias, run));
    let mut y = Buffer::<T>::poisoned(c.y_length());
    let launch = kernels.launch(&forward, plan::forward_naive(c)).output(&mut y);
    launch.input(&x).input(&weight).input(&bias).value(kernels.shape).run().unwrap();
    let gradient_into = |mut dx: Buffer<T>, adds: i32| {
        let shape = ConvolutionShape { adds, ..kernels.shape };
        let launch = kernels.launch(&input_gradient, plan::input_gradient_naive(c)).output(&mut dx);
        launch.input(&dy).input(&weight).value(shape).run().unwrap();
        widened(&dx)
    };
    let (mut dweight, mut dbias) = (Buffer::<f32>::poisoned(c.weight_length()), Buffer::<f32>::poisoned(c.to));
    let launch = kernels.launch(&weight_gradient, plan::weight_gradient_naive(c)).output(&mut dweight);
    launch.output(&mut dbias).input(&x).input(&dy).value(kernels.shape).run().unwrap();
    Results {
        y: widened(&y),
        dx: gradient_into(Buffer::poisoned(c.x_length()), 0),
        added: gradient_into(buffer(&inputs.before.data, run), 1),
        dweight: widened(&dweight),
        dbias: widened(&dbias),
    }
}

/// |found - truth| <= `sums` * (what the terms' magnitudes add up to) + `stored` * |truth| everywhere; NaN never is.
fn check(what: &str, found: &[f64], truth: &[f64], magnitudes: &[f64], sums: f64, stored: f64) {
    assert_eq!(found.len(), truth.len(), "{what}");
    for (index, ((found, truth), magnitude)) in found.iter().zip(truth).zip(magnitudes).enumerate() {
        let tolerance = sums * magnitude + stored * truth.abs();
        assert!((found - truth).abs() <= tolerance, "{what}[{index}]: {found} {truth} +- {tolerance:e}");
    }
}

/// The naive kernels sum in float64: what is left is the rounding of the result.
fn check_naive<T: Element>(case: Case, run: Run) {
    let c = convolution(case);
    let inputs = Inputs::new::<T>(&c);
    let found = naive::<T>(&c, &inputs, run);
    let (truth, magnitudes) = (inputs.results(&c), inputs.map(f64::abs).results(&c));
    let what = |name: &str| format!("{case:?} {} {run:?}: {name}", T::SUFFIX);
    // A bfloat16 result is rounded to float32 first; both together are off by half a unit in the last place and a trifle.
    let stored = if T::SUFFIX == "bf16" { 1.001 / 256.0 } else { ROUNDOFF };
    check(&what("y"), &found.y, &truth.y, &magnitudes.y, 1e-15, stored);
    check(&what("dx"), &found.dx, &truth.dx, &magnitudes.dx, 1e-15, stored);
    check(&what("added dx"), &found.added, &truth.added, &magnitudes.added, 1e-15, stored);
    check(&what("dweight"), &found.dweight, &truth.dweight, &magnitudes.dweight, 1e-14, ROUNDOFF);
    check(&what("dbias"), &found.dbias, &truth.dbias, &magnitudes.dbias, 1e-14, ROUNDOFF);
}

/// Kernels 1, 3 and 7, strides 1 and 2, images of one pixel and of odd sides, every kind of channel count.
const CASES: [Case; 14] = [
    (2, 5, 7, 3, 16, 3, 1, 1),
    (2, 8, 8, 16, 16, 3, 1, 1),
    (3, 7, 5, 16, 17, 3, 2, 1),
    (2, 8, 6, 17, 16, 3, 2, 1),
    (2, 9, 8, 16, 33, 1, 2, 0),
    (2, 5, 5, 10, 64, 1, 1, 0),
    (5, 1, 1, 64, 10, 1, 1, 0),
    (3, 1, 1, 1, 1, 1, 1, 0),
    (2, 1, 1, 5, 3, 3, 1, 1),
    (2, 1, 2, 4, 8, 3, 2, 1),
    (2, 15, 13, 3, 64, 7, 2, 3),
    (1, 9, 9, 8, 10, 7, 1, 3),
    (2, 6, 6, 64, 20, 3, 1, 1),
    (1, 12, 11, 4, 72, 3, 1, 0),
];

#[test]
fn naive_kernels_compute_the_definition() {
    for case in CASES {
        check_naive::<f32>(case, Run::default());
        check_naive::<bf16>(case, Run { seed: 5, shift: 1 });
    }
}

#[test]
fn what_is_no_convolution_has_no_shape() {
    let good = convolution(CASES[0]);
    let bad = [
        Convolution { images: 0, ..good },
        Convolution { from: 0, ..good },
        Convolution { to: 0, ..good },
        Convolution { height: 0, ..good },
        Convolution { stride: 0, ..good },
        Convolution { kernel: 0, ..good },
        Convolution { kernel: 8, ..good },
        Convolution { padding: usize::MAX, ..good },
        Convolution { images: 1 << 31, ..good },
        Convolution { from: 1 << 20, to: 1 << 20, ..good },
    ];
    assert!(good.shape().is_some());
    assert!(bad.iter().all(|convolution| convolution.shape().is_none()));
}
