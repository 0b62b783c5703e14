//! What a training step has beside its convolutions.

use gramscope_cuda::plan::Placing;
use gramscope_cuda::shapes::BatchPlace;
use gramscope_cuda::{Device, EigenSummary, Error, FirstComponent, Seen, Slice};
use half::bf16;

use super::{KernelBench, Rotating, Subject, Times, WHAT, time, time_naive};
use crate::bench::Rows;
use crate::stored::Stored;

/// Rows and channels of batch norms: the stages of a ResNet-20, the first and last of a ResNet-38 x10, both at a batch of 128, and the
/// first and last of an ImageNet ResNet-50 at 64.
const NORMS: [[usize; 2]; 7] =
    [[131_072, 16], [32_768, 32], [8192, 64], [131_072, 160], [8192, 640], [200_704, 256], [3136, 2048]];
/// Images, rows and columns, and channels: what a ResNet-20, a ResNet-38 x10 and an ImageNet ResNet-50 average.
const AVERAGED: [[usize; 3]; 3] = [[128, 8, 64], [128, 8, 640], [64, 7, 2048]];
/// What an ImageNet ResNet-50's max pooling reads.
const POOLED: [usize; 3] = [64, 112, 64];
/// Images of a batch, and values of each, of Shake-Shake's blocks and of layers whose first component is penalised: stage 1 of a
/// ResNet-20.
const BLOCK: [usize; 2] = [128, 16_384];
/// Images and classes of logits.
const LOGITS: [[usize; 2]; 2] = [[128, 10], [64, 1000]];
/// Parameters, about: of a ResNet-20, of an ImageNet ResNet-50 and of a ResNet-38 x10.
const PARAMETERS: [[usize; 1]; 3] = [[270_000], [25_600_000], [56_000_000]];
/// Images of a batch, and of the data set that they are drawn from, and their side.
const IMAGES: [usize; 3] = [128, 50_000, 32];

