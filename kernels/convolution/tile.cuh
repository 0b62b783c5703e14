// What the tiles of all convolution products share: pixels and windows, copies of pieces, the ring of slabs, warps.
#pragma once

#include "common/async_copy.cuh"
#include "common/fragments.cuh"
#include "common/warp.cuh"

struct ConvolutionShape {
    int32_t images, height, width, from;  // x [images, height, width, from]
    int32_t out_height, out_width, to;    // y [images, out_height, out_width, to]
    int32_t kernel, stride, padding;
    int32_t adds;    // input gradient: to what dx holds, instead of replacing it
    int32_t groups;  // weight gradient: parts of the pixels of y
};

struct Pixel {
    int image, row, column;
};

__device__ __forceinline__ Pixel pixel_of(int index, int height, int width) {
    return {index / width / height, index / width % height, index % width};
}

__device__ __forceinline__ int64_t index_of(int image, int row, int column, int height, int width) {
    return (static_cast<int64_t>(image) * height + row) * width + column;
}

__device__ __forceinline__ bool is_inside(int position, int side) {
    return static_cast<unsigned>(position) < static_cast<unsigned>(side);
}

constexpr int ROWS = CONVOLUTION_ROWS, THREADS = CONVOLUTION_THREADS;
constexpr int PIECE_BYTES = 16;

__device__ __forceinline__ bool is_whole(const void* address, int64_t bytes_of_line) {
    return (reinterpret_cast<uintptr_t>(address) | static_cast<uintptr_t>(bytes_of_line)) % PIECE_BYTES == 0;
}

__device__ __forceinline__ int divided_up(int count, int unit) { return (count + unit - 1) / unit; }

// Values that are copied at a time: 16 bytes of them, or one.
template <class T, bool WHOLE>
constexpr int PIECE = WHOLE ? PIECE_BYTES / static_cast<int>(sizeof(T)) : 1;

// Starts a piece's copy; zeros where it is not `valid`, and then `global` is not read and may be any address.
template <bool WHOLE, class T>
__device__ __forceinline__ void copy_piece(unsigned char* shared, const T* global, bool valid) {
    if constexpr (WHOLE) {
        copy_16_cached(shared, global, valid ? PIECE_BYTES : 0);
    } else {
        copy_value(shared, global, valid);
    }
}

// Calls visit(line, place) for this thread's pieces of LINES lines of a slab. A thread's place is the same in all its
// lines.
template <class S, bool WHOLE, int LINES = S::LINES, class Visit>
__device__ __forceinline__ void for_pieces(const Visit& visit) {
    constexpr int WIDTH = PIECE<typename S::Value, WHOLE>, PER_LINE = S::LENGTH / WIDTH, STEP = THREADS / PER_LINE;
    int first = kept_thread() / PER_LINE, place = kept_thread() % PER_LINE * WIDTH;
    auto visit_line = [&](int line) {
        if (LINES % STEP == 0 || line < LINES) visit(line, place);
    };
    if constexpr (WHOLE) {
#pragma unroll
        for (int start = 0; start < LINES; start += STEP) visit_line(first + start);
    } else {
#pragma unroll 1
        for (int start = 0; start < LINES; start += STEP) visit_line(first + start);
    }
}

// What is copied: nothing, which means zeros, where it is not there, and then `from` may be any address.
template <class T>
struct Copied {
    const T* from;
    bool is_there;
};

// Two bytes are less than an asynchronous copy can take. So that a thread does not wait for each value, it has several under way
// before it stores any.
template <class S, class From>
__device__ __forceinline__ void copy_narrow_values(unsigned char* slab, const From& from) {
    using T = typename S::Value;
    constexpr int AT_ONCE = 8, STEP = THREADS / S::LENGTH;
    int place = kept_thread() % S::LENGTH;
    auto has = [](int line) { return S::LINES % (AT_ONCE * STEP) == 0 || line < S::LINES; };
#pragma unroll 1
    for (int start = kept_thread() / S::LENGTH; start < S::LINES; start += AT_ONCE * STEP) {
        T values[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            int line = start + i * STEP;
            Copied<T> source = has(line) ? from(line, place) : Copied<T>{};
            values[i] = source.is_there ? *source.from : T{};
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            int line = start + i * STEP;
            if (has(line)) *reinterpret_cast<T*>(S::in_line(slab, line, place)) = values[i];
        }
    }
}

// Starts the copies of a slab's lines: of what from(line, place) says.
template <class S, bool WHOLE, class From>
__device__ __forceinline__ void copy_lines(unsigned char* slab, const From& from) {
    if constexpr (WHOLE || sizeof(typename S::Value) == 4) {
        for_pieces<S, WHOLE>([&](int line, int place) {
            auto source = from(line, place);
            copy_piece<WHOLE>(S::in_line(slab, line, place), source.from, source.is_there);
        });
    } else {
        copy_narrow_values<S>(slab, from);
    }
}

