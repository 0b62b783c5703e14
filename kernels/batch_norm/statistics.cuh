// The mean and the variance of each channel: a pass over x that leaves sums a split, and what adds them up.
#pragma once

#include "batch_norm/work.cuh"

// Sums of x - reference and of its square, the reference being x's first row.
template <class T, int N>
__device__ __forceinline__ void moments(double* partials, const T* x, const BatchNormShape& shape) {
    Work<N> work(shape);
    Run<T, N> runs[BATCH_NORM_ROWS];
    work.load(runs, x, work.first, shape);
    Run<T, N> shift = runs[0], reference = load_run<N>(x + work.place(0, shape));
    Sums<N> sums;
    for (int row = work.first; row < work.last; row += BATCH_NORM_ROWS * work.step) {
        if (row != work.first) work.load(runs, x, row, shape);
#pragma unroll
        for (int n = 0; n < N; ++n) {
            float sum = 0.0f, squares = 0.0f;
#pragma unroll
            for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
                float difference = runs[r].get(n) - shift.get(n);
                difference = work.has(row, r) ? difference : 0.0f;
                sum += difference;
                squares = fmaf(difference, difference, squares);
            }
            sums.first[n] += sum;
            sums.second[n] += squares;
        }
    }
    // This thread's rows; there may be none.
    double count = (work.last - work.first + work.step - 1) / work.step;
#pragma unroll
    for (int n = 0; n < N; ++n) {
        double distance = static_cast<double>(shift.get(n)) - reference.get(n);
        sums.second[n] += distance * (2.0 * sums.first[n] + count * distance);
        sums.first[n] += count * distance;
    }
    store_sums(partials, sums, work, shape);
}

struct Pair {
    double first, second;
};

// The sums over all splits of this block's channel, in all threads.
__device__ __forceinline__ Pair add_splits(const double* partials, const BatchNormShape& shape) {
    Scratch scratch = scratch_at(shared_memory());
    const double* first = partials + static_cast<int64_t>(blockIdx.x) * shape.splits;
    const double* second = first + static_cast<int64_t>(shape.channels) * shape.splits;
    Pair own{0.0, 0.0};
    for (int split = thread_of_block(); split < shape.splits; split += ENTRY_THREADS) {
        own.first += first[split];
        own.second += second[split];
    }
    double sum = block_sum(own.first, scratch);
    return {sum, block_sum(own.second, scratch)};
}

// A channel's running statistics, asked for before there is anything to move them to.
struct Running {
    float mean, variance;

    __device__ __forceinline__ Running(const float* running, const BatchNormShape& shape)
        : mean(running[blockIdx.x]), variance(running[shape.channels + blockIdx.x]) {}
};

// Writes a channel's statistics, and the running ones moved towards them as they are once stored.
__device__ __forceinline__ void store_statistics(float* statistics, float* running, const Running& before, double mean,
                                                 double variance, const BatchNormShape& shape) {
    int channel = static_cast<int>(blockIdx.x), channels = shape.channels;
    float own_mean = static_cast<float>(mean), own_variance = static_cast<float>(variance);
    statistics[channel] = own_mean;
    statistics[channels + channel] = own_variance;
    double rows = shape.rows, unbiased = rows / (rows - 1.0) * own_variance;
    running[channel] = static_cast<float>(MOMENTUM * before.mean + (1.0 - MOMENTUM) * own_mean);
    running[channels + channel] = static_cast<float>(MOMENTUM * before.variance + (1.0 - MOMENTUM) * unbiased);
}

template <class T>
__device__ __forceinline__ void statistics_of(float* statistics, float* running, const double* partials, const T* x,
                                              const BatchNormShape& shape) {
    Running before(running, shape);
    double reference = to_float(x[blockIdx.x]);
    Pair sums = add_splits(partials, shape);
    if (thread_of_block() != 0) return;
    double distance = sums.first * shape.share, variance = sums.second * shape.share - distance * distance;
    // Rounding must not make it negative; NaN stays NaN.
    store_statistics(statistics, running, before, reference + distance, variance < 0.0 ? 0.0 : variance, shape);
}
