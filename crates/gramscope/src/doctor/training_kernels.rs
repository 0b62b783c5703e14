//! Training's kernels against float64, at shapes that no tile fits, for both types of activations.

use candle_core::Device as Host;
use gramscope_cuda::plan::Placing;
use gramscope_cuda::shapes::BatchPlace;
use gramscope_cuda::{ComponentsExtent, Device, EigenSummary, FirstComponent, FirstComponents, Seen, Slice};
use gramscope_nn::ops::batch_norm::EPSILON;
use gramscope_nn::ops::mixing;
use gramscope_reference::{Matrix, Tensor4, batch_norm, components, loss, pooling, sgd};
use gramscope_train::TrainSettings;
use gramscope_train::augment::Augmentation;
use gramscope_train::data::Split;
use half::bf16;

use super::inputs::{normals, numbers};
use super::{Finding, Report};
use crate::stored::Stored;

/// What buffers are for, in messages.
pub(super) const WHAT: &str = "a check";
/// Rows and channels of batch norms: whole runs of channels and single ones, fewer rows than a block takes, and many blocks.
const NORMS: [[usize; 2]; 6] = [[2, 1], [7, 3], [257, 17], [1021, 16], [301, 20], [2100, 64]];
/// Images, rows, columns and channels for pooling.
const IMAGES: [[usize; 4]; 4] = [[1, 1, 1, 1], [2, 8, 8, 64], [3, 4, 5, 17], [2, 7, 9, 8]];
/// Images and values of each, mixed: ones that end within a run of values, and more than a block takes.
const MIXTURES: [[usize; 2]; 4] = [[1, 1], [3, 13], [5, 324], [2, 4096]];
/// Images and classes of logits.
const LOGITS: [[usize; 2]; 3] = [[1, 1], [128, 10], [37, 100]];
/// Examples and features of a layer whose first component is penalised: columns that fill a block, and ones that do not; fewer
/// examples than the subspace has vectors, and more than a block has warps.
const LAYERS: [[usize; 2]; 5] = [[2, 1], [5, 37], [8, 64], [33, 129], [128, 31]];
/// Error of a few roundings of float32, of values around 1.
const SINGLE: f64 = 5e-6;

/// Error of storing a value as T, and [`SINGLE`], relative to values of 1 or more.
fn rounding<T: Stored>() -> f64 {
    SINGLE + if T::NAME == bf16::NAME { 1.0 / 256.0 } else { 0.0 }
}

/// Every kernel but those of convolutions.
pub(super) fn check(report: &mut Report<'_>, device: &Device) {
    check_stored::<f32>(report, device);
    check_stored::<bf16>(report, device);
    report.check("narrowing", || over(&[1, 1021, 4096], 0.0, |finding, length| narrowed(device, length, finding)));
    report.check("mixing, shares", || over(&[1, 5], 0.0, |finding, images| shares(device, images, finding)));
    report.check("loss", || over(&LOGITS, SINGLE, |finding, logits| losses(device, logits, finding)));
    report.check("sgd", || over(&[1, 1021], SINGLE, |finding, length| step(device, length, finding)));
}

fn check_stored<T: Stored>(report: &mut Report<'_>, device: &Device) {
    for naive in [false, true] {
        let name = if naive { "batch norm naive" } else { "batch norm" };
        report.check(&format!("{name}, statistics, {}", T::NAME), || {
            over(&NORMS, SINGLE, |finding, shape| Norm::<T>::new(device, shape)?.statistics(naive, finding).map(drop))
        });
        report.check(&format!("{name}, normalised and gradients, {}", T::NAME), || {
            over(&NORMS, rounding::<T>(), |finding, shape| {
                Norm::<T>::new(device, shape)?.there_and_back(naive, finding)
            })
        });
    }
    let mut line = |name: &str, check: &dyn Fn() -> anyhow::Result<Finding>| {
        report.check(&format!("{name}, {}", T::NAME), check);
    };
    line("ReLU", &|| over(&[1, 1021, 4096], 0.0, |finding, n| relu::<T>(device, n, finding)));
    line("mixing", &|| over(&MIXTURES, rounding::<T>(), |finding, shape| mixtures::<T>(device, shape, finding)));
    line("average pooling", &|| over(&IMAGES, rounding::<T>(), |finding, dims| averages::<T>(device, dims, finding)));
    line("max pooling", &|| over(&IMAGES, rounding::<T>(), |finding, dims| maxima::<T>(device, dims, finding)));
    line("first component", &|| over(&LAYERS, rounding::<T>(), |finding, shape| penalty::<T>(device, shape, finding)));
    line("augmentation", &|| over(&[5, 32], 0.0, |finding, side| augmented::<T>(device, side, finding)));
}