// The window of the source that one row of the product is made of: its first pixel and where that lies in its image. Far
// outside where there is no such row.
struct alignas(8) Origin {
    int pixel;
    int16_t row, column;
};

constexpr int16_t NOWHERE = -32768;

// Where in the window, and in which channel.
struct Tap {
    int down, across, channel;
};

// Images [.., height, width, channels] whose windows are `taps_across` pixels wide.
template <class T>
struct Source {
    const T* values;
    int height, width, channels, taps_across;

    __device__ __forceinline__ Tap tap_of(int k) const {
        int tap = k / channels;
        return {tap / taps_across, tap % taps_across, k % channels};
    }

    // From a k to `step` k on.
    __device__ __forceinline__ void advance(Tap& tap, int step) const {
        tap.channel += step;
        while (tap.channel >= channels) {
            tap.channel -= channels;
            if (++tap.across == taps_across) {
                tap.across = 0;
                ++tap.down;
            }
        }
    }

    __device__ __forceinline__ bool has(const Origin& origin, const Tap& tap) const {
        return is_inside(origin.row + tap.down, height) && is_inside(origin.column + tap.across, width);
    }

    __device__ __forceinline__ const T* at(const Origin& origin, const Tap& tap) const {
        return values + static_cast<int64_t>(tap.down * width + tap.across) * channels + tap.channel +
               static_cast<int64_t>(origin.pixel) * channels;
    }

    __device__ __forceinline__ Origin origin(int image, int row, int column) const {
        return {static_cast<int>(index_of(image, row, column, height, width)), static_cast<int16_t>(row),
                static_cast<int16_t>(column)};
    }
};

__device__ __forceinline__ Origin nowhere() { return {0, NOWHERE, NOWHERE}; }

// How the four warps of a block share its rows and columns: in a column, or two by two.
template <class PRODUCT, int BLOCK_ROWS, int BLOCK_COLUMNS>
struct Warps {
    static constexpr int ACROSS = BLOCK_COLUMNS == 64 ? 2 : 1, DOWN = THREADS / WARP / ACROSS;
    using OwnSums = Sums<PRODUCT, BLOCK_ROWS / 16 / DOWN, BLOCK_COLUMNS / 16 / ACROSS>;

    // A warp's first.
    static __device__ __forceinline__ int row() { return kept_warp() / ACROSS * (BLOCK_ROWS / DOWN); }
    static __device__ __forceinline__ int column() { return kept_warp() % ACROSS * (BLOCK_COLUMNS / ACROSS); }
};

// Streams `slabs` slabs through a ring of Work::BUFFERS buffers, which `work` copies to and multiplies from. While one is
// being multiplied, the copies of the next are under way.
template <class Work>
__device__ __forceinline__ void stream(Work& work, int slabs) {
    constexpr int AHEAD = Work::BUFFERS - 1;
    for (int slab = 0; slab < AHEAD; ++slab) {
        if (slab < slabs) work.copy(slab);
        copies_commit();
    }
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
        // This slab has arrived, this thread's share by the wait, the others' by the barrier; and all warps are done with
        // the one before it, whose buffer is free.
        copies_wait<AHEAD - 1>();
        __syncthreads();
        if (slab + AHEAD < slabs) work.copy(slab + AHEAD);
        copies_commit();
        work.prepare(slab + Work::BUFFERS);
        // Multiplying wants the warp's lanes together.
        warp_barrier();
        work.multiply(slab);
    }
}

// A run of results, rounded; `whole`: all at once, else the first `count`.
template <class T, int RUN>
__device__ __forceinline__ void store_run(T* to, const float (&values)[RUN], int count, bool whole) {
    struct alignas(RUN * sizeof(T)) Run {
        T values[RUN];
    };
    Run run;
#pragma unroll
    for (int i = 0; i < RUN; ++i) store(&run.values[i], values[i]);
    if (whole) {
        *reinterpret_cast<Run*>(to) = run;
        return;
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (i < count) to[i] = run.values[i];
    }
}

// Calls visit(values, column, place, count, whole) for each run of a product's results that is there: `count` columns are
// left from `column` on, `place` counts from the first value of `result`, and `whole` runs may be stored at once.
template <class Product, class T, class Visit>
__device__ __forceinline__ void for_results(Product& product, const T* result, const Visit& visit) {
    using Own = typename Product::Own;
    constexpr int RUN = Own::OwnSums::RUN;
    int columns = product.columns;
    bool whole = columns % RUN == 0 && reinterpret_cast<uintptr_t>(result) % (RUN * sizeof(T)) == 0;
    product.sums.template for_runs<false>([&](int row, int column, float(&values)[RUN]) {
        int pixel = product.result_of(Own::row() + row), first = product.first_column + Own::column() + column;
        if (pixel < 0 || first >= columns) return;
        visit(values, first, static_cast<int64_t>(pixel) * columns + first, columns - first, whole);
    });
}
