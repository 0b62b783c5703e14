// Gram matrices of activations whose columns have been shifted: K = (X - 1 s^T)(X - 1 s^T)^T, s the trimmed mean of
// each column, (sum - least - most) / (n - 2); of up to LAYERS_TOGETHER layers over the same examples in a launch.
// Source: a shift adds a_i + a_j + c to K_ij, which centring removes (Szekely and Rizzo, Annals of Statistics 2014);
// crates/gramscope-cka/src/cpu/gram.rs is the model.
//
// In   layers             LayerValues: X [n, p] of each, float32, bfloat16 or float16, row-major; any alignment, rows of
//                         16-byte multiples are faster
//      splits             LayerSplits: the parts that the features of each are split into
//      wanted [layers]    which products each layer wants; read where the shape says whom the launch is for: the others
//                         are passed by, and nothing of theirs is written
// Out  partials           per split a packed lower triangle of tiles of STRIP x STRIP: tile (r, c), c <= r, at
//                         r (r + 1) / 2 + c, row by row; float32 (`fused`, `tiled`) or float64 (`double`)
//      exponents          [splits, strips * STRIP] int32: K_ij = sum over a layer's splits of partial_ij 2^(exponent_i +
//                         exponent_j)
//      reaches            [splits, strips * STRIP] float32: sums over chains of |x_i|^4, |x_i| over the chain's part of
//                         the shifted row, in 2^(4 exponent_i): what rounding is relative to where products cancel
//      shifts             float32: s, of one layer's columns after the other's
//      first_bad [layers] the first example that holds NaN or an infinity, by an atomic minimum; the launcher sets
//                         INT_MAX
// Grid, block, shared bytes, lengths of buffers: gramscope-cuda's plan::gram_*; n >= 2 (fused: at most
// FUSED_ROWS), p <= 2^31.
// Deterministic: yes; the only atomic is the integer minimum. partials are the same bits for the same splits.
// Accumulates: float32 on the tensor cores over a slab, SLAB features; float32 sums of FLUSH_SLABS slabs, and of 64 of
// those at most; then (gs_ucenter_reduce_*) float64 over splits. double and naive: float64 throughout.
//
// Variants  shift    s and the largest |x| of every column, for the variants that do not hold whole columns
//           naive    K itself, a thread an entry: the reference on the device
//           double   float64 products: for few examples and for what centring has found to be badly conditioned
//           distances  as double, but |x_i - x_j|^2, for the RBF kernel: as differences of products, those of ordinary
//                    rows would be lost beside distant ones
//           fused    n <= 256: one block holds all rows of a slab, computes s there (and leaves it to `double`),
//                    multiplies one triangle of strips
//           tiled    any n: tiles of 128 x 128 of the triangle, s given
//           exact    high high + high low + low high of float16 halves (tiled: low low, too): 22 bits
//           fast     high high alone: 11 bits
#include "common/atomic.cuh"
#include "common/layers.cuh"
#include "common/slab.cuh"
#include "common/square.cuh"
#include "common/statistics.cuh"

struct GramShape {
    int32_t examples;
    int32_t buffers;   // slab buffers of the ring in shared memory
    int32_t products;  // the launch is for the layers that want these (common/layers.cuh)
    int32_t padding;
};

// One layer of a launch.
template <class T>
struct Layer {
    int index;
    const T* x;
    int64_t features;

    __device__ __forceinline__ Layer(const LayerValues& layers, int index)
        : index(index), x(static_cast<const T*>(layers.x[index])), features(layers.features[index]) {}
};

// --- shift -----------------------------------------------------------------------------------------------------------

// The first row in which this column of x is not finite.
template <class T>
__device__ int first_bad_row(const T* x, int64_t column, int64_t features, int examples) {
    int row = 0;
    while (row < examples - 1 && is_finite(to_float(x[row * features + column]))) ++row;
    return row;
}