pub(super) fn over<S: Copy>(
    shapes: &[S],
    allowed: f64,
    check: impl Fn(&mut Finding, S) -> anyhow::Result<()>,
) -> anyhow::Result<Finding> {
    let mut finding = Finding::new(allowed);
    shapes.iter().try_for_each(|shape| check(&mut finding, *shape))?;
    Ok(finding)
}

/// An activation on the device, and what it holds in float64.
pub(super) struct Values<T> {
    pub(super) device: Slice<T>,
    pub(super) host: Vec<f64>,
}

pub(super) fn normal<T: Stored>(device: &Device, seed: u64, count: usize, mean: f32) -> anyhow::Result<Values<T>> {
    let values: Vec<T> = normals(seed, count).into_iter().map(|value| T::of(value + mean)).collect();
    Ok(Values { device: device.upload(WHAT, &values)?, host: values.into_iter().map(T::widen).collect() })
}

fn download<T: Stored>(device: &Device, slice: &Slice<T>) -> anyhow::Result<Vec<f64>> {
    Ok(device.download(slice)?.into_iter().map(T::widen).collect())
}

/// Each value relative to itself, or to 1 where it is smaller.
fn compare(finding: &mut Finding, found: &[f64], expected: &[f64]) {
    let mut scales = expected.iter().map(|value| value.abs().max(1.0));
    let scaled: Vec<f64> = expected.iter().map(|value| value / value.abs().max(1.0)).collect();
    let found = found.iter().map(|value| value / scales.next().unwrap_or(f64::NAN));
    finding.compare_all(found, &scaled, 1.0);
}

/// A batch norm with an addend and a ReLU behind it, whose results on the way are looked at.
struct Norm<'a, T> {
    device: &'a Device,
    rows: usize,
    channels: usize,
    x: Values<T>,
    addend: Values<T>,
    dy: Values<T>,
    gamma: Values<f32>,
    beta: Values<f32>,
}

impl<'a, T: Stored> Norm<'a, T> {
    fn new(device: &'a Device, [rows, channels]: [usize; 2]) -> anyhow::Result<Self> {
        let count = rows * channels;
        Ok(Self {
            device,
            rows,
            channels,
            x: normal(device, 1, count, 3.0)?,
            addend: normal(device, 2, count, 0.0)?,
            dy: normal(device, 3, count, 0.0)?,
            gamma: normal(device, 4, channels, 2.0)?,
            beta: normal(device, 5, channels, 0.0)?,
        })
    }

    fn tensor(&self, values: &[f64]) -> Tensor4 {
        Tensor4::new([self.rows, 1, 1, self.channels], values.to_vec())
    }

    fn scratch(&self) -> anyhow::Result<Slice<f64>> {
        Ok(self.device.zeros(WHAT, self.device.launcher().batch_norm_scratch(self.rows, self.channels))?)
    }

    fn statistics(&self, naive: bool, finding: &mut Finding) -> anyhow::Result<Slice<f32>> {
        let Self { device, rows, channels, .. } = *self;
        let launcher = device.launcher();
        let (mut found, mut running) = (device.zeros(WHAT, 2 * channels)?, device.zeros::<f32>(WHAT, 2 * channels)?);
        let (mut out, mut moved, x) = (found.as_view_mut(), running.as_view_mut(), self.x.device.as_view());
        if naive {
            launcher.batch_norm_statistics_naive(&mut out, &mut moved, &x, rows, channels)?;
        } else {
            let mut scratch = self.scratch()?;
            launcher.batch_norm_statistics(&mut out, &mut moved, &mut scratch.as_view_mut(), &x, rows, channels)?;
        }
        let truth = batch_norm::forward(&self.tensor(&self.x.host), &self.gamma.host, &self.beta.host, EPSILON);
        compare(finding, &download(device, &found)?, &[&truth.mean[..], &truth.variance].concat());
        let unbiased = rows as f64 / (rows - 1) as f64;
        let moved = |batch: &[f64], factor: f64| -> Vec<f64> { batch.iter().map(|x| 0.01 * factor * x).collect() };
        let expected = [moved(&truth.mean, 1.0), moved(&truth.variance, unbiased)].concat();
        compare(finding, &download(device, &running)?, &expected);
        Ok(found)
    }

