//! Convolutions and their gradients against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::convolution::{self as plan, Variant};
use gramscope_cuda::plan::{Arithmetic, Convolution, Geometry};
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

/// Which kernels, or what of a kernel's name says so.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernels {
    Naive,
    Tiled(Arithmetic),
}

impl Kernels {
    fn entry<T: Element>(self, product: &str, variant: Variant) -> String {
        let variant = match self {
            Self::Naive => format!("naive_{}", T::SUFFIX),
            Self::Tiled(arithmetic) => {
                let suffix = match arithmetic {
                    Arithmetic::Float32 => "f32",
                    Arithmetic::Tf32 => "tf32",
                    Arithmetic::Bf16 => "bf16",
                };
                format!("{}_{suffix}", variant.name())
            }
        };
        format!("gs_convolution_{product}_{variant}")
    }

    /// Forward, input gradient, weight gradient.
    fn geometries(self, c: &Convolution) -> [Geometry; 3] {
        match self {
            Self::Naive => [plan::forward_naive(c), plan::input_gradient_naive(c), plan::weight_gradient_naive(c)],
            Self::Tiled(arithmetic) => [
                plan::forward(c, arithmetic),
                plan::input_gradient(c, arithmetic),
                plan::weight_gradient(c, arithmetic),
            ],
        }
    }
}

/// One launch after the other, as the launchers do it.
fn results<T: Element>(kernels: Kernels, c: &Convolution, inputs: &Inputs, run: Run) -> Results<f64> {
    let shape = c.shape().unwrap();
    let [forward, input_gradient, weight_gradient] = kernels.geometries(c);
    let (x, dy) = (buffer::<T>(&inputs.x.data, run), buffer::<T>(&inputs.dy.data, run));
    let (weight, bias) = (buffer::<f32>(&inputs.weight.data, run), buffer::<f32>(&inputs.bias, run));

    let mut y = Buffer::<T>::poisoned(c.y_length());
    let entry = kernels.entry::<T>("forward", Variant::forward(c));
    let launch = Launch::new(&entry).geometry(forward).seed(run.seed).output(&mut y);
    launch.input(&x).input(&weight).input(&bias).value(shape).run().unwrap();

    let entry = kernels.entry::<T>("input_gradient", Variant::input_gradient(c));
    let into = |mut dx: Buffer<T>, adds: i32| {
        let launch = Launch::new(&entry).geometry(input_gradient).seed(run.seed).output(&mut dx);
        launch.input(&dy).input(&weight).value(ConvolutionShape { adds, ..shape }).run().unwrap();
        widened(&dx)
    };
    let (dx, added) = (into(Buffer::poisoned(c.x_length()), 0), into(buffer(&inputs.before.data, run), 1));

    let entry = kernels.entry::<T>("weight_gradient", Variant::weight_gradient(c));
    let groups = if kernels == Kernels::Naive { 1 } else { plan::groups(c) };
    let gradients = |groups: usize| [c.weight_length(), c.to].map(|length| Buffer::<f32>::poisoned(groups * length));
    let [mut dweight, mut dbias] = gradients(groups);
    let launch = Launch::new(&entry).geometry(weight_gradient).seed(run.seed).output(&mut dweight).output(&mut dbias);
    launch.input(&x).input(&dy).value(shape).run().unwrap();
    if groups > 1 {
        let [partial_weights, partial_biases] = [dweight, dbias];
        [dweight, dbias] = gradients(1);
        let launch = Launch::new("gs_convolution_reduce").geometry(plan::reduce(c)).seed(run.seed);
        let launch = launch.output(&mut dweight).output(&mut dbias);
        launch.input(&partial_weights).input(&partial_biases).value(shape).run().unwrap();
    }
    Results { y: widened(&y), dx, added, dweight: widened(&dweight), dbias: widened(&dbias) }
}

/// Everywhere a sum that is off by up to `sums` of what its terms' magnitudes add up to, and was then rounded by up to `stored`
/// of itself; NaN never is.
fn check(what: &str, found: &[f64], truth: &[f64], magnitudes: &[f64], sums: f64, stored: f64) {
    assert_eq!(found.len(), truth.len(), "{what}");
    for (index, ((found, truth), magnitude)) in found.iter().zip(truth).zip(magnitudes).enumerate() {
        let tolerance = sums * magnitude + stored * (truth.abs() + sums * magnitude);
        assert!((found - truth).abs() <= tolerance, "{what}[{index}]: {found} {truth} +- {tolerance:e}");
    }
}

