// From partial sums of Gram matrices K to rows of the panel: the centred matrices' lower triangles, packed; of up to
// LAYERS_TOGETHER layers over the same examples in a launch.
// Source: U-centring, Szekely and Rizzo (Annals of Statistics 2014), definition 2, in the stable form of Song et al.
// (JMLR 2012):
//   diagonal 0, m_i = rowsum_i / (n - 2) less half of their sum over (n - 1), U_ij = K_ij - m_i - m_j off the diagonal.
// Biased: HKH, m_i = rowsum_i / n less half of their sum over n; the diagonal is packed divided by sqrt 2, so that for
// both forms <U, V> is twice the product of the packed rows. crates/gramscope-cka/src/cpu/centre.rs is the model.
//
// Of each layer, one after the other:
// In   partials, exponents  as gram.cu leaves them, in as many splits as LayerSplits says
//      wanted               which products the layer wants, also Out: `rows` looks at those that there are
// Out  k [n, n]             float64, row-major, both triangles and the diagonal
//      reach [n]            float64: |x_i|^2 as the root of its squares over chains (gram.cu), so that reach_i reach_j
//                           bounds what rounding of K_ij is relative to, by Cauchy and Schwarz
//      sums [3, n]          float64: of each row of K (without the diagonal, or with it where biased) the sum, the sum
//                           of squares, the largest magnitude
//      row                  float32, [n (n - 1) / 2] the strict lower triangle row by row; biased [n (n + 1) / 2] with
//                           the diagonal; times 2^exponent it is the centred matrix
//      summary              RowSummary: the packed row's squared length in float64, kappa, exponent, state
// kappa = |K| / |U| magnifies the relative error of K; but the products' own error is relative to their reach rather
// than to what they came to: reach / |U| counts as well, with a bound of its own.
// Grid, block, shared bytes: plan::ucenter_reduce, plan::ucenter_rows. n >= 4 (biased: n >= 2).
// Deterministic: yes; blocks count themselves with an integer atomic, and the last adds up in order.
// Accumulates: float64 throughout.
//
// Variants  reduce   splits added in a fixed order, unscaled: K
//           rows     row sums, and from them kappa and reach: whether K must be computed with better products
//           pack     centred, packed, measured; where a layer has wanted, and got, float64 products, a |K| of 1e9 |U|, or
//                    a reach of 2^53 |U|, means that nothing but rounding is left: the row is zero
//           naive    rows and pack in one block, one loop after the other: the reference on the device
#include "common/atomic.cuh"
#include "common/layers.cuh"
#include "common/numbers.cuh"
#include "common/part.cuh"
#include "common/records.cuh"
#include "common/reduce.cuh"
#include "common/triangle.cuh"

struct CentreShape {
    double largest_kappa;
    double largest_reach;
    int32_t examples;
    int32_t biased;
    int32_t products;  // the launch is for the layers that want these (common/layers.cuh)
    int32_t better;    // what `rows` makes a layer want that is beyond the bounds
};

// What centring has left of float64 entries is nothing but their rounding where the entries were this many times
// larger...
constexpr double LARGEST_CANCELLATION = 1e9;
// ... or could have been this many times larger.
constexpr double LARGEST_REACH = 9007199254740992.0;
constexpr double ROOT_HALF = 0.70710678118654752440;

// The first of `layer`'s values, where each has so many.
template <class T>
__device__ __forceinline__ T* of_layer(T* values, int64_t each, int layer) {
    return values + each * layer;
}

// --- reduce ----------------------------------------------------------------------------------------------------------

constexpr int TILE_ENTRIES = STRIP * STRIP;
constexpr int REDUCE_THREADS = REDUCE_GROUPS * TILE_ENTRIES;

// Calls each(layer) for those of the layers that the launch is for: a block takes one, or every gridDim.y-th where few are
// expected to want anything. Shared memory is free again for each.
template <class Each>
__device__ __forceinline__ void for_layers(const int* wanted, const LayerSplits& splits, const CentreShape& shape,
                                           const Each& each) {
    for (int layer = static_cast<int>(blockIdx.y); layer < splits.layers; layer += static_cast<int>(gridDim.y)) {
        if (passes_by(wanted, shape.products, layer)) continue;
        each(layer);
        __syncthreads();
    }
}