    fn there_and_back(&self, naive: bool, finding: &mut Finding) -> anyhow::Result<()> {
        let Self { device, rows, channels, .. } = *self;
        let launcher = device.launcher();
        let statistics = self.statistics(naive, &mut Finding::new(0.0))?;
        let count = rows * channels;
        let mut y = device.zeros::<T>(WHAT, count)?;
        let [mut normalised, mut sum] = [device.zeros::<T>(WHAT, count)?, device.zeros::<T>(WHAT, count)?];
        let seen = Seen { alone: Some(normalised.as_view_mut()), sum: Some(sum.as_view_mut()) };
        let [mut dx, mut daddend] = [device.zeros::<T>(WHAT, count)?, device.zeros::<T>(WHAT, count)?];
        let [mut dgamma, mut dbeta] = [device.zeros::<f32>(WHAT, channels)?, device.zeros::<f32>(WHAT, channels)?];
        let (x, dy, addend) = (self.x.device.as_view(), self.dy.device.as_view(), self.addend.device.as_view());
        let (gamma, beta, of) = (self.gamma.device.as_view(), self.beta.device.as_view(), statistics.as_view());
        let (mut out, addend) = (y.as_view_mut(), Some(&addend));
        let (mut dx_out, mut da_out) = (dx.as_view_mut(), daddend.as_view_mut());
        let (mut dg_out, mut db_out) = (dgamma.as_view_mut(), dbeta.as_view_mut());
        if naive {
            launcher
                .batch_norm_normalise_naive(&mut out, seen, &x, &of, &gamma, &beta, addend, true, rows, channels)?;
            let (y, da) = (out.as_view(), Some(&mut da_out));
            launcher.batch_norm_backward_naive(
                &mut dx_out,
                da,
                &mut dg_out,
                &mut db_out,
                &x,
                Some(&y),
                &dy,
                &of,
                &gamma,
                &beta,
                true,
                rows,
                channels,
            )?;
        } else {
            launcher.batch_norm_normalise(&mut out, seen, &x, &of, &gamma, &beta, addend, true, rows, channels)?;
            let mut scratch = self.scratch()?;
            let (y, da, mut scratch) = (out.as_view(), Some(&mut da_out), scratch.as_view_mut());
            launcher.batch_norm_backward(
                &mut dx_out,
                da,
                &mut dg_out,
                &mut db_out,
                &mut scratch,
                &x,
                Some(&y),
                &dy,
                &of,
                &gamma,
                &beta,
                true,
                rows,
                channels,
            )?;
        }
        let (gamma, beta) = (&self.gamma.host, &self.beta.host);
        let truth = batch_norm::forward(&self.tensor(&self.x.host), gamma, beta, EPSILON).y;
        compare(finding, &download(device, &normalised)?, &truth.data);
        let expected = truth.zip(&self.tensor(&self.addend.host), |y, addend| y + addend);
        compare(finding, &download(device, &sum)?, &expected.data);
        let y = download(device, &y)?;
        compare(finding, &y, &expected.data.iter().map(|sum| sum.max(0.0)).collect::<Vec<_>>());
        // Where the ReLU lets through is what it is here: a value of nearly 0 may be on either side.
        let g = self.tensor(&self.dy.host).zip(&self.tensor(&y), |dy, y| if y > 0.0 { dy } else { 0.0 });
        compare(finding, &download(device, &daddend)?, &g.data);
        let truth = batch_norm::backward(&self.tensor(&self.x.host), gamma, &g, EPSILON);
        compare(finding, &download(device, &dx)?, &truth.dx.data);
        // Sums of so many terms.
        finding.compare_all(download(device, &dgamma)?, &truth.dgamma, rows as f64);
        finding.compare_all(download(device, &dbeta)?, &truth.dbeta, rows as f64);
        Ok(())
    }
}