impl KernelBench<'_> {
    /// Every kernel but those of convolutions.
    pub(super) fn training(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        self.stored_as::<f32>(rows)?;
        self.stored_as::<bf16>(rows)?;
        for shape in PARAMETERS {
            let measured = self.narrow(rows, shape);
            self.unless_too_large(measured, rows, "elementwise narrow", bf16::NAME, &shape)?;
        }
        for shape in LOGITS {
            let measured = self.loss(rows, shape);
            self.unless_too_large(measured, rows, "loss", f32::NAME, &shape)?;
        }
        for shape in PARAMETERS {
            let measured = self.sgd(rows, shape);
            self.unless_too_large(measured, rows, "sgd", f32::NAME, &shape)?;
        }
        Ok(())
    }

    fn stored_as<T: Stored>(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        for shape in NORMS {
            let measured = self.batch_norm::<T>(rows, shape);
            self.unless_too_large(measured, rows, "batch norm", T::NAME, &shape)?;
        }
        let measured = self.relu::<T>(rows);
        self.unless_too_large(measured, rows, "elementwise relu", T::NAME, &[BLOCK[0] * BLOCK[1]])?;
        let measured = self.mixing::<T>(rows);
        self.unless_too_large(measured, rows, "mixing", T::NAME, &BLOCK)?;
        for shape in AVERAGED {
            let measured = self.average_pooling::<T>(rows, shape);
            self.unless_too_large(measured, rows, "average pooling", T::NAME, &shape)?;
        }
        let measured = self.max_pooling::<T>(rows);
        self.unless_too_large(measured, rows, "max pooling", T::NAME, &POOLED)?;
        let measured = self.first_component::<T>(rows);
        self.unless_too_large(measured, rows, "first component", T::NAME, &BLOCK)?;
        let measured = self.augmentation::<T>(rows);
        self.unless_too_large(measured, rows, "augmentation", T::NAME, &IMAGES)
    }

    /// Batch norms with an addend and a ReLU behind them.
    fn batch_norm<T: Stored>(&self, rows: &mut Rows<'_>, shape: [usize; 2]) -> anyhow::Result<()> {
        let passes = [
            // x.
            ("statistics", 1, Norm::<T>::statistics as Pass<'_, T>),
            // x, the addend; y.
            ("normalise", 3, Norm::normalise),
            // Beside y, what is on the way to it.
            ("normalise seen", 5, Norm::normalise_seen),
            // x, y, dy; the addend's gradient. Then x and that; dx.
            ("backward", 7, Norm::backward),
        ];
        let wanted = self.wanted("batch norm", &passes.map(|(name, ..)| name), T::NAME, &shape);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut norm = Norm::<T>::new(self.device, shape)?;
        for (variant, activations, pass) in passes.into_iter().filter(|(variant, ..)| wanted.contains(variant)) {
            let values = (shape[0] * shape[1]) as f64;
            let subject = Subject {
                kernel: "batch norm",
                variant,
                stored: T::NAME,
                shape: &shape,
                bytes: activations as f64 * values * size_of::<T>() as f64,
                partial_bytes: 0.0,
                flops: 0.0,
                products: None,
            };
            let times = Times {
                us: time(self.device, &mut |round| pass(&mut norm, round, false))?,
                naive_us: time_naive(self.device, values, &mut |round| pass(&mut norm, round, true))?,
                ..Times::default()
            };
            self.write(rows, &subject, times)?;
        }
        Ok(())
    }

    fn relu<T: Stored>(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        let shape @ [length] = [BLOCK[0] * BLOCK[1]];
        if !self.wants("elementwise", "relu", T::NAME, &shape) {
            return Ok(());
        }
        let (launcher, mut x) = (self.device.launcher(), Rotating::<T>::new(self.device, length)?);
        let subject = moves("elementwise", "relu", T::NAME, &shape, 2 * length * size_of::<T>());
        self.alone(rows, &subject, &mut |round| launcher.relu(&mut x.view_mut(round), length))
    }

    /// Weights as bfloat16.
    fn narrow(&self, rows: &mut Rows<'_>, shape: [usize; 1]) -> anyhow::Result<()> {
        if !self.wants("elementwise", "narrow", bf16::NAME, &shape) {
            return Ok(());
        }
        let ([length], device) = (shape, self.device);
        let (mut narrow, x) = (Rotating::<bf16>::new(device, length)?, Rotating::<f32>::new(device, length)?);
        let bytes = length * (size_of::<f32>() + size_of::<bf16>());
        self.alone(rows, &moves("elementwise", "narrow", bf16::NAME, &shape, bytes), &mut |round| {
            device.launcher().narrow(&mut narrow.view_mut(round), &x.view(round), length)
        })
    }

    fn mixing<T: Stored>(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        if self.wanted("mixing", &["forward", "forward seen", "backward"], T::NAME, &BLOCK).is_empty() {
            return Ok(());
        }
        let ([images, length], launcher, device) = (BLOCK, self.device.launcher(), self.device);
        let new = || Rotating::<T>::new(device, images * length);
        let (mut a, mut b, mut addend, mut y) = (new()?, new()?, new()?, new()?);
        let (mut mixture, mut sum) = (new()?, new()?);
        let shares = device.upload(WHAT, &vec![0.25_f32; images])?;
        let subject = |variant, activations| {
            moves("mixing", variant, T::NAME, &BLOCK, activations * images * length * size_of::<T>())
        };
        self.alone(rows, &subject("forward", 4), &mut |round| {
            let read = [&a.view(round), &b.view(round), &addend.view(round)];
            launcher.mix(&mut y.view_mut(round), Seen::default(), read, Some(&shares.as_view()), images, length)
        })?;
        self.alone(rows, &subject("forward seen", 6), &mut |round| {
            let seen = Seen { alone: Some(mixture.view_mut(round)), sum: Some(sum.view_mut(round)) };
            let read = [&a.view(round), &b.view(round), &addend.view(round)];
            launcher.mix(&mut y.view_mut(round), seen, read, Some(&shares.as_view()), images, length)
        })?;
        self.alone(rows, &subject("backward", 5), &mut |round| {
            let (dmixed, dother) = (&mut a.view_mut(round), &mut b.view_mut(round));
            let (daddend, y) = (&mut addend.view_mut(round), &y.view(round));
            launcher.mix_backward(dmixed, dother, daddend, y, &shares.as_view(), images, length)
        })
    }

    fn average_pooling<T: Stored>(&self, rows: &mut Rows<'_>, shape: [usize; 3]) -> anyhow::Result<()> {
        if self.wanted("average pooling", &["forward", "backward"], T::NAME, &shape).is_empty() {
            return Ok(());
        }
        let ([images, side, channels], launcher) = (shape, self.device.launcher());
        let (pixels, means) = (side * side, images * channels);
        let mut x = Rotating::<T>::new(self.device, images * pixels * channels)?;
        let mut pooled = self.device.zeros::<f32>(WHAT, means)?;
        let bytes = images * pixels * channels * size_of::<T>() + means * size_of::<f32>();
        self.alone(rows, &moves("average pooling", "forward", T::NAME, &shape, bytes), &mut |round| {
            launcher.average_pool(&mut pooled.as_view_mut(), &x.view(round), images, pixels, channels)
        })?;
        self.alone(rows, &moves("average pooling", "backward", T::NAME, &shape, bytes), &mut |round| {
            launcher.average_pool_backward(&mut x.view_mut(round), &pooled.as_view(), images, pixels, channels)
        })
    }

    fn max_pooling<T: Stored>(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        if self.wanted("max pooling", &["forward", "backward"], T::NAME, &POOLED).is_empty() {
            return Ok(());
        }
        let ([images, side, channels], launcher, device) = (POOLED, self.device.launcher(), self.device);
        let (from, to) = (images * side * side * channels, images * side.div_ceil(2).pow(2) * channels);
        let (x, mut dx) = (Rotating::<T>::new(device, from)?, Rotating::<T>::new(device, from)?);
        let (mut y, dy) = (Rotating::<T>::new(device, to)?, Rotating::<T>::new(device, to)?);
        let subject = |variant, values: usize| moves("max pooling", variant, T::NAME, &POOLED, values * size_of::<T>());
        self.alone(rows, &subject("forward", from + to), &mut |round| {
            launcher.max_pool(&mut y.view_mut(round), &x.view(round), images, side, side, channels)
        })?;
        self.alone(rows, &subject("backward", 2 * from + 2 * to), &mut |round| {
            let (dx, x, y, dy) = (&mut dx.view_mut(round), &x.view(round), &y.view(round), &dy.view(round));
            launcher.max_pool_backward(dx, x, y, dy, images, side, side, channels)
        })
    }

    /// The gradient of a penalty on a layer's first component, from the component on.
    fn first_component<T: Stored>(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        if !self.wants("first component", "gradient", T::NAME, &BLOCK) {
            return Ok(());
        }
        let ([n, p], device) = (BLOCK, self.device);
        let (mut dx, x) = (Rotating::<T>::new(device, n * p)?, Rotating::<T>::new(device, n * p)?);
        let vector = device.upload(WHAT, &vec![(1.0 / n as f64).sqrt(); n])?;
        let summary = device.upload(WHAT, &[EigenSummary { first: 0.5, trace: 1.0, ..EigenSummary::default() }])?;
        // x, dx; dx.
        let subject = moves("first component", "gradient", T::NAME, &BLOCK, 3 * n * p * size_of::<T>());
        let mut add = |round: usize, naive: bool| {
            let component = FirstComponent { vector: vector.as_view(), summary: summary.as_view() };
            let (dx, x, launcher) = (&mut dx.view_mut(round), &x.view(round), device.launcher());
            match naive {
                true => launcher.first_component_naive(dx, x, &component, 1.0, 0.2, BLOCK),
                false => launcher.first_component_gradient(dx, x, &component, 1.0, 0.2, BLOCK),
            }
        };
        let times = Times {
            us: time(device, &mut |round| add(round, false))?,
            // A thread an entry goes through its column twice.
            naive_us: time_naive(device, 4.0 * (n * n * p) as f64, &mut |round| add(round, true))?,
            ..Times::default()
        };
        self.write(rows, &subject, times)
    }

    fn augmentation<T: Stored>(&self, rows: &mut Rows<'_>) -> anyhow::Result<()> {
        if !self.wants("augmentation", "crop and flip", T::NAME, &IMAGES) {
            return Ok(());
        }
        let ([batch, count, side], device) = (IMAGES, self.device);
        let values = batch * side * side * 3;
        let images: Vec<u32> = (0..count as u32).collect();
        let labels: Vec<u32> = images.iter().map(|image| image % 10).collect();
        let pixels = device.zeros::<u8>(WHAT, count * side * side * 3)?;
        let (order, labels) = (device.upload(WHAT, &images)?, device.upload(WHAT, &labels)?);
        let mut batches = Rotating::<T>::new(device, values)?;
        let mut chosen = device.zeros::<u32>(WHAT, batch)?;
        let mut place = device.upload(WHAT, &[BatchPlace { first: 0, epoch: 1 }])?;
        let placing = Placing { seed: 0, padding: 4, flip: true };
        let subject = moves("augmentation", "crop and flip", T::NAME, &IMAGES, values * (1 + size_of::<T>()));
        self.alone(rows, &subject, &mut |round| {
            let launcher = device.launcher();
            launcher.augment(
                &mut batches.view_mut(round),
                &mut chosen.as_view_mut(),
                &pixels.as_view(),
                &labels.as_view(),
                &order.as_view(),
                &order.as_view(),
                &place.as_view(),
                placing,
                batch,
                side,
            )?;
            launcher.advance(&mut place.as_view_mut(), batch)
        })
    }

    fn loss(&self, rows: &mut Rows<'_>, shape: [usize; 2]) -> anyhow::Result<()> {
        if !self.wants("loss", "softmax cross-entropy", f32::NAME, &shape) {
            return Ok(());
        }
        let ([images, classes], device) = (shape, self.device);
        let (mut gradients, logits) =
            (Rotating::<f32>::new(device, images * classes)?, Rotating::<f32>::new(device, images * classes)?);
        let labels = device.zeros::<u32>(WHAT, images)?;
        let mut totals = device.zeros::<f64>(WHAT, 2)?;
        let subject =
            moves("loss", "softmax cross-entropy", f32::NAME, &shape, 2 * images * classes * size_of::<f32>());
        self.alone(rows, &subject, &mut |round| {
            let (to, totals, of) = (&mut gradients.view_mut(round), &mut totals.as_view_mut(), &logits.view(round));
            device.launcher().softmax_cross_entropy(to, totals, of, &labels.as_view(), images, classes)
        })
    }

    fn sgd(&self, rows: &mut Rows<'_>, shape: [usize; 1]) -> anyhow::Result<()> {
        if !self.wants("sgd", "momentum", f32::NAME, &shape) {
            return Ok(());
        }
        let ([parameters], device) = (shape, self.device);
        let new = || Rotating::<f32>::new(device, parameters);
        let (mut weights, mut velocities, gradients) = (new()?, new()?, new()?);
        let rate = device.upload(WHAT, &[1e-3_f32])?;
        // All three are read, and two written.
        let subject = moves("sgd", "momentum", f32::NAME, &shape, 5 * parameters * size_of::<f32>());
        self.alone(rows, &subject, &mut |round| {
            let (w, v, g) = (&mut weights.view_mut(round), &mut velocities.view_mut(round), &gradients.view(round));
            device.launcher().sgd(w, v, g, &rate.as_view(), 0.9, 1e-4, parameters)
        })
    }
}

