// Everything in the simplest way: a block a channel, float64 throughout. The reference on the device.
#pragma once

#include "batch_norm/normalise.cuh"
#include "batch_norm/statistics.cuh"

// visit(index of a value of this block's channel), for this thread's share of the rows.
template <class Visit>
__device__ __forceinline__ void for_values_of_channel(const BatchNormShape& shape, const Visit& visit) {
    for (int row = thread_of_block(); row < shape.rows; row += ENTRY_THREADS)
        visit(static_cast<int64_t>(row) * shape.channels + blockIdx.x);
}

template <class T>
__device__ __forceinline__ void naive_statistics(float* statistics, float* running, const T* x,
                                                 const BatchNormShape& shape) {
    Scratch scratch = scratch_at(shared_memory());
    Running before(running, shape);
    double sum = 0.0, squares = 0.0;
    for_values_of_channel(shape, [&](int64_t index) { sum += to_float(x[index]); });
    double mean = block_sum(sum, scratch) * shape.share;
    for_values_of_channel(shape, [&](int64_t index) {
        double difference = to_float(x[index]) - mean;
        squares += difference * difference;
    });
    double variance = block_sum(squares, scratch) * shape.share;
    if (thread_of_block() == 0) store_statistics(statistics, running, before, mean, variance, shape);
}

template <class T>
__device__ __forceinline__ void naive_normalise(const Results<T>& results, const T* x, const float* statistics,
                                                const float* gamma, const float* beta, const T* addend,
                                                const BatchNormShape& shape) {
    int channel = static_cast<int>(blockIdx.x);
    float scale = scale_of(statistics, gamma, channel, shape);
    for_values_of_channel(shape, [&](int64_t index) {
        float value = affine(to_float(x[index]), statistics[channel], scale, beta[channel]);
        if (results.normalised != nullptr) store(&results.normalised[index], value);
        if (addend != nullptr) value += to_float(addend[index]);
        if (results.sum != nullptr) store(&results.sum[index], value);
        store(&results.y[index], rectified(value, shape.relu));
    });
}

template <class T>
__device__ __forceinline__ void naive_backward(T* dx, T* daddend, float* dgamma, float* dbeta, const T* x, const T* y,
                                               const T* dy, const float* statistics, const float* gamma,
                                               const float* beta, const BatchNormShape& shape) {
    Scratch scratch = scratch_at(shared_memory());
    int channel = static_cast<int>(blockIdx.x);
    float scale = scale_of(statistics, gamma, channel, shape);
    double mean = statistics[channel], inverse = inverse_deviation(statistics, channel, shape);
    auto gradient = [&](int64_t index) {
        float of_relu =
            y != nullptr ? to_float(y[index]) : affine(to_float(x[index]), statistics[channel], scale, beta[channel]);
        return shape.relu == 0 || of_relu > 0.0f ? to_float(dy[index]) : 0.0f;
    };
    double sum = 0.0, product = 0.0;
    for_values_of_channel(shape, [&](int64_t index) {
        float g = gradient(index);
        if (daddend != nullptr) store(&daddend[index], g);
        sum += g;
        product += g * (to_float(x[index]) - mean) * inverse;
    });
    sum = block_sum(sum, scratch);
    product = block_sum(product, scratch);
    double shift = sum * shape.share, slope = product * shape.share;
    for_values_of_channel(shape, [&](int64_t index) {
        double xhat = (to_float(x[index]) - mean) * inverse;
        double centred = gradient(index) - shift - xhat * slope;
        store(&dx[index], static_cast<float>(gamma[channel] * inverse * centred));
    });
    if (thread_of_block() != 0) return;
    dbeta[channel] = static_cast<float>(sum);
    dgamma[channel] = static_cast<float>(product);
}
