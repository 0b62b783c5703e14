//! Activations that are meant to hurt: what trained networks, and careless exports, hold.

use gramscope_nn::random::{Philox, Sequence, Stream};

/// A layer over a batch, row-major.
pub(super) struct Layer {
    pub(super) name: &'static str,
    pub(super) features: usize,
    pub(super) values: Vec<f32>,
    pub(super) life: Life,
}

/// In how many examples a layer says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// In none: it is constant, and has no similarity.
    None,
    /// In one. U-centring leaves nothing of it, and half of its distances are 0, so that the RBF kernel has no bandwidth.
    One,
    /// In many.
    Many,
}

/// Features of a layer that has no reason to have another number: a prime, so that no tile fits.
const FEATURES: usize = 37;
/// Features that all layers are made of, so that they resemble each other.
const COMMON: usize = 5;

/// Independent numbers for `seed`.
pub(super) fn numbers(seed: u64) -> Sequence {
    Philox::new(seed, Stream::Evaluation).sequence(u32::MAX)
}

/// `count` standard normal numbers.
pub(super) fn normals(seed: u64, count: usize) -> Vec<f32> {
    let mut numbers = numbers(seed);
    (0..count).map(|_| numbers.normal() as f32).collect()
}

/// The layers of batch `batch`, of `examples` each.
pub(super) fn hostile(examples: usize, batch: usize) -> Vec<Layer> {
    let common = normals(batch as u64, examples * COMMON);
    let mut seed = 100 * (batch as u64 + 1);
    let mut plain = |features: usize| -> Vec<f32> {
        seed += 1;
        let own = normals(seed, examples * features);
        let place = |index: usize| common[index / features * COMMON + index % features % COMMON];
        own.iter().enumerate().map(|(index, own)| own + place(index)).collect()
    };
    let layer = |name, features, values| Layer { name, features, values, life: Life::Many };
    let outlier = |mut values: Vec<f32>, factor: f32| {
        values[examples / 2 * FEATURES..][..FEATURES].iter_mut().for_each(|value| *value *= factor);
        values
    };
    let largest = outlier(plain(FEATURES), 1e8);
    let mut duplicated = plain(FEATURES);
    for row in (1..examples).step_by(2) {
        duplicated.copy_within((row - 1) * FEATURES..row * FEATURES, row * FEATURES);
    }
    let mut single = vec![0.0; examples * FEATURES];
    single[FEATURES..2 * FEATURES].copy_from_slice(&plain(FEATURES)[..FEATURES]);
    let scaled = |values: Vec<f32>, scale: f32| values.into_iter().map(|value| value * scale).collect();
    vec![
        layer("plain", FEATURES, plain(FEATURES)),
        layer("one feature", 1, plain(1)),
        layer("100 +- 0.1", FEATURES, plain(FEATURES).into_iter().map(|value| 100.0 + 0.1 * value).collect()),
        layer("outlier of 1e8", FEATURES, largest),
        layer("scale 1e-15", FEATURES, scaled(plain(FEATURES), 1e-15)),
        layer("scale 1e25", FEATURES, scaled(plain(FEATURES), 1e25)),
        layer("duplicated rows", FEATURES, duplicated),
        Layer { life: Life::None, ..layer("constant", FEATURES, vec![1.5; examples * FEATURES]) },
        Layer { life: Life::One, ..layer("one row alive", FEATURES, single) },
        // Smaller ones: below some of them products are good enough as they are, above they must be redone.
        layer("outlier of 1e2", FEATURES, outlier(plain(FEATURES), 1e2)),
        layer("outlier of 1e4", FEATURES, outlier(plain(FEATURES), 1e4)),
        layer("outlier of 1e6", FEATURES, outlier(plain(FEATURES), 1e6)),
    ]
}

/// A layer of `features` features beside a plain one.
pub(super) fn wide(examples: usize, features: usize, batch: usize) -> Vec<Layer> {
    let seed = 7000 + batch as u64;
    let wide = normals(seed, examples * features);
    let part = (0..examples).flat_map(|row| wide[row * features..][..FEATURES].iter().copied()).collect();
    vec![
        Layer { name: "wide", features, values: wide, life: Life::Many },
        Layer { name: "a part of it", features: FEATURES, values: part, life: Life::Many },
    ]
}
