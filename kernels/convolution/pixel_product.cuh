// Products whose rows are pixels, forward and input gradient, for any convolution.
#pragma once

#include "convolution/tile.cuh"

// GRADIENT: of the input. Block x is a tile (columns fastest, so that those that read the same pixels run together), z a
// phase: pixels of x whose rows and columns leave the same remainders to the stride are reached by the same taps.
template <class PRODUCT, int COLUMNS, bool GRADIENT>
struct PixelProduct {
    using T = typename PRODUCT::Value;
    using Left = Slab<T, T, true, ROWS, PRODUCT::DEPTH>;
    using Right = Slab<float, T, !GRADIENT, COLUMNS, PRODUCT::DEPTH>;
    using Own = Warps<PRODUCT, ROWS, COLUMNS>;
    static constexpr int BUFFERS = CONVOLUTION_BUFFERS, BYTES = Left::BYTES + Right::BYTES;

    // Rows and, in a line of theirs, the place that a thread copies where pieces are whole.
    static constexpr int PER_LINE = Left::LENGTH / PIECE<T, true>, OWN_ROWS = ROWS * PER_LINE / THREADS;

    ConvolutionShape shape;
    Source<T> source;
    const float* weight;
    int depth, columns;              // k, and columns of the whole product
    int first_column;                // of this tile
    int last_down, last_across;      // GRADIENT: the last taps of this phase
    bool source_whole, weight_whole;
    bool has_one_tap;                // GRADIENT: a slab of the weights has
    Origin own[OWN_ROWS];
    Tap own_tap, weight_tap;  // of the next slab: of this thread's place; GRADIENT: of the first k
    typename Own::OwnSums sums;

    // Of each row of the tile: its window, and the pixel of the result, -1 where there is none.
    static __device__ __forceinline__ Origin* origins() {
        return reinterpret_cast<Origin*>(shared_memory() + BUFFERS * BYTES);
    }

    static __device__ __forceinline__ int* results() { return reinterpret_cast<int*>(origins() + ROWS); }

    static __device__ __forceinline__ int own_place() { return kept_thread() % PER_LINE * PIECE<T, true>; }

    static __device__ __forceinline__ unsigned char* left(int slab) {
        return shared_memory() + slab % BUFFERS * BYTES;
    }

    static __device__ __forceinline__ unsigned char* right(int slab) { return left(slab) + Left::BYTES; }

