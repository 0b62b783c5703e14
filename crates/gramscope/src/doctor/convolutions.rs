//! Convolutions and their gradients on the GPU against float64, in every arithmetic: through our kernels and, where it can be
//! loaded, through cuDNN, with the engines that it would choose now.

use std::sync::Arc;

use gramscope_cuda::{Arithmetic, Choice, Choices, Convolution, Device, Factors, Product, Scratch, Slice};
use gramscope_reference::{Tensor4, convolution as truth};
use half::bf16;

use super::training_kernels::{Values, WHAT, normal, over};
use super::{Finding, Report};
use crate::stored::Stored;

/// Half the distance between 1 and the next float32: the relative error of one rounding.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// Images, rows, columns, channels in and out, kernel, stride and padding: a stem, layers of both kinds of stages, projections,
/// ImageNet's stem, and a single pixel.
const SHAPES: [[usize; 8]; 6] = [
    [4, 9, 7, 3, 16, 3, 1, 1],
    [2, 8, 8, 16, 32, 3, 2, 1],
    [2, 5, 9, 64, 64, 3, 1, 1],
    [3, 9, 9, 16, 24, 1, 2, 0],
    [1, 17, 15, 3, 8, 7, 2, 3],
    [1, 1, 1, 1, 1, 1, 1, 0],
];

/// Choices that are forgotten: what is checked is what would be chosen now.
#[derive(Debug)]
struct Forgotten;

impl Choices for Forgotten {
    fn find(&self, _: &str) -> Result<Option<Choice>, String> {
        Ok(None)
    }

    fn keep(&self, _: &str, choice: Choice) -> Result<Choice, String> {
        Ok(choice)
    }
}

/// Our kernels, their naive twins, and cuDNN's.
pub(super) fn check(report: &mut Report<'_>, device: &Device) {
    check_on(report, device, "products");
    check_naive::<f32>(report, device);
    check_naive::<bf16>(report, device);
    let name = "cuDNN products";
    if !report.wants(name) {
        return;
    }
    match device.fork().and_then(|device| device.with_cudnn(Arc::new(Forgotten))) {
        Ok(device) => check_on(report, &device, name),
        Err(reason @ gramscope_cuda::Error::NoCudnn { .. }) => report.fact("cuDNN", &format!("not checked: {reason}")),
        Err(reason) => report.check(name, || Err(reason.into())),
    }
}

/// The end of every line's name: in what errors are counted.
const ROUNDINGS: &str = "in what rounding may do";

/// One loop a value, in float64 whatever the arithmetic.
fn check_naive<T: Stored>(report: &mut Report<'_>, device: &Device) {
    report.check(&format!("products naive, {}, {ROUNDINGS}", T::NAME), || {
        over(&SHAPES, 1.0, |finding, shape| products_naive::<T>(device, shape, finding))
    });
}

fn check_on(report: &mut Report<'_>, device: &Device, name: &str) {
    for (suffix, arithmetic) in [("f32", Arithmetic::Float32), ("tf32", Arithmetic::Tf32)] {
        report.check(&format!("{name}, {suffix}, {ROUNDINGS}"), || {
            over(&SHAPES, 1.0, |finding, shape| products::<f32>(device, shape, arithmetic, finding))
        });
    }
    report.check(&format!("{name}, bf16, {ROUNDINGS}"), || {
        over(&SHAPES, 1.0, |finding, shape| products::<bf16>(device, shape, Arithmetic::Bf16, finding))
    });
}

/// What a convolution and its gradients are made of.
struct Operands<T> {
    convolution: Convolution,
    x: Values<T>,
    dy: Values<T>,
    before: Values<T>,
    weight: Values<f32>,
    /// Weights as they are multiplied.
    narrow: Values<bf16>,
    bias: Values<f32>,
}

impl<T: Stored> Operands<T> {
    fn new(device: &Device, shape: [usize; 8]) -> anyhow::Result<Self> {
        let [images, height, width, from, to, kernel, stride, padding] = shape;
        let convolution = Convolution { images, height, width, from, to, kernel, stride, padding };
        let weight = normal::<f32>(device, 4, convolution.weight_length(), 0.0)?;
        Ok(Self {
            x: normal(device, 1, convolution.x_length(), 0.0)?,
            dy: normal(device, 2, convolution.y_length(), 0.0)?,
            before: normal(device, 3, convolution.x_length(), 0.0)?,
            // The same numbers, rounded.
            narrow: normal(device, 4, convolution.weight_length(), 0.0)?,
            weight,
            bias: normal(device, 5, to, 0.0)?,
            convolution,
        })
    }