/// Bit for bit, of values that begin a run of them, and of ones that begin a value into it.
fn relu<T: Stored>(device: &Device, length: usize, finding: &mut Finding) -> anyhow::Result<()> {
    for start in [0, 1] {
        let mut x = normal::<T>(device, 1, start + length, 0.0)?;
        device.launcher().relu(&mut x.device.slice_mut(start..), length)?;
        let (before, rest) = x.host.split_at(start);
        let expected: Vec<f64> = before.iter().copied().chain(rest.iter().map(|x| x.max(0.0))).collect();
        finding.compare_all(download(device, &x.device)?, &expected, 1.0);
    }
    Ok(())
}

/// Copies in bfloat16, bit for bit: ordinary values, ones in the middle between two, the smallest, the largest, and beyond.
fn narrowed(device: &Device, length: usize, finding: &mut Finding) -> anyhow::Result<()> {
    const TIES: [u32; 8] =
        [0x3f80_8000, 0x3f81_8000, 0xbf80_8000, 0x0000_8000, 0x0001_8001, 0x7f7f_8000, 0x7f80_0000, 0x7fc0_0000];
    let hard = TIES.map(f32::from_bits);
    let values: Vec<f32> =
        normals(1, length).into_iter().zip(0..).map(|(own, at)| hard.get(at).map_or(own, |hard| *hard)).collect();
    let (x, mut narrow) = (device.upload(WHAT, &values)?, device.zeros::<bf16>(WHAT, length)?);
    device.launcher().narrow(&mut narrow.as_view_mut(), &x.as_view(), length)?;
    let bits = |value: bf16| if value.is_nan() { f64::NAN } else { f64::from(value.to_bits()) };
    let expected: Vec<f64> = values.into_iter().map(|value| bits(bf16::from_f32(value))).collect();
    finding.compare_all(device.download(&narrow)?.into_iter().map(bits), &expected, 1.0);
    Ok(())
}

/// By a share an image, there and back, with what is on the way; evenly, without.
fn mixtures<T: Stored>(device: &Device, [images, length]: [usize; 2], finding: &mut Finding) -> anyhow::Result<()> {
    let (launcher, count) = (device.launcher(), images * length);
    let mut random = numbers(5);
    let shares: Vec<f32> = (0..images).map(|_| random.between(0.0, 1.0) as f32).collect();
    let first = |index: usize| f64::from(shares[index / length]);
    let (a, b) = (normal::<T>(device, 1, count, 0.0)?, normal::<T>(device, 2, count, 0.0)?);
    let (addend, mut dy) = (normal::<T>(device, 3, count, 0.0)?, normal::<T>(device, 4, count, 0.0)?);
    let zeros = || device.zeros::<T>(WHAT, count);
    let (mut y, mut mixture, mut sum, mut db, mut daddend) = (zeros()?, zeros()?, zeros()?, zeros()?, zeros()?);
    let views = [a.device.as_view(), b.device.as_view(), addend.device.as_view()];
    let [a_view, b_view, addend_view] = &views;
    let (read, shares) = ([a_view, b_view, addend_view], device.upload(WHAT, &shares)?);
    let shares_view = shares.as_view();
    let seen = Seen { alone: Some(mixture.as_view_mut()), sum: Some(sum.as_view_mut()) };
    launcher.mix(&mut y.as_view_mut(), seen, read, Some(&shares_view), images, length)?;
    let (da_out, db_out, daddend_out) =
        (&mut dy.device.as_view_mut(), &mut db.as_view_mut(), &mut daddend.as_view_mut());
    launcher.mix_backward(da_out, db_out, daddend_out, &y.as_view(), &shares_view, images, length)?;

    let mixed = |index: usize| first(index) * a.host[index] + (1.0 - first(index)) * b.host[index];
    compare(finding, &download(device, &mixture)?, &(0..count).map(mixed).collect::<Vec<_>>());
    let sums: Vec<f64> = (0..count).map(|index| mixed(index) + addend.host[index]).collect();
    compare(finding, &download(device, &sum)?, &sums);
    let found = download(device, &y)?;
    compare(finding, &found, &sums.iter().map(|sum| sum.max(0.0)).collect::<Vec<_>>());
    // Where the ReLU lets through is what it is here, as for batch norm.
    let g: Vec<f64> = dy.host.iter().zip(&found).map(|(dy, y)| if *y > 0.0 { *dy } else { 0.0 }).collect();
    compare(finding, &download(device, &daddend)?, &g);
    let part = |share: &dyn Fn(usize) -> f64| (0..count).map(|index| share(index) * g[index]).collect::<Vec<_>>();
    compare(finding, &download(device, &dy.device)?, &part(&first));
    compare(finding, &download(device, &db)?, &part(&|index| 1.0 - first(index)));

    launcher.mix(&mut y.as_view_mut(), Seen::default(), read, None, images, length)?;
    let even = |index: usize| (0.5 * (a.host[index] + b.host[index]) + addend.host[index]).max(0.0);
    compare(finding, &download(device, &y)?, &(0..count).map(even).collect::<Vec<_>>());
    Ok(())
}

