// HSIC of all pairs of layers: the products of all rows of one panel with all rows of another (or of the same), added
// to float64 sums over the batches.
// Source: HSIC_1 = <U, V> / (n (n - 3)) (Song et al., JMLR 2012, in the form of Nguyen et al., ICLR 2021, section 3);
// biased <K', L'> / (n - 1)^2 (Gretton et al. 2005). Rows are packed triangles (ucenter.cu), so <U, V> is twice their
// product. crates/gramscope-cka/src/sums.rs is the model for scales: a layer's unit is the largest power of two that it
// has met.
//
// In   x [layers_x, length], y [layers_y, length]   float32, row-major, any alignment (multiples of 16 bytes are
//      faster) rows [layers]          RowSummary of each row of a panel
// I/O  layer_sums [layers]    LayerSum: the layer's HSIC with itself, in the square of its unit
//      sums                   float64, sums[i * stride + j] in the product of the units of i and j
// Out  weights [layers]       powers of two by which old sums and new products are to be multiplied
//      partials               per split tiles of STRIP x STRIP, row by row of tiles; symmetric: a packed triangle of
//                             tiles
//      exponents_x, _y        [splits, strips * STRIP] int32 as in gram.cu; symmetric: exponents_y is not written
// symmetric: y is x, and only pairs (i, j) with j <= i are computed. A panel larger than memory goes in blocks: rows of
// x against rows of y, each call with its part of sums; or columns, one call after the other with `old` 0 in between.
// Grid, block, shared bytes: plan::hsic_*.
// Deterministic: yes, no atomics. Accumulates: as gram.cu `tiled`: a slab on the tensor cores, slabs and flushes of a split in
// float32, splits in float64.
//
// Variants  naive        a thread a pair, float64 products: the reference on the device
//           mma          float16 halves, all four products; then `accumulate` adds the splits in order
#include "common/records.cuh"
#include "common/square.cuh"

struct HsicShape {
    double factor;
    int64_t length;
    int64_t stride;
    int32_t layers_x;
    int32_t layers_y;
    int32_t symmetric;
    int32_t buffers;
    int32_t splits;
    int32_t padding;
};

struct LayerSum {
    double own;
    int32_t unit;
    int32_t state;
};

enum LayerState { LAYER_EMPTY = 0, LAYER_SUMMED = 1, LAYER_UNDEFINED = 2 };

struct Weight {
    int32_t old;
    int32_t fresh;
};

// --- units -----------------------------------------------------------------------------------------------------------