template <class T>
__device__ void shift(float* shifts, float* largest, int* first_bad, const LayerValues& layers,
                      const GramShape& shape) {
    Layer<T> layer(layers, blockIdx.y);
    const T* x = layer.x;
    int64_t p = layer.features, index = static_cast<int64_t>(blockIdx.x) * COLUMN_THREADS + thread_of_block();
    if (index >= p) return;
    int n = shape.examples;
    float weight = weight_of_sum(n);
    auto value = [&](int row) { return to_float(x[row * p + index]); };
    Column column = column_of(value(0), value(1));
    int row = 2;
    for (; row + 1 < n; row += 2) add_pair(column, value(row), value(row + 1), weight);
    if (row < n) add_value(column, value(row), weight);
    if (!all_finite(column)) atomic_min(first_bad + layer.index, first_bad_row(x, index, p, n));
    int64_t place = layers.first_column[layer.index] + index;
    shifts[place] = trimmed_mean(column, n, weight);
    largest[place] = largest_of(column);
}

// --- naive -----------------------------------------------------------------------------------------------------------

template <class T>
__device__ void naive(double* k, const LayerValues& layers, const float* shifts, const GramShape& shape) {
    Layer<T> layer(layers, blockIdx.y);
    int64_t n = shape.examples, p = layer.features;
    int64_t index = static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
    if (index >= n * n) return;
    const T *a = layer.x + index / n * p, *b = layer.x + index % n * p;
    shifts += layers.first_column[layer.index];
    double sum = 0.0;
    for (int64_t f = 0; f < p; ++f) {
        double s = shifts[f];
        sum += (to_float(a[f]) - s) * (to_float(b[f]) - s);
    }
    k[n * n * layer.index + index] = sum;
}

// --- double ----------------------------------------------------------------------------------------------------------

constexpr int DOUBLE_SIDE = DOUBLE_TILE / STRIP;  // strips of a tile; a thread computes one entry of each pair of them

// DOUBLE_TILE rows of a slab, shifted, in shared memory; rows and features that are not there are 0. One more column
// keeps the rows in different banks.
template <class T>
__device__ void load_shifted(double (*tile)[DOUBLE_SLAB + 1], const MatrixRows<T>& rows, const float* shifts,
                             int first_row, int64_t first) {
    for (int index = thread_of_block(); index < DOUBLE_TILE * DOUBLE_SLAB; index += ENTRY_THREADS) {
        int row = index / DOUBLE_SLAB, column = index % DOUBLE_SLAB;
        int64_t feature = first + column;
        bool there = rows.has(first_row + row) && feature < rows.stride;
        double value = there ? to_float(rows.row(first_row + row)[feature]) : 0.0;
        if (there && shifts != nullptr) value -= shifts[feature];
        tile[row][column] = value;
    }
}

// PRODUCTS: of shifted values; else squares of differences, for which `shifts` is null.
template <class T, bool PRODUCTS>
__device__ void in_double(double* partials, const LayerValues& layers, const float* shifts, const int* wanted,
                          const LayerSplits& splits, const GramShape& shape) {
    Layer<T> layer(layers, splits.layer_of(blockIdx.y));
    if (passes_by(wanted, shape.products, layer.index)) return;
    auto* rows = reinterpret_cast<double (*)[DOUBLE_SLAB + 1]>(shared_memory());
    auto* columns = rows + DOUBLE_TILE;
    MatrixRows<T> x{layer.x, shape.examples, layer.features};
    if (PRODUCTS) shifts += layers.first_column[layer.index];
    Place tile = place_in_triangle(blockIdx.x);
    int64_t slabs = (layer.features + DOUBLE_SLAB - 1) / DOUBLE_SLAB;
    Part part = part_of(slabs, blockIdx.y - splits.first[layer.index], splits.count(layer.index));
    int row = thread_of_block() / STRIP, column = thread_of_block() % STRIP;
    double sums[DOUBLE_SIDE][DOUBLE_SIDE] = {};
    for (int slab = part.first; slab < part.last; ++slab) {
        int64_t first = static_cast<int64_t>(slab) * DOUBLE_SLAB;
        load_shifted(rows, x, shifts, tile.row * DOUBLE_TILE, first);
        load_shifted(columns, x, shifts, tile.column * DOUBLE_TILE, first);
        __syncthreads();
        for (int f = 0; f < DOUBLE_SLAB; ++f) {
            for (int i = 0; i < DOUBLE_SIDE; ++i) {
                for (int j = 0; j < DOUBLE_SIDE; ++j) {
                    double a = rows[row + i * STRIP][f], b = columns[column + j * STRIP][f];
                    sums[i][j] = PRODUCTS ? fma(a, b, sums[i][j]) : fma(a - b, a - b, sums[i][j]);
                }
            }
        }
        // The next slab takes this one's place.
        __syncthreads();
    }
    int strips = (shape.examples + STRIP - 1) / STRIP;
    double* own = partials + index_in_triangle(strips, 0) * STRIP * STRIP * blockIdx.y;
    for (int i = 0; i < DOUBLE_SIDE; ++i) {
        for (int j = 0; j < DOUBLE_SIDE; ++j) {
            int r = tile.row * DOUBLE_SIDE + i, c = tile.column * DOUBLE_SIDE + j;
            if (r < strips && c <= r) own[index_in_triangle(r, c) * STRIP * STRIP + thread_of_block()] = sums[i][j];
        }
    }
}

