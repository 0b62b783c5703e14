// What batch norm is given, and how a pass over its rows is divided: tiles of columns, parts of the rows, runs of channels;
// how a block adds up what its threads have found.
#pragma once

#include "common/part.cuh"
#include "common/reduce.cuh"
#include "common/run.cuh"

struct BatchNormShape {
    double share;  // 1 / rows
    int32_t rows;
    int32_t channels;
    int32_t tile;    // columns of a block's tile: a power of two, at most a warp
    int32_t splits;  // of the rows: gridDim.y of the passes over them
    int32_t relu;
    int32_t padding;
};

// Keras's defaults; crates/gramscope-nn has the same.
constexpr double EPSILON = 1e-3;
constexpr double MOMENTUM = 0.99;

// What a block does: a tile of columns, and a part of the rows, of which its threads visit `step` together.
template <int N>
struct Work {
    int tile;           // columns of the tile
    int column;         // this thread's, within the tile
    int first_channel;  // of the tile
    int channels;       // of the tile, those that there are
    int own_channel;    // this thread's first; another that exists where its column does not
    int first, last;    // this thread's rows: first, first + step, ...
    int step;

    __device__ __forceinline__ explicit Work(const BatchNormShape& shape) {
        tile = shape.tile;
        column = thread_of_block() % tile;
        first_channel = static_cast<int>(blockIdx.x) * tile * N;
        channels = shape.channels - first_channel < tile * N ? shape.channels - first_channel : tile * N;
        Part rows = part_of(shape.rows, blockIdx.y, shape.splits);
        bool exists = column * N < channels;
        own_channel = first_channel + (exists ? column * N : 0);
        step = ENTRY_THREADS / tile;
        first = exists ? rows.first + thread_of_block() / tile : rows.last;
        last = rows.last;
    }

    // Where this thread's channels of a row begin.
    __device__ __forceinline__ int64_t place(int row, const BatchNormShape& shape) const {
        return static_cast<int64_t>(row) * shape.channels + own_channel;
    }

    // BATCH_NORM_ROWS rows from `row` on; in the place of those beyond the last, the last. A part has a row at least.
    template <class T>
    __device__ __forceinline__ void load(Run<T, N> (&runs)[BATCH_NORM_ROWS], const T* from, int row,
                                         const BatchNormShape& shape) const {
#pragma unroll
        for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
            int other = row + r * step;
            runs[r] = load_run<N>(from + place(other < last ? other : last - 1, shape));
        }
    }

    // Those of them that there are.
    template <class T>
    __device__ __forceinline__ void store(T* to, const Run<T, N> (&runs)[BATCH_NORM_ROWS], int row,
                                          const BatchNormShape& shape) const {
#pragma unroll
        for (int r = 0; r < BATCH_NORM_ROWS; ++r) {
            if (has(row, r)) store_run(to + place(row + r * step, shape), runs[r]);
        }
    }

    __device__ __forceinline__ bool has(int row, int r) const { return row + r * step < last; }
};

// Two float64 sums a channel of this thread.
template <int N>
struct Sums {
    double first[N] = {}, second[N] = {};
};

// partials[0 or 1, channel, split] = this thread's sums, added over the block's threads of the same column: where the
// sums are fewer than the threads, each adds up a part of those threads, and then one a sum the parts.
template <int N>
__device__ __forceinline__ void store_sums(double* partials, const Sums<N>& sums, const Work<N>& work,
                                           const BatchNormShape& shape) {
    auto* shared = reinterpret_cast<double*>(shared_memory());
    int thread = thread_of_block(), count = 2 * N * work.tile;
#pragma unroll
    for (int n = 0; n < N; ++n) {
        shared[n * ENTRY_THREADS + thread] = sums.first[n];
        shared[(N + n) * ENTRY_THREADS + thread] = sums.second[n];
    }
    __syncthreads();
    // Sum `index`, over the `lanes` threads of its column from `first` on.
    auto add = [&](int index, int first, int lanes) {
        const double* own = shared + index / work.tile * ENTRY_THREADS + first * work.tile + index % work.tile;
        double sum = 0.0;
#pragma unroll 4
        for (int lane = 0; lane < lanes; ++lane) sum += own[lane * work.tile];
        return sum;
    };
    auto store = [&](int index, double sum) {
        int value = index / work.tile, channel = index % work.tile * N + value % N;
        if (channel >= work.channels) return;
        int64_t row = static_cast<int64_t>(value / N) * shape.channels + work.first_channel + channel;
        partials[row * shape.splits + blockIdx.y] = sum;
    };
    if (count >= ENTRY_THREADS) {
        for (int index = thread; index < count; index += ENTRY_THREADS) store(index, add(index, 0, work.step));
        return;
    }
    int parts = ENTRY_THREADS / count, lanes = work.step / parts;
    double sum = add(thread % count, thread / count * lanes, lanes);
    __syncthreads();
    shared[thread] = sum;
    __syncthreads();
    if (thread >= count) return;
    double total = 0.0;
    for (int part = 0; part < parts; ++part) total += shared[part * count + thread];
    store(thread, total);
}

// body(run length as a constant): RUN channels a thread where that divides them.
template <class T, class Body>
__device__ __forceinline__ void by_run(const BatchNormShape& shape, const Body& body) {
    if (shape.channels % RUN<T> == 0) {
        body(Length<RUN<T>>());
    } else {
        body(Length<1>());
    }
}
