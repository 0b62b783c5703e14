// The product whose rows are weights.
#pragma once

#include "common/part.cuh"
#include "convolution/tile.cuh"

// Block x is a tile (columns, which are outputs, fastest), z a group of pixels.
template <class PRODUCT, int COLUMNS>
struct WeightProduct {
    using T = typename PRODUCT::Value;
    using Left = Slab<T, T, false, ROWS, PRODUCT::DEPTH>;
    using Right = Slab<T, T, false, COLUMNS, PRODUCT::DEPTH>;
    using Own = Warps<PRODUCT, ROWS, COLUMNS>;
    static constexpr int BUFFERS = CONVOLUTION_BUFFERS, BYTES = Left::BYTES + Right::BYTES;
    static constexpr int DEPTH = PRODUCT::DEPTH, PARTS = THREADS / COLUMNS;  // of a column's bias

    ConvolutionShape shape;
    Source<T> source;
    const T* dy;
    int rows, first_row, first_column;
    Part pixels;
    bool source_whole, dy_whole;
    Tap own_tap;  // of this thread's place in a line of whole pieces
    float bias;  // this thread's share of its column's
    typename Own::OwnSums sums;

    static __device__ __forceinline__ unsigned char* left(int slab) {
        return shared_memory() + slab % BUFFERS * BYTES;
    }

    static __device__ __forceinline__ unsigned char* right(int slab) { return left(slab) + Left::BYTES; }

    // Windows of the pixels of a slab.
    static __device__ __forceinline__ Origin* origins(int slab) {
        return reinterpret_cast<Origin*>(shared_memory() + BUFFERS * BYTES) + slab % BUFFERS * DEPTH;
    }

    __device__ __forceinline__ int slabs() const { return divided_up(pixels.last - pixels.first, DEPTH); }

    __device__ __forceinline__ void place(const T* x, const T* gradient, const ConvolutionShape& given) {
        shape = given;
        dy = gradient;
        bias = 0.0f;
        source = {x, shape.height, shape.width, shape.from, shape.kernel};
        rows = shape.kernel * shape.kernel * shape.from;
        int tiles = divided_up(shape.to, COLUMNS);
        first_column = static_cast<int>(blockIdx.x) % tiles * COLUMNS;
        first_row = static_cast<int>(blockIdx.x) / tiles * ROWS;
        pixels = part_of(static_cast<int64_t>(shape.images) * shape.out_height * shape.out_width,
                         static_cast<int>(blockIdx.z), shape.groups);
        source_whole = is_whole(x, static_cast<int64_t>(shape.from) * static_cast<int64_t>(sizeof(T)));
        dy_whole = is_whole(dy, static_cast<int64_t>(shape.to) * static_cast<int64_t>(sizeof(T)));
        own_tap = source.tap_of(first_row + kept_thread() % (Left::LENGTH / PIECE<T, true>) * PIECE<T, true>);
        for (int slab = 0; slab < BUFFERS; ++slab) prepare(slab);
        __syncthreads();
    }

    // Finds the windows of a slab, a turn before it is copied.
    __device__ __forceinline__ void prepare(int slab) const {
        int index = kept_thread();
        if (index >= DEPTH) return;
        int pixel = pixels.first + slab * DEPTH + index;
        Origin origin = nowhere();
        if (pixel < pixels.last) {
            Pixel place = pixel_of(pixel, shape.out_height, shape.out_width);
            origin = source.origin(place.image, place.row * shape.stride - shape.padding,
                                   place.column * shape.stride - shape.padding);
        }
        origins(slab)[index] = origin;
    }

    __device__ __forceinline__ void copy(int slab) const {
        if (source_whole) {
            copy_left<true>(slab);
        } else {
            copy_left<false>(slab);
        }
        if (dy_whole) {
            copy_right<true>(slab);
        } else {
            copy_right<false>(slab);
        }
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_left(int slab) const {
        constexpr int WIDTH = PIECE<T, WHOLE>;
        int row = first_row + kept_thread() % (Left::LENGTH / WIDTH) * WIDTH;
        Tap tap = WHOLE ? own_tap : source.tap_of(row);
        const Origin* table = origins(slab);
        copy_lines<Left, WHOLE>(left(slab), [&](int line, int) -> Copied<T> {
            Origin origin = table[line];
            return {source.at(origin, tap), row < rows && source.has(origin, tap)};
        });
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_right(int slab) const {
        copy_lines<Right, WHOLE>(right(slab), [&](int line, int place) -> Copied<T> {
            int pixel = pixels.first + slab * DEPTH + line, column = first_column + place;
            return {dy + static_cast<int64_t>(pixel) * shape.to + column, pixel < pixels.last && column < shape.to};
        });
    }

    __device__ __forceinline__ void multiply(int slab) {
        if (first_row == 0) add_biases(slab);
        if (first_row + Own::row() >= rows || first_column + Own::column() >= shape.to) return;
        sums.template multiply<DEPTH>(SlabRows<Left>{left(slab), Own::row()},
                                      SlabRows<Right>{right(slab), Own::column()});
    }

    // A column's bias gradient is the sum of its dy; PARTS threads share a column.
    __device__ __forceinline__ void add_biases(int slab) {
        int column = kept_thread() % COLUMNS;
#pragma unroll
        for (int line = kept_thread() / COLUMNS; line < DEPTH; line += PARTS) {
            bias += to_float(*Right::at(right(slab), column, line));
        }
    }

    __device__ __forceinline__ void store_biases(float* dbias) const {
        float* shares = reinterpret_cast<float*>(shared_memory());
        // The last slab has been read.
        __syncthreads();
        shares[kept_thread()] = bias;
        __syncthreads();
        int column = kept_thread();
        if (column >= COLUMNS || first_column + column >= shape.to) return;
        float sum = shares[column];
        for (int part = 1; part < PARTS; ++part) sum += shares[part * COLUMNS + column];
        dbias[first_column + column] = sum;
    }

    __device__ __forceinline__ void store_weights(float* dweight) {
        constexpr int RUN = Own::OwnSums::RUN;
        sums.template for_runs<true>([&](int row, int column, float(&values)[RUN]) {
            int own = first_row + Own::row() + row, first = first_column + Own::column() + column;
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (own < rows && first + i < shape.to) dweight[static_cast<int64_t>(first + i) * rows + own] = values[i];
            }
        });
    }
};
