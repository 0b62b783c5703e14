// Batch norm over the rows (images times pixels) of each channel, fused with the addition and the ReLU behind it.
// Source: Ioffe and Szegedy 2015, algorithm 1; crates/gramscope-nn/src/ops/batch_norm is the model.
//   mean = sum x / m,  variance = sum (x - mean)^2 / m,  xhat = (x - mean) / sqrt(variance + EPSILON)
//   y = gamma xhat + beta, then an addend where there is one, then ReLU where asked for
//   g = dy where the ReLU let through, dbeta = sum g,  dgamma = sum g xhat,  daddend = g
//   dx = gamma / sqrt(variance + EPSILON) (g - dbeta / m - xhat dgamma / m)
//   running = MOMENTUM running + (1 - MOMENTUM) batch, with m / (m - 1) times the batch's variance
//
// Stored (float32 or bfloat16): x, y, addend, dy, daddend, dx [rows, channels], row-major, aligned to RUN_BYTES where
// `channels` is a multiple of RUN (then a thread holds RUN channels at once, else one).
// float32: statistics [2, channels], the means first; running, the same; gamma, beta, dgamma, dbeta [channels].
// float64: partials [2, channels, splits].
// Grid, block, shared bytes: plan::batch_norm (a tile of columns by a split of the rows a block; a column is a run of
// channels), plan::batch_norm_channels for statistics, gradients and naive (a block a channel). rows < 2^31.
// Deterministic: yes; rows are split by the shape alone, and splits are added in order.
//
// Accumulation. A thread adds BATCH_NORM_ROWS rows in float32, such short sums in float64, and threads, blocks and
// splits are added in float64 as well.
//   moments  x is first shifted by a value s of the thread's own first row: differences of float32 numbers that are
//            close are exact, however far from zero they are, and all others are rounded relative to themselves. So a
//            thread's sum of (x - s)^2 is good to about six roundings of 2^-24 each, in random directions, and since s
//            is one of the n values summed, the sum is at most n times, on average twice, their own squared deviation.
//            In float64 a thread's sums are moved from s to the common reference, x's first row; what float64 loses
//            there is 2^-53 times at most m. Over an input's threads the roundings average out: the variance is within
//            1e-6 of that of float64 sums (tests/batch_norm.rs: mean 1e6 times the deviation, an outlier in the first
//            row). Squares overflow above 1e19, where a network is lost anyway.
//   sums     g and g (x - mean) the same way; the mean is subtracted already.
//
// Variants  moments, statistics       a pass over x (1 tensor); a small launch that adds up the splits
//           normalise                 reads x (and the addend), writes y: 2 or 3 tensors
//           sums, gradients, input_gradient
//                                     reads x and dy (and y, and writes daddend), adds up, reads x and dy again (or
//                                     daddend in its place) and writes dx: 5 or 7 tensors
//           naive_*                   a block a channel, float64 throughout: the reference on the device
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