// --- fused -----------------------------------------------------------------------------------------------------------

constexpr int MAX_STRIPS = FUSED_ROWS / STRIP;
// Rows of a slab are measured in this many interleaved subsets, one for half a warp.
constexpr int SUBSETS = 2 * SLAB_WARPS;

// Columns of one slab as each warp has measured them.
struct Measured {
    float sum[SLAB], least[SLAB], most[SLAB];
};

// One triangle of strips, in registers: warp w owns strips w and last - w, 17 tiles in all whatever w is.
// Tile (last - w, c) is tiles[c]; tile (w, c) is tiles[MAX_STRIPS - c].
struct Triangle {
    float tiles[MAX_STRIPS + 1][8];
    int shorter, longer;  // the strips; -1 where there is none
};

template <class T, bool LOW>
struct Fused {
    static constexpr int LEAD = 2;

    MatrixRows<T> rows;
    Ring ring;
    Exponents exponents;
    Reach* reaches;      // [strips][8], in shared memory: registers are scarce
    Measured* measured;  // [2][SLAB_WARPS]
    float* shifts;       // this layer's, as the next two
    int* first_bad;
    float* partials;  // this split's
    int first_slab;
    bool aligned;
    Triangle triangle;

    // What is cheap to compute is not kept: registers are scarce.
    __device__ __forceinline__ float weight() const { return weight_of_sum(rows.count); }
    __device__ __forceinline__ int subsets() const { return rows.count >= 2 * SUBSETS ? SUBSETS : rows.count / 2; }
    __device__ __forceinline__ int64_t first_feature(int slab) const {
        return static_cast<int64_t>(first_slab + slab - FIRST_SLAB) * SLAB;
    }

    __device__ __forceinline__ unsigned char* buffer(int slab) const {
        return shared_memory() + ring.place_of(slab) * exponents.rows * ROW_BYTES;
    }

    __device__ __forceinline__ void copy(int slab) const {
        start_copy(buffer(slab), rows, first_feature(slab), aligned);
    }

    __device__ __forceinline__ void prepare(int slab, int last) {
        if (slab + 2 < last) measure(slab + 2);
        if (slab >= FIRST_SLAB - 1 && slab + 1 < last) {
            convert<LOW>(buffer(slab + 1), rows, exponents, slab + 1, shift_of(slab + 1));
        }
    }

    // This warp's rows of the slab: half a warp takes every SUBSETS-th row, a lane two columns.
    __device__ __forceinline__ void measure(int slab) {
        int pair = lane_of_warp() % 16, subset = 2 * warp_of_block() + lane_of_warp() / 16;
        int used = subsets();
        Column left{}, right{};
        if (subset < used) measure_subset(left, right, buffer(slab), subset, pair);
        Column other_left = of_other_half(left), other_right = of_other_half(right);
        if (lane_of_warp() >= 16 || subset >= used) return;
        if (subset + 1 < used) {
            merge(left, other_left, weight());
            merge(right, other_right, weight());
        }
        Measured& own = measured[slab % 2 * SLAB_WARPS + warp_of_block()];
        reinterpret_cast<float2*>(own.sum)[pair] = make_float2(left.sum, right.sum);
        reinterpret_cast<float2*>(own.least)[pair] = make_float2(left.least, right.least);
        reinterpret_cast<float2*>(own.most)[pair] = make_float2(left.most, right.most);
    }