    /// y, dx added to what was there, dw and db, of `of` of everything, with these weights.
    fn truth(&self, weight: &[f64], of: &dyn Fn(f64) -> f64) -> [Vec<f64>; 4] {
        let Convolution { images, height, width, from, to, kernel, stride, padding } = self.convolution;
        let values = |values: &[f64]| values.iter().map(|&value| of(value)).collect::<Vec<_>>();
        let x = Tensor4::new([images, height, width, from], values(&self.x.host));
        let results = [images, self.convolution.out_height(), self.convolution.out_width(), to];
        let dy = Tensor4::new(results, values(&self.dy.host));
        let weight = Tensor4::new([to, kernel, kernel, from], values(weight));
        let y = truth::forward(&x, &weight, &values(&self.bias.host), stride, padding).data;
        let gradients = truth::backward(&x, &weight, &dy, stride, padding);
        let dx = gradients.dx.data.iter().zip(values(&self.before.host)).map(|(dx, before)| dx + before);
        [y, dx.collect(), gradients.dweight.data, gradients.dbias]
    }

    /// The weights as tensor cores have them.
    fn multiplied(&self) -> &[f64] {
        if T::NAME == bf16::NAME { &self.narrow.host } else { &self.weight.host }
    }

    /// The results, from the device.
    fn found(&self, device: &Device, arithmetic: Arithmetic) -> anyhow::Result<[Vec<f64>; 4]> {
        let (launcher, c) = (device.launcher(), &self.convolution);
        let mut bytes = 1;
        for product in [Product::Forward, Product::InputGradient { adds: true }, Product::WeightGradient] {
            bytes = bytes.max(launcher.plan_convolution(product, c, arithmetic, &[0])?.unwrap_or(0));
        }
        let partials = launcher.convolution_scratch(c).max(launcher.convolution_bias_scratch(c)).max(1);
        let (mut partials, mut workspace) = (device.zeros(WHAT, partials)?, device.zeros(WHAT, bytes)?);
        let scratch = &mut Scratch { partials: partials.as_view_mut(), workspace: workspace.as_view_mut() };
        let factors = Factors { weight: self.weight.device.as_view(), narrow: Some(self.narrow.device.as_view()) };
        let (x, dy) = (self.x.device.as_view(), self.dy.device.as_view());

        let mut y = device.zeros::<T>(WHAT, c.y_length())?;
        let bias = self.bias.device.as_view();
        launcher.convolve(&mut y.as_view_mut(), &x, &factors, &bias, scratch, c, arithmetic)?;
        let before: Vec<T> = device.download(&self.before.device)?;
        let mut dx = device.upload(WHAT, &before)?;
        launcher.convolve_input_gradient(&mut dx.as_view_mut(), &dy, &factors, scratch, c, arithmetic, true)?;
        let (mut dweight, mut dbias) =
            (device.zeros::<f32>(WHAT, c.weight_length())?, device.zeros::<f32>(WHAT, c.to)?);
        let (to, biases) = (&mut dweight.as_view_mut(), &mut dbias.as_view_mut());
        launcher.convolve_weight_gradient(to, biases, scratch, &x, &dy, c, arithmetic)?;
        downloaded(device, [&y, &dx], [&dweight, &dbias])
    }

    /// The same, from the naive kernels.
    fn found_naive(&self, device: &Device) -> anyhow::Result<[Vec<f64>; 4]> {
        let (launcher, c) = (device.launcher(), &self.convolution);
        let (x, dy) = (self.x.device.as_view(), self.dy.device.as_view());
        let (weight, bias) = (self.weight.device.as_view(), self.bias.device.as_view());
        let mut y = device.zeros::<T>(WHAT, c.y_length())?;
        launcher.convolution_forward_naive(&mut y.as_view_mut(), &x, &weight, &bias, c)?;
        let before: Vec<T> = device.download(&self.before.device)?;
        let mut dx = device.upload(WHAT, &before)?;
        launcher.convolution_input_gradient_naive(&mut dx.as_view_mut(), &dy, &weight, c, true)?;
        let (mut dweight, mut dbias) =
            (device.zeros::<f32>(WHAT, c.weight_length())?, device.zeros::<f32>(WHAT, c.to)?);
        let (to, biases) = (&mut dweight.as_view_mut(), &mut dbias.as_view_mut());
        launcher.convolution_weight_gradient_naive(to, biases, &x, &dy, c)?;
        downloaded(device, [&y, &dx], [&dweight, &dbias])
    }
}

