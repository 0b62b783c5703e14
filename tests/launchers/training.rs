//! Launchers of what networks are trained with, but for convolutions.

use gramscope_cuda::plan::{self, Placing};
use gramscope_cuda::{Error, FirstComponent, Seen};

use crate::making::Dimension::{Free, Size};
use crate::making::{Dimension, Family, Making, family};

const NORM: &[Dimension] = &[Size(3), Size(4)];
const POOL: &[Dimension] = &[Size(2), Size(3), Size(5), Size(3)];

pub(crate) const FAMILIES: &[Family] = &[
    Family { runs: &[2], ..family("batch_norm_statistics", NORM, |m| batch_norm_statistics(m, false)) },
    family("batch_norm_statistics_naive", NORM, |m| batch_norm_statistics(m, true)),
    Family { runs: &[0, 1, 2, 3, 4], ..family("batch_norm_normalise", NORM, |m| batch_norm_normalise(m, false)) },
    family("batch_norm_normalise_naive", NORM, |m| batch_norm_normalise(m, true)),
    Family { runs: &[0, 1, 2, 3, 4], ..family("batch_norm_backward", NORM, |m| batch_norm_backward(m, false, true)) },
    family("batch_norm_backward_naive", NORM, |m| batch_norm_backward(m, true, true)),
    family("relu", &[Size(9)], relu),
    family("narrow", &[Size(9)], narrow),
    family("average_pool", &[Size(2), Size(3), Size(5)], average_pool),
    family("average_pool_backward", &[Size(2), Size(3), Size(5)], average_pool_backward),
    family("max_pool", POOL, |m| max_pool(m, false)),
    family("square_pool", POOL, |m| max_pool(m, true)),
    family("max_pool_backward", POOL, max_pool_backward),
    family("draw_shares", &[Size(2), Size(3)], draw_shares),
    family("mix", &[Size(2), Size(9)], mix),
    family("mix_backward", &[Size(2), Size(9)], mix_backward),
    family("loss", &[Size(3), Size(4)], loss),
    family("sgd", &[Free(2)], sgd),
    family("first_component", &[Size(3), Size(5)], |m| first_component(m, false)),
    family("first_component_naive", &[Size(3), Size(5)], |m| first_component(m, true)),
    family("augment", &[Size(2), Size(5), Free(2)], augment),
    family("advance", &[Free(2)], advance),
];

fn batch_norm_statistics(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [rows, channels] = m.right();
    let (mut statistics, mut running) = (make!(m, 2 * channels), make!(m, 2 * channels));
    let x = make!(m, rows * channels);
    let (statistics, running, x) = (&mut statistics.view_mut(), &mut running.view_mut(), &x.view());
    if naive {
        let [rows, channels] = m.told();
        return m.launcher().batch_norm_statistics_naive::<f32>(statistics, running, x, rows, channels);
    }
    let mut scratch = make!(m, plan::training::batch_norm(rows, channels, size_of::<f32>()).partials);
    let [rows, channels] = m.told();
    m.launcher().batch_norm_statistics::<f32>(statistics, running, &mut scratch.view_mut(), x, rows, channels)
}

fn batch_norm_normalise(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [rows, channels] = m.right();
    let count = rows * channels;
    let (mut y, mut normalised, mut sum) = (make!(m, count), make!(m, count), make!(m, count));
    let (x, addend) = (make!(m, count), make!(m, count));
    let (statistics, gamma, beta) = (make!(m, 2 * channels), make!(m, channels), make!(m, channels));
    let ([rows, channels], launcher) = (m.told(), m.launcher());
    let seen = Seen { alone: Some(normalised.view_mut()), sum: Some(sum.view_mut()) };
    let (y, x, addend) = (&mut y.view_mut(), &x.view(), Some(&addend.view()));
    let (statistics, gamma, beta) = (&statistics.view(), &gamma.view(), &beta.view());
    match naive {
        true => launcher
            .batch_norm_normalise_naive::<f32>(y, seen, x, statistics, gamma, beta, addend, true, rows, channels),
        false => {
            launcher.batch_norm_normalise::<f32>(y, seen, x, statistics, gamma, beta, addend, true, rows, channels)
        }
    }
}

/// With an addend, but without the result that says what the ReLU held back.
pub(crate) fn addend_without_result(m: &Making<'_>) -> Result<(), Error> {
    batch_norm_backward(m, false, false)
}