// Writes both K_ij and K_ji of a block's tile of `layer`, value(index of the entry among all partial sums, split, i, j)
// added over the layer's splits: within each of REDUCE_GROUPS parts of them in order, then over the parts. As many parts as
// the block has groups of threads are added up at the same time: more of them, and several loads at a time, hide the
// memory's latency where there are many splits. `finish` is handed i, K_ii and the sum of square(split, i) over splits.
template <class Value, class Square, class Finish>
__device__ __forceinline__ void reduce(double* k, int layer, const LayerSplits& splits, const Value& value,
                                       const Square& square, const Finish& finish, const CentreShape& shape) {
    auto* sums = reinterpret_cast<double*>(shared_memory());
    double* squares = sums + REDUCE_THREADS;
    int n = shape.examples, place = thread_of_block() % TILE_ENTRIES, group = thread_of_block() / TILE_ENTRIES;
    int groups = static_cast<int>(blockDim.x) / TILE_ENTRIES;
    Place tile = place_in_triangle(blockIdx.x);
    int row = place / STRIP, i = tile.row * STRIP + row, j = tile.column * STRIP + place % STRIP;
    // Of a tile on the diagonal one half is enough, and makes K symmetric to the last bit.
    bool there = i < n && j <= i;
    int64_t entry = static_cast<int64_t>(blockIdx.x) * TILE_ENTRIES + place;
    int64_t entries = static_cast<int64_t>(gridDim.x) * TILE_ENTRIES;
    for (int number = group; there && number < REDUCE_GROUPS; number += groups) {
        Part part = part_of(splits.count(layer), number, REDUCE_GROUPS);
        part.first += splits.first[layer];
        part.last += splits.first[layer];
        double sum = 0.0, sum_of_squares = 0.0;
#pragma unroll 8
        for (int split = part.first; split < part.last; ++split) sum += value(entries * split + entry, split, i, j);
        sums[number * TILE_ENTRIES + place] = sum;
        if (i != j) continue;
#pragma unroll 8
        for (int split = part.first; split < part.last; ++split) sum_of_squares += square(split, i);
        squares[number * STRIP + row] = sum_of_squares;
    }
    __syncthreads();
    if (!there || group != 0) return;
    double sum = 0.0, sum_of_squares = 0.0;
    for (int number = 0; number < REDUCE_GROUPS; ++number) sum += sums[number * TILE_ENTRIES + place];
    k = of_layer(k, static_cast<int64_t>(n) * n, layer);
    k[static_cast<int64_t>(i) * n + j] = sum;
    k[static_cast<int64_t>(j) * n + i] = sum;
    if (i != j) return;
    for (int number = 0; number < REDUCE_GROUPS; ++number) sum_of_squares += squares[number * STRIP + row];
    finish(i, sum, sum_of_squares);
}

extern "C" __global__ void __launch_bounds__(REDUCE_THREADS)
    gs_ucenter_reduce_f32(double* k, double* reach, const float* partials, const int* exponents, const float* reaches,
                          const int* wanted, LayerSplits splits, CentreShape shape) {
    int64_t padded = (shape.examples + STRIP - 1) / STRIP * STRIP;
    auto value = [&](int64_t entry, int split, int i, int j) {
        const int* own = exponents + padded * split;
        return static_cast<double>(partials[entry]) * power_of_two_f64(own[i] + own[j]);
    };
    auto square = [&](int split, int i) {
        int64_t index = padded * split + i;
        return static_cast<double>(reaches[index]) * power_of_two_f64(4 * exponents[index]);
    };
    for_layers(wanted, splits, shape, [&](int layer) {
        double* own = of_layer(reach, shape.examples, layer);
        auto finish = [&](int i, double, double squares) { own[i] = sqrt(squares); };
        reduce(k, layer, splits, value, square, finish, shape);
    });
}

extern "C" __global__ void __launch_bounds__(REDUCE_THREADS)
    gs_ucenter_reduce_f64(double* k, double* reach, const double* partials, const int* wanted, LayerSplits splits,
                          CentreShape shape) {
    auto value = [&](int64_t entry, int, int, int) { return partials[entry]; };
    for_layers(wanted, splits, shape, [&](int layer) {
        double* own = of_layer(reach, shape.examples, layer);
        // For a bound that only asks whether anything but rounding is left of float64, the whole row will do.
        auto finish = [&](int i, double diagonal, double) { own[i] = diagonal; };
        reduce(k, layer, splits, value, [](int, int) { return 0.0; }, finish, shape);
    });
}

// --- rows ------------------------------------------------------------------------------------------------------------

// |U|^2 from sums over K: exact in exact arithmetic; here good enough to tell a kappa of 32, or of 10^4, from larger
// ones.
__device__ __forceinline__ double centred_square(double squares, double sums_squared, double total,
                                                 const CentreShape& shape) {
    double n = shape.examples;
    if (shape.biased) return squares - 2.0 / n * sums_squared + total * total / (n * n);
    return squares - 2.0 / (n - 2.0) * sums_squared + total * total / ((n - 1.0) * (n - 2.0));
}

