// The gradient of a penalty on how much of a layer's variance over a batch its first principal component explains.
// crates/gramscope-nn/src/ops/first_component.rs is the model, and has the derivation.
//   K' = Xc Xc^T,  f = l_1 / tr K',  P = weight max(0, f - threshold)
//   dx += 2 weight / tr K' (v v^T Xc - f Xc)   where f exceeds the threshold; else dx stays as it is, to the bit
// Xc = X - column means, K' v = l_1 v, |v| = 1: what gs_eigen_subspace has left of gs_gram_double_*'s K. Any unit vector
// v orthogonal to the ones, with l_1 = v^T K' v, gives the derivative of v^T K' v / tr K', a lower bound of f.
//
// In    x [n, p]          float32 or bfloat16, row-major
//       vector [n]        float64: v
//       summary [1]       EigenSummary, of which l_1 and the trace are read
// Both  dx [n, p]         as x, in place: a gradient is rounded to float32, added, and what is stored is rounded once more
// Where the trace is 0 (x is the same for all examples), or anything is not finite, dx stays as it is.
// Grid, block, shared bytes: plan::training::first_component (a block WARP columns, a warp every ENTRY_WARPS-th row).
// n >= 1, p < 2^31. Deterministic: yes; a column's sums are added in the order of rows within a warp, then of warps.
// Accumulates: float64, from the column's first value, so that nothing is left of a constant column.
//
// Variants  gradient  two passes over x, the second out of the cache, one over dx
//           naive     a thread an entry, which finds its column's sums itself: the reference on the device
#include "common/numbers.cuh"
#include "common/records.cuh"
#include "common/reduce.cuh"

struct FirstComponentShape {
    double weight;
    double threshold;
    int64_t features;
    int32_t examples;
    int32_t padding;
};

// What the penalty makes of a first component.
struct Slope {
    double fraction;  // f
    double factor;    // 2 weight / tr K'; 0 where the penalty is 0
};

__device__ __forceinline__ Slope slope_of(const EigenSummary& summary, const FirstComponentShape& shape) {
    double fraction = summary.first / summary.trace;
    // Written so that NaN costs nothing.
    bool costs = summary.trace > 0.0 && fraction > shape.threshold;
    return {fraction, costs ? 2.0 * shape.weight / summary.trace : 0.0};
}

// A column of x as seen from its first value.
template <class T>
struct Column {
    const T* x;
    int64_t features;
    double origin;

    __device__ __forceinline__ Column(const T* x, int64_t column, int64_t features)
        : x(x + column), features(features), origin(to_float(x[column])) {}

    __device__ __forceinline__ double operator[](int row) const { return to_float(x[row * features]) - origin; }
};

// What every entry of a column has in common.
struct Sums {
    double mean;   // of the column
    double along;  // v^T Xc
};

template <class T>
__device__ __forceinline__ void add_entry(T* dx, double centred, double entry_of_vector, const Sums& sums,
                                          const Slope& slope) {
    double gradient = slope.factor * (entry_of_vector * sums.along - slope.fraction * centred);
    store(dx, to_float(*dx) + static_cast<float>(gradient));
}

// --- gradient --------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void gradient(T* dx, const T* x, const double* vector, const EigenSummary* summary,
                                         const FirstComponentShape& shape) {
    Slope slope = slope_of(*summary, shape);
    // The same in all threads.
    if (slope.factor == 0.0) return;
    auto* partial = reinterpret_cast<Sums*>(shared_memory());
    int n = shape.examples, lane = lane_of_warp(), warp = warp_of_block();
    int64_t p = shape.features, index = static_cast<int64_t>(blockIdx.x) * WARP + lane;
    // Lanes beyond the last column take it, too, and store nothing.
    Column<T> column(x, index < p ? index : p - 1, p);
    Sums sums{};
#pragma unroll 4
    for (int row = warp; row < n; row += ENTRY_WARPS) {
        double value = column[row];
        sums.mean += value;
        sums.along = fma(vector[row], value, sums.along);
    }
    partial[warp * WARP + lane] = sums;
    __syncthreads();
    sums = {};
    for (int other = 0; other < ENTRY_WARPS; ++other) {
        sums.mean += partial[other * WARP + lane].mean;
        sums.along += partial[other * WARP + lane].along;
    }
    sums.mean /= n;
    if (index >= p) return;
#pragma unroll 4
    for (int row = warp; row < n; row += ENTRY_WARPS) {
        add_entry(dx + row * p + index, column[row] - sums.mean, vector[row], sums, slope);
    }
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_first_component_gradient_f32(float* dx, const float* x, const double* vector, const EigenSummary* summary,
                                    FirstComponentShape shape) {
    gradient(dx, x, vector, summary, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_first_component_gradient_bf16(BF16* dx, const BF16* x, const double* vector, const EigenSummary* summary,
                                     FirstComponentShape shape) {
    gradient(dx, x, vector, summary, shape);
}

// --- naive -----------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void naive(T* dx, const T* x, const double* vector, const EigenSummary* summary,
                                      const FirstComponentShape& shape) {
    Slope slope = slope_of(*summary, shape);
    int64_t p = shape.features, entry = static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
    if (entry >= shape.examples * p || slope.factor == 0.0) return;
    Column<T> column(x, entry % p, p);
    Sums sums{};
    for (int row = 0; row < shape.examples; ++row) sums.mean += column[row] / shape.examples;
    for (int row = 0; row < shape.examples; ++row) sums.along += vector[row] * (column[row] - sums.mean);
    int row = static_cast<int>(entry / p);
    add_entry(dx + entry, column[row] - sums.mean, vector[row], sums, slope);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_first_component_naive_f32(float* dx, const float* x, const double* vector, const EigenSummary* summary,
                                 FirstComponentShape shape) {
    naive(dx, x, vector, summary, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_first_component_naive_bf16(BF16* dx, const BF16* x, const double* vector, const EigenSummary* summary,
                                  FirstComponentShape shape) {
    naive(dx, x, vector, summary, shape);
}
