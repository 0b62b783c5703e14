//! Batch norm on the CPU.
//!
//! A value for each channel is repeated until it is a few hundred values long: then the innermost loops are long, and a
//! vector never straddles the end of a short run of channels. Work is cut into pieces of whole runs.

use rayon::prelude::*;

/// Length, at least, of the repeated values of the channels.
const RUN: usize = 256;
/// Values in a piece of work, about: a quarter of a megabyte, which stays in a core's cache.
const PIECE: usize = 65_536;

/// What batch norm knows of each channel, repeated to the length of a run.
pub(super) struct Channels {
    count: usize,
    mean: Vec<f32>,
    /// gamma / sqrt(variance + eps).
    scale: Vec<f32>,
    beta: Vec<f32>,
    /// 1 / sqrt(variance + eps), once a channel.
    inverse_deviation: Vec<f64>,
}

impl Channels {
    /// From the means and then variances of `statistics`.
    pub(super) fn new(statistics: &[f32], gamma: &[f32], beta: &[f32], epsilon: f64) -> Self {
        let count = statistics.len() / 2;
        let (mean, variance) = statistics.split_at(count);
        let inverse_deviation: Vec<f64> =
            variance.iter().map(|variance| 1.0 / (f64::from(*variance) + epsilon).sqrt()).collect();
        let scale: Vec<f32> =
            gamma.iter().zip(&inverse_deviation).map(|(gamma, inverse)| (f64::from(*gamma) * inverse) as f32).collect();
        Self { count, mean: repeat(mean), scale: repeat(&scale), beta: repeat(beta), inverse_deviation }
    }

    /// With gamma 1 and beta 0.
    pub(super) fn plain(statistics: &[f32], epsilon: f64) -> Self {
        let count = statistics.len() / 2;
        Self::new(statistics, &vec![1.0; count], &vec![0.0; count], epsilon)
    }

    fn run(&self) -> usize {
        self.mean.len()
    }

    /// Values in a piece of work.
    fn piece(&self) -> usize {
        piece(self.run())
    }
}

fn repeat(values: &[f32]) -> Vec<f32> {
    values.repeat(RUN.div_ceil(values.len().max(1)))
}

fn piece(run: usize) -> usize {
    run * (PIECE / run).max(1)
}

/// Mean and biased variance of each channel: the means first.
pub(super) fn statistics(x: &[f32], channels: usize) -> Vec<f32> {
    let run = channels * RUN.div_ceil(channels);
    let sums = sum_pieces(x.par_chunks(piece(run)), run, |x: &[f32], sums| {
        for x in x.chunks(run) {
            add(sums, x.iter().map(|x| (*x, *x)));
        }
    });
    let count = (x.len() / channels) as f64;
    let (sum, square) = sums.fold(channels);
    let mean: Vec<f64> = sum.iter().map(|sum| sum / count).collect();
    // Rounding must not make it negative; NaN stays NaN.
    let variance = square.iter().zip(&mean).map(|(square, mean)| at_least(0.0, (square / count - mean * mean) as f32));
    mean.iter().map(|mean| *mean as f32).chain(variance).collect()
}

/// The normalised values into y, cut off below 0 if `relu`.
pub(super) fn normalise(y: &mut [f32], x: &[f32], channels: &Channels, relu: bool) {
    let (run, piece) = (channels.run(), channels.piece());
    let floor = floor(relu);
    y.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(y, x)| {
        for (y, x) in y.chunks_mut(run).zip(x.chunks(run)) {
            for ((y, x), (mean, scale, beta)) in y.iter_mut().zip(x).zip(per_value(channels)) {
                *y = at_least(floor, affine(*x, mean, scale, beta));
            }
        }
    });
}

/// The normalised values into x, cut off below 0 if `relu`.
pub(super) fn normalise_in_place(x: &mut [f32], channels: &Channels, relu: bool) {
    let (run, piece) = (channels.run(), channels.piece());
    let floor = floor(relu);
    x.par_chunks_mut(piece).for_each(|x| {
        for x in x.chunks_mut(run) {
            for (x, (mean, scale, beta)) in x.iter_mut().zip(per_value(channels)) {
                *x = at_least(floor, affine(*x, mean, scale, beta));
            }
        }
    });
}