// Adds a row's squared length to its layer's sum; returns what that does to the layer's sums with others.
__device__ __forceinline__ Weight add_own(LayerSum& layer, const RowSummary& row, double factor) {
    if (row.state == ROW_UNDEFINED) layer.state = LAYER_UNDEFINED;
    if (row.state != ROW_CENTRED || layer.state == LAYER_UNDEFINED) return {0, 0};
    int unit = layer.state == LAYER_EMPTY || row.exponent > layer.unit ? row.exponent : layer.unit;
    Weight weight{layer.state == LAYER_EMPTY ? 0 : layer.unit - unit, row.exponent - unit};
    layer.own = layer.own * power_of_two_f64(2 * weight.old) + row.norm * factor * power_of_two_f64(2 * weight.fresh);
    layer.unit = unit;
    layer.state = LAYER_SUMMED;
    return weight;
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_hsic_units(LayerSum* layer_sums, Weight* weights, const RowSummary* rows, HsicShape shape) {
    int layer = static_cast<int>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
    if (layer < shape.layers_x) weights[layer] = add_own(layer_sums[layer], rows[layer], shape.factor);
}

// --- naive -----------------------------------------------------------------------------------------------------------

// The pair's sum after this batch.
__device__ __forceinline__ double with_product(double sum, double product, const Weight& x, const Weight& y,
                                               double factor) {
    return sum * power_of_two_f64(x.old + y.old) + factor * product * power_of_two_f64(x.fresh + y.fresh);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_hsic_naive_f32(double* sums, const float* x, const float* y, const Weight* weights_x, const Weight* weights_y,
                      HsicShape shape) {
    int64_t index = static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
    int64_t i = index / shape.layers_y, j = index % shape.layers_y;
    if (i >= shape.layers_x || (shape.symmetric && j > i)) return;
    double product = 0.0;
    for (int64_t f = 0; f < shape.length; ++f) {
        product += static_cast<double>(x[i * shape.length + f]) * y[j * shape.length + f];
    }
    double* sum = sums + i * shape.stride + j;
    *sum = with_product(*sum, product, weights_x[i], weights_y[j], shape.factor);
}

// --- mma -------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int strips_of(int rows) { return (rows + STRIP - 1) / STRIP; }

__device__ __forceinline__ int64_t tiles_of(const HsicShape& shape) {
    int down = strips_of(shape.layers_x);
    return shape.symmetric ? index_in_triangle(down, 0) : static_cast<int64_t>(down) * strips_of(shape.layers_y);
}

// Row and column of tile `index`, of `across` in a row.
__device__ __forceinline__ Place place_of_tile(int index, int across, bool symmetric) {
    return symmetric ? place_in_triangle(index) : Place{index / across, index % across};
}

// Writes the exponents of the rows of one tile of `rows`.
__device__ __forceinline__ void write_exponents_of_tile(int* out, const Exponents& exponents, int slabs, int from,
                                                        int tile, int rows) {
    int padded = strips_of(rows) * STRIP, first = tile * TILE;
    int count = padded - first < TILE ? padded - first : TILE;
    write_exponents(out + static_cast<int64_t>(padded) * blockIdx.y + first, exponents, slabs, from, count);
}

extern "C" __global__ void __launch_bounds__(SLAB_THREADS, 1)
    gs_hsic_mma_f32(float* partials, int* exponents_x, int* exponents_y, const float* x, const float* y,
                    HsicShape shape) {
    int across = (shape.layers_y + TILE - 1) / TILE;
    Place tile = place_of_tile(blockIdx.x, across, shape.symmetric);
    Square<float, true, false> work;
    work.place(x, shape.layers_x, tile.row, y, shape.layers_y, tile.column, shape.length, shape.buffers);
    work.symmetric = shape.symmetric;
    work.strips_down = strips_of(shape.layers_x);
    work.strips_across = strips_of(shape.layers_y);
    work.partials = partials + tiles_of(shape) * STRIP * STRIP * blockIdx.y;
    int slabs = work.run(blockIdx.y, gridDim.y);
    // A row's exponents are the same in all tiles of its row, or column, of tiles.
    if (tile.column == 0) write_exponents_of_tile(exponents_x, work.exponents, slabs, 0, tile.row, shape.layers_x);
    if (tile.row == 0 && !shape.symmetric) {
        write_exponents_of_tile(exponents_y, work.exponents, slabs, TILE, tile.column, shape.layers_y);
    }
}

extern "C" __global__ void __launch_bounds__(STRIP* STRIP)
    gs_hsic_accumulate(double* sums, const float* partials, const int* exponents_x, const int* exponents_y,
                       const Weight* weights_x, const Weight* weights_y, HsicShape shape) {
    int across = strips_of(shape.layers_y);
    Place tile = place_of_tile(blockIdx.x, across, shape.symmetric);
    int i = tile.row * STRIP + thread_of_block() / STRIP, j = tile.column * STRIP + thread_of_block() % STRIP;
    if (i >= shape.layers_x || j >= shape.layers_y || (shape.symmetric && j > i)) return;
    int64_t entries = tiles_of(shape) * STRIP * STRIP;
    int64_t entry = static_cast<int64_t>(blockIdx.x) * STRIP * STRIP + thread_of_block();
    int64_t padded_x = strips_of(shape.layers_x) * STRIP, padded_y = across * STRIP;
    double product = 0.0;
    for (int split = 0; split < shape.splits; ++split) {
        int exponent = exponents_x[padded_x * split + i] + exponents_y[padded_y * split + j];
        product += static_cast<double>(partials[entries * split + entry]) * power_of_two_f64(exponent);
    }
    double* sum = sums + i * shape.stride + j;
    *sum = with_product(*sum, product, weights_x[i], weights_y[j], shape.factor);
}
