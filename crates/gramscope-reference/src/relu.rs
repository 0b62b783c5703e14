//! The rectifier.

use crate::Tensor4;

/// max(x, 0).
pub fn forward(x: &Tensor4) -> Tensor4 {
    Tensor4 { shape: x.shape, data: x.data.iter().map(|x| x.max(0.0)).collect() }
}

/// dL/dx from the result y and dL/dy; the slope at 0 is 0.
pub fn backward(y: &Tensor4, dy: &Tensor4) -> Tensor4 {
    y.zip(dy, |y, dy| if y > 0.0 { dy } else { 0.0 })
}
