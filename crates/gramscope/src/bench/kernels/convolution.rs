//! The three products of a convolution, beside those of cuDNN: our kernels in every arithmetic.

use gramscope_cuda::ceilings::Products;
use gramscope_cuda::{Arithmetic, Convolution, Device, Error, Factors, Product, Scratch, Slice};
use half::bf16;

use super::{KernelBench, Rotating, Subject, Times, WHAT, time, time_naive};
use crate::bench::Rows;
use crate::stored::Stored;

/// Images, side, channels in and out, kernel, stride and padding: the stem, the stages and their transitions of a ResNet-20, the
/// stages of a ResNet-38 x10, and the stem and some layers of an ImageNet ResNet-50.
const CONVOLUTIONS: [[usize; 7]; 15] = [
    [128, 32, 3, 16, 3, 1, 1],
    [128, 32, 16, 16, 3, 1, 1],
    [128, 32, 16, 32, 3, 2, 1],
    [128, 32, 16, 32, 1, 2, 0],
    [128, 16, 32, 32, 3, 1, 1],
    [128, 8, 64, 64, 3, 1, 1],
    [128, 32, 160, 160, 3, 1, 1],
    [128, 16, 320, 320, 3, 1, 1],
    [128, 8, 640, 640, 3, 1, 1],
    [64, 224, 3, 64, 7, 2, 3],
    [64, 56, 64, 64, 1, 1, 0],
    [64, 56, 64, 64, 3, 1, 1],
    [64, 56, 64, 256, 1, 1, 0],
    [64, 14, 1024, 256, 1, 1, 0],
    [64, 7, 512, 512, 3, 1, 1],
];
const PRODUCTS: [(&str, Product); 3] = [
    ("forward", Product::Forward),
    ("input gradient", Product::InputGradient { adds: false }),
    ("weight gradient", Product::WeightGradient),
];

impl KernelBench<'_> {
    /// Convolutions in every arithmetic.
    pub(super) fn convolutions(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        for shape in CONVOLUTIONS {
            for (stored, arithmetic) in
                [("f32", Arithmetic::Float32), ("tf32", Arithmetic::Tf32), ("bf16", Arithmetic::Bf16)]
            {
                let measured = match arithmetic {
                    Arithmetic::Bf16 => self.convolution::<bf16>(rows, stored, arithmetic, shape),
                    _ => self.convolution::<f32>(rows, stored, arithmetic, shape),
                };
                self.unless_too_large(measured, rows, "convolution", stored, &shape)?;
            }
        }
        Ok(())
    }

    fn convolution<T: Stored>(
        &self,
        rows: &mut Rows<'_>,
        stored: &str,
        arithmetic: Arithmetic,
        shape: [usize; 7],
    ) -> anyhow::Result<()> {
        let wanted = self.wanted("convolution", &PRODUCTS.map(|(name, _)| name), stored, &shape);
        if wanted.is_empty() {
            return Ok(());
        }
        let [images, side, from, to, kernel, stride, padding] = shape;
        let convolution = Convolution { images, height: side, width: side, from, to, kernel, stride, padding };
        let mut ours = Operands::<T>::new(self.device, convolution, arithmetic)?;
        let cudnn = self.cudnn.as_ref().map(|device| Operands::<T>::new(device, convolution, arithmetic));
        let mut cudnn = cudnn.transpose()?;
        for (variant, product) in PRODUCTS.into_iter().filter(|(variant, _)| wanted.contains(variant)) {
            let flops = 2.0 * (convolution.out_pixels() * to * convolution.taps() * from) as f64;
            let activations = (convolution.x_length() + convolution.y_length()) * size_of::<T>();
            let subject = Subject {
                kernel: "convolution",
                variant,
                stored,
                shape: &shape,
                bytes: (activations + convolution.weight_length() * size_of::<f32>()) as f64,
                partial_bytes: 0.0,
                flops,
                products: Some(match arithmetic {
                    Arithmetic::Float32 => Products::Float32,
                    Arithmetic::Tf32 => Products::Tf32,
                    Arithmetic::Bf16 => Products::Bf16,
                }),
            };
            let times = Times {
                us: time(self.device, &mut |round| ours.enqueue(product, round))?,
                naive_us: time_naive(self.device, flops, &mut |round| ours.enqueue_naive(product, round))?,
                cudnn_us: match &mut cudnn {
                    Some(cudnn) if cudnn.has_plan(product)? => {
                        Some(time(cudnn.device, &mut |round| cudnn.enqueue(product, round))?)
                    }
                    _ => None,
                },
                ..Times::default()
            };
            self.write(rows, &subject, times)?;
        }
        Ok(())
    }
}