// --- statistics ------------------------------------------------------------------------------------------------------

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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 3)
    gs_batch_norm_moments_f32(double* partials, const float* x, BatchNormShape shape) {
    by_run<float>(shape, [&](auto length) { moments<float, decltype(length)::value>(partials, x, shape); });
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_batch_norm_moments_bf16(double* partials, const BF16* x, BatchNormShape shape) {
    by_run<BF16>(shape, [&](auto length) { moments<BF16, decltype(length)::value>(partials, x, shape); });
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_statistics_f32(float* statistics, float* running, const double* partials, const float* x,
                                 BatchNormShape shape) {
    statistics_of(statistics, running, partials, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_statistics_bf16(float* statistics, float* running, const double* partials, const BF16* x,
                                  BatchNormShape shape) {
    statistics_of(statistics, running, partials, x, shape);
}

// --- normalise -------------------------------------------------------------------------------------------------------

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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 3)
    gs_batch_norm_normalise_f32(float* y, const float* x, const float* statistics, const float* gamma,
                                const float* beta, const float* addend, BatchNormShape shape) {
    normalise(y, x, statistics, gamma, beta, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_batch_norm_normalise_bf16(BF16* y, const BF16* x, const float* statistics, const float* gamma, const float* beta,
                                 const BF16* addend, BatchNormShape shape) {
    normalise(y, x, statistics, gamma, beta, addend, shape);
}

// --- backward --------------------------------------------------------------------------------------------------------

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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_batch_norm_sums_f32(double* partials, float* daddend, const float* x, const float* y, const float* dy,
                           const float* statistics, const float* gamma, const float* beta, BatchNormShape shape) {
    sums_of(partials, daddend, x, y, dy, statistics, gamma, beta, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_batch_norm_sums_bf16(double* partials, BF16* daddend, const BF16* x, const BF16* y, const BF16* dy,
                            const float* statistics, const float* gamma, const float* beta, BatchNormShape shape) {
    sums_of(partials, daddend, x, y, dy, statistics, gamma, beta, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_gradients(float* dgamma, float* dbeta, const double* partials, const float* statistics,
                            BatchNormShape shape) {
    int channel = static_cast<int>(blockIdx.x);
    double inverse = inverse_deviation(statistics, channel, shape);
    Pair sums = add_splits(partials, shape);
    if (thread_of_block() != 0) return;
    dbeta[channel] = static_cast<float>(sums.first);
    dgamma[channel] = static_cast<float>(sums.second * inverse);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 3)
    gs_batch_norm_input_gradient_f32(float* dx, const float* x, const float* y, const float* g, const float* statistics,
                                     const float* gamma, const float* beta, const float* dgamma, const float* dbeta,
                                     BatchNormShape shape) {
    input_gradient(dx, x, y, g, statistics, gamma, beta, dgamma, dbeta, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_batch_norm_input_gradient_bf16(BF16* dx, const BF16* x, const BF16* y, const BF16* g, const float* statistics,
                                      const float* gamma, const float* beta, const float* dgamma, const float* dbeta,
                                      BatchNormShape shape) {
    input_gradient(dx, x, y, g, statistics, gamma, beta, dgamma, dbeta, shape);
}

// --- naive -----------------------------------------------------------------------------------------------------------

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
__device__ __forceinline__ void naive_normalise(T* y, const T* x, const float* statistics, const float* gamma,
                                                const float* beta, const T* addend, const BatchNormShape& shape) {
    int channel = static_cast<int>(blockIdx.x);
    float scale = scale_of(statistics, gamma, channel, shape);
    for_values_of_channel(shape, [&](int64_t index) {
        float value = affine(to_float(x[index]), statistics[channel], scale, beta[channel]);
        if (addend != nullptr) value += to_float(addend[index]);
        store(&y[index], rectified(value, shape.relu));
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
        float of_relu = y != nullptr ? to_float(y[index])
                                     : affine(to_float(x[index]), statistics[channel], scale, beta[channel]);
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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_statistics_f32(float* statistics, float* running, const float* x, BatchNormShape shape) {
    naive_statistics(statistics, running, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_statistics_bf16(float* statistics, float* running, const BF16* x, BatchNormShape shape) {
    naive_statistics(statistics, running, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_normalise_f32(float* y, const float* x, const float* statistics, const float* gamma,
                                      const float* beta, const float* addend, BatchNormShape shape) {
    naive_normalise(y, x, statistics, gamma, beta, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_normalise_bf16(BF16* y, const BF16* x, const float* statistics, const float* gamma,
                                       const float* beta, const BF16* addend, BatchNormShape shape) {
    naive_normalise(y, x, statistics, gamma, beta, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_backward_f32(float* dx, float* daddend, float* dgamma, float* dbeta, const float* x,
                                     const float* y, const float* dy, const float* statistics, const float* gamma,
                                     const float* beta, BatchNormShape shape) {
    naive_backward(dx, daddend, dgamma, dbeta, x, y, dy, statistics, gamma, beta, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_backward_bf16(BF16* dx, BF16* daddend, float* dgamma, float* dbeta, const BF16* x,
                                      const BF16* y, const BF16* dy, const float* statistics, const float* gamma,
                                      const float* beta, BatchNormShape shape) {
    naive_backward(dx, daddend, dgamma, dbeta, x, y, dy, statistics, gamma, beta, shape);
}
