//! The operations that networks are trained with, on the CPU, against float64.

use candle_core::{Device, Tensor};
use gramscope_nn::ops::batch_norm::{self, EPSILON};
use gramscope_nn::ops::convolution::{self, Geometry};
use gramscope_reference::{Tensor4, batch_norm as norm_truth, convolution as convolution_truth};

use super::inputs::numbers;
use super::{Finding, Report};
use crate::words::told;

/// Half the distance between 1 and the next float32: the relative error of one rounding.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// Images, channels out, kernel, stride and padding.
type Shape = ([usize; 4], usize, usize, usize, usize);

/// Those of the networks, on odd, even and single-pixel images, and one that only the general code takes.
const CONVOLUTIONS: [Shape; 6] = [
    ([2, 5, 7, 2], 3, 3, 1, 1),
    ([2, 4, 6, 3], 17, 3, 2, 1),
    ([2, 1, 1, 2], 3, 3, 1, 1),
    ([3, 9, 9, 16], 33, 3, 1, 1),
    ([2, 4, 6, 5], 3, 1, 2, 0),
    ([2, 6, 5, 2], 3, 2, 3, 1),
];

/// Every operation, forward and backward.
pub(super) fn check(report: &mut Report<'_>) {
    let names = ["convolution", "convolution, gradient of the input", "convolution, gradients of the parameters"];
    let names = names.map(|name| format!("{name}, in roundings"));
    if names.iter().any(|name| report.wants(name)) {
        for (name, pass) in names.iter().zip(convolutions()) {
            report.check(name, || pass);
        }
    }
    report.check("batch norm", normalise);
}

/// Convolutions of all shapes: forward, and both gradients.
fn convolutions() -> [anyhow::Result<Finding>; 3] {
    let mut passes = [Ok(Finding::new(1.0)), Ok(Finding::new(1.0)), Ok(Finding::new(1.0))];
    for (seed, shape) in CONVOLUTIONS.iter().enumerate() {
        if let Err(error) = convolve(10 * seed as u64, *shape, &mut passes) {
            passes = passes.map(|pass| pass.and_then(|_| Err(anyhow::anyhow!("{}", told(&error)))));
        }
    }
    passes
}

/// One convolution and its gradients; errors in units of what rounding may do: a sum of t products of values up to 1 is
/// about sqrt(t) / 3 and takes t roundings, six times that.
fn convolve(seed: u64, shape: Shape, passes: &mut [anyhow::Result<Finding>; 3]) -> anyhow::Result<()> {
    let (x_shape, out, kernel, stride, padding) = shape;
    let weight_shape = [out, kernel, kernel, x_shape[3]];
    let geometry = Geometry { stride, padding };
    let [x, weight] = [(seed, x_shape), (seed + 1, weight_shape)].map(|(seed, shape)| uniform(seed, shape));
    let bias = uniform(seed + 2, [1, 1, 1, out]);
    let truth = convolution_truth::forward(&x, &weight, &bias.data, stride, padding);
    let dy = uniform(seed + 3, truth.shape);
    let gradients = convolution_truth::backward(&x, &weight, &dy, stride, padding);
    let tolerance = |terms: usize| 2.0 * ROUNDING * (terms as f64 + 2.0);
    let taps = kernel * kernel * x_shape[3];
    let pixels = truth.data.len() / out;

    let [x_here, weight_here, dy_here] = [&x, &weight, &dy].map(tensor);
    let (x_here, weight_here, dy_here) = (x_here?, weight_here?, dy_here?);
    let bias_here = tensor(&bias)?.flatten_all()?;
    let y = convolution::forward(&x_here, &weight_here, &bias_here, geometry)?;
    let dx = Tensor::zeros(&x_shape, candle_core::DType::F32, &Device::Cpu)?;
    convolution::input_gradient_into(&dx, &dy_here, &weight_here, geometry)?;
    let (dw, db) = convolution::parameter_gradients(&x_here, &dy_here, geometry, (kernel, kernel))?;
    let pairs = [
        (0, y, &truth.data, tolerance(taps)),
        (1, dx, &gradients.dx.data, tolerance(out * kernel * kernel)),
        (2, dw, &gradients.dweight.data, tolerance(pixels)),
        (2, db, &gradients.dbias, tolerance(pixels)),
    ];
    for (pass, found, expected, tolerance) in pairs {
        let found = values(&found)?;
        if let Ok(finding) = &mut passes[pass] {
            finding.compare_all(found, expected, tolerance);
        }
    }
    Ok(())
}

/// Batch norm of a batch: values of about 1, a few hundred of them a channel; its gradient of the input is a difference
/// of sums over the channel, each up to its number of values: 1e-5 is ten times their rounding.
fn normalise() -> anyhow::Result<Finding> {
    let shape = [3, 9, 11, 5];
    let x = uniform(90, shape);
    let [gamma, beta] = [uniform(91, [1, 1, 1, 5]), uniform(92, [1, 1, 1, 5])];
    let dy = uniform(93, shape);
    let truth = norm_truth::forward(&x, &gamma.data, &beta.data, EPSILON);
    let masked = dy.zip(&truth.y, |dy, y| if y > 0.0 { dy } else { 0.0 });
    let gradients = norm_truth::backward(&x, &gamma.data, &masked, EPSILON);

    let (x, dy) = (tensor(&x)?, tensor(&dy)?);
    let (gamma, beta) = (tensor(&gamma)?.flatten_all()?, tensor(&beta)?.flatten_all()?);
    let statistics = batch_norm::statistics(&x)?;
    let y = batch_norm::normalise(&x, &statistics, &gamma, &beta, None, false)?;
    let here = batch_norm::backward_relu(&x, &statistics, &gamma, &beta, dy)?;
    let mut finding = Finding::new(1e-5);
    finding.compare_all(values(&y)?, &truth.y.data, 1.0);
    finding.compare_all(values(&here.dx)?, &gradients.dx.data, 1.0);
    let count = (x.elem_count() / 5) as f64;
    finding.compare_all(values(&here.dgamma)?, &gradients.dgamma, count);
    finding.compare_all(values(&here.dbeta)?, &gradients.dbeta, count);
    Ok(finding)
}

/// Uniform in [-1, 1), and exact in float32.
fn uniform(seed: u64, shape: [usize; 4]) -> Tensor4 {
    let mut numbers = numbers(seed);
    let value = |_| f64::from(numbers.between(-1.0, 1.0) as f32);
    Tensor4::new(shape, (0..shape.iter().product()).map(value).collect())
}

fn tensor(tensor: &Tensor4) -> candle_core::Result<Tensor> {
    let values: Vec<f32> = tensor.data.iter().map(|&value| value as f32).collect();
    Tensor::from_vec(values, &tensor.shape, &Device::Cpu)
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}