/// What storing a result does to it. A bfloat16 one was float32 before: both roundings together are half a unit in the last
/// place and a trifle.
fn roundoff<T: Element>() -> f64 {
    if T::SUFFIX == "bf16" { 1.001 / 256.0 } else { ROUNDOFF }
}

/// The naive kernels sum in float64: what is left is the rounding of the result.
fn check_naive<T: Element>(case: Case, run: Run) {
    let c = convolution(case);
    let inputs = Inputs::new::<T>(&c);
    let found = results::<T>(Kernels::Naive, &c, &inputs, run);
    let (truth, magnitudes) = (inputs.results(&c), inputs.map(f64::abs).results(&c));
    let what = |name: &str| format!("{case:?} {} {run:?}: {name}", T::SUFFIX);
    let stored = roundoff::<T>();
    check(&what("y"), &found.y, &truth.y, &magnitudes.y, 1e-15, stored);
    check(&what("dx"), &found.dx, &truth.dx, &magnitudes.dx, 1e-15, stored);
    check(&what("added dx"), &found.added, &truth.added, &magnitudes.added, 1e-15, stored);
    check(&what("dweight"), &found.dweight, &truth.dweight, &magnitudes.dweight, 1e-14, ROUNDOFF);
    check(&what("dbias"), &found.dbias, &truth.dbias, &magnitudes.dbias, 1e-14, ROUNDOFF);
}

/// What kernels take for `value` where products are TF32's: 11 significant bits.
fn to_tf32(value: f64) -> f64 {
    let value = value as f32;
    let rounded = value.mul_add(-8192.0, value.mul_add(8192.0, value));
    assert!(rounded.is_nan() || rounded.to_bits() & 0x1FFF == 0, "{value}");
    assert!(rounded.is_nan() || (rounded - value).abs() <= value.abs() / 2048.0, "{value}");
    f64::from(rounded)
}

/// How far a sum of `terms` products of rounded factors may be off, over what the products' magnitudes add up to.
fn error_of_sums(arithmetic: Arithmetic, terms: usize) -> f64 {
    // A slab is filled up with zeros, which change nothing; the bias, or what dx held, is one more term.
    match arithmetic {
        // A rounding a term.
        Arithmetic::Float32 => (terms + 2) as f64 * ROUNDOFF,
        // A step of some products and the sum so far: each of them is cut below 2^-24 of the largest, and the sum at 2^-23 of
        // itself. Two steps more than there are terms for.
        Arithmetic::Tf32 => 7.0 * (terms.div_ceil(4) + 2) as f64 * ROUNDOFF,
        Arithmetic::Bf16 => 11.0 * (terms.div_ceil(8) + 2) as f64 * ROUNDOFF,
    }
}

/// The tiled kernels of one arithmetic against float64 products of the factors as it rounds them.
fn check_tiled<T: Element>(arithmetic: Arithmetic, case: Case, run: Run) {
    let c = convolution(case);
    let inputs = Inputs::new::<T>(&c);
    let found = results::<T>(Kernels::Tiled(arithmetic), &c, &inputs, run);
    // What is not a factor (bias, what dx held, a bias's gradient) is not rounded.
    let factors = match arithmetic {
        Arithmetic::Float32 => inputs.map(|value| value),
        Arithmetic::Tf32 => inputs.map(to_tf32),
        Arithmetic::Bf16 => inputs.map(|value| bf16::from_f32(value as f32).to_f64()),
    };
    let rounded = Inputs { bias: inputs.bias.clone(), before: inputs.before.clone(), ..factors };
    let (truth, magnitudes) = (rounded.results(&c), rounded.map(f64::abs).results(&c));
    let biases = inputs.results(&c).dbias;
    let what = |name: &str| format!("{case:?} {arithmetic:?} {run:?}: {name}");
    let sums = |terms: usize| error_of_sums(arithmetic, terms);
    let (forward, gradient) = (sums(c.taps() * c.from), sums(c.taps() * c.to));
    check(&what("y"), &found.y, &truth.y, &magnitudes.y, forward, roundoff::<T>());
    check(&what("dx"), &found.dx, &truth.dx, &magnitudes.dx, gradient, roundoff::<T>());
    check(&what("added dx"), &found.added, &truth.added, &magnitudes.added, gradient, roundoff::<T>());
    // The groups are added up in float64 and rounded once.
    let pixels = c.out_pixels().div_ceil(plan::groups(&c));
    check(&what("dweight"), &found.dweight, &truth.dweight, &magnitudes.dweight, sums(pixels), ROUNDOFF);
    let float32 = error_of_sums(Arithmetic::Float32, pixels);
    check(&what("dbias"), &found.dbias, &biases, &inputs.map(f64::abs).results(&c).dbias, float32, ROUNDOFF);
}