    // Returns whether this block has anything to do.
    __device__ __forceinline__ bool place(const T* values, const float* weights, const ConvolutionShape& given) {
        shape = given;
        weight = weights;
        columns = GRADIENT ? shape.from : shape.to;
        int tiles = divided_up(columns, COLUMNS);
        first_column = static_cast<int>(blockIdx.x) % tiles * COLUMNS;
        int first_row = static_cast<int>(blockIdx.x) / tiles * ROWS;
        bool any = GRADIENT ? place_gradient(values, first_row) : place_forward(values, first_row);
        int64_t line = GRADIENT ? shape.from : depth;
        has_one_tap = GRADIENT && shape.to % PRODUCT::DEPTH == 0;
        source_whole = is_whole(values, static_cast<int64_t>(source.channels) * static_cast<int64_t>(sizeof(T)));
        weight_whole = is_whole(weights, line * static_cast<int64_t>(sizeof(float)));
        // The tables of rows are complete.
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN_ROWS; ++i) own[i] = origins()[kept_thread() / PER_LINE + THREADS / PER_LINE * i];
        own_tap = source.tap_of(own_place());
        weight_tap = {0, 0, 0};
        return any;
    }

    __device__ __forceinline__ bool place_forward(const T* values, int first_row) {
        source = {values, shape.height, shape.width, shape.from, shape.kernel};
        depth = shape.kernel * shape.kernel * shape.from;
        int count = shape.images * shape.out_height * shape.out_width;
        for (int index = kept_thread(); index < ROWS; index += THREADS) {
            int row = first_row + index;
            Pixel pixel = pixel_of(row, shape.out_height, shape.out_width);
            Origin origin = source.origin(pixel.image, pixel.row * shape.stride - shape.padding,
                                          pixel.column * shape.stride - shape.padding);
            origins()[index] = row < count ? origin : nowhere();
            results()[index] = row < count ? row : -1;
        }
        return first_row < count;
    }

    __device__ __forceinline__ bool place_gradient(const T* values, int first_row) {
        int s = shape.stride, first_down = static_cast<int>(blockIdx.z) / s, first_across = static_cast<int>(blockIdx.z) % s;
        // The phase has pixels (first_down + s i, first_across + s j), and taps (tap_down + s t, tap_across + s t').
        int height = divided_up(shape.height - first_down, s), width = divided_up(shape.width - first_across, s);
        int tap_down = (first_down + shape.padding) % s, tap_across = (first_across + shape.padding) % s;
        int taps_down = divided_up(shape.kernel - tap_down, s), taps_across = divided_up(shape.kernel - tap_across, s);
        bool has_taps = tap_down < shape.kernel && tap_across < shape.kernel;
        source = {values, shape.out_height, shape.out_width, shape.to, has_taps ? taps_across : 1};
        depth = has_taps ? taps_down * taps_across * shape.to : 0;
        last_down = tap_down + (taps_down - 1) * s;
        last_across = tap_across + (taps_across - 1) * s;
        bool any = first_down < shape.height && first_across < shape.width;
        int count = any ? shape.images * height * width : 0;
        for (int index = kept_thread(); index < ROWS; index += THREADS) {
            int row = first_row + index;
            origins()[index] = nowhere();
            results()[index] = -1;
            if (row >= count) continue;
            Pixel pixel = pixel_of(row, height, width);
            int down = first_down + pixel.row * s, across = first_across + pixel.column * s;
            // Windows run down dy as taps run up: the window's first pixel goes with the last tap.
            origins()[index] = source.origin(pixel.image, (down + shape.padding - last_down) / s,
                                          (across + shape.padding - last_across) / s);
            results()[index] = static_cast<int>(index_of(pixel.image, down, across, shape.height, shape.width));
        }
        // Where no tap reaches, there is nothing to add.
        return first_row < count && (depth > 0 || !shape.adds);
    }

    __device__ __forceinline__ void copy(int slab) {
        if (source_whole) {
            copy_left_pieces(slab);
        } else {
            copy_left_values(slab);
        }
        if (weight_whole) {
            copy_right<true>(slab);
        } else {
            copy_right<false>(slab);
        }
        if (GRADIENT) source.advance(weight_tap, PRODUCT::DEPTH);
    }

    // In pieces of 16 bytes: a thread's rows and place, and so much of the addresses, are the same in all slabs.
    __device__ __forceinline__ void copy_left_pieces(int slab) {
        bool there = slab * PRODUCT::DEPTH + own_place() < depth;
#pragma unroll
        for (int i = 0; i < OWN_ROWS; ++i) {
            int line = kept_thread() / PER_LINE + THREADS / PER_LINE * i;
            copy_piece<true>(Left::in_line(left(slab), line, own_place()), source.at(own[i], own_tap),
                             there && source.has(own[i], own_tap));
        }
        source.advance(own_tap, PRODUCT::DEPTH);
    }

    // Value by value. A thread's place in a line, and so its k, is the same in all lines.
    __device__ __forceinline__ void copy_left_values(int slab) const {
        int k = slab * PRODUCT::DEPTH + kept_thread() % Left::LENGTH;
        Tap tap = source.tap_of(k);
        copy_lines<Left, false>(left(slab), [&](int line, int) -> Copied<T> {
            Origin origin = origins()[line];
            return {source.at(origin, tap), k < depth && source.has(origin, tap)};
        });
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_right(int slab) const {
        copy_lines<Right, WHOLE>(right(slab), [&](int line, int place) -> Copied<float> {
            int k = slab * PRODUCT::DEPTH + (GRADIENT ? line : place);
            int column = first_column + (GRADIENT ? place : line);
            int64_t at = weight_at(k, column, has_one_tap ? one_tap(line) : source.tap_of(k));
            return {weight + at, k < depth && column < columns};
        });
    }

    // The tap of a line of a slab that has but one.
    __device__ __forceinline__ Tap one_tap(int line) const {
        return {weight_tap.down, weight_tap.across, weight_tap.channel + line};
    }

    __device__ __forceinline__ int64_t weight_at(int k, int column, const Tap& tap) const {
        if (!GRADIENT) return static_cast<int64_t>(column) * depth + k;
        int u = last_down - tap.down * shape.stride, v = last_across - tap.across * shape.stride;
        return static_cast<int64_t>((tap.channel * shape.kernel + u) * shape.kernel + v) * shape.from + column;
    }

    __device__ __forceinline__ int slabs() const { return divided_up(depth, PRODUCT::DEPTH); }

    __device__ __forceinline__ void prepare(int) const {}

    __device__ __forceinline__ void multiply(int slab) {
        if (first_column + Own::column() >= columns) return;
        sums.template multiply<PRODUCT::DEPTH>(SlabRows<Left>{left(slab), Own::row()},
                                               SlabRows<Right>{right(slab), Own::column()});
    }

    // The pixel that a row of the tile is the result of; -1 where there is none.
    __device__ __forceinline__ int result_of(int row) const { return results()[row]; }
};