/// A kernel that does little with what it moves.
fn moves<'a>(kernel: &'a str, variant: &'a str, stored: &'a str, shape: &'a [usize], bytes: usize) -> Subject<'a> {
    let bytes = bytes as f64;
    Subject { kernel, variant, stored, shape, bytes, partial_bytes: 0.0, flops: 0.0, products: None }
}

/// Enqueues a pass, by our kernels or by their naive twins.
type Pass<'a, T> = fn(&mut Norm<'a, T>, usize, bool) -> Result<(), Error>;

/// A batch norm, there and back.
struct Norm<'a, T> {
    device: &'a Device,
    rows: usize,
    channels: usize,
    x: Rotating<T>,
    y: Rotating<T>,
    /// The addend, and its gradient.
    addend: Rotating<T>,
    dy: Rotating<T>,
    dx: Rotating<T>,
    statistics: Slice<f32>,
    running: Slice<f32>,
    gamma: Slice<f32>,
    beta: Slice<f32>,
    dgamma: Slice<f32>,
    dbeta: Slice<f32>,
    scratch: Slice<f64>,
}

impl<'a, T: Stored> Norm<'a, T> {
    fn new(device: &'a Device, [rows, channels]: [usize; 2]) -> anyhow::Result<Self> {
        let activation = || Rotating::new(device, rows * channels);
        let vector = |length| device.zeros::<f32>(WHAT, length);
        Ok(Self {
            x: activation()?,
            y: activation()?,
            addend: activation()?,
            dy: activation()?,
            dx: activation()?,
            statistics: vector(2 * channels)?,
            running: vector(2 * channels)?,
            gamma: device.upload(WHAT, &vec![1.0; channels])?,
            beta: vector(channels)?,
            dgamma: vector(channels)?,
            dbeta: vector(channels)?,
            scratch: device.zeros(WHAT, device.launcher().batch_norm_scratch(rows, channels))?,
            device,
            rows,
            channels,
        })
    }