/// The normalised values plus the addend into y, cut off below 0 if `relu`.
pub(super) fn normalise_and_add(y: &mut [f32], x: &[f32], channels: &Channels, addend: &[f32], relu: bool) {
    let (run, piece) = (channels.run(), channels.piece());
    let floor = floor(relu);
    y.par_chunks_mut(piece).zip(x.par_chunks(piece)).zip(addend.par_chunks(piece)).for_each(|((y, x), addend)| {
        for ((y, x), addend) in y.chunks_mut(run).zip(x.chunks(run)).zip(addend.chunks(run)) {
            for (((y, x), addend), (mean, scale, beta)) in y.iter_mut().zip(x).zip(addend).zip(per_value(channels)) {
                *y = at_least(floor, affine(*x, mean, scale, beta) + addend);
            }
        }
    });
}

/// What values are cut off at.
fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// Mean, scale and beta, for each value of a run.
fn per_value(channels: &Channels) -> impl Iterator<Item = (f32, f32, f32)> {
    channels.mean.iter().zip(&channels.scale).zip(&channels.beta).map(|((mean, scale), beta)| (*mean, *scale, *beta))
}

fn affine(x: f32, mean: f32, scale: f32, beta: f32) -> f32 {
    (x - mean).mul_add(scale, beta)
}

/// `value`, or `floor` if that is larger; NaN stays NaN, so that a network that diverged shows it.
fn at_least(floor: f32, value: f32) -> f32 {
    if value < floor { floor } else { value }
}

/// dbeta and dgamma, given the gradient of the batch norm's result.
pub(super) fn sums(x: &[f32], dy: &[f32], channels: &Channels) -> Vec<f32> {
    let (run, piece) = (channels.run(), channels.piece());
    let sums = sum_pieces(x.par_chunks(piece).zip(dy.par_chunks(piece)), run, |(x, dy): (&[f32], &[f32]), sums| {
        for (x, dy) in x.chunks(run).zip(dy.chunks(run)) {
            add(sums, dy.iter().zip(x).zip(&channels.mean).map(|((g, x), mean)| (*g, x - mean)));
        }
    });
    sums.gradients(channels)
}

/// dbeta and dgamma, given the gradient of the ReLU after the batch norm.
pub(super) fn relu_sums(x: &[f32], dy: &[f32], channels: &Channels) -> Vec<f32> {
    let (run, piece) = (channels.run(), channels.piece());
    let sums = sum_pieces(x.par_chunks(piece).zip(dy.par_chunks(piece)), run, |(x, dy): (&[f32], &[f32]), sums| {
        for (x, dy) in x.chunks(run).zip(dy.chunks(run)) {
            let terms = x.iter().zip(dy).zip(per_value(channels)).map(|((x, dy), (mean, scale, beta))| {
                let g = if affine(*x, mean, scale, beta) > 0.0 { *dy } else { 0.0 };
                (g, x - mean)
            });
            add(sums, terms);
        }
    });
    sums.gradients(channels)
}

/// dy into dx, given dbeta and dgamma.
pub(super) fn relu_input_gradient(dy: &mut [f32], x: &[f32], channels: &Channels, gradients: &[f32]) {
    let (run, piece) = (channels.run(), channels.piece());
    let centre = Centre::new(x.len(), channels, gradients);
    dy.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(dy, x)| {
        for (dy, x) in dy.chunks_mut(run).zip(x.chunks(run)) {
            for (((dy, x), (mean, scale, beta)), (shift, slope)) in
                dy.iter_mut().zip(x).zip(per_value(channels)).zip(centre.per_value())
            {
                let g = if affine(*x, mean, scale, beta) > 0.0 { *dy } else { 0.0 };
                *dy = scale * (g - shift - (x - mean) * slope);
            }
        }
    });
}

/// dy into the gradient behind the ReLU whose result is y; the result is dbeta and dgamma.
pub(super) fn mask_and_sum(dy: &mut [f32], x: &[f32], y: &[f32], channels: &Channels) -> Vec<f32> {
    let (run, piece) = (channels.run(), channels.piece());
    let pieces = dy.par_chunks_mut(piece).zip(x.par_chunks(piece)).zip(y.par_chunks(piece));
    let sums = sum_pieces(pieces, run, |((dy, x), y): ((&mut [f32], &[f32]), &[f32]), sums| {
        for ((dy, x), y) in dy.chunks_mut(run).zip(x.chunks(run)).zip(y.chunks(run)) {
            for (dy, y) in dy.iter_mut().zip(y) {
                *dy = if *y > 0.0 { *dy } else { 0.0 };
            }
            add(sums, dy.iter().zip(x).zip(&channels.mean).map(|((g, x), mean)| (*g, x - mean)));
        }
    });
    sums.gradients(channels)
}