    __device__ __forceinline__ void measure_subset(Column& left, Column& right, const unsigned char* slab, int subset,
                                                   int pair) {
        int n = rows.count, step = subsets(), row = subset + 2 * step, bytes = step * ROW_BYTES;
        const unsigned char* at = slab + subset * ROW_BYTES;
        float2 a = stored_pair<T>(at, pair), b = stored_pair<T>(at + bytes, pair);
        left = column_of(a.x, b.x);
        right = column_of(a.y, b.y);
        at += 2 * bytes;
#pragma unroll 2
        for (; row + step < n; row += 2 * step, at += 2 * bytes) {
            a = stored_pair<T>(at, pair);
            b = stored_pair<T>(at + bytes, pair);
            add_pair(left, a.x, b.x, weight());
            add_pair(right, a.y, b.y, weight());
        }
        if (row < n) {
            a = stored_pair<T>(at, pair);
            add_value(left, a.x, weight());
            add_value(right, a.y, weight());
        }
        if (!all_finite(left) || !all_finite(right)) report(slab, subset, pair);
    }

    // The first row of the subset in which either column is not finite.
    __device__ __forceinline__ void report(const unsigned char* slab, int subset, int pair) const {
        for (int row = subset; row < rows.count; row += subsets()) {
            float2 value = stored_pair<T>(slab + row * ROW_BYTES, pair);
            if (is_finite(value.x) && is_finite(value.y)) continue;
            atomic_min(first_bad, row);
            return;
        }
    }

    static __device__ __forceinline__ Column of_other_half(const Column& column) {
        return {from_lane_xor(column.sum, 16), from_lane_xor(column.least, 16), from_lane_xor(column.most, 16)};
    }

    // The shifts of this lane's columns. Each lane takes one column, adds up what all warps have measured, in their
    // order, and then fetches those that it needs. All warps find the same; one leaves it behind.
    __device__ __forceinline__ Shift shift_of(int slab) const {
        const Measured* all = measured + slab % 2 * SLAB_WARPS;
        Column column = column_at(all[0], lane_of_warp());
#pragma unroll 1
        for (int warp = 1; 2 * warp < subsets(); ++warp) merge(column, column_at(all[warp], lane_of_warp()), weight());
        float mean = trimmed_mean(column, rows.count, weight());
        int64_t place = first_feature(slab) + lane_of_warp();
        if (warp_of_block() == 0 && place < rows.stride) shifts[place] = mean;
        Quad shift;
        for (int i = 0; i < 4; ++i) shift.values[i] = from_lane(mean, lane_of_warp() % QUADS * 4 + i);
        return shift_by(shift, warp_max(largest_of(column)));
    }

    static __device__ __forceinline__ Column column_at(const Measured& measured, int column) {
        return {measured.sum[column], measured.least[column], measured.most[column]};
    }

    __device__ __forceinline__ void multiply(int slab, int last) {
        if (*exponents.changed(slab) == slab) rescale(slab);
        multiply_slab(slab);
        int done = slab - FIRST_SLAB + 1;
        bool ends = slab + 1 == last;
        if (done % CHAIN_SLABS == 0 || ends) end_chain();
        if (done % FLUSH_SLABS == 0 || ends) flush(slab, done <= FLUSH_SLABS);
    }

    // The slots that a warp may have tiles in, two a column as long as the shorter strip may reach.
    static constexpr int SLOTS = MAX_STRIPS + MAX_STRIPS / 2;

