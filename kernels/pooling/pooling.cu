// Pooling of images [n, h, w, c], NHWC:
//   average  y[n, c] = mean over the pixels of x[n, :, :, c];  dx[n, i, j, c] = dy[n, c] / pixels
//   max      the largest of 3 x 3 pixels, stride 2, padding 1 that counts for nothing (He et al. 2016, table 1); NaN
//            where there is one; backward, the gradient goes to the first of a window's largest values, row by row
//   squares  the largest of 2 x 2 pixels, stride 2, of those that there are where a side is odd; NaN where there is one
// crates/gramscope-nn/src/ops/pooling.rs and max_pooling.rs are the models, of squares that of linear probes
// (crates/gramscope-study/src/probe/pooling.rs); in float32 forward passes and that of max backward agree with them to the
// last bit.
//
// Stored (float32 or bfloat16): x, dx [n, h, w, c]; y, dy of max and squares [n, ceil(h / 2), ceil(w / 2), c].
// float32: pooled, dpooled [n, c].
// Grid, block: plan::average_pool (a thread a result), plan::values for the others (a thread a result each).
// x and dx have fewer than 2^31 values: division of 64 bits would be a call.
// Deterministic: yes; backward, a pixel asks the windows that it lies in, so that nothing is added atomically.
// Accumulates: float32, pixels in order; rounded once.
//
// Variants  none: one simple loop a thread is its own naive twin
#include "common/run.cuh"

struct PoolingShape {
    int32_t images;
    int32_t height;
    int32_t width;
    int32_t channels;
};

__device__ __forceinline__ unsigned index_of_thread() { return static_cast<unsigned>(thread_of_grid()); }

// --- average ---------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void average(float* pooled, const T* x, const PoolingShape& shape) {
    unsigned result = blockIdx.x * POOLING_THREADS + thread_of_block(), channels = shape.channels;
    if (result >= shape.images * channels) return;
    int pixels = shape.height * shape.width;
    const T* own = x + result / channels * pixels * channels + result % channels;
    float sum = 0.0f;
#pragma unroll 16
    for (int pixel = 0; pixel < pixels; ++pixel) sum += to_float(own[pixel * channels]);
    pooled[result] = __fdiv_rn(sum, static_cast<float>(pixels));
}

template <class T>
__device__ __forceinline__ void average_backward(T* dx, const float* dpooled, const PoolingShape& shape) {
    unsigned pixels = shape.height * shape.width, channels = shape.channels, index = index_of_thread();
    if (index >= shape.images * pixels * channels) return;
    float gradient = dpooled[index / (pixels * channels) * channels + index % channels];
    store(&dx[index], __fdiv_rn(gradient, static_cast<float>(pixels)));
}

extern "C" __global__ void __launch_bounds__(POOLING_THREADS)
    gs_pooling_average_f32(float* pooled, const float* x, PoolingShape shape) {
    average(pooled, x, shape);
}