/// Those that the CPU draws for two blocks, bit for bit.
fn shares(device: &Device, images: usize, finding: &mut Finding) -> anyhow::Result<()> {
    const SEED: u64 = 11;
    let (order, place) = ([7_u32, 3, 70_000, 0, 5, 1], BatchPlace { first: 1, epoch: 9 });
    let drawn: Vec<usize> = order[1..=images].iter().map(|&image| image as usize).collect();
    let expected = (0..2).flat_map(|block| mixing::shares(SEED, place.epoch, block, &drawn).concat());
    let expected: Vec<f64> = expected.map(f64::from).collect();
    let (order, place) = (device.upload(WHAT, &order)?, device.upload(WHAT, &[place])?);
    let mut shares = device.zeros::<f32>(WHAT, expected.len())?;
    let (of, at) = (order.as_view(), place.as_view());
    device.launcher().draw_shares(&mut shares.as_view_mut(), &of, &at, SEED, 2, images)?;
    finding.compare_all(download(device, &shares)?, &expected, 1.0);
    Ok(())
}

fn averages<T: Stored>(device: &Device, dims: [usize; 4], finding: &mut Finding) -> anyhow::Result<()> {
    let [images, height, width, channels] = dims;
    let (pixels, launcher) = (height * width, device.launcher());
    let x = normal::<T>(device, 1, dims.iter().product(), 0.0)?;
    let dpooled = normal::<f32>(device, 2, images * channels, 0.0)?;
    let mut pooled = device.zeros::<f32>(WHAT, images * channels)?;
    launcher.average_pool(&mut pooled.as_view_mut(), &x.device.as_view(), images, pixels, channels)?;
    let mut dx = device.zeros::<T>(WHAT, x.host.len())?;
    launcher.average_pool_backward(&mut dx.as_view_mut(), &dpooled.device.as_view(), images, pixels, channels)?;
    compare(finding, &download(device, &pooled)?, &pooling::forward(&Tensor4::new(dims, x.host)).data);
    let expected = pooling::backward(&Matrix::new(images, channels, dpooled.host), height, width);
    compare(finding, &download(device, &dx)?, &expected.data);
    Ok(())
}

fn maxima<T: Stored>(device: &Device, dims: [usize; 4], finding: &mut Finding) -> anyhow::Result<()> {
    let [images, height, width, channels] = dims;
    let launcher = device.launcher();
    let x = normal::<T>(device, 1, dims.iter().product(), 0.0)?;
    let expected = pooling::max_forward(&Tensor4::new(dims, x.host.clone()));
    let dy = normal::<T>(device, 2, expected.data.len(), 0.0)?;
    let (mut y, mut dx) = (device.zeros::<T>(WHAT, dy.host.len())?, device.zeros::<T>(WHAT, x.host.len())?);
    let (from, mut to) = (x.device.as_view(), dx.as_view_mut());
    launcher.max_pool(&mut y.as_view_mut(), &from, images, height, width, channels)?;
    let (y_view, dy_view) = (y.as_view(), dy.device.as_view());
    launcher.max_pool_backward(&mut to, &from, &y_view, &dy_view, images, height, width, channels)?;
    compare(finding, &download(device, &y)?, &expected.data);
    launcher.square_pool(&mut y.as_view_mut(), &from, images, [height, width, channels])?;
    compare(finding, &download(device, &y)?, &pooling::squares(&Tensor4::new(dims, x.host.clone())).data);
    let expected = pooling::max_backward(&Tensor4::new(dims, x.host), &Tensor4::new(expected.shape, dy.host));
    compare(finding, &download(device, &dx)?, &expected.data);
    Ok(())
}