    // Calls visit(tile, row strip, column strip) if this warp has a tile in this slot. The slot is known when it is
    // compiled, so that tiles stay in registers; whether it is there is the same in all lanes.
    template <class Visit>
    __device__ __forceinline__ void with_tile(int slot, const Visit& visit) {
        bool shorter = slot < MAX_STRIPS && slot % 2 == 1;
        int column = slot < MAX_STRIPS ? slot / 2 : slot - MAX_STRIPS / 2;
        int row = shorter ? triangle.shorter : triangle.longer;
        if (column <= row) visit(triangle.tiles[shorter ? MAX_STRIPS - column : column], row, column);
    }

    // The same for each of this warp's tiles.
    template <class Visit>
    __device__ __forceinline__ void for_tiles(const Visit& visit) {
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) with_tile(slot, visit);
    }

    __device__ __forceinline__ float* partial_of(int row, int column) const {
        return partials + index_in_triangle(row, column) * STRIP * STRIP;
    }

    __device__ __forceinline__ Place first_rows(int row, int column) const { return {row * STRIP, column * STRIP}; }

    static __device__ __forceinline__ void add(float (&tile)[8], const Fragments& a, const Fragments& b) {
        if (LOW) {
            add_exact(tile, a, b);
        } else {
            add_fast(tile, a, b);
        }
    }

    __device__ __forceinline__ void multiply_slab(int slab) {
        Fragments longer, shorter, right;
        if (triangle.longer < 0) return;
        unsigned char* values = buffer(slab);
        load_fragments<Side::LEFT, LOW>(longer, values + triangle.longer * STRIP * ROW_BYTES);
        if (triangle.shorter >= 0) {
            load_fragments<Side::LEFT, LOW>(shorter, values + triangle.shorter * STRIP * ROW_BYTES);
        }
#pragma unroll
        for (int column = 0; column < MAX_STRIPS; ++column) {
            if (column > triangle.longer) continue;
            load_fragments<Side::RIGHT, LOW>(right, values + column * STRIP * ROW_BYTES);
            add(triangle.tiles[column], longer, right);
            if (column < MAX_STRIPS / 2 && column <= triangle.shorter) {
                add(triangle.tiles[MAX_STRIPS - column], shorter, right);
            }
        }
    }

    __device__ __forceinline__ void rescale(int slab) {
        const int16_t *before = exponents.of_slab(slab - 1), *after = exponents.of_slab(slab);
        for_tiles([&](float (&tile)[8], int r, int c) {
            scale_tile(tile, before, after, r * STRIP, c * STRIP);
            if (r == c) scale_reach(reach_of(r), tile, before, after, r * STRIP);
        });
        // Not all lanes hold a part of a diagonal; products want the warp's lanes together.
        warp_barrier();
    }

    // This lane's of a strip.
    __device__ __forceinline__ Reach& reach_of(int strip) const { return reaches[strip * 8 + lane_of_warp() / 4]; }

    // Calls visit(tile, its strip) for each of this warp's tiles on the diagonal.
    template <class Visit>
    __device__ __forceinline__ void on_diagonal(const Visit& visit) {
        for_tiles([&](float (&tile)[8], int r, int c) {
            if (r == c) visit(tile, r);
        });
    }

    __device__ __forceinline__ void end_chain() {
        on_diagonal([&](float (&tile)[8], int strip) { add_reach(reach_of(strip), tile); });
    }

    __device__ __forceinline__ void flush(int slab, bool first_flush) {
        flush_tiles(*this, slab, first_flush);
        on_diagonal([&](float (&tile)[8], int strip) { count_anew(reach_of(strip), tile); });
    }
};