/// y, dx, dw and db in float64.
fn downloaded<T: Stored>(
    device: &Device,
    activations: [&Slice<T>; 2],
    gradients: [&Slice<f32>; 2],
) -> anyhow::Result<[Vec<f64>; 4]> {
    let [y, dx] = activations.map(|values| device.download(values));
    let [dweight, dbias] = gradients.map(|values| device.download(values));
    let widened = |values: Vec<T>| values.into_iter().map(T::widen).collect();
    let floats = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    Ok([widened(y?), widened(dx?), floats(dweight?), floats(dbias?)])
}

/// The products of one shape; errors in units of what rounding may do. Of sums that is a rounding a term; on tensor cores, which cut
/// eight products and the sum so far at once, 11 2^-24 a step, or in TF32 four, 7 2^-24 a step; TF32's factors are off by 2^-11 each
/// where they are rounded, which our kernels do, and by 2^-10 where the tensor cores cut them off, which cuDNN does not rule out.
fn products<T: Stored>(
    device: &Device,
    shape: [usize; 8],
    arithmetic: Arithmetic,
    finding: &mut Finding,
) -> anyhow::Result<()> {
    let operands = Operands::<T>::new(device, shape)?;
    let weight = operands.multiplied();
    let (truth, magnitudes) = (operands.truth(weight, &|value| value), operands.truth(weight, &f64::abs));
    let c = &operands.convolution;
    let terms = [c.taps() * c.from, c.taps() * c.to, c.out_pixels(), c.out_pixels()];
    let found = operands.found(device, arithmetic)?;
    for (product, found) in found.into_iter().enumerate() {
        let factors = match (arithmetic == Arithmetic::Tf32 && product < 3, device.has_cudnn()) {
            (false, _) => 0.0,
            (true, false) => 1.001 / 1024.0,
            (true, true) => 2.002 / 1024.0,
        };
        let cut = match arithmetic {
            Arithmetic::Tf32 => 7 * (terms[product].div_ceil(4) + 2),
            Arithmetic::Float32 | Arithmetic::Bf16 => 11 * (terms[product].div_ceil(8) + 2),
        };
        let sums = (cut + terms[product]) as f64 * ROUNDING + factors;
        compare::<T>(finding, product, &found, [&truth[product], &magnitudes[product]], sums);
    }
    Ok(())
}

/// The same of the naive kernels, whose sums are in float64: they are rounded to float32, dx after what was there is added, too.
fn products_naive<T: Stored>(device: &Device, shape: [usize; 8], finding: &mut Finding) -> anyhow::Result<()> {
    let operands = Operands::<T>::new(device, shape)?;
    let weight = &operands.weight.host;
    let (truth, magnitudes) = (operands.truth(weight, &|value| value), operands.truth(weight, &f64::abs));
    for (product, found) in operands.found_naive(device)?.into_iter().enumerate() {
        compare::<T>(finding, product, &found, [&truth[product], &magnitudes[product]], 2.0 * ROUNDING);
    }
    Ok(())
}

/// One result, whose sums may be off by `sums` of their `magnitudes`, before it is rounded to what is stored.
fn compare<T: Stored>(
    finding: &mut Finding,
    product: usize,
    found: &[f64],
    [truth, magnitudes]: [&[f64]; 2],
    sums: f64,
) {
    let stored = if T::NAME == bf16::NAME && product < 2 { 1.001 / 256.0 } else { ROUNDING };
    for ((found, truth), magnitude) in found.iter().zip(truth).zip(magnitudes) {
        let allowed = sums * magnitude + stored * (truth.abs() + sums * magnitude);
        finding.compare((found - truth) / allowed, 0.0);
    }
}