/// What a convolution and its gradients are made of, on a device that decides whose kernels they are.
struct Operands<'a, T> {
    device: &'a Device,
    convolution: Convolution,
    arithmetic: Arithmetic,
    /// x, and its gradient.
    x: Rotating<T>,
    /// y, and its gradient.
    y: Rotating<T>,
    weight: Slice<f32>,
    /// The same, as bfloat16 products take it.
    narrow: Slice<bf16>,
    bias: Slice<f32>,
    dweight: Slice<f32>,
    dbias: Slice<f32>,
    partials: Slice<f32>,
    workspace: Slice<u8>,
}

impl<'a, T: Stored> Operands<'a, T> {
    fn new(device: &'a Device, convolution: Convolution, arithmetic: Arithmetic) -> anyhow::Result<Self> {
        let (c, launcher) = (&convolution, device.launcher());
        let mut bytes = 1;
        for (_, product) in PRODUCTS {
            bytes = bytes.max(launcher.plan_convolution(product, c, arithmetic, &[0])?.unwrap_or(0));
        }
        let partials = launcher.convolution_scratch(c).max(launcher.convolution_bias_scratch(c)).max(1);
        let weights: Vec<f32> = (0..c.weight_length()).map(super::pattern).collect();
        let narrow: Vec<bf16> = weights.iter().copied().map(bf16::from_f32).collect();
        Ok(Self {
            x: Rotating::new(device, c.x_length())?,
            y: Rotating::new(device, c.y_length())?,
            weight: device.upload(WHAT, &weights)?,
            narrow: device.upload(WHAT, &narrow)?,
            bias: device.zeros(WHAT, c.to)?,
            dweight: device.zeros(WHAT, c.weight_length())?,
            dbias: device.zeros(WHAT, c.to)?,
            partials: device.zeros(WHAT, partials)?,
            workspace: device.zeros(WHAT, bytes)?,
            device,
            convolution,
            arithmetic,
        })
    }

    /// Whether cuDNN computes this product: some have no engine.
    fn has_plan(&self, product: Product) -> Result<bool, Error> {
        let plan = self.device.launcher().plan_convolution(product, &self.convolution, self.arithmetic, &[0])?;
        Ok(plan.is_some())
    }

    fn enqueue(&mut self, product: Product, round: usize) -> Result<(), Error> {
        let (launcher, c, arithmetic) = (self.device.launcher(), &self.convolution, self.arithmetic);
        let factors = Factors { weight: self.weight.as_view(), narrow: Some(self.narrow.as_view()) };
        let scratch = &mut Scratch { partials: self.partials.as_view_mut(), workspace: self.workspace.as_view_mut() };
        match product {
            Product::Forward => {
                let (y, x) = (&mut self.y.view_mut(round), &self.x.view(round));
                launcher.convolve(y, x, &factors, &self.bias.as_view(), scratch, c, arithmetic)
            }
            Product::InputGradient { adds } => {
                let (dx, dy) = (&mut self.x.view_mut(round), &self.y.view(round));
                launcher.convolve_input_gradient(dx, dy, &factors, scratch, c, arithmetic, adds)
            }
            Product::WeightGradient => {
                let (dweight, dbias) = (&mut self.dweight.as_view_mut(), &mut self.dbias.as_view_mut());
                let (x, dy) = (&self.x.view(round), &self.y.view(round));
                launcher.convolve_weight_gradient(dweight, dbias, scratch, x, dy, c, arithmetic)
            }
        }
    }

    fn enqueue_naive(&mut self, product: Product, round: usize) -> Result<(), Error> {
        let (launcher, c) = (self.device.launcher(), &self.convolution);
        let weight = &self.weight.as_view();
        match product {
            Product::Forward => {
                let (y, x) = (&mut self.y.view_mut(round), &self.x.view(round));
                launcher.convolution_forward_naive(y, x, weight, &self.bias.as_view(), c)
            }
            Product::InputGradient { adds } => {
                let (dx, dy) = (&mut self.x.view_mut(round), &self.y.view(round));
                launcher.convolution_input_gradient_naive(dx, dy, weight, c, adds)
            }
            Product::WeightGradient => {
                let (dweight, dbias) = (&mut self.dweight.as_view_mut(), &mut self.dbias.as_view_mut());
                let (x, dy) = (&self.x.view(round), &self.y.view(round));
                launcher.convolution_weight_gradient_naive(dweight, dbias, x, dy, c)
            }
        }
    }
}
