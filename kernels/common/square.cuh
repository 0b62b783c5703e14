// A tile of TILE x TILE products of rows of one matrix with rows of another (or of the same), summed over a part of
// their features: what gs_gram_tiled_* and gs_hsic_mma_* share.
#pragma once

#include "common/slab.cuh"

constexpr int TILE_STRIPS = TILE / STRIP;

// LOW: with low halves. SHIFTED: shifts and the columns' largest values are given; else nothing is subtracted, and the
// values lie between 2^-64 and 2^126, or are 0 or negligible.
template <class T, bool LOW, bool SHIFTED>
struct Square {
    static constexpr int LEAD = 1;
    static constexpr int ROWS = 2 * TILE;
    static constexpr int BUFFER_BYTES = (ROWS + (SHIFTED ? 2 : 0)) * ROW_BYTES;

    TwoMatricesRows<T> rows;
    Exponents exponents;
    Reach reach;  // of this warp's tile on the diagonal, if it has one
    const float *shifts, *largest;
    float* partials;  // this split's
    int64_t features, first_slab;
    int first_row, first_column;  // strips
    int strips_down, strips_across;
    Ring ring;
    bool symmetric;
    float tiles[TILE_STRIPS][8];  // warp w owns strip w of the rows and all strips of the columns

    // Rows from TILE * `down` of the `upper` matrix (its first `upper_rows` rows), columns from TILE * `across` of
    // `lower`.
    __device__ __forceinline__ void place(const T* upper, int upper_rows, int down, const T* lower, int lower_rows,
                                          int across, int64_t p, int buffers) {
        int left_down = upper_rows - down * TILE, left_across = lower_rows - across * TILE;
        rows.upper = {upper + down * p * TILE, left_down < TILE ? left_down : TILE, p};
        rows.lower = {lower + across * p * TILE, left_across < TILE ? left_across : TILE, p};
        features = p;
        first_row = down * TILE_STRIPS;
        first_column = across * TILE_STRIPS;
        ring.buffers = buffers;
    }

    // Streams part `split` of the `splits` that the features are in; returns its number of slabs.
    __device__ __forceinline__ int run(int split, int splits) {
        exponents = {reinterpret_cast<int16_t*>(shared_memory() + ring.buffers * BUFFER_BYTES), ROWS};
        Part part = part_of((features + SLAB - 1) / SLAB, split, splits);
        first_slab = part.first;
        int slabs = static_cast<int>(part.last - part.first);
#pragma unroll
        for (int tile = 0; tile < TILE_STRIPS; ++tile) {
#pragma unroll
            for (int index = 0; index < 8; ++index) tiles[tile][index] = 0.0f;
        }
        clear_exponents(exponents);
        if (SHIFTED) on_diagonal([&](float (&tile)[8], int) { clear_reach(reach, tile); });
        stream_slabs(*this, slabs);
        return slabs;
    }

    __device__ __forceinline__ unsigned char* buffer(int slab) const {
        return shared_memory() + ring.place_of(slab) * BUFFER_BYTES;
    }

    __device__ __forceinline__ void copy(int slab) const {
        int64_t first = (first_slab + slab - FIRST_SLAB) * SLAB;
        start_copy(buffer(slab), rows.upper, first, rows.aligned());
        start_copy(buffer(slab) + TILE * ROW_BYTES, rows.lower, first, rows.aligned());
        if (SHIFTED && thread_of_block() < 2 * SLAB) {
            int column = thread_of_block() % SLAB;
            bool valid = first + column < features;
            const float* from = thread_of_block() < SLAB ? shifts : largest;
            copy_value(buffer(slab) + ROWS * ROW_BYTES + thread_of_block() * 4, valid ? from + first + column : from,
                       valid);
        }
    }

    __device__ __forceinline__ void prepare(int slab, int last) {
        if (slab + 1 < last) convert<LOW>(buffer(slab + 1), rows, exponents, slab + 1, shift_of(slab + 1));
    }