extern "C" __global__ void __launch_bounds__(POOLING_THREADS)
    gs_pooling_average_bf16(float* pooled, const BF16* x, PoolingShape shape) {
    average(pooled, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_average_backward_f32(float* dx, const float* dpooled, PoolingShape shape) {
    average_backward(dx, dpooled, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_average_backward_bf16(BF16* dx, const float* dpooled, PoolingShape shape) {
    average_backward(dx, dpooled, shape);
}

// --- max and squares -------------------------------------------------------------------------------------------------

constexpr int WINDOW_STRIDE = 2;

// Rows (or columns) [first, last) of the images, or of their windows.
struct Range {
    int first, last;
};

// The rows of window `index`, of `length` that there are: two, and `BEFORE` in front of them.
template <int BEFORE = 1>
__device__ __forceinline__ Range rows_of_window(int index, int length) {
    int first = index * WINDOW_STRIDE - BEFORE, last = index * WINDOW_STRIDE + 2;
    return {first > 0 ? first : 0, last < length ? last : length};
}

// The windows that row `index` lies in, of `windows` that there are.
__device__ __forceinline__ Range windows_of_row(int index, int windows) {
    int last = (index + 1) / WINDOW_STRIDE + 1;
    return {index / WINDOW_STRIDE, last < windows ? last : windows};
}

__device__ __forceinline__ int windows_along(int length) { return (length + WINDOW_STRIDE - 1) / WINDOW_STRIDE; }

// Where a value lies in images of `height` by `width`.
struct Position {
    unsigned image;
    int row, column;
    unsigned channel;
};

__device__ __forceinline__ Position position_of(unsigned index, unsigned height, unsigned width, unsigned channels) {
    unsigned pixel = index / channels, line = pixel / width;
    return {line / height, static_cast<int>(line % height), static_cast<int>(pixel % width), index % channels};
}

// One channel of one image.
template <class T>
struct Plane {
    const T* values;
    const PoolingShape& shape;

    __device__ __forceinline__ Plane(const T* x, const Position& own, const PoolingShape& shape)
        : values(x + own.image * shape.height * shape.width * shape.channels + own.channel), shape(shape) {}

    __device__ __forceinline__ float at(int row, int column) const {
        return to_float(values[(row * shape.width + column) * shape.channels]);
    }
};

template <int BEFORE, class T>
__device__ __forceinline__ void max_forward(T* y, const T* x, const PoolingShape& shape) {
    int height = windows_along(shape.height), width = windows_along(shape.width);
    unsigned index = index_of_thread();
    if (index >= static_cast<unsigned>(shape.images * height * width * shape.channels)) return;
    Position own = position_of(index, height, width, shape.channels);
    Plane<T> plane(x, own, shape);
    Range rows = rows_of_window<BEFORE>(own.row, shape.height);
    Range columns = rows_of_window<BEFORE>(own.column, shape.width);
    float largest = __uint_as_float(0xFF800000u);
    for (int row = rows.first; row < rows.last; ++row) {
        for (int column = columns.first; column < columns.last; ++column) {
            float value = plane.at(row, column);
            if (value > largest || value != value) largest = value;
        }
    }
    store(&y[index], largest);
}

// Whether a pixel is the first of its window's largest values.
template <class T>
__device__ __forceinline__ bool is_first(const Plane<T>& plane, float largest, const Position& own, const Range& rows,
                                         const Range& columns) {
    if (plane.at(own.row, own.column) != largest) return false;
    for (int row = rows.first; row <= own.row; ++row) {
        int last = row == own.row ? own.column : columns.last;
        for (int column = columns.first; column < last; ++column) {
            if (plane.at(row, column) == largest) return false;
        }
    }
    return true;
}

template <class T>
__device__ __forceinline__ void max_backward(T* dx, const T* x, const T* y, const T* dy, const PoolingShape& shape) {
    unsigned index = index_of_thread();
    if (index >= static_cast<unsigned>(shape.images * shape.height * shape.width * shape.channels)) return;
    Position own = position_of(index, shape.height, shape.width, shape.channels);
    int height = windows_along(shape.height), width = windows_along(shape.width);
    Range windows = windows_of_row(own.row, height), across = windows_of_row(own.column, width);
    Plane<T> plane(x, own, shape);
    float sum = 0.0f;
    for (int i = windows.first; i < windows.last; ++i) {
        for (int j = across.first; j < across.last; ++j) {
            unsigned window = ((own.image * height + i) * width + j) * shape.channels + own.channel;
            Range rows = rows_of_window(i, shape.height), columns = rows_of_window(j, shape.width);
            if (is_first(plane, to_float(y[window]), own, rows, columns)) sum += to_float(dy[window]);
        }
    }
    store(&dx[index], sum);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_max_f32(float* y, const float* x, PoolingShape shape) {
    max_forward<1>(y, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_max_bf16(BF16* y, const BF16* x, PoolingShape shape) {
    max_forward<1>(y, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_max_backward_f32(float* dx, const float* x, const float* y, const float* dy, PoolingShape shape) {
    max_backward(dx, x, y, dy, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_max_backward_bf16(BF16* dx, const BF16* x, const BF16* y, const BF16* dy, PoolingShape shape) {
    max_backward(dx, x, y, dy, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_squares_f32(float* y, const float* x, PoolingShape shape) {
    max_forward<0>(y, x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_pooling_squares_bf16(BF16* y, const BF16* x, PoolingShape shape) {
    max_forward<0>(y, x, shape);
}
