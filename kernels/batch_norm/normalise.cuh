// (x - mean) scale + beta, the addition and the ReLU behind it, from statistics that are known.
#pragma once

#include "batch_norm/work.cuh"

__device__ __forceinline__ double inverse_deviation(const float* statistics, int channel, const BatchNormShape& shape) {
    return inverse_root(statistics[shape.channels + channel] + EPSILON);
}

// The same in every kernel, so that a ReLU's mask is the same backward as forward.
__device__ __forceinline__ float scale_of(const float* statistics, const float* gamma, int channel,
                                          const BatchNormShape& shape) {
    return static_cast<float>(gamma[channel] * inverse_deviation(statistics, channel, shape));
}

__device__ __forceinline__ float affine(float x, float mean, float scale, float beta) {
    return fmaf(x - mean, scale, beta);
}

// `value`, or 0 where the ReLU makes it that; NaN stays NaN.
__device__ __forceinline__ float rectified(float value, bool relu) { return relu && value < 0.0f ? 0.0f : value; }

// The first COUNT of: mean, scale, beta, shift = dbeta / m, slope = dgamma / m / deviation, for each channel of a tile.
enum Coefficient { MEAN, SCALE, BETA, SHIFT, SLOPE };

// They stay in shared memory: registers are for rows on their way.
template <int COUNT, int N>
struct Coefficients {
    const float* own;  // of this thread's first channel
    int width;

    // Worked out once a block, by a thread a channel: roots and quotients are float64.
    template <class Value>
    __device__ __forceinline__ Coefficients(const Work<N>& work, const Value& value) : width(work.tile * N) {
        auto* shared = reinterpret_cast<float*>(shared_memory());
        for (int channel = thread_of_block(); channel < work.channels; channel += ENTRY_THREADS) {
            float values[COUNT];
            value(work.first_channel + channel, values);
            for (int which = 0; which < COUNT; ++which) shared[which * width + channel] = values[which];
        }
        __syncthreads();
        own = shared + work.own_channel - work.first_channel;
    }

    __device__ __forceinline__ float at(Coefficient which, int n) const { return own[which * width + n]; }

    __device__ __forceinline__ float affine(float x, int n) const {
        return ::affine(x, at(MEAN, n), at(SCALE, n), at(BETA, n));
    }
};

template <class T, int N, bool ADDS>
__device__ __forceinline__ void normalise(T* y, const T* x, const float* statistics, const float* gamma,
                                          const float* beta, const T* addend, const BatchNormShape& shape) {
    Work<N> work(shape);
    Run<T, N> runs[BATCH_NORM_ROWS], addends[BATCH_NORM_ROWS];
    auto load = [&](int row) {
        work.load(runs, x, row, shape);
        if (ADDS) work.load(addends, addend, row, shape);
    };
    // Before the coefficients are: the memory's latency passes once.
    load(work.first);
    Coefficients<3, N> coefficients(work, [&](int channel, float* values) {
        values[MEAN] = statistics[channel];
        values[SCALE] = scale_of(statistics, gamma, channel, shape);
        values[BETA] = beta[channel];
    });
    for (int row = work.first; row < work.last; row += BATCH_NORM_ROWS * work.step) {
        if (row != work.first) load(row);
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
                float value = coefficients.affine(runs[r].get(n), n);
                if (ADDS) value += addends[r].get(n);
                runs[r].set(n, rectified(value, shape.relu));
            }
        }
        work.store(y, runs, row, shape);
    }
}

template <class T>
__device__ __forceinline__ void normalise(T* y, const T* x, const float* statistics, const float* gamma,
                                          const float* beta, const T* addend, const BatchNormShape& shape) {
    by_run<T>(shape, [&](auto length) {
        constexpr int N = decltype(length)::value;
        if (addend != nullptr) {
            normalise<T, N, true>(y, x, statistics, gamma, beta, addend, shape);
        } else {
            normalise<T, N, false>(y, x, statistics, gamma, beta, addend, shape);
        }
    });
}
