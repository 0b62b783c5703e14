// Products whose rows are pixels, for kernels of 3 x 3 with stride 1 and padding 1, where few columns make each value of
// the source worth copying once only.
//
// A block's rows are consecutive pixels of the batch, and so is all that their taps reach: the patch, which begins a row
// and a pixel before them. Tap (u, v) of row r is line r + u width + v of the patch, or a line of zeros where it lies
// outside the image. So a value is copied once instead of nine times, and in one run of memory.
#pragma once

#include "convolution/tile.cuh"

// Lines of a patch, of which this lane brings some.
template <class T, int COUNT>
struct PatchRows {
    static constexpr bool FOURS = false;

    const unsigned char* lines[COUNT];

    template <class PRODUCT>
    __device__ __forceinline__ void load(unsigned (&registers)[4], int strip, int k) const {
        PRODUCT::load_lines(registers, lines[strip] + k * static_cast<int>(sizeof(T)));
    }

    template <int, bool>
    __device__ __forceinline__ void load_float32(float (&values)[4][COUNT], int, int k) const {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            Four four = reinterpret_cast<const Four*>(lines[i])[k / 4];
            for (int j = 0; j < 4; ++j) values[j][i] = four.values[j];
        }
    }
};

// GRADIENT: of the input, which is the convolution of dy with the weights turned around. Block x is a tile, columns
// fastest. Slabs are of the summed channels, all taps together.
template <class PRODUCT, int COLUMNS, bool GRADIENT>
struct PatchProduct {
    using T = typename PRODUCT::Value;
    static constexpr int SIDE = 3, TAPS = SIDE * SIDE, DEPTH = CONVOLUTION_PATCH_DEPTH;
    static constexpr int BUFFERS = CONVOLUTION_PATCH_BUFFERS;
    static constexpr int BLOCK_ROWS = COLUMNS == 16 ? CONVOLUTION_PATCH_ROWS : ROWS;
    using Left = Slab<T, T, true, BLOCK_ROWS, DEPTH>;
    using Right = Slab<float, T, !GRADIENT, COLUMNS, DEPTH>;  // of one tap
    using Own = Warps<PRODUCT, BLOCK_ROWS, COLUMNS>;
    static constexpr int LINES = Own::OwnSums::LINES;

    ConvolutionShape shape;
    const T* source;
    const float* weight;
    int channels, columns, count;  // summed over; of the result; pixels
    int first_row, first_column;
    bool source_whole, weight_whole;
    int taps[LINES];  // of each row that this lane brings: a bit a tap that lies inside the image
    typename Own::OwnSums sums;

    __device__ __forceinline__ int lines() const { return BLOCK_ROWS + 2 * before(); }

    // Lines of the patch before the block's first row.
    __device__ __forceinline__ int before() const { return shape.width + 1; }

    __device__ __forceinline__ unsigned char* zeros() const { return shared_memory(); }

    __device__ __forceinline__ unsigned char* left(int slab) const {
        return zeros() + Left::PITCH + slab % BUFFERS * (lines() * Left::PITCH + TAPS * Right::BYTES);
    }

    __device__ __forceinline__ unsigned char* right(int slab) const { return left(slab) + lines() * Left::PITCH; }

    // Returns whether this block has anything to do.
    __device__ __forceinline__ bool place(const T* values, const float* weights, const ConvolutionShape& given) {
        shape = given;
        source = values;
        weight = weights;
        channels = GRADIENT ? shape.to : shape.from;
        columns = GRADIENT ? shape.from : shape.to;
        count = shape.images * shape.height * shape.width;
        int tiles = divided_up(columns, COLUMNS);
        first_column = static_cast<int>(blockIdx.x) % tiles * COLUMNS;
        first_row = static_cast<int>(blockIdx.x) / tiles * BLOCK_ROWS;
        source_whole = is_whole(values, static_cast<int64_t>(channels) * static_cast<int64_t>(sizeof(T)));
        weight_whole = is_whole(weights, static_cast<int64_t>(shape.from) * static_cast<int64_t>(sizeof(float)));
        if (kept_thread() < Left::PITCH / 4) reinterpret_cast<unsigned*>(zeros())[kept_thread()] = 0;
#pragma unroll
        for (int i = 0; i < LINES; ++i) taps[i] = taps_of(first_row + Own::row() + Own::OwnSums::row_of_line(i));
        return first_row < count;
    }

    __device__ __forceinline__ int taps_of(int row) const {
        if (row >= count) return 0;
        Pixel pixel = pixel_of(row, shape.height, shape.width);
        int inside = 0;
        for (int tap = 0; tap < TAPS; ++tap) {
            bool there = is_inside(pixel.row + tap / SIDE - 1, shape.height) &&
                         is_inside(pixel.column + tap % SIDE - 1, shape.width);
            if (there) inside |= 1 << tap;
        }
        return inside;
    }

    __device__ __forceinline__ int slabs() const { return channels / DEPTH; }

    __device__ __forceinline__ void copy(int slab) const {
        if (source_whole) {
            copy_left<true>(slab);
        } else {
            copy_left<false>(slab);
        }
        if (weight_whole) {
            copy_right<true>(slab);
        } else {
            copy_right<false>(slab);
        }
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_left(int slab) const {
        unsigned char* to = left(slab);
        constexpr int WIDTH = PIECE<T, WHOLE>, PER_LINE = DEPTH / WIDTH;
        int place = kept_thread() % PER_LINE * WIDTH;
#pragma unroll 4
        for (int line = kept_thread() / PER_LINE; line < lines(); line += THREADS / PER_LINE) {
            int pixel = first_row - before() + line;
            const T* from = source + static_cast<int64_t>(pixel) * channels + slab * DEPTH + place;
            copy_piece<WHOLE>(Left::in_line(to, line, place), from, is_inside(pixel, count));
        }
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_right(int slab) const {
        unsigned char* to = right(slab);
        for_pieces<Right, WHOLE, TAPS * Right::LINES>([&](int line, int place) {
            int tap = line / Right::LINES, own = line % Right::LINES;
            int k = slab * DEPTH + (GRADIENT ? own : place), column = first_column + (GRADIENT ? place : own);
            copy_piece<WHOLE>(Right::in_line(to, line, place), weight + weight_at(tap, k, column), column < columns);
        });
    }

    __device__ __forceinline__ int weight_at(int tap, int k, int column) const {
        return GRADIENT ? (k * TAPS + TAPS - 1 - tap) * columns + column : (column * TAPS + tap) * channels + k;
    }

    __device__ __forceinline__ void prepare(int) const {}

    __device__ __forceinline__ void multiply(int slab) {
        const unsigned char* patch = left(slab);
        PatchRows<T, LINES> rows;
#pragma unroll 1
        for (int tap = 0; tap < TAPS; ++tap) {
            int shift = tap / SIDE * shape.width + tap % SIDE + Own::row();
#pragma unroll
            for (int i = 0; i < LINES; ++i) {
                const unsigned char* line = patch + (Own::OwnSums::row_of_line(i) + shift) * Left::PITCH;
                rows.lines[i] = taps[i] >> tap & 1 ? line : zeros();
            }
            sums.template multiply<DEPTH>(rows, SlabRows<Right>{right(slab) + tap * Right::BYTES, Own::column()});
        }
    }

    __device__ __forceinline__ int result_of(int row) const { return first_row + row < count ? first_row + row : -1; }
};
