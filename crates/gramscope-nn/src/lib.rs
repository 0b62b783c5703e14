//! The residual families on candle, with training operations as candle custom operations.

pub mod random;
