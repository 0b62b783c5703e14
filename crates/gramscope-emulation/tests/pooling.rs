//! Average and max pooling against float64 and, to the last bit, against the CPU.
#![allow(clippy::unwrap_used)]

mod support;

use candle_core::{Device, Tensor};
use gramscope_cuda::plan::{Geometry, training as plan};
use gramscope_cuda::shapes::PoolingShape;
use gramscope_emulation::{Buffer, Launch, Plain};
use gramscope_nn::ops::{max_pooling, pooling};
use gramscope_reference::{Matrix, Tensor4, pooling as reference};
use half::bf16;
use support::Element;
use support::inputs::Random;

/// [images, height, width, channels]
type Dims = [usize; 4];

const SHAPES: [Dims; 7] =
    [[1, 1, 1, 1], [2, 8, 8, 64], [3, 4, 5, 17], [2, 1, 2, 3], [1, 2, 1, 5], [2, 7, 9, 8], [5, 3, 3, 1]];

fn shape([images, height, width, channels]: Dims) -> PoolingShape {
    let [images, height, width, channels] = [images, height, width, channels].map(|dimension| dimension as i32);
    PoolingShape { images, height, width, channels }
}

/// Few different values, so that windows have ties.
fn made<T: Element>(length: usize, seed: u64) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..length).map(|_| T::round((random.normal() * 2.0).round() / 2.0 + 0.25)).collect()
}

fn tensor<T: Element>(dims: Dims, values: &[T]) -> Tensor4 {
    Tensor4::new(dims, values.iter().map(|value| value.widen()).collect())
}

fn candle(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(values.to_vec(), dims, &Device::Cpu).unwrap()
}

/// `entry` of T with one output of `length` values.
fn launch<T: Element, Out: Plain, const N: usize>(
    entry: &str,
    geometry: Geometry,
    length: usize,
    inputs: [&Buffer<T>; N],
    dims: Dims,
) -> Vec<Out> {
    let mut output = Buffer::<Out>::poisoned(length);
    let name = format!("gs_pooling_{entry}_{}", T::SUFFIX);
    let launch = Launch::new(&name).geometry(geometry).seed(5).output(&mut output);
    let launch = inputs.into_iter().fold(launch, Launch::input);
    launch.value(shape(dims)).run().unwrap();
    output.values().to_vec()
}

fn average<T: Element>(dims: Dims, x: &[T]) -> Vec<f32> {
    let [images, _, _, channels] = dims;
    launch("average", plan::average_pool(images, channels), images * channels, [&Buffer::new(x)], dims)
}

fn average_backward<T: Element>(dims: Dims, dpooled: &[f32]) -> Vec<T> {
    let length = dims.iter().product();
    let (mut dx, dpooled) = (Buffer::<T>::poisoned(length), Buffer::new(dpooled));
    let name = format!("gs_pooling_average_backward_{}", T::SUFFIX);
    let launch = Launch::new(&name).geometry(plan::values(length));
    launch.output(&mut dx).input(&dpooled).value(shape(dims)).run().unwrap();
    dx.values().to_vec()
}

fn pooled_dims([n, h, w, c]: Dims) -> Dims {
    [n, plan::max_pooled(h), plan::max_pooled(w), c]
}

fn max<T: Element>(dims: Dims, x: &[T]) -> Vec<T> {
    let results = pooled_dims(dims).iter().product();
    launch("max", plan::values(results), results, [&Buffer::new(x)], dims)
}

fn squares<T: Element>(dims: Dims, x: &[T]) -> Vec<T> {
    let results = pooled_dims(dims).iter().product();
    launch("squares", plan::values(results), results, [&Buffer::new(x)], dims)
}

fn max_backward<T: Element>(dims: Dims, x: &[T], y: &[T], dy: &[T]) -> Vec<T> {
    let length = dims.iter().product();
    let inputs = [x, y, dy].map(Buffer::new);
    launch("max_backward", plan::values(length), length, inputs.each_ref(), dims)
}

