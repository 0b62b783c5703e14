//! Gram panels, HSIC accumulators and CKA matrices from borrowed views of activations.
