// The gradients: a pass that sums over each channel, and one that writes dx.
#pragma once

#include "batch_norm/normalise.cuh"

// What a ReLU lets through: everything where there is none; where its result y is positive; or where the result, worked
// out again from x, is.
enum class Mask { none, from_y, from_x };

// body(mask as a constant).
template <Mask MASK>
struct Masked {
    static constexpr Mask value = MASK;
};

template <class Body>
__device__ __forceinline__ void by_mask(bool relu, bool has_y, const Body& body) {
    if (!relu) {
        body(Masked<Mask::none>());
    } else if (has_y) {
        body(Masked<Mask::from_y>());
    } else {
        body(Masked<Mask::from_x>());
    }
}

template <Mask MASK, class Coefficients>
__device__ __forceinline__ bool lets_through(const Coefficients& coefficients, int n, float x, float y) {
    if constexpr (MASK == Mask::none) {
        return true;
    } else if constexpr (MASK == Mask::from_y) {
        return y > 0.0f;
    } else {
        return coefficients.affine(x, n) > 0.0f;
    }
}

// Sums of g and of g (x - mean); g into daddend where there is one.
template <class T, int N, Mask MASK>
__device__ __forceinline__ void sums_of(double* partials, T* daddend, const T* x, const T* y, const T* dy,
                                        const float* statistics, const float* gamma, const float* beta,
                                        const BatchNormShape& shape) {
    Work<N> work(shape);
    Run<T, N> xs[BATCH_NORM_ROWS], ys[BATCH_NORM_ROWS], gs[BATCH_NORM_ROWS];
    auto load = [&](int row) {
        work.load(xs, x, row, shape);
        work.load(gs, dy, row, shape);
        if (MASK == Mask::from_y) work.load(ys, y, row, shape);
    };
    load(work.first);
    constexpr int COUNT = MASK == Mask::from_x ? 3 : 1;
    Coefficients<COUNT, N> coefficients(work, [&](int channel, float* values) {
        values[MEAN] = statistics[channel];
        if constexpr (COUNT == 1) return;
        values[SCALE] = scale_of(statistics, gamma, channel, shape);
        values[BETA] = beta[channel];
    });
    Sums<N> sums;
    for (int row = work.first; row < work.last; row += BATCH_NORM_ROWS * work.step) {
        if (row != work.first) load(row);
#pragma unroll
        for (int n = 0; n < N; ++n) {
            float sum = 0.0f, product = 0.0f;
#pragma unroll
            for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
                float value = xs[r].get(n);
                float of_relu = MASK == Mask::from_y ? ys[r].get(n) : 0.0f;
                bool through = lets_through<MASK>(coefficients, n, value, of_relu);
                float g = through ? gs[r].get(n) : 0.0f;
                gs[r].set(n, g);
                g = work.has(row, r) ? g : 0.0f;
                sum += g;
                product = fmaf(g, value - coefficients.at(MEAN, n), product);
            }
            sums.first[n] += sum;
            sums.second[n] += product;
        }
        if (daddend != nullptr) work.store(daddend, gs, row, shape);
    }
    // The coefficients lie where the sums go.
    __syncthreads();
    store_sums(partials, sums, work, shape);
}

template <class T>
__device__ __forceinline__ void sums_of(double* partials, T* daddend, const T* x, const T* y, const T* dy,
                                        const float* statistics, const float* gamma, const float* beta,
                                        const BatchNormShape& shape) {
    by_run<T>(shape, [&](auto length) {
        by_mask(shape.relu, y != nullptr, [&](auto mask) {
            sums_of<T, decltype(length)::value, decltype(mask)::value>(partials, daddend, x, y, dy, statistics, gamma,
                                                                       beta, shape);
        });
    });
}

// g is what `sums` has left in daddend (no mask then), or dy.
template <class T, int N, Mask MASK>
__device__ __forceinline__ void input_gradient(T* dx, const T* x, const T* y, const T* g, const float* statistics,
                                               const float* gamma, const float* beta, const float* dgamma,
                                               const float* dbeta, const BatchNormShape& shape) {
    Work<N> work(shape);
    Run<T, N> xs[BATCH_NORM_ROWS], ys[BATCH_NORM_ROWS], gs[BATCH_NORM_ROWS];
    auto load = [&](int row) {
        work.load(xs, x, row, shape);
        work.load(gs, g, row, shape);
        if (MASK == Mask::from_y) work.load(ys, y, row, shape);
    };
    load(work.first);
    Coefficients<5, N> coefficients(work, [&](int channel, float* values) {
        double inverse = inverse_deviation(statistics, channel, shape);
        values[MEAN] = statistics[channel];
        values[SCALE] = scale_of(statistics, gamma, channel, shape);
        values[BETA] = beta[channel];
        values[SHIFT] = static_cast<float>(dbeta[channel] * shape.share);
        values[SLOPE] = static_cast<float>(dgamma[channel] * inverse * shape.share);
    });
    for (int row = work.first; row < work.last; row += BATCH_NORM_ROWS * work.step) {
        if (row != work.first) load(row);
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
                float value = xs[r].get(n);
                float of_relu = MASK == Mask::from_y ? ys[r].get(n) : 0.0f;
                bool through = lets_through<MASK>(coefficients, n, value, of_relu);
                float gradient = through ? gs[r].get(n) : 0.0f;
                float along = (value - coefficients.at(MEAN, n)) * coefficients.at(SLOPE, n);
                float centred = gradient - coefficients.at(SHIFT, n) - along;
                gs[r].set(n, coefficients.at(SCALE, n) * centred);
            }
        }
        work.store(dx, gs, row, shape);
    }
}

template <class T>
__device__ __forceinline__ void input_gradient(T* dx, const T* x, const T* y, const T* g, const float* statistics,
                                               const float* gamma, const float* beta, const float* dgamma,
                                               const float* dbeta, const BatchNormShape& shape) {
    by_run<T>(shape, [&](auto length) {
        by_mask(shape.relu, y != nullptr, [&](auto mask) {
            input_gradient<T, decltype(length)::value, decltype(mask)::value>(dx, x, y, g, statistics, gamma, beta,
                                                                              dgamma, dbeta, shape);
        });
    });
}
