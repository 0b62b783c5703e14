// Records that one kernel leaves for another: gramscope-cuda's `shapes` has the same.
#pragma once

#include "common/platform.cuh"

enum RowState { ROW_CENTRED = 0, ROW_ZERO = 1, ROW_UNDEFINED = 2 };

// What one layer's Gram matrix came to in one batch.
struct RowSummary {
    double norm;       // the panel row's squared length, in float64, before it was rounded
    double kappa;      // by how much centring has magnified relative errors
    int32_t exponent;  // the row times 2^exponent is the centred matrix
    int32_t state;
};

// The leading eigenpairs of a centred Gram matrix K'.
struct EigenSummary {
    double first;     // l_1
    double second;    // l_2
    double trace;     // of K': l_1 / trace is the fraction of the variance
    double residual;  // the largest |K' v - l v| of the pairs that had to settle
    int32_t iterations;
    int32_t padding;
};
