//! Counter-based random numbers: Philox4x32-10.
//!
//! Source: Salmon, Moraes, Dror, Shaw: *Parallel random numbers: as easy as 1, 2, 3* (SC 2011). A value is a pure
//! function of (seed, stream, counter), so any of them can be computed without the ones before it, in any order, on any
//! thread or device: this is what lets a run that was killed go on bit for bit, and a GPU see the images a CPU sees.

/// What a random number is used for. Streams of one seed are independent of each other, so that changing, say, the
/// augmentation does not change the initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights.
    Initialisation = 0,
    /// The order of the training images in an epoch.
    Order = 1,
    /// Crops and flips.
    Augmentation = 2,
    /// Images of the built-in data set.
    Drawing = 3,
    /// The order of the test images in a CKA pass.
    Evaluation = 4,
    /// Labels that say nothing of their images.
    Labels = 8,
    /// Colour distortion.
    Colour = 9,
    /// Images of noise.
    Noise = 10,
    /// The order of the training images in an epoch of linear probes.
    Probes = 11,
    /// Shares of the branches of a Shake-Shake network.
    Shake = 12,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The generator of one (seed, stream).
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u32,
}

impl Philox {
    /// The generator of `stream` under `seed`.
    pub fn new(seed: u64, stream: Stream) -> Self {
        Self { key: [low(seed), high(seed)], stream: stream as u32 }
    }

    /// Four uniform 32-bit words at (`major`, `minor`): `major` is for instance the epoch or the image, `minor` counts
    /// within it.
    pub fn words(&self, major: u32, minor: u64) -> [u32; 4] {
        block([low(minor), high(minor), major, self.stream], self.key)
    }

    /// The numbers at (`major`, 0), (`major`, 1), ... one after the other.
    pub fn sequence(&self, major: u32) -> Sequence {
        Sequence { generator: *self, major, next: 0, words: [0; 4], used: 4 }
    }
}

/// Numbers drawn one after the other from one (seed, stream, major).
#[derive(Clone, Debug)]
pub struct Sequence {
    generator: Philox,
    major: u32,
    next: u64,
    words: [u32; 4],
    used: usize,
}

impl Sequence {
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.words.len() {
            self.words = self.generator.words(self.major, self.next);
            self.next += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        let bits = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        (bits >> 11) as f64 * (-53f64).exp2()
    }

    /// Uniform in [`from`, `to`).
    pub fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.uniform()
    }

    /// Uniform in 0..`bound`, without bias (Lemire 2019). `bound` must not be zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "below() needs a positive bound");
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            if low(product) >= bound.wrapping_neg() % bound {
                return high(product);
            }
        }
    }

    /// Standard normal (Box and Muller 1958, the cosine half).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Standard normal cut off at two standard deviations (redrawn, as Keras does).
    pub fn truncated_normal(&mut self) -> f64 {
        loop {
            let value = self.normal();
            if value.abs() <= 2.0 {
                return value;
            }
        }
    }

    /// A uniformly random order of 0..`len` (Fisher and Yates). `len` must fit 32 bits.
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            let bound = u32::try_from(last + 1).expect("a data set has fewer than 2^32 images");
            order.swap(last, self.below(bound) as usize);
        }
        order
    }
}

fn low(value: u64) -> u32 {
    (value & 0xFFFF_FFFF) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn block(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors published with the authors' Random123 library.
    #[test]
    fn known_answers() {
        assert_eq!(block([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(block([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            block([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_seeds_and_majors_differ() {
        let first = Philox::new(1, Stream::Order).words(0, 0);
        assert_ne!(first, Philox::new(2, Stream::Order).words(0, 0));
        assert_ne!(first, Philox::new(1, Stream::Augmentation).words(0, 0));
        assert_ne!(first, Philox::new(1, Stream::Order).words(1, 0));
        assert_ne!(first, Philox::new(1, Stream::Order).words(0, 1));
    }

    /// Mean and variance of N draws lie within five standard errors of their expectation.
    #[test]
    fn moments() {
        const N: usize = 20_000;
        let mut numbers = Philox::new(7, Stream::Initialisation).sequence(3);
        let mut check = |draw: &mut dyn FnMut(&mut Sequence) -> f64, mean: f64, variance: f64| {
            let draws: Vec<f64> = (0..N).map(|_| draw(&mut numbers)).collect();
            let average = draws.iter().sum::<f64>() / N as f64;
            assert!((average - mean).abs() <= 5.0 * (variance / N as f64).sqrt(), "mean {average}, expected {mean}");
            let spread = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64;
            // The variance of (x - mean)^2 is at most 2 variance^2 for all three distributions.
            assert!((spread - variance).abs() <= 5.0 * variance * (2.0 / N as f64).sqrt(), "variance {spread}");
        };
        check(&mut |s| s.uniform(), 0.5, 1.0 / 12.0);
        check(&mut |s| s.normal(), 0.0, 1.0);
        check(&mut |s| s.truncated_normal(), 0.0, 0.879_625_661_034_239_8_f64.powi(2));
    }

    #[test]
    fn permutation_holds_every_index_once() {
        for len in [0, 1, 2, 7, 1000] {
            let mut order = Philox::new(0, Stream::Order).sequence(0).permutation(len);
            order.sort_unstable();
            assert_eq!(order, (0..len).collect::<Vec<_>>());
        }
    }
}
