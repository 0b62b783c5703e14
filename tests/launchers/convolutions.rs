//! Launchers of convolutions and of their gradients.

use gramscope_cuda::plan;
use gramscope_cuda::{Arithmetic, Convolution, Error};

use crate::making::Dimension::{Free, Setting, Size};
use crate::making::{Dimension, Family, Making, family};

/// So many pixels that the gradients of weights and of biases are summed in groups.
const CONVOLUTION: &[Dimension] = &[Size(3), Size(15), Size(16), Size(4), Size(5), Setting(3), Setting(1), Free(1)];
/// The same of what has no image and no weights.
const BIASES: &[Dimension] = &[Size(3), Size(35), Size(34), Setting(4), Size(5), Setting(3), Setting(1), Free(1)];

pub(crate) const FAMILIES: &[Family] = &[
    family("convolution_forward", CONVOLUTION, |m| convolution_forward(m, false)),
    family("convolution_forward_naive", CONVOLUTION, |m| convolution_forward(m, true)),
    family("convolution_input_gradient", CONVOLUTION, |m| convolution_input_gradient(m, false)),
    family("convolution_input_gradient_naive", CONVOLUTION, |m| convolution_input_gradient(m, true)),
    family("convolution_weight_gradient", CONVOLUTION, convolution_weight_gradient),
    family("convolution_weight_gradient_naive", CONVOLUTION, convolution_weight_gradient_naive),
    family("convolution_bias_gradient", BIASES, convolution_bias_gradient),
];

/// The convolution that buffers are made for, and the one that the launcher is told of.
fn convolutions(m: &Making<'_>) -> [Convolution; 2] {
    [m.right(), m.told()].map(|[images, height, width, from, to, kernel, stride, padding]| Convolution {
        images,
        height,
        width,
        from,
        to,
        kernel,
        stride,
        padding,
    })
}

fn convolution_forward(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut y, x) = (make!(m, right.y_length()), make!(m, right.x_length()));
    let (weight, bias) = (make!(m, right.weight_length()), make!(m, right.to));
    let (y, x, weight, bias) = (&mut y.view_mut(), &x.view(), &weight.view(), &bias.view());
    match naive {
        true => m.launcher().convolution_forward_naive::<f32>(y, x, weight, bias, &told),
        false => m.launcher().convolution_forward::<f32>(y, x, weight, bias, &told, Arithmetic::Float32),
    }
}

fn convolution_input_gradient(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dx, dy) = (make!(m, right.x_length()), make!(m, right.y_length()));
    let weight = make!(m, right.weight_length());
    let (dx, dy, weight) = (&mut dx.view_mut(), &dy.view(), &weight.view());
    match naive {
        true => m.launcher().convolution_input_gradient_naive::<f32>(dx, dy, weight, &told, true),
        false => m.launcher().convolution_input_gradient::<f32>(dx, dy, weight, &told, Arithmetic::Tf32, true),
    }
}

fn convolution_weight_gradient(m: &Making<'_>) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dweight, mut dbias) = (make!(m, right.weight_length()), make!(m, right.to));
    let mut scratch = make!(m, plan::convolution::scratch(&right));
    let (x, dy) = (make!(m, right.x_length()), make!(m, right.y_length()));
    let (dweight, dbias, scratch) = (&mut dweight.view_mut(), &mut dbias.view_mut(), &mut scratch.view_mut());
    let (x, dy) = (&x.view(), &dy.view());
    m.launcher().convolution_weight_gradient::<f32>(dweight, dbias, scratch, x, dy, &told, Arithmetic::Float32)
}

fn convolution_weight_gradient_naive(m: &Making<'_>) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dweight, mut dbias) = (make!(m, right.weight_length()), make!(m, right.to));
    let (x, dy) = (make!(m, right.x_length()), make!(m, right.y_length()));
    let (dweight, dbias) = (&mut dweight.view_mut(), &mut dbias.view_mut());
    let (x, dy) = (&x.view(), &dy.view());
    m.launcher().convolution_weight_gradient_naive::<f32>(dweight, dbias, x, dy, &told)
}

fn convolution_bias_gradient(m: &Making<'_>) -> Result<(), Error> {
    let [right, told] = convolutions(m);
    let (mut dbias, mut scratch) = (make!(m, right.to), make!(m, plan::convolution::bias_scratch(&right)));
    let dy = make!(m, right.y_length());
    let (dbias, scratch) = (&mut dbias.view_mut(), &mut scratch.view_mut());
    m.launcher().convolution_bias_gradient::<f32>(dbias, scratch, &dy.view(), &told)
}