fn check_all_arithmetics(case: Case, run: Run) {
    check_tiled::<f32>(Arithmetic::Float32, case, run);
    check_tiled::<f32>(Arithmetic::Tf32, case, run);
    check_tiled::<bf16>(Arithmetic::Bf16, case, run);
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
fn tiles_compute_the_definition() {
    for (seed, case) in CASES.into_iter().enumerate() {
        check_all_arithmetics(case, Run { seed: seed as u64, shift: 0 });
    }
}

/// More than one tile of rows and of columns, several slabs, several groups of pixels, the last of each not full.
#[test]
fn many_tiles_and_groups() {
    for (seed, case) in [
        (3, 16, 15, 5, 20, 3, 1, 1),
        (3, 17, 16, 16, 16, 3, 1, 1),
        (2, 16, 17, 32, 32, 3, 1, 1),
        (3, 13, 14, 48, 40, 3, 1, 1),
        (4, 19, 16, 24, 130, 3, 2, 1),
        (9, 10, 9, 12, 70, 1, 1, 0),
        (300, 1, 1, 40, 10, 1, 1, 0),
        (2, 20, 18, 6, 12, 7, 2, 3),
    ]
    .into_iter()
    .enumerate()
    {
        check_all_arithmetics(case, Run { seed: seed as u64, shift: 0 });
    }
}

#[test]
fn values_at_any_address() {
    for shift in [1, 2, 3] {
        check_all_arithmetics((2, 5, 7, 16, 20, 3, 1, 1), Run { seed: 9, shift });
        check_all_arithmetics((2, 5, 7, 20, 16, 3, 2, 1), Run { seed: 9, shift });
        check_all_arithmetics((2, 3, 65, 16, 16, 3, 1, 1), Run { seed: 9, shift });
    }
}

#[test]
fn variants_suit_their_shapes() {
    let variants = |case: Case| {
        let c = convolution(case);
        [Variant::forward(&c), Variant::input_gradient(&c), Variant::weight_gradient(&c)].map(Variant::name)
    };
    // ResNet-20 on CIFAR-10: the stem, layers of all three stages, the first of the second, its shortcut, the last layer.
    assert_eq!(variants((128, 32, 32, 3, 16, 3, 1, 1)), ["tile16", "patch16", "tile16"]);
    assert_eq!(variants((128, 32, 32, 16, 16, 3, 1, 1)), ["patch16", "patch16", "tile16"]);
    assert_eq!(variants((128, 16, 16, 32, 32, 3, 1, 1)), ["patch32", "patch32", "tile32"]);
    assert_eq!(variants((128, 8, 8, 64, 64, 3, 1, 1)), ["tile64", "tile64", "tile64"]);
    assert_eq!(variants((128, 32, 32, 16, 32, 3, 2, 1)), ["tile32", "tile16", "tile32"]);
    assert_eq!(variants((128, 32, 32, 16, 32, 1, 2, 0)), ["tile32", "tile16", "tile32"]);
    assert_eq!(variants((128, 1, 1, 64, 10, 1, 1, 0)), ["tile16", "tile64", "tile16"]);
    // Ten times as wide.
    assert_eq!(variants((128, 32, 32, 160, 160, 3, 1, 1)), ["tile64", "tile64", "tile64"]);
}

/// Biases' gradients on their own: one group and many, channels that fill no block and more than one.
fn check_bias_gradients<T: Element>() {
    let cases = [
        (1, 1, 1, 1, 1, 1, 1, 0),
        (3, 7, 5, 2, 17, 3, 2, 1),
        (4, 33, 32, 3, 16, 3, 1, 1),
        (2, 5, 5, 1, 300, 1, 1, 0),
        (37, 9, 9, 1, 5, 1, 1, 0),
    ];
    let mut most = 0;
    for case in cases {
        let c = convolution(case);
        let (mut random, groups) = (Random::new(43), plan::bias_groups(&c));
        let dy: Vec<f64> = (0..c.y_length()).map(|_| T::round(random.normal()).widen()).collect();
        let (dy_there, run) = (buffer::<T>(&dy, Run::default()), Run { seed: 5, shift: 0 });
        let shape = ConvolutionShape { kernel: 0, groups: groups as i32, ..c.shape().unwrap() };
        let mut dbias = Buffer::<f32>::poisoned(groups * c.to);
        let entry = format!("gs_convolution_bias_gradient_{}", T::SUFFIX);
        let launch = Launch::new(&entry).geometry(plan::bias_gradient(&c));
        launch.seed(run.seed).output(&mut dbias).input(&dy_there).value(shape).run().unwrap();
        if groups > 1 {
            let partials = std::mem::replace(&mut dbias, Buffer::poisoned(c.to));
            let launch = Launch::new("gs_convolution_reduce").geometry(plan::reduce_biases(&c)).seed(run.seed);
            launch.input(&partials).output(&mut dbias).input(&partials).input(&partials).value(shape).run().unwrap();
        }
        let sum = |o: usize, of: &dyn Fn(f64) -> f64| dy.iter().skip(o).step_by(c.to).map(|&dy| of(dy)).sum::<f64>();
        let truth: Vec<f64> = (0..c.to).map(|o| sum(o, &|dy| dy)).collect();
        let magnitudes: Vec<f64> = (0..c.to).map(|o| sum(o, &f64::abs)).collect();
        // Float64 but for a rounding a group, and one of the result.
        check(&format!("{case:?}"), &widened(&dbias), &truth, &magnitudes, 2.0 * ROUNDOFF, 0.0);
        most = most.max(groups);
    }
    assert!(most > 1, "no case has groups");
}

#[test]
fn bias_gradients_on_their_own_are_sums() {
    check_bias_gradients::<f32>();
    check_bias_gradients::<bf16>();
}

/// The same bits whatever the order of threads and blocks.
#[test]
fn the_order_of_threads_does_not_show() {
    for case in [(3, 17, 16, 16, 16, 3, 1, 1), (2, 9, 8, 12, 40, 3, 2, 1)] {
        let c = convolution(case);
        let inputs = Inputs::new::<f32>(&c);
        for arithmetic in [Arithmetic::Float32, Arithmetic::Tf32] {
            let bits = |seed| results::<f32>(Kernels::Tiled(arithmetic), &c, &inputs, Run { seed, shift: 0 });
            let first = bits(1);
            assert!([2, 3].into_iter().all(|seed| bits(seed) == first), "{case:?} {arithmetic:?}");
        }
        let inputs = Inputs::new::<bf16>(&c);
        let bits = |seed| results::<bf16>(Kernels::Tiled(Arithmetic::Bf16), &c, &inputs, Run { seed, shift: 0 });
        assert!(bits(1) == bits(2), "{case:?}");
    }
}

/// One image that is all NaN leaves the results of its neighbours alone.
#[test]
fn images_do_not_mix() {
    for case in [(3, 5, 7, 16, 16, 3, 1, 1), (3, 5, 7, 12, 32, 3, 1, 1), (3, 6, 5, 16, 20, 3, 2, 1)] {
        let c = convolution(case);
        for arithmetic in [Arithmetic::Float32, Arithmetic::Tf32] {
            let clean = Inputs::new::<f32>(&c);
            let mut bad = clean.map(|value| value);
            let spoil = |tensor: &mut Tensor4| {
                let image = tensor.data.len() / 3;
                tensor.data[image..2 * image].fill(f64::NAN);
            };
            spoil(&mut bad.x);
            spoil(&mut bad.dy);
            let [clean, bad] =
                [clean, bad].map(|inputs| results::<f32>(Kernels::Tiled(arithmetic), &c, &inputs, Run::default()));
            for (clean, bad) in [(clean.y, bad.y), (clean.dx, bad.dx)] {
                let image = clean.len() / 3;
                assert!(clean[..image] == bad[..image] && clean[2 * image..] == bad[2 * image..], "{case:?}");
                assert!(bad[image..2 * image].iter().all(|value| value.is_nan()), "{case:?}");
            }
        }
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