    fn statistics(&mut self, round: usize, naive: bool) -> Result<(), Error> {
        let Self { device, rows, channels, x, statistics, running, scratch, .. } = self;
        let (launcher, rows, channels, x) = (device.launcher(), *rows, *channels, &x.view(round));
        let (to, running) = (&mut statistics.as_view_mut(), &mut running.as_view_mut());
        if naive {
            launcher.batch_norm_statistics_naive(to, running, x, rows, channels)
        } else {
            launcher.batch_norm_statistics(to, running, &mut scratch.as_view_mut(), x, rows, channels)
        }
    }

    fn normalise(&mut self, round: usize, naive: bool) -> Result<(), Error> {
        self.normalise_and_show(round, naive, false)
    }

    fn normalise_seen(&mut self, round: usize, naive: bool) -> Result<(), Error> {
        self.normalise_and_show(round, naive, true)
    }

    fn normalise_and_show(&mut self, round: usize, naive: bool, shows: bool) -> Result<(), Error> {
        let Self { device, rows, channels, x, y, addend, dy, dx, statistics, gamma, beta, .. } = self;
        let seen = match shows {
            true => Seen { alone: Some(dx.view_mut(round)), sum: Some(dy.view_mut(round)) },
            false => Seen::default(),
        };
        let (launcher, rows, channels) = (device.launcher(), *rows, *channels);
        let (y, x, addend) = (&mut y.view_mut(round), &x.view(round), Some(&addend.view(round)));
        let (of, gamma, beta) = (&statistics.as_view(), &gamma.as_view(), &beta.as_view());
        if naive {
            launcher.batch_norm_normalise_naive(y, seen, x, of, gamma, beta, addend, true, rows, channels)
        } else {
            launcher.batch_norm_normalise(y, seen, x, of, gamma, beta, addend, true, rows, channels)
        }
    }

    fn backward(&mut self, round: usize, naive: bool) -> Result<(), Error> {
        let Self {
            device, rows, channels, x, y, addend, dy, dx, statistics, gamma, beta, dgamma, dbeta, scratch, ..
        } = self;
        let (launcher, rows, channels) = (device.launcher(), *rows, *channels);
        let (dx, daddend) = (&mut dx.view_mut(round), Some(&mut addend.view_mut(round)));
        let (dgamma, dbeta) = (&mut dgamma.as_view_mut(), &mut dbeta.as_view_mut());
        let (x, y, dy) = (&x.view(round), Some(&y.view(round)), &dy.view(round));
        let (of, gamma, beta) = (&statistics.as_view(), &gamma.as_view(), &beta.as_view());
        if naive {
            launcher
                .batch_norm_backward_naive(dx, daddend, dgamma, dbeta, x, y, dy, of, gamma, beta, true, rows, channels)
        } else {
            let scratch = &mut scratch.as_view_mut();
            launcher.batch_norm_backward(
                dx, daddend, dgamma, dbeta, scratch, x, y, dy, of, gamma, beta, true, rows, channels,
            )
        }
    }
}
