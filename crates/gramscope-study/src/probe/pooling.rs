//! The maximum over 2 x 2 pixels.

use rayon::prelude::*;

/// Max pooling of [n, height, width, channels] over squares of 2 x 2 pixels; where a side is odd, the last ones are halves.
/// It keeps the memory of its result.
#[derive(Debug)]
pub(super) struct Pooling {
    height: usize,
    width: usize,
    channels: usize,
    pooled: Vec<f32>,
}

impl Pooling {
    /// For activations of the shape [height, width, channels] an example; of another, nothing is pooled.
    pub(super) fn of(shape: &[usize]) -> Option<Self> {
        match *shape {
            [height, width, channels] => Some(Self { height, width, channels, pooled: Vec::new() }),
            _ => None,
        }
    }

    /// Features of its result.
    pub(super) fn features(&self) -> usize {
        self.height.div_ceil(2) * self.width.div_ceil(2) * self.channels
    }

    /// [n, ceil(height / 2), ceil(width / 2), channels] from `x` [n, height, width, channels]; NaN stays NaN.
    pub(super) fn apply(&mut self, x: &[f32]) -> &[f32] {
        let (width, channels) = (self.width, self.channels);
        let (row, example) = (width * channels, self.height * width * channels);
        let (pooled_row, pooled_example) = (width.div_ceil(2) * channels, self.features());
        self.pooled.clear();
        self.pooled.resize(x.len() / example * pooled_example, f32::NEG_INFINITY);
        self.pooled.par_chunks_exact_mut(pooled_example).zip(x.par_chunks_exact(example)).for_each(|(pooled, x)| {
            for (y, x) in x.chunks_exact(row).enumerate() {
                let pooled = &mut pooled[y / 2 * pooled_row..][..pooled_row];
                for (pixel, x) in x.chunks_exact(channels).enumerate() {
                    for (most, &value) in pooled[pixel / 2 * channels..][..channels].iter_mut().zip(x) {
                        *most = if value > *most || value.is_nan() { value } else { *most };
                    }
                }
            }
        });
        &self.pooled
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_square_keeps_its_maximum() {
        for [height, width] in [[1, 1], [2, 2], [3, 4], [5, 3]] {
            let (examples, channels) = (2, 3);
            let value =
                |n: usize, y: usize, x: usize, c: usize| ((n * 31 + y * 17 + x * 13 + c * 7) % 23) as f32 - 11.0;
            let mut x = Vec::new();
            for (n, y) in (0..examples).flat_map(|n| (0..height).map(move |y| (n, y))) {
                x.extend((0..width).flat_map(|x| (0..channels).map(move |c| value(n, y, x, c))));
            }
            let mut pooling = Pooling::of(&[height, width, channels]).unwrap();
            let pooled = pooling.apply(&x).to_vec();
            let mut expected = Vec::new();
            for (n, y) in (0..examples).flat_map(|n| (0..height.div_ceil(2)).map(move |y| (n, y))) {
                for (x, c) in (0..width.div_ceil(2)).flat_map(|x| (0..channels).map(move |c| (x, c))) {
                    let square = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(down, right)| (2 * y + down, 2 * x + right));
                    let inside = square.into_iter().filter(|&(y, x)| y < height && x < width);
                    expected.push(inside.map(|(y, x)| value(n, y, x, c)).fold(f32::NEG_INFINITY, f32::max));
                }
            }
            assert_eq!(pooled, expected, "{height} x {width}");
            assert_eq!(pooling.features() * examples, expected.len());
            x[0] = f32::NAN;
            assert!(pooling.apply(&x)[0].is_nan());
        }
        assert!(Pooling::of(&[64]).is_none());
    }
}
