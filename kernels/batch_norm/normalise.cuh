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

// Where the results of a batch norm go. Those on the way are null where nobody looks at them.
template <class T>
struct Results {
    T* y;           // the last
    T* normalised;  // before the addition and the ReLU
    T* sum;         // before the ReLU
};

template <class T, int N, bool ADDS>
__device__ __forceinline__ void normalise(const Results<T>& results, const T* x, const float* statistics,
                                          const float* gamma, const float* beta, const T* addend,
                                          const BatchNormShape& shape) {
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
    auto normalised = [&](int r, int n) { return coefficients.affine(runs[r].get(n), n); };
    auto sum = [&](int r, int n) { return ADDS ? normalised(r, n) + addends[r].get(n) : normalised(r, n); };
    // What is on the way is worked out for itself, row by row: it costs registers for one run, and a float32 sum is never
    // that of what has been rounded to be stored.
    auto show = [&](T* to, int row, const auto& value) {
        if (to == nullptr) return;
#pragma unroll
        for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
            Run<T, N> seen = runs[r];
#pragma unroll
            for (int n = 0; n < N; ++n) seen.set(n, value(r, n));
            if (work.has(row, r)) store_run(to + work.place(row + r * work.step, shape), seen);
        }
    };
    for (int row = work.first; row < work.last; row += BATCH_NORM_ROWS * work.step) {
        if (row != work.first) load(row);
        show(results.normalised, row, normalised);
        show(results.sum, row, sum);
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int r = 0; r < BATCH_NORM_ROWS; ++r) runs[r].set(n, rectified(sum(r, n), shape.relu));
        }
        work.store(results.y, runs, row, shape);
    }
}

template <class T>
__device__ __forceinline__ void normalise(const Results<T>& results, const T* x, const float* statistics,
                                          const float* gamma, const float* beta, const T* addend,
                                          const BatchNormShape& shape) {
    by_run<T>(shape, [&](auto length) {
        constexpr int N = decltype(length)::value;
        if (addend != nullptr) {
            normalise<T, N, true>(results, x, statistics, gamma, beta, addend, shape);
        } else {
            normalise<T, N, false>(results, x, statistics, gamma, beta, addend, shape);
        }
    });
}