template <class T, bool LOW>
__device__ void fused(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                      const LayerValues& layers, const int* wanted, const LayerSplits& splits, const GramShape& shape) {
    Layer<T> layer(layers, splits.layer_of(blockIdx.y));
    if (passes_by(wanted, shape.products, layer.index)) return;
    int n = shape.examples, strips = (n + STRIP - 1) / STRIP, count = strips * STRIP;
    Fused<T, LOW> work;
    work.rows = {layer.x, n, layer.features};
    work.ring.buffers = shape.buffers;
    work.measured = reinterpret_cast<Measured*>(shared_memory() + shape.buffers * count * ROW_BYTES);
    work.exponents = {reinterpret_cast<int16_t*>(work.measured + 2 * SLAB_WARPS), count};
    work.reaches = static_cast<Reach*>(work.exponents.end());
    work.shifts = shifts + layers.first_column[layer.index];
    work.first_bad = first_bad + layer.index;
    Part part =
        part_of((layer.features + SLAB - 1) / SLAB, blockIdx.y - splits.first[layer.index], splits.count(layer.index));
    work.partials = partials + index_in_triangle(strips, 0) * STRIP * STRIP * blockIdx.y;
    work.first_slab = part.first;
    work.aligned = work.rows.aligned();
    int longer = strips - 1 - warp_of_block();
    work.triangle.longer = longer >= warp_of_block() ? longer : -1;
    work.triangle.shorter = longer > warp_of_block() ? warp_of_block() : -1;
#pragma unroll
    for (int tile = 0; tile <= MAX_STRIPS; ++tile) {
#pragma unroll
        for (int index = 0; index < 8; ++index) work.triangle.tiles[tile][index] = 0.0f;
    }
    clear_exponents(work.exponents);
    work.on_diagonal([&](float (&tile)[8], int strip) { clear_reach(work.reach_of(strip), tile); });
    int slabs = part.last - part.first;
    stream_slabs(work, slabs);
    int64_t own = static_cast<int64_t>(blockIdx.y) * count;
    write_exponents(exponents + own, work.exponents, slabs, 0, count);
    work.on_diagonal([&](float (&tile)[8], int strip) {
        write_reach(reaches + own, work.reach_of(strip), tile, strip * STRIP);
    });
}

// --- tiled -----------------------------------------------------------------------------------------------------------

template <class T, bool LOW>
__device__ void tiled(float* partials, int* exponents, float* reaches, const LayerValues& layers, const float* shifts,
                      const float* largest, const int* wanted, const LayerSplits& splits, const GramShape& shape) {
    Layer<T> layer(layers, splits.layer_of(blockIdx.y));
    if (passes_by(wanted, shape.products, layer.index)) return;
    int n = shape.examples, strips = (n + STRIP - 1) / STRIP;
    Place tile = place_in_triangle(blockIdx.x);
    Square<T, LOW, true> work;
    work.place(layer.x, n, tile.row, layer.x, n, tile.column, layer.features, shape.buffers);
    work.shifts = shifts + layers.first_column[layer.index];
    work.largest = largest + layers.first_column[layer.index];
    work.symmetric = true;
    work.strips_down = strips;
    work.strips_across = strips;
    work.partials = partials + index_in_triangle(strips, 0) * STRIP * STRIP * blockIdx.y;
    int slabs = work.run(blockIdx.y - splits.first[layer.index], splits.count(layer.index));
    int64_t padded = static_cast<int64_t>(strips) * STRIP;
    int first = tile.row * TILE,
        count = static_cast<int>(padded) - first < TILE ? static_cast<int>(padded) - first : TILE;
    int64_t own = padded * blockIdx.y + first;
    // Row by row the exponents are the same in all tiles.
    if (tile.column == 0) write_exponents(exponents + own, work.exponents, slabs, 0, count);
    if (tile.column == tile.row) work.write_reaches(reaches + own);
}