// The sum of reach_i reach_j over all i != j: the square of what K could have been off the diagonal.
__device__ __forceinline__ double reach_of_pairs(const double* reach, int n, const Scratch& scratch) {
    double sum = block_sum_of(n, [&](int i) { return reach[i]; }, scratch);
    double squares = block_sum_of(n, [&](int i) { return reach[i] * reach[i]; }, scratch);
    return fmax(sum * sum - squares, 0.0);
}

// The row of this warp.
__device__ __forceinline__ int row_of_warp() { return static_cast<int>(blockIdx.x) * ENTRY_WARPS + warp_of_block(); }

// sums[0, i], sums[1, i], sums[2, i] of this warp's row i.
__device__ __forceinline__ void sum_row(double* sums, const double* k, const CentreShape& shape) {
    int n = shape.examples, i = row_of_warp();
    if (i >= n) return;
    double sum = 0.0, squares = 0.0, largest = 0.0;
    for (int j = lane_of_warp(); j < n; j += WARP) {
        if (j == i && !shape.biased) continue;
        double value = k[static_cast<int64_t>(i) * n + j];
        sum += value;
        squares += value * value;
        largest = fmax(largest, fabs(value));
    }
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    largest = warp_max(largest);
    if (lane_of_warp() != 0) return;
    sums[i] = sum;
    sums[n + i] = squares;
    sums[2 * static_cast<int64_t>(n) + i] = largest;
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_ucenter_rows(double* sums, int* wanted, unsigned* arrivals, const double* k, const double* reach,
                    CentreShape shape) {
    int n = shape.examples, layer = static_cast<int>(blockIdx.y);
    if (passes_by(wanted, shape.products, layer)) return;
    Scratch scratch = scratch_at(shared_memory());
    k = of_layer(k, static_cast<int64_t>(n) * n, layer);
    sums = of_layer(sums, 3 * n, layer);
    reach = of_layer(reach, n, layer);
    sum_row(sums, k, shape);
    if (shape.better == WANTS_NOTHING || !is_last_block(arrivals + layer, gridDim.x, scratch.flag)) return;
    double total = block_sum_of(n, [&](int i) { return sums[i]; }, scratch);
    double sums_squared = block_sum_of(n, [&](int i) { return sums[i] * sums[i]; }, scratch);
    double squares = block_sum_of(n, [&](int i) { return sums[n + i]; }, scratch);
    double pairs = reach_of_pairs(reach, n, scratch);
    if (thread_of_block() != 0) return;
    double centred = centred_square(squares, sums_squared, total, shape);
    // NaN asks for better products, too.
    bool magnified = !(centred * shape.largest_kappa * shape.largest_kappa >= squares);
    bool cancelled = !(centred * shape.largest_reach * shape.largest_reach >= pairs);
    wanted[layer] = squares != 0.0 && (magnified || cancelled) ? shape.better : WANTS_NOTHING;
}

// --- pack ------------------------------------------------------------------------------------------------------------

// How K becomes U, from the sums of its rows.
struct Centring {
    const double* sums;
    double divisor, half;
    int exponent;

    __device__ __forceinline__ double mean(int i) const { return sums[i] / divisor - half; }
};

__device__ __forceinline__ Centring centring(const double* sums, const CentreShape& shape, const Scratch& scratch) {
    int n = shape.examples;
    double divisor = shape.biased ? n : n - 2.0, count = shape.biased ? n : n - 1.0;
    double total = block_sum_of(n, [&](int i) { return sums[i] / divisor; }, scratch);
    double largest = 0.0;
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS)
        largest = fmax(largest, sums[2 * static_cast<int64_t>(n) + i]);
    largest = block_max(largest, scratch);
    return {sums, divisor, total / (2.0 * count), largest > 0.0 ? exponent_of(largest) : 0};
}

// Where row i of the triangle begins, and its length.
__device__ __forceinline__ int64_t start_of_row(int i, const CentreShape& shape) {
    return shape.biased ? index_in_triangle(i, 0) : index_in_triangle(i, 0) - i;
}

__device__ __forceinline__ int length_of_row(int i, const CentreShape& shape) { return shape.biased ? i + 1 : i; }

// U_ij over 2^exponent, as it is packed.
__device__ __forceinline__ double centred(const double* k, int i, int j, double mean, const Centring& centring, int n) {
    double value = k[static_cast<int64_t>(i) * n + j] - mean - centring.mean(j);
    return scaled(i == j ? value * ROOT_HALF : value, -centring.exponent);
}