fn batch_norm_backward(m: &Making<'_>, naive: bool, with_result: bool) -> Result<(), Error> {
    let [rows, channels] = m.right();
    let count = rows * channels;
    let (mut dx, mut daddend, x, y, dy) =
        (make!(m, count), make!(m, count), make!(m, count), make!(m, count), make!(m, count));
    let (mut dgamma, mut dbeta) = (make!(m, channels), make!(m, channels));
    let (statistics, gamma, beta) = (make!(m, 2 * channels), make!(m, channels), make!(m, channels));
    let (dx, daddend) = (&mut dx.view_mut(), &mut daddend.view_mut());
    let (x, y, dy) = (&x.view(), &y.view(), &dy.view());
    let (dgamma, dbeta) = (&mut dgamma.view_mut(), &mut dbeta.view_mut());
    let (statistics, gamma, beta, launcher) = (&statistics.view(), &gamma.view(), &beta.view(), m.launcher());
    let (daddend, y) = (Some(daddend), with_result.then_some(y));
    if naive {
        let [rows, channels] = m.told();
        return launcher.batch_norm_backward_naive::<f32>(
            dx, daddend, dgamma, dbeta, x, y, dy, statistics, gamma, beta, true, rows, channels,
        );
    }
    let mut scratch = make!(m, plan::training::batch_norm(rows, channels, size_of::<f32>()).partials);
    let ([rows, channels], scratch) = (m.told(), &mut scratch.view_mut());
    launcher.batch_norm_backward::<f32>(
        dx, daddend, dgamma, dbeta, scratch, x, y, dy, statistics, gamma, beta, true, rows, channels,
    )
}

fn relu(m: &Making<'_>) -> Result<(), Error> {
    let [length] = m.right();
    let (mut x, [length]) = (make!(m, length), m.told());
    m.launcher().relu::<f32>(&mut x.view_mut(), length)
}

fn narrow(m: &Making<'_>) -> Result<(), Error> {
    let [length] = m.right();
    let (mut narrow, x, [length]) = (make!(m, length), make!(m, length), m.told());
    m.launcher().narrow(&mut narrow.view_mut(), &x.view(), length)
}

fn average_pool(m: &Making<'_>) -> Result<(), Error> {
    let [images, pixels, channels] = m.right();
    let (mut pooled, x) = (make!(m, images * channels), make!(m, images * pixels * channels));
    let [images, pixels, channels] = m.told();
    m.launcher().average_pool::<f32>(&mut pooled.view_mut(), &x.view(), images, pixels, channels)
}

fn average_pool_backward(m: &Making<'_>) -> Result<(), Error> {
    let [images, pixels, channels] = m.right();
    let (mut dx, dpooled) = (make!(m, images * pixels * channels), make!(m, images * channels));
    let [images, pixels, channels] = m.told();
    m.launcher().average_pool_backward::<f32>(&mut dx.view_mut(), &dpooled.view(), images, pixels, channels)
}

/// Values of a layer of max pooling, and of its result.
fn pooled([images, height, width, channels]: [usize; 4]) -> [usize; 2] {
    let results = images * plan::training::max_pooled(height) * plan::training::max_pooled(width) * channels;
    [images * height * width * channels, results]
}

fn max_pool(m: &Making<'_>, squares: bool) -> Result<(), Error> {
    let [count, results] = pooled(m.right());
    let (mut y, x, [images, height, width, channels]) = (make!(m, results), make!(m, count), m.told());
    let (y, x) = (&mut y.view_mut(), &x.view());
    match squares {
        true => m.launcher().square_pool::<f32>(y, x, images, [height, width, channels]),
        false => m.launcher().max_pool::<f32>(y, x, images, height, width, channels),
    }
}

fn max_pool_backward(m: &Making<'_>) -> Result<(), Error> {
    let [count, results] = pooled(m.right());
    let (mut dx, x, y, dy) = (make!(m, count), make!(m, count), make!(m, results), make!(m, results));
    let ([images, height, width, channels], dx) = (m.told(), &mut dx.view_mut());
    m.launcher().max_pool_backward::<f32>(dx, &x.view(), &y.view(), &dy.view(), images, height, width, channels)
}

fn draw_shares(m: &Making<'_>) -> Result<(), Error> {
    let [blocks, batch] = m.right();
    // The order is of any length.
    let (mut shares, order) = (make!(m, 2 * blocks * batch), m.device.upload("a launch", &[2_u32, 0, 1]).unwrap());
    let (place, [blocks, batch]) = (make!(m, 1), m.told());
    m.launcher().draw_shares(&mut shares.view_mut(), &order.as_view(), &place.view(), 3, blocks, batch)
}