// --- entries ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    gs_gram_shift_f32(float* shifts, float* largest, int* first_bad, LayerValues layers, GramShape shape) {
    shift<float>(shifts, largest, first_bad, layers, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_naive_f32(double* k, LayerValues layers, const float* shifts, GramShape shape) {
    naive<float>(k, layers, shifts, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_double_f32(double* partials, LayerValues layers, const float* shifts, const int* wanted, LayerSplits splits,
                       GramShape shape) {
    in_double<float, true>(partials, layers, shifts, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_distances_f32(double* partials, LayerValues layers, LayerSplits splits, GramShape shape) {
    in_double<float, false>(partials, layers, nullptr, nullptr, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_fused_exact_f32(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                            LayerValues layers, const int* wanted, LayerSplits splits, GramShape shape) {
    fused<float, true>(partials, exponents, reaches, shifts, first_bad, layers, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_tiled_exact_f32(float* partials, int* exponents, float* reaches, LayerValues layers, const float* shifts,
                            const float* largest, const int* wanted, LayerSplits splits, GramShape shape) {
    tiled<float, true>(partials, exponents, reaches, layers, shifts, largest, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_fused_fast_f32(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                           LayerValues layers, const int* wanted, LayerSplits splits, GramShape shape) {
    fused<float, false>(partials, exponents, reaches, shifts, first_bad, layers, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_tiled_fast_f32(float* partials, int* exponents, float* reaches, LayerValues layers, const float* shifts,
                           const float* largest, const int* wanted, LayerSplits splits, GramShape shape) {
    tiled<float, false>(partials, exponents, reaches, layers, shifts, largest, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    gs_gram_shift_bf16(float* shifts, float* largest, int* first_bad, LayerValues layers, GramShape shape) {
    shift<BF16>(shifts, largest, first_bad, layers, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_naive_bf16(double* k, LayerValues layers, const float* shifts, GramShape shape) {
    naive<BF16>(k, layers, shifts, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_double_bf16(double* partials, LayerValues layers, const float* shifts, const int* wanted,
                        LayerSplits splits, GramShape shape) {
    in_double<BF16, true>(partials, layers, shifts, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_distances_bf16(double* partials, LayerValues layers, LayerSplits splits, GramShape shape) {
    in_double<BF16, false>(partials, layers, nullptr, nullptr, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_fused_exact_bf16(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                             LayerValues layers, const int* wanted, LayerSplits splits, GramShape shape) {
    fused<BF16, true>(partials, exponents, reaches, shifts, first_bad, layers, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_tiled_exact_bf16(float* partials, int* exponents, float* reaches, LayerValues layers, const float* shifts,
                             const float* largest, const int* wanted, LayerSplits splits, GramShape shape) {
    tiled<BF16, true>(partials, exponents, reaches, layers, shifts, largest, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_fused_fast_bf16(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                            LayerValues layers, const int* wanted, LayerSplits splits, GramShape shape) {
    fused<BF16, false>(partials, exponents, reaches, shifts, first_bad, layers, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_tiled_fast_bf16(float* partials, int* exponents, float* reaches, LayerValues layers, const float* shifts,
                            const float* largest, const int* wanted, LayerSplits splits, GramShape shape) {
    tiled<BF16, false>(partials, exponents, reaches, layers, shifts, largest, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    gs_gram_shift_f16(float* shifts, float* largest, int* first_bad, LayerValues layers, GramShape shape) {
    shift<F16>(shifts, largest, first_bad, layers, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_naive_f16(double* k, LayerValues layers, const float* shifts, GramShape shape) {
    naive<F16>(k, layers, shifts, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_double_f16(double* partials, LayerValues layers, const float* shifts, const int* wanted, LayerSplits splits,
                       GramShape shape) {
    in_double<F16, true>(partials, layers, shifts, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_gram_distances_f16(double* partials, LayerValues layers, LayerSplits splits, GramShape shape) {
    in_double<F16, false>(partials, layers, nullptr, nullptr, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_fused_exact_f16(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                            LayerValues layers, const int* wanted, LayerSplits splits, GramShape shape) {
    fused<F16, true>(partials, exponents, reaches, shifts, first_bad, layers, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_tiled_exact_f16(float* partials, int* exponents, float* reaches, LayerValues layers, const float* shifts,
                            const float* largest, const int* wanted, LayerSplits splits, GramShape shape) {
    tiled<F16, true>(partials, exponents, reaches, layers, shifts, largest, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_fused_fast_f16(float* partials, int* exponents, float* reaches, float* shifts, int* first_bad,
                           LayerValues layers, const int* wanted, LayerSplits splits, GramShape shape) {
    fused<F16, false>(partials, exponents, reaches, shifts, first_bad, layers, wanted, splits, shape);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_gram_tiled_fast_f16(float* partials, int* exponents, float* reaches, LayerValues layers, const float* shifts,
                           const float* largest, const int* wanted, LayerSplits splits, GramShape shape) {
    tiled<F16, false>(partials, exponents, reaches, layers, shifts, largest, wanted, splits, shape);
}
