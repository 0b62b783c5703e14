// Batch norm over the rows (images times pixels) of each channel, fused with the addition and the ReLU behind it.
// Source: Ioffe and Szegedy 2015, algorithm 1; crates/gramscope-nn/src/ops/batch_norm is the model.
//   mean = sum x / m,  variance = sum (x - mean)^2 / m,  xhat = (x - mean) / sqrt(variance + EPSILON)
//   normalised = gamma xhat + beta,  sum = normalised + an addend where there is one,  y = ReLU of sum where asked for
//   g = dy where the ReLU let through, dbeta = sum g,  dgamma = sum g xhat,  daddend = g
//   dx = gamma / sqrt(variance + EPSILON) (g - dbeta / m - xhat dgamma / m)
//   running = MOMENTUM running + (1 - MOMENTUM) batch, with m / (m - 1) times the batch's variance
//
// Stored (float32 or bfloat16): x, normalised, sum, y, addend, dy, daddend, dx [rows, channels], row-major, aligned to
// RUN_BYTES where `channels` is a multiple of RUN (then a thread holds RUN channels at once, else one). normalised and sum
// are null where nobody looks at them; y is the same with and without: of float32 values, rounded once.
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
//           normalise                 reads x (and the addend), writes y: 2 or 3 tensors; where what is on the way is
//                                     seen, normalised (and sum) beside: 3 or 5 tensors
//           sums, gradients, input_gradient
//                                     reads x and dy (and y, and writes daddend), adds up, reads x and dy again (or
//                                     daddend in its place) and writes dx: 5 or 7 tensors
//           naive_*                   a block a channel, float64 throughout: the reference on the device
#include "batch_norm/backward.cuh"
#include "batch_norm/naive.cuh"
#include "batch_norm/normalise.cuh"
#include "batch_norm/statistics.cuh"

// --- statistics ------------------------------------------------------------------------------------------------------

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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 3)
    gs_batch_norm_normalise_f32(float* y, float* normalised, float* sum, const float* x, const float* statistics,
                                const float* gamma, const float* beta, const float* addend, BatchNormShape shape) {
    normalise<float>({y, normalised, sum}, x, statistics, gamma, beta, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_batch_norm_normalise_bf16(BF16* y, BF16* normalised, BF16* sum, const BF16* x, const float* statistics,
                                 const float* gamma, const float* beta, const BF16* addend, BatchNormShape shape) {
    normalise<BF16>({y, normalised, sum}, x, statistics, gamma, beta, addend, shape);
}

// --- backward --------------------------------------------------------------------------------------------------------

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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_statistics_f32(float* statistics, float* running, const float* x, BatchNormShape shape) {
    naive_statistics(statistics, running, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_statistics_bf16(float* statistics, float* running, const BF16* x, BatchNormShape shape) {
    naive_statistics(statistics, running, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_normalise_f32(float* y, float* normalised, float* sum, const float* x, const float* statistics,
                                      const float* gamma, const float* beta, const float* addend,
                                      BatchNormShape shape) {
    naive_normalise<float>({y, normalised, sum}, x, statistics, gamma, beta, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_batch_norm_naive_normalise_bf16(BF16* y, BF16* normalised, BF16* sum, const BF16* x, const float* statistics,
                                       const float* gamma, const float* beta, const BF16* addend,
                                       BatchNormShape shape) {
    naive_normalise<BF16>({y, normalised, sum}, x, statistics, gamma, beta, addend, shape);
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