// What the panel row came to, given its squared length.
__device__ __forceinline__ RowSummary summarise(double norm, double squares, double pairs, int exponent, bool in_double,
                                                bool undefined) {
    // Of both triangles; the row holds one.
    double before = scaled(0.5 * squares, -2 * exponent), reach = scaled(0.5 * pairs, -2 * exponent);
    auto ratio = [&](double square) { return square > 0.0 ? sqrt(square / norm) : 0.0; };
    RowSummary summary{norm, ratio(before), exponent, ROW_CENTRED};
    bool rounding = ratio(before) > LARGEST_CANCELLATION || ratio(reach) > LARGEST_REACH;
    if (norm == 0.0 || (in_double && rounding)) summary.state = ROW_ZERO;
    if (undefined) summary.state = ROW_UNDEFINED;
    if (summary.state != ROW_CENTRED) summary.norm = 0.0;
    return summary;
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_ucenter_pack(float* rows, RowSummary* summaries, double* norms, unsigned* arrivals, const double* k,
                    const double* sums, const double* reach, const int* wanted, const int* undefined,
                    CentreShape shape) {
    int n = shape.examples, i = row_of_warp(), layer = static_cast<int>(blockIdx.y);
    Scratch scratch = scratch_at(shared_memory());
    k = of_layer(k, static_cast<int64_t>(n) * n, layer);
    sums = of_layer(sums, 3 * n, layer);
    reach = of_layer(reach, n, layer);
    Centring centre = centring(sums, shape, scratch);
    int64_t length = start_of_row(n, shape);
    float* row = of_layer(rows, length, layer);
    norms = of_layer(norms, n, layer);
    if (i < n) {
        float* own = row + start_of_row(i, shape);
        double mean = centre.mean(i), norm = 0.0;
        for (int j = lane_of_warp(); j < length_of_row(i, shape); j += WARP) {
            double value = centred(k, i, j, mean, centre, n);
            norm += value * value;
            own[j] = static_cast<float>(value);
        }
        norm = warp_sum(norm);
        if (lane_of_warp() == 0) norms[i] = norm;
    }
    if (!is_last_block(arrivals + layer, gridDim.x, scratch.flag)) return;
    double norm = block_sum_of(n, [&](int r) { return norms[r]; }, scratch);
    double squares = block_sum_of(n, [&](int r) { return sums[n + r]; }, scratch);
    double pairs = reach_of_pairs(reach, n, scratch);
    bool in_double = wanted[layer] == WANTS_DOUBLE, no_kernel = undefined != nullptr && undefined[layer] != 0;
    RowSummary result = summarise(norm, squares, pairs, centre.exponent, in_double, no_kernel);
    if (thread_of_block() == 0) summaries[layer] = result;
    if (result.state == ROW_CENTRED) return;
    for (int64_t index = thread_of_block(); index < length; index += ENTRY_THREADS) row[index] = 0.0f;
}

// --- naive -----------------------------------------------------------------------------------------------------------

// A block a layer. `sums` as for rows and pack.
extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_ucenter_naive(float* rows, RowSummary* summaries, double* sums, const double* k, const double* reach,
                     const int* wanted, CentreShape shape) {
    int n = shape.examples, layer = static_cast<int>(blockIdx.x);
    k = of_layer(k, static_cast<int64_t>(n) * n, layer);
    sums = of_layer(sums, 3 * n, layer);
    reach = of_layer(reach, n, layer);
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) {
        double sum = 0.0, squares = 0.0, largest = 0.0;
        for (int j = 0; j < n; ++j) {
            double value = i == j && !shape.biased ? 0.0 : k[static_cast<int64_t>(i) * n + j];
            sum += value;
            squares += value * value;
            largest = fmax(largest, fabs(value));
        }
        sums[i] = sum;
        sums[n + i] = squares;
        sums[2 * static_cast<int64_t>(n) + i] = largest;
    }
    __syncthreads();
    Scratch scratch = scratch_at(shared_memory());
    Centring centre = centring(sums, shape, scratch);
    double norm = 0.0, squares = 0.0;
    for (int i = 0; i < n; ++i) {
        squares += sums[n + i];
        for (int j = 0; j < length_of_row(i, shape); ++j) {
            double value = centred(k, i, j, centre.mean(i), centre, n);
            norm += value * value;
        }
    }
    double pairs = reach_of_pairs(reach, n, scratch);
    bool in_double = wanted[layer] == WANTS_DOUBLE;
    RowSummary result = summarise(norm, squares, pairs, centre.exponent, in_double, false);
    if (thread_of_block() == 0) summaries[layer] = result;
    float* row = of_layer(rows, start_of_row(n, shape), layer);
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) {
        for (int j = 0; j < length_of_row(i, shape); ++j) {
            double value = result.state == ROW_CENTRED ? centred(k, i, j, centre.mean(i), centre, n) : 0.0;
            row[start_of_row(i, shape) + j] = static_cast<float>(value);
        }
    }
}
