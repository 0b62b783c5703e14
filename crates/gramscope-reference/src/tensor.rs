//! A tensor of four dimensions.

/// A tensor [n, h, w, c], row-major: images of h x w pixels and c channels, or a convolution's weights
/// [out, kernel h, kernel w, in].
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor4 {
    /// n, h, w, c.
    pub shape: [usize; 4],
    /// The values.
    pub data: Vec<f64>,
}

impl Tensor4 {
    /// The tensor with these values.
    ///
    /// # Panics
    /// If their number is not the product of `shape`.
    pub fn new(shape: [usize; 4], data: Vec<f64>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "a tensor of shape {shape:?}");
        Self { shape, data }
    }

    /// Zeros.
    pub fn zeros(shape: [usize; 4]) -> Self {
        Self { shape, data: vec![0.0; shape.iter().product()] }
    }

    /// Entry (n, h, w, c).
    pub fn get(&self, [n, h, w, c]: [usize; 4]) -> f64 {
        self.data[self.index([n, h, w, c])]
    }

    /// Entry (n, h, w, c), to be changed.
    pub fn at(&mut self, index: [usize; 4]) -> &mut f64 {
        let index = self.index(index);
        &mut self.data[index]
    }

    /// Entry by entry with another tensor of the same shape.
    pub fn zip(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!(self.shape, other.shape, "tensors of one shape");
        let data = self.data.iter().zip(&other.data).map(|(a, b)| combine(*a, *b)).collect();
        Self { shape: self.shape, data }
    }

    fn index(&self, [n, h, w, c]: [usize; 4]) -> usize {
        let [_, height, width, channels] = self.shape;
        ((n * height + h) * width + w) * channels + c
    }
}