fn mix(m: &Making<'_>) -> Result<(), Error> {
    let [images, length] = m.right();
    let count = images * length;
    let (mut y, mut mixture, mut sum) = (make!(m, count), make!(m, count), make!(m, count));
    let (a, b, addend, shares) = (make!(m, count), make!(m, count), make!(m, count), make!(m, images));
    let seen = Seen { alone: Some(mixture.view_mut()), sum: Some(sum.view_mut()) };
    let ([images, length], read) = (m.told(), [&a.view(), &b.view(), &addend.view()]);
    m.launcher().mix::<f32>(&mut y.view_mut(), seen, read, Some(&shares.view()), images, length)
}

fn mix_backward(m: &Making<'_>) -> Result<(), Error> {
    let [images, length] = m.right();
    let count = images * length;
    let (mut dmixed, mut dother, mut daddend) = (make!(m, count), make!(m, count), make!(m, count));
    let (y, shares, [images, length]) = (make!(m, count), make!(m, images), m.told());
    let (dmixed, dother, daddend) = (&mut dmixed.view_mut(), &mut dother.view_mut(), &mut daddend.view_mut());
    m.launcher().mix_backward::<f32>(dmixed, dother, daddend, &y.view(), &shares.view(), images, length)
}

fn loss(m: &Making<'_>) -> Result<(), Error> {
    let [images, classes] = m.right();
    let (mut dlogits, mut totals) = (make!(m, images * classes), make!(m, 2));
    let (logits, labels, [images, classes]) = (make!(m, images * classes), make!(m, images), m.told());
    let (dlogits, totals) = (&mut dlogits.view_mut(), &mut totals.view_mut());
    m.launcher().softmax_cross_entropy(dlogits, totals, &logits.view(), &labels.view(), images, classes)
}

fn sgd(m: &Making<'_>) -> Result<(), Error> {
    const LENGTH: usize = 5;
    // All others are as long as the weights.
    let mut weights = m.device.zeros("a launch", LENGTH).unwrap();
    let (mut velocities, gradients, rate, [decaying]) = (make!(m, LENGTH), make!(m, LENGTH), make!(m, 1), m.told());
    let (weights, velocities) = (&mut weights.as_view_mut(), &mut velocities.view_mut());
    m.launcher().sgd(weights, velocities, &gradients.view(), &rate.view(), 0.9, 1e-3, decaying)
}

fn first_component(m: &Making<'_>, naive: bool) -> Result<(), Error> {
    let [n, p] = m.right();
    let (mut dx, x, vector, summary) = (make!(m, n * p), make!(m, n * p), make!(m, n), make!(m, 1));
    let component = FirstComponent { vector: vector.view(), summary: summary.view() };
    let (dx, x) = (&mut dx.view_mut(), &x.view());
    match naive {
        true => m.launcher().first_component_naive::<f32>(dx, x, &component, 0.5, 0.1, m.told()),
        false => m.launcher().first_component_gradient::<f32>(dx, x, &component, 0.5, 0.1, m.told()),
    }
}

fn augment(m: &Making<'_>) -> Result<(), Error> {
    const STORED: usize = 3;
    let [batch, side, _] = m.right();
    let (mut images, mut labels_out) = (make!(m, batch * side * side * 3), make!(m, batch));
    let pixels = make!(m, STORED * side * side * 3);
    // There are as many images as labels, and an order of any length.
    let [labels, rows, order] = [STORED; 3].map(|length| m.device.zeros("a launch", length).unwrap());
    let (place, [batch, side, padding]) = (make!(m, 1), m.told());
    let (images, labels_out) = (&mut images.view_mut(), &mut labels_out.view_mut());
    let (labels, rows, order) = (&labels.as_view(), &rows.as_view(), &order.as_view());
    let placing = Placing { seed: 1, padding, flip: true };
    let (pixels, place) = (&pixels.view(), &place.view());
    m.launcher().augment::<f32>(images, labels_out, pixels, labels, rows, order, place, placing, batch, side)
}

fn advance(m: &Making<'_>) -> Result<(), Error> {
    let (mut place, [batch]) = (make!(m, 1), m.told());
    m.launcher().advance(&mut place.view_mut(), batch)
}
