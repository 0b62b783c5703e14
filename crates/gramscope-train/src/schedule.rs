//! The learning rate: a cosine that falls to 0 (Loshchilov and Hutter 2017, *SGDR*, equation 5, without restarts), constant
//! within an epoch.

/// The learning rate of `epoch` (1 to `epochs`): `initial` / 2 · (1 + cos(π (`epoch` - 1) / `epochs`)). The first epoch has
/// `initial`; 0 would be that of the epoch after the last.
pub fn learning_rate(initial: f64, epoch: usize, epochs: usize) -> f64 {
    let progress = (epoch - 1) as f64 / epochs as f64;
    0.5 * initial * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::learning_rate;

    /// cos 0 = 1, cos(π/3) = 1/2, cos(π/2) = 0, cos(2π/3) = -1/2, to the rounding of π and of one cosine.
    #[test]
    fn values_with_closed_forms() {
        for (epoch, share) in [(1, 1.0), (3, 0.75), (4, 0.5), (5, 0.25)] {
            let difference = (learning_rate(0.01, epoch, 6) - 0.01 * share).abs();
            assert!(difference <= 0.01 * 4.0 * f64::EPSILON, "epoch {epoch} is off by {difference}");
        }
        assert_eq!(learning_rate(0.1, 1, 1), 0.1);
    }

    #[test]
    fn it_falls_and_stays_positive() {
        for epochs in [2, 7, 300] {
            let rates: Vec<f64> = (1..=epochs).map(|epoch| learning_rate(0.01, epoch, epochs)).collect();
            assert!(rates.windows(2).all(|pair| pair[1] < pair[0]), "{epochs} epochs: {rates:?}");
            assert!(rates[epochs - 1] > 0.0);
        }
    }
}