/// The gradient of a penalty on a layer's first component: from the component on, as the launchers give it and an entry a
/// thread, and the whole way from the layer on.
fn penalty<T: Stored>(device: &Device, shape: [usize; 2], finding: &mut Finding) -> anyhow::Result<()> {
    const THRESHOLD: f64 = 0.1;
    let ([n, p], launcher) = (shape, device.launcher());
    let common = normals(3, n);
    let values: Vec<T> =
        normals(1, n * p).into_iter().enumerate().map(|(at, own)| T::of(own + 2.0 * common[at / p] + 3.0)).collect();
    let x = Matrix::new(n, p, values.iter().map(|value| value.widen()).collect());
    let values = device.upload(WHAT, &values)?;
    let truth = components::first(&components::centred_gram(&x));
    let trace = truth.eigenvalue / truth.fraction;
    // So that the gradient is of the size of what it is added to.
    let weight = trace.sqrt() * n as f64;
    let vector = device.upload(WHAT, &truth.vector)?;
    let summary = EigenSummary { first: truth.eigenvalue, trace, ..EigenSummary::default() };
    let summary = device.upload(WHAT, &[summary])?;
    let component = FirstComponent { vector: vector.as_view(), summary: summary.as_view() };
    let extent = ComponentsExtent { layers: 2, examples: n, features: p };
    let mut whole = FirstComponents::new(device, extent)?;
    for layer in 0..2 {
        whole.observe(launcher, layer, &T::layer(values.as_view()), shape)?;
    }
    whole.decompose(launcher, n)?;
    let gradient = components::penalty_gradient(&x, weight, THRESHOLD);
    for way in 0..3 {
        let mut dx = normal::<T>(device, 2, n * p, 0.0)?;
        let (mut to, x) = (dx.device.as_view_mut(), values.as_view());
        match way {
            0 => launcher.first_component_gradient(&mut to, &x, &component, weight, THRESHOLD, shape)?,
            1 => launcher.first_component_naive(&mut to, &x, &component, weight, THRESHOLD, shape)?,
            _ => whole.add_gradient(launcher, 1, &mut to, &x, weight, THRESHOLD, shape)?,
        }
        let expected: Vec<f64> = dx.host.iter().zip(&gradient.data).map(|(dx, gradient)| dx + gradient).collect();
        compare(finding, &download(device, &dx.device)?, &expected);
    }
    Ok(())
}