/// x into dx, from the gradient behind the ReLU, given dbeta and dgamma.
pub(super) fn input_gradient(x: &mut [f32], g: &[f32], channels: &Channels, gradients: &[f32]) {
    let (run, piece) = (channels.run(), channels.piece());
    let centre = Centre::new(x.len(), channels, gradients);
    x.par_chunks_mut(piece).zip(g.par_chunks(piece)).for_each(|(x, g)| {
        for (x, g) in x.chunks_mut(run).zip(g.chunks(run)) {
            for (((x, g), (mean, scale, _)), (shift, slope)) in
                x.iter_mut().zip(g).zip(per_value(channels)).zip(centre.per_value())
            {
                *x = scale * (g - shift - (*x - mean) * slope);
            }
        }
    });
}

/// What makes dx have mean 0 and no component along xhat, repeated to the length of a run.
struct Centre {
    /// dbeta / m.
    shift: Vec<f32>,
    /// dgamma / m / sqrt(variance + eps).
    slope: Vec<f32>,
}

impl Centre {
    fn new(values: usize, channels: &Channels, gradients: &[f32]) -> Self {
        let (dbeta, dgamma) = gradients.split_at(channels.count);
        let m = (values / channels.count) as f64;
        let shift: Vec<f32> = dbeta.iter().map(|dbeta| (f64::from(*dbeta) / m) as f32).collect();
        let slope = dgamma.iter().zip(&channels.inverse_deviation);
        let slope: Vec<f32> = slope.map(|(dgamma, inverse)| (f64::from(*dgamma) / m * inverse) as f32).collect();
        Self { shift: repeat(&shift), slope: repeat(&slope) }
    }

    fn per_value(&self) -> impl Iterator<Item = (f32, f32)> {
        self.shift.iter().copied().zip(self.slope.iter().copied())
    }
}

/// Sums of values and of their products with something, for each value of a run.
#[derive(Clone)]
struct Sums {
    plain: Vec<f64>,
    product: Vec<f64>,
}

/// Adds a to the plain sums and a b to the sums of products.
fn add(sums: &mut Sums, terms: impl Iterator<Item = (f32, f32)>) {
    for ((plain, product), (a, b)) in sums.plain.iter_mut().zip(&mut sums.product).zip(terms) {
        let a = f64::from(a);
        *plain += a;
        *product = a.mul_add(f64::from(b), *product);
    }
}

/// Sums over pieces of the work, in parallel; the pieces' sums are added in their order.
fn sum_pieces<P, F>(pieces: P, run: usize, sum: F) -> Sums
where
    P: IndexedParallelIterator,
    F: Fn(P::Item, &mut Sums) + Sync,
{
    let zeros = Sums { plain: vec![0.0; run], product: vec![0.0; run] };
    let of_pieces: Vec<Sums> = pieces
        .map(|piece| {
            let mut sums = zeros.clone();
            sum(piece, &mut sums);
            sums
        })
        .collect();
    let mut total = zeros;
    for sums in of_pieces {
        total.plain.iter_mut().zip(&sums.plain).for_each(|(total, sum)| *total += sum);
        total.product.iter_mut().zip(&sums.product).for_each(|(total, sum)| *total += sum);
    }
    total
}

impl Sums {
    /// The sums for each channel.
    fn fold(&self, channels: usize) -> (Vec<f64>, Vec<f64>) {
        let fold = |sums: &[f64]| (0..channels).map(|c| sums[c..].iter().step_by(channels).sum()).collect();
        (fold(&self.plain), fold(&self.product))
    }

    /// dbeta and dgamma, from the sums of g and of g (x - mean).
    fn gradients(&self, channels: &Channels) -> Vec<f32> {
        let (dbeta, product) = self.fold(channels.count);
        let dgamma = product.iter().zip(&channels.inverse_deviation).map(|(sum, inverse)| sum * inverse);
        dbeta.iter().copied().chain(dgamma).map(|sum| sum as f32).collect()
    }
}