fn check_average<T: Element>() {
    for dims in SHAPES {
        let [images, height, width, channels] = dims;
        let x = made::<T>(dims.iter().product(), 1);
        let found = average(dims, &x);
        let truth = reference::forward(&tensor(dims, &x));
        // Values are at most 8, and their sums and the quotient are rounded in float32.
        let tolerance = 8.0 * (height * width) as f64 * f64::from(f32::EPSILON);
        assert!(found.iter().zip(&truth.data).all(|(a, b)| (f64::from(*a) - b).abs() <= tolerance), "{dims:?}");

        let dpooled: Vec<f32> = made::<f32>(images * channels, 2);
        let truth = Matrix::new(images, channels, dpooled.iter().map(|&value| f64::from(value)).collect());
        let truth = reference::backward(&truth, height, width);
        let relative = if size_of::<T>() == 4 { f64::from(f32::EPSILON) } else { 1.0 / 256.0 };
        let found: Vec<T> = average_backward(dims, &dpooled);
        let right = |(a, b): (&T, &f64)| (a.widen() - b).abs() <= relative * b.abs();
        assert!(found.iter().zip(&truth.data).all(right), "{dims:?}");
    }
}

#[test]
fn averages_match_float64() {
    check_average::<f32>();
    check_average::<bf16>();
}

#[test]
fn averages_are_the_cpus() {
    let dims = [2, 8, 8, 64];
    let mut random = Random::new(3);
    let x: Vec<f32> = (0..2 * 64 * 64).map(|_| random.normal() as f32).collect();
    let cpu = pooling::forward(&candle(&dims, &x)).unwrap();
    assert_eq!(average(dims, &x), cpu.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let dx = candle(&dims, &x);
    pooling::backward_into(&dx, &cpu).unwrap();
    let dpooled = cpu.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(average_backward::<f32>(dims, &dpooled), dx.flatten_all().unwrap().to_vec1::<f32>().unwrap());
}

/// Maxima are exact, and so are sums of at most four quarters.
fn check_max<T: Element>() {
    for dims in SHAPES {
        let x = made::<T>(dims.iter().product(), 4);
        let y = max(dims, &x);
        assert_eq!(tensor(pooled_dims(dims), &y), reference::max_forward(&tensor(dims, &x)), "{dims:?}");
        let of_squares = tensor(pooled_dims(dims), &squares(dims, &x));
        assert_eq!(of_squares, reference::squares(&tensor(dims, &x)), "{dims:?}");
        let dy = made::<T>(y.len(), 5);
        let found = tensor(dims, &max_backward(dims, &x, &y, &dy));
        assert_eq!(found, reference::max_backward(&tensor(dims, &x), &tensor(pooled_dims(dims), &dy)), "{dims:?}");
    }
}

#[test]
fn maxima_and_their_gradients_are_exact() {
    check_max::<f32>();
    check_max::<bf16>();
}

#[test]
fn nan_is_the_largest_and_takes_no_gradient_as_on_the_cpu() {
    let dims = [1, 5, 5, 3];
    let mut x = made::<f32>(75, 6);
    (x[12 * 3 + 1], x[2]) = (f32::NAN, f32::NEG_INFINITY);
    let y = max(dims, &x);
    let cpu = candle(&pooled_dims(dims), &y);
    max_pooling::forward_into(&cpu, &candle(&dims, &x)).unwrap();
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&y), bits(&cpu.flatten_all().unwrap().to_vec1().unwrap()));
    assert_eq!(y.iter().filter(|value| value.is_nan()).count(), 1);
    let of_squares = squares(dims, &x);
    assert!(of_squares[4 * 3 + 1].is_nan() && of_squares.iter().filter(|value| value.is_nan()).count() == 1);
    let (dx, dy) = (candle(&dims, &x), made::<f32>(y.len(), 7));
    max_pooling::backward_into(&dx, &candle(&dims, &x), &cpu, &candle(&pooled_dims(dims), &dy)).unwrap();
    assert_eq!(max_backward(dims, &x, &y, &dy), dx.flatten_all().unwrap().to_vec1::<f32>().unwrap());
}