/// The images that training sees on the CPU, bit for bit.
fn augmented<T: Stored>(device: &Device, side: usize, finding: &mut Finding) -> anyhow::Result<()> {
    const COUNT: usize = 6;
    let settings = TrainSettings { seed: 3, crop_padding: 4, flip: true, ..TrainSettings::default() };
    let mut random = numbers(1);
    let pixels: Vec<u8> = (0..COUNT * side * side * 3).map(|_| random.below(256).to_le_bytes()[0]).collect();
    let labels: Vec<u32> = (0..COUNT).map(|_| random.below(10)).collect();
    let (order, place) = ([3_u32, 4, 0, 5, 5, 2], BatchPlace { first: 1, epoch: 7 });
    let indices: Vec<usize> = order[1..].iter().map(|&index| index as usize).collect();
    let split = Split::new(pixels.clone(), labels.clone(), side)?;
    let cpu = Augmentation::new(&settings).batch(&split, &indices, 7, &Host::Cpu)?.flatten_all()?.to_vec1::<f32>()?;

    let (pixels, on_device) = (device.upload(WHAT, &pixels)?, device.upload(WHAT, &labels)?);
    let (rows, order) = (device.upload(WHAT, &[0_u32, 1, 2, 3, 4, 5])?, device.upload(WHAT, &order)?);
    let mut place = device.upload(WHAT, &[place])?;
    let (mut images, mut chosen) = (device.zeros::<T>(WHAT, cpu.len())?, device.zeros::<u32>(WHAT, indices.len())?);
    let placing = Placing { seed: settings.seed, padding: settings.crop_padding, flip: settings.flip };
    device.launcher().augment(
        &mut images.as_view_mut(),
        &mut chosen.as_view_mut(),
        &pixels.as_view(),
        &on_device.as_view(),
        &rows.as_view(),
        &order.as_view(),
        &place.as_view(),
        placing,
        indices.len(),
        side,
    )?;
    device.launcher().advance(&mut place.as_view_mut(), indices.len())?;
    let found = device.download(&place)?.into_iter().map(|place| f64::from(place.first));
    finding.compare_all(found, &[order.len() as f64], 1.0);
    let expected: Vec<f64> = cpu.into_iter().map(|value| T::of(value).widen()).collect();
    finding.compare_all(download(device, &images)?, &expected, 1.0);
    let expected: Vec<f64> = indices.iter().map(|&index| labels[index].into()).collect();
    finding.compare_all(device.download(&chosen)?.into_iter().map(f64::from), &expected, 1.0);
    Ok(())
}

fn losses(device: &Device, [images, classes]: [usize; 2], finding: &mut Finding) -> anyhow::Result<()> {
    let logits = normal::<f32>(device, 1, images * classes, 0.0)?;
    let truth = Matrix::new(images, classes, logits.host);
    // Right for every third image.
    let largest = |row: &[f64]| (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    let labels: Vec<usize> = (0..images).map(|image| (largest(truth.row(image)) + image % 3) % classes).collect();
    let small: Vec<u32> = labels.iter().map(|&label| u32::try_from(label)).collect::<Result<_, _>>()?;
    let correct = (0..images).filter(|&image| labels[image] == largest(truth.row(image))).count();
    let (small, mut totals) = (device.upload(WHAT, &small)?, device.zeros::<f64>(WHAT, 2)?);
    let mut dlogits = device.zeros::<f32>(WHAT, images * classes)?;
    let (mut gradients, mut sums) = (dlogits.as_view_mut(), totals.as_view_mut());
    let launcher = device.launcher();
    let (of, labels_here) = (logits.device.as_view(), small.as_view());
    launcher.softmax_cross_entropy(&mut gradients, &mut sums, &of, &labels_here, images, classes)?;
    finding.compare_all(device.download(&totals)?, &[loss::cross_entropy(&truth, &labels), correct as f64], 1.0);
    let expected = loss::cross_entropy_gradient(&truth, &labels);
    finding.compare_all(download(device, &dlogits)?, &expected.data, 1.0 / images as f64);
    Ok(())
}

fn step(device: &Device, length: usize, finding: &mut Finding) -> anyhow::Result<()> {
    let (rate, decay, decaying) = (0.125_f32, 1e-2, length / 2);
    let settings = sgd::Settings { learning_rate: rate.into(), momentum: 0.9, weight_decay: decay };
    let mut weights = normal::<f32>(device, 1, length, 0.0)?;
    let mut velocities = normal::<f32>(device, 2, length, 0.0)?;
    let gradients = normal::<f32>(device, 3, length, 0.0)?;
    let rate = device.upload(WHAT, &[rate])?;
    let (mut w, mut v) = (weights.device.as_view_mut(), velocities.device.as_view_mut());
    device.launcher().sgd(&mut w, &mut v, &gradients.device.as_view(), &rate.as_view(), 0.9, decay, decaying)?;
    for (part, decays) in [(0..decaying, true), (decaying..length, false)] {
        let (w, v) = (&mut weights.host[part.clone()], &mut velocities.host[part.clone()]);
        sgd::step(w, v, &gradients.host[part], decays, settings);
    }
    compare(finding, &download(device, &weights.device)?, &weights.host);
    compare(finding, &download(device, &velocities.device)?, &velocities.host);
    Ok(())
}