    __device__ __forceinline__ Shift shift_of(int slab) const {
        if (!SHIFTED) return {{}, 1.0f, 0};
        const unsigned char* given = buffer(slab) + ROWS * ROW_BYTES;
        float most = reinterpret_cast<const float*>(given + ROW_BYTES)[lane_of_warp()];
        return shift_by(stored_quad<float>(given, lane_of_warp() % QUADS), warp_max(most));
    }

    __device__ __forceinline__ void multiply(int slab, int last) {
        if (*exponents.changed(slab) == slab) rescale(slab);
        multiply_slab(slab);
        int done = slab - FIRST_SLAB + 1;
        bool ends = slab + 1 == last;
        if (SHIFTED && (done % CHAIN_SLABS == 0 || ends)) end_chain();
        if (done % FLUSH_SLABS == 0 || ends) flush(slab, done <= FLUSH_SLABS);
    }

    // Whether this warp has a tile in this column of strips; the same in all lanes.
    __device__ __forceinline__ bool has(int column) const {
        int r = first_row + warp_of_block(), c = first_column + column;
        return r < strips_down && c < strips_across && (!symmetric || c <= r);
    }

    __device__ __forceinline__ void multiply_slab(int slab) {
        Fragments left, right;
        unsigned char* values = buffer(slab);
        load_fragments<Side::LEFT, LOW>(left, values + warp_of_block() * STRIP * ROW_BYTES);
#pragma unroll
        for (int column = 0; column < TILE_STRIPS; ++column) {
            if (!has(column)) continue;
            load_fragments<Side::RIGHT, LOW>(right, values + (TILE + column * STRIP) * ROW_BYTES);
            // Registers and tensor cores have room here: conversion takes longer.
            if (LOW) {
                add_careful(tiles[column], left, right);
            } else {
                add_fast(tiles[column], left, right);
            }
        }
    }

    static constexpr int SLOTS = TILE_STRIPS;

    template <class Visit>
    __device__ __forceinline__ void with_tile(int slot, const Visit& visit) {
        if (has(slot)) visit(tiles[slot], first_row + warp_of_block(), first_column + slot);
    }

    __device__ __forceinline__ float* partial_of(int row, int column) const {
        int64_t tile = symmetric ? index_in_triangle(row, column) : static_cast<int64_t>(row) * strips_across + column;
        return partials + tile * STRIP * STRIP;
    }

    __device__ __forceinline__ Place first_rows(int row, int column) const {
        return {(row - first_row) * STRIP, TILE + (column - first_column) * STRIP};
    }

    // Calls visit(tile, its first row in the buffer) if one of this warp's tiles lies on the diagonal.
    template <class Visit>
    __device__ __forceinline__ void on_diagonal(const Visit& visit) {
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            with_tile(slot, [&](float (&tile)[8], int r, int c) {
                if (r == c) visit(tile, warp_of_block() * STRIP);
            });
        }
    }

    __device__ __forceinline__ void rescale(int slab) {
        const int16_t *before = exponents.of_slab(slab - 1), *after = exponents.of_slab(slab);
#pragma unroll
        for (int column = 0; column < TILE_STRIPS; ++column) {
            scale_tile(tiles[column], before, after, warp_of_block() * STRIP, TILE + column * STRIP);
        }
        if (!SHIFTED) return;
        on_diagonal([&](float (&tile)[8], int row) { scale_reach(reach, tile, before, after, row); });
        // Not all lanes hold a part of a diagonal; products want the warp's lanes together.
        warp_barrier();
    }

    __device__ __forceinline__ void end_chain() {
        on_diagonal([&](float (&tile)[8], int) { add_reach(reach, tile); });
    }

    __device__ __forceinline__ void flush(int slab, bool first_flush) {
        flush_tiles(*this, slab, first_flush);
        if (SHIFTED) on_diagonal([&](float (&tile)[8], int) { count_anew(reach, tile); });
    }

    // After the last slab, of a tile on the diagonal: reaches of its rows, from its first.
    __device__ __forceinline__ void write_reaches(float* out) {
        on_diagonal([&](float (&tile)[8], int row) { write_reach(out, reach, tile, row); });
    }
};
