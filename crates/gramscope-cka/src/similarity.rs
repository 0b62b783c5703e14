//! What a comparison ends in: one matrix of similarities a pair of models.

/// The layers of one model compared with those of another, or of the same one. Matrices are row-major
/// `[layers_x, layers_y]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    /// The number of layers of the first model.
    pub layers_x: usize,
    /// The number of layers of the second model.
    pub layers_y: usize,
    /// The number of batches the sums ran over.
    pub batches: usize,
    /// Minibatch CKA (Nguyen, Raghu and Kornblith 2021, section 3 there):
    /// sum_b HSIC(K_b, L_b) / sqrt(sum_b HSIC(K_b, K_b) sum_b HSIC(L_b, L_b)). NaN in the rows and columns of undefined
    /// layers.
    pub cka: Vec<f64>,
    /// HSIC of the two layers, averaged over batches. Infinite or 0 where it cannot be represented; `cka` does not suffer
    /// from that.
    pub hsic_xy: Vec<f64>,
    /// HSIC of each layer of the first model with itself, averaged over batches.
    pub hsic_xx: Vec<f64>,
    /// HSIC of each layer of the second model with itself, averaged over batches.
    pub hsic_yy: Vec<f64>,
    /// Layers of the first model without a similarity: their HSIC with themselves is 0 over all batches (the layer is
    /// constant or, with the unbiased estimator, alive in one example only), or cannot be told from 0 (what centring leaves of the
    /// Gram matrix is below 1e-9 of it, or 2^-53 of what its products could have come to), or their RBF kernel has no bandwidth
    /// (half of all pairs of examples of some batch coincide).
    pub undefined_x: Vec<usize>,
    /// The same for the second model.
    pub undefined_y: Vec<usize>,
}
