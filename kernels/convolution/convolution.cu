// Convolutions of images as neural networks have them (cross-correlations), and their gradients:
//   y[n, i, j, o] = b[o] + sum over u, v, c of x[n, i s + u - p, j s + v - p, c] w[o, u, v, c], x 0 outside the image,
//   dx[n, h, w, c] = sum over o, u, v with h + p - u = i s, w + p - v = j s of dy[n, i, j, o] w[o, u, v, c],
//   dw[o, u, v, c] = sum over n, i, j of dy[n, i, j, o] x[n, i s + u - p, j s + v - p, c], db[o] = sum of dy[n, i, j, o],
// stride s, padding p. A linear layer is the convolution of images of one pixel.
// Source: gramscope-reference's convolution is the definition, gramscope-nn's CPU operation the model.
// For: float32 where it is wanted as such (no library promises it on the ordinary units), few channels, machines without
// cuDNN, and as what cuDNN's results are held against.
//
// x, dx        [images, height, width, from]          float32 or bfloat16, NHWC
// y, dy        [images, out_height, out_width, to]    the same
// weight, dw   [to, kernel, kernel, from]             float32
// bias, db     [to]                                   float32
// partials     [groups, to, kernel, kernel, from] and [groups, to] float32: dw and db of a part of y's pixels each
// Any alignment; bases and channels in multiples of 16 bytes are faster.
// Grid, block, shared bytes, groups: gramscope-cuda's plan::convolution. The groups follow from the shape alone.
// Deterministic: yes, and the same bits on every GPU with the same units: no atomics, and nothing depends on the device.
// Accumulates: naive float64. f32: one chain of float32 multiply-adds a result. tf32, bf16: the tensor cores' float32,
// which truncates: each step of eight products cuts up to 11 2^-24 of what the magnitudes of its terms add up to, always
// towards zero. At 5,760 terms (720 steps) that is at most 4.7e-4, and a quarter of it where all products are positive;
// rounding both factors to TF32 costs up to 9.8e-4, bfloat16's weights 3.9e-3. Sums of weight gradients are short
// (groups), groups are added in float64, biases' gradients in float32 from what is stored.
//
// Variants  naive    a thread a value: the reference on the device
//           tile16, tile32, tile64   128 rows by 16, 32 or 64 columns of a product of matrices that are never formed
//                    (implicit GEMM). Rows are pixels, columns outputs, k = (u, v, c); input gradient: pixels of x that
//                    the same taps reach (stride^2 phases), inputs, (u, v, o); weight gradient: (u, v, c), outputs,
//                    pixels of a group
//           f32      products on the ordinary units; tf32, bf16: on the tensor cores
//           reduce   partials to dw and db
#include "common/async_copy.cuh"
#include "common/fragments.cuh"
#include "common/part.cuh"

struct ConvolutionShape {
    int32_t images, height, width, from;  // x [images, height, width, from]
    int32_t out_height, out_width, to;    // y [images, out_height, out_width, to]
    int32_t kernel, stride, padding;
    int32_t adds;    // input gradient: to what dx holds, instead of replacing it
    int32_t groups;  // weight gradient: parts of the pixels of y
};

// --- naive -----------------------------------------------------------------------------------------------------------

struct Pixel {
    int image, row, column;
};

__device__ __forceinline__ Pixel pixel_of(int64_t index, int height, int width) {
    int column = static_cast<int>(index % width);
    index /= width;
    return {static_cast<int>(index / height), static_cast<int>(index % height), column};
}

__device__ __forceinline__ int64_t index_of(int image, int row, int column, int height, int width) {
    return (static_cast<int64_t>(image) * height + row) * width + column;
}

__device__ __forceinline__ bool is_inside(int position, int side) { return position >= 0 && position < side; }

// This thread's entry of an output with one thread an entry.
__device__ __forceinline__ int64_t own_entry() {
    return static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
}

template <class T>
__device__ void forward_naive(T* y, const T* x, const float* weight, const float* bias, const ConvolutionShape& shape) {
    int64_t index = own_entry(), pixels = static_cast<int64_t>(shape.images) * shape.out_height * shape.out_width;
    if (index >= pixels * shape.to) return;
    int o = static_cast<int>(index % shape.to);
    Pixel pixel = pixel_of(index / shape.to, shape.out_height, shape.out_width);
    const float* w = weight + static_cast<int64_t>(o) * shape.kernel * shape.kernel * shape.from;
    double sum = bias[o];
    for (int u = 0; u < shape.kernel; ++u) {
        for (int v = 0; v < shape.kernel; ++v, w += shape.from) {
            int row = pixel.row * shape.stride + u - shape.padding;
            int column = pixel.column * shape.stride + v - shape.padding;
            if (!is_inside(row, shape.height) || !is_inside(column, shape.width)) continue;
            const T* values = x + index_of(pixel.image, row, column, shape.height, shape.width) * shape.from;
            for (int c = 0; c < shape.from; ++c) sum += static_cast<double>(to_float(values[c])) * w[c];
        }
    }
    store(y + index, static_cast<float>(sum));
}

template <class T>
__device__ void input_gradient_naive(T* dx, const T* dy, const float* weight, const ConvolutionShape& shape) {
    int64_t index = own_entry(), pixels = static_cast<int64_t>(shape.images) * shape.height * shape.width;
    if (index >= pixels * shape.from) return;
    int c = static_cast<int>(index % shape.from);
    Pixel pixel = pixel_of(index / shape.from, shape.height, shape.width);
    double sum = shape.adds ? to_float(dx[index]) : 0.0f;
    for (int u = 0; u < shape.kernel; ++u) {
        for (int v = 0; v < shape.kernel; ++v) {
            int down = pixel.row + shape.padding - u, across = pixel.column + shape.padding - v;
            int row = down / shape.stride, column = across / shape.stride;
            if (down < 0 || across < 0 || row * shape.stride != down || column * shape.stride != across) continue;
            if (!is_inside(row, shape.out_height) || !is_inside(column, shape.out_width)) continue;
            const T* values = dy + index_of(pixel.image, row, column, shape.out_height, shape.out_width) * shape.to;
            for (int o = 0; o < shape.to; ++o) {
                int64_t place = index_of(o, u, v, shape.kernel, shape.kernel) * shape.from + c;
                sum += static_cast<double>(to_float(values[o])) * weight[place];
            }
        }
    }
    store(dx + index, static_cast<float>(sum));
}

// The weights' gradients, and then the biases': as if each had one more input, which is 1.
template <class T>
__device__ void weight_gradient_naive(float* dweight, float* dbias, const T* x, const T* dy,
                                      const ConvolutionShape& shape) {
    int64_t index = own_entry(), weights = static_cast<int64_t>(shape.to) * shape.kernel * shape.kernel * shape.from;
    if (index >= weights + shape.to) return;
    bool is_weight = index < weights;
    int c = static_cast<int>(index % shape.from);
    Pixel place = pixel_of(index / shape.from, shape.kernel, shape.kernel);
    int o = is_weight ? place.image : static_cast<int>(index - weights);
    int64_t pixels = static_cast<int64_t>(shape.images) * shape.out_height * shape.out_width;
    double sum = 0.0;
    for (int64_t i = 0; i < pixels; ++i) {
        double factor = 1.0;
        if (is_weight) {
            Pixel pixel = pixel_of(i, shape.out_height, shape.out_width);
            int row = pixel.row * shape.stride + place.row - shape.padding;
            int column = pixel.column * shape.stride + place.column - shape.padding;
            if (!is_inside(row, shape.height) || !is_inside(column, shape.width)) continue;
            factor = to_float(x[index_of(pixel.image, row, column, shape.height, shape.width) * shape.from + c]);
        }
        sum += to_float(dy[i * shape.to + o]) * factor;
    }
    *(is_weight ? dweight + index : dbias + o) = static_cast<float>(sum);
}

// --- tiles -----------------------------------------------------------------------------------------------------------

constexpr int ROWS = CONVOLUTION_ROWS, THREADS = CONVOLUTION_THREADS, BUFFERS = CONVOLUTION_BUFFERS;
constexpr int PIECE_BYTES = 16;

__device__ __forceinline__ bool is_whole(const void* address, int64_t bytes_of_line) {
    return (reinterpret_cast<uintptr_t>(address) | static_cast<uintptr_t>(bytes_of_line)) % PIECE_BYTES == 0;
}

__device__ __forceinline__ int divided_up(int count, int unit) { return (count + unit - 1) / unit; }

// Values that are copied at a time: 16 bytes of them, or one.
template <class T, bool WHOLE>
constexpr int PIECE = WHOLE ? PIECE_BYTES / static_cast<int>(sizeof(T)) : 1;

// Starts a piece's copy; zeros where it is not `valid`, and then `global` is not read.
template <bool WHOLE, class T>
__device__ __forceinline__ void copy_piece(unsigned char* shared, const T* global, bool valid) {
    if constexpr (WHOLE) {
        copy_16_cached(shared, global, valid ? PIECE_BYTES : 0);
    } else {
        copy_value(shared, global, valid);
    }
}

// Calls visit(line, place) for this thread's pieces of a slab. A thread's place is the same in all its lines.
template <class S, bool WHOLE, class Visit>
__device__ __forceinline__ void for_pieces(const Visit& visit) {
    constexpr int WIDTH = PIECE<typename S::Value, WHOLE>, PER_LINE = S::LENGTH / WIDTH;
    int place = thread_of_block() % PER_LINE * WIDTH;
#pragma unroll
    for (int line = thread_of_block() / PER_LINE; line < S::LINES; line += THREADS / PER_LINE) visit(line, place);
}

// The window of the source that one row of the product is made of: its first pixel and where that lies in its image. Far
// outside where there is no such row.
struct Origin {
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

    __device__ __forceinline__ bool has(const Origin& origin, const Tap& tap) const {
        return is_inside(origin.row + tap.down, height) && is_inside(origin.column + tap.across, width);
    }

    __device__ __forceinline__ const T* at(const Origin& origin, const Tap& tap) const {
        int pixel = origin.pixel + tap.down * width + tap.across;
        return values + static_cast<int64_t>(pixel) * channels + tap.channel;
    }

    __device__ __forceinline__ Origin origin(int image, int row, int column) const {
        return {static_cast<int>(index_of(image, row, column, height, width)), static_cast<int16_t>(row),
                static_cast<int16_t>(column)};
    }
};

__device__ __forceinline__ Origin nowhere() { return {0, NOWHERE, NOWHERE}; }

// What blocks of all three products have in common: four warps, in a column or two by two.
template <class PRODUCT, int COLUMNS>
struct Warps {
    static constexpr int COUNT = THREADS / WARP, ACROSS = COLUMNS == 64 ? 2 : 1, DOWN = COUNT / ACROSS;
    using OwnSums = Sums<PRODUCT, ROWS / 16 / DOWN, COLUMNS / 16 / ACROSS>;

    static __device__ __forceinline__ int row() { return warp_of_block() / ACROSS * (ROWS / DOWN); }
    static __device__ __forceinline__ int column() { return warp_of_block() % ACROSS * (COLUMNS / ACROSS); }
};

// Streams `slabs` slabs through a ring of BUFFERS buffers, which `work` copies to and multiplies from. While one is being
// multiplied, the copies of the next are under way.
template <class Work>
__device__ __forceinline__ void stream(Work& work, int slabs) {
    for (int slab = 0; slab < BUFFERS - 1; ++slab) {
        if (slab < slabs) work.copy(slab);
        copies_commit();
    }
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
        // This slab has arrived, this thread's share by the wait, the others' by the barrier; and all warps are done with
        // the one before it, whose buffer is free.
        copies_wait<BUFFERS - 2>();
        __syncthreads();
        if (slab + BUFFERS - 1 < slabs) work.copy(slab + BUFFERS - 1);
        copies_commit();
        work.prepare(slab + BUFFERS);
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

// --- products whose rows are pixels: forward and input gradient --------------------------------------------------------

// GRADIENT: of the input. Block x is a tile (columns fastest, so that those that read the same pixels run together), z a
// phase: pixels of x whose rows and columns leave the same remainders to the stride are reached by the same taps.
template <class PRODUCT, int COLUMNS, bool GRADIENT>
struct PixelProduct {
    using T = typename PRODUCT::Value;
    using Left = Slab<T, T, true, ROWS, PRODUCT::DEPTH>;
    using Right = Slab<float, T, !GRADIENT, COLUMNS, PRODUCT::DEPTH>;
    using Own = Warps<PRODUCT, COLUMNS>;
    static constexpr int BYTES = Left::BYTES + Right::BYTES;

    // Of each row of the tile: its window, and the pixel of the result, -1 where there is none.
    struct Row {
        Origin origin;
        int pixel;
    };

    ConvolutionShape shape;
    Source<T> source;
    const float* weight;
    int depth, columns;              // k, and columns of the whole product
    int first_column;                // of this tile
    int last_down, last_across;      // GRADIENT: the last taps of this phase
    bool source_whole, weight_whole;
    typename Own::OwnSums sums;

    __device__ __forceinline__ Row* rows() const {
        return reinterpret_cast<Row*>(shared_memory() + BUFFERS * BYTES);
    }

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
        source_whole = is_whole(values, static_cast<int64_t>(source.channels) * static_cast<int64_t>(sizeof(T)));
        weight_whole = is_whole(weights, line * static_cast<int64_t>(sizeof(float)));
        // The table of rows is complete.
        __syncthreads();
        return any;
    }

    __device__ __forceinline__ bool place_forward(const T* values, int first_row) {
        source = {values, shape.height, shape.width, shape.from, shape.kernel};
        depth = shape.kernel * shape.kernel * shape.from;
        int count = shape.images * shape.out_height * shape.out_width;
        for (int index = thread_of_block(); index < ROWS; index += THREADS) {
            int row = first_row + index;
            Pixel pixel = pixel_of(row, shape.out_height, shape.out_width);
            Origin origin = source.origin(pixel.image, pixel.row * shape.stride - shape.padding,
                                          pixel.column * shape.stride - shape.padding);
            rows()[index] = row < count ? Row{origin, row} : Row{nowhere(), -1};
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
        for (int index = thread_of_block(); index < ROWS; index += THREADS) {
            int row = first_row + index;
            if (row >= count) {
                rows()[index] = {nowhere(), -1};
                continue;
            }
            Pixel pixel = pixel_of(row, height, width);
            int down = first_down + pixel.row * s, across = first_across + pixel.column * s;
            // Windows run down dy as taps run up: the window's first pixel goes with the last tap.
            Origin origin = source.origin(pixel.image, (down + shape.padding - last_down) / s,
                                          (across + shape.padding - last_across) / s);
            int target = static_cast<int>(index_of(pixel.image, down, across, shape.height, shape.width));
            rows()[index] = {origin, target};
        }
        // Where no tap reaches, there is nothing to add.
        return first_row < count && (depth > 0 || !shape.adds);
    }

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
        constexpr int WIDTH = PIECE<T, WHOLE>;
        // A thread's place in a line, and so its k, is the same in all lines.
        int k = slab * PRODUCT::DEPTH + thread_of_block() % (Left::LENGTH / WIDTH) * WIDTH;
        Tap tap = source.tap_of(k);
        const Row* table = rows();
        for_pieces<Left, WHOLE>([&](int line, int place) {
            Origin origin = table[line].origin;
            bool valid = k < depth && source.has(origin, tap);
            const T* from = valid ? source.at(origin, tap) : source.values;
            copy_piece<WHOLE>(Left::in_line(left(slab), line, place), from, valid);
        });
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_right(int slab) const {
        for_pieces<Right, WHOLE>([&](int line, int place) {
            int k = slab * PRODUCT::DEPTH + (GRADIENT ? line : place);
            int column = first_column + (GRADIENT ? place : line);
            bool valid = k < depth && column < columns;
            const float* from = valid ? weight + weight_at(k, column) : weight;
            copy_piece<WHOLE>(Right::in_line(right(slab), line, place), from, valid);
        });
    }

    __device__ __forceinline__ int64_t weight_at(int k, int column) const {
        if (!GRADIENT) return static_cast<int64_t>(column) * depth + k;
        Tap tap = source.tap_of(k);
        int u = last_down - tap.down * shape.stride, v = last_across - tap.across * shape.stride;
        return index_of(tap.channel, u, v, shape.kernel, shape.kernel) * shape.from + column;
    }

    __device__ __forceinline__ void prepare(int) const {}

    __device__ __forceinline__ void multiply(int slab) {
        if (first_column + Own::column() >= columns) return;
        sums.template multiply<Left, Right>(left(slab), Own::row(), right(slab), Own::column());
    }

    // Calls visit(values, place, count, whole) for each run of results that is there; place counts from the result's first
    // value.
    template <class Visit>
    __device__ __forceinline__ void for_results(const T* result, const Visit& visit) {
        constexpr int RUN = Own::OwnSums::RUN;
        bool whole = columns % RUN == 0 && reinterpret_cast<uintptr_t>(result) % (RUN * sizeof(T)) == 0;
        const Row* table = rows();
        sums.template for_runs<Left>([&](int row, int column, float(&values)[RUN]) {
            int pixel = table[Own::row() + row].pixel, first = first_column + Own::column() + column;
            if (pixel < 0 || first >= columns) return;
            visit(values, first, static_cast<int64_t>(pixel) * columns + first, columns - first, whole);
        });
    }
};

template <class PRODUCT, int COLUMNS, class T>
__device__ void forward(T* y, const T* x, const float* weight, const float* bias, const ConvolutionShape& shape) {
    using Product = PixelProduct<PRODUCT, COLUMNS, false>;
    Product product;
    if (!product.place(x, weight, shape)) return;
    stream(product, divided_up(product.depth, PRODUCT::DEPTH));
    constexpr int RUN = Product::Own::OwnSums::RUN;
    product.for_results(y, [&](float(&values)[RUN], int column, int64_t place, int count, bool whole) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            if (i < count) values[i] += bias[column + i];
        }
        store_run(y + place, values, count, whole);
    });
}

template <class PRODUCT, int COLUMNS, class T>
__device__ void input_gradient(T* dx, const T* dy, const float* weight, const ConvolutionShape& shape) {
    using Product = PixelProduct<PRODUCT, COLUMNS, true>;
    Product product;
    if (!product.place(dy, weight, shape)) return;
    stream(product, divided_up(product.depth, PRODUCT::DEPTH));
    constexpr int RUN = Product::Own::OwnSums::RUN;
    product.for_results(dx, [&](float(&values)[RUN], int, int64_t place, int count, bool whole) {
        if (shape.adds) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (i < count) values[i] += to_float(dx[place + i]);
            }
        }
        store_run(dx + place, values, count, whole);
    });
}

// --- the product whose rows are weights --------------------------------------------------------------------------------

// Block x is a tile (columns, which are outputs, fastest), z a group of pixels.
template <class PRODUCT, int COLUMNS>
struct WeightProduct {
    using T = typename PRODUCT::Value;
    using Left = Slab<T, T, false, ROWS, PRODUCT::DEPTH>;
    using Right = Slab<T, T, false, COLUMNS, PRODUCT::DEPTH>;
    using Own = Warps<PRODUCT, COLUMNS>;
    static constexpr int BYTES = Left::BYTES + Right::BYTES;
    static constexpr int DEPTH = PRODUCT::DEPTH, PARTS = THREADS / COLUMNS;  // of a column's bias

    ConvolutionShape shape;
    Source<T> source;
    const T* dy;
    int rows, first_row, first_column;
    Part pixels;
    bool source_whole, dy_whole;
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
        for (int slab = 0; slab < BUFFERS; ++slab) prepare(slab);
        __syncthreads();
    }

    // Finds the windows of a slab, a turn before it is copied.
    __device__ __forceinline__ void prepare(int slab) const {
        int index = thread_of_block();
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
        int row = first_row + thread_of_block() % (Left::LENGTH / WIDTH) * WIDTH;
        Tap tap = source.tap_of(row);
        const Origin* table = origins(slab);
        for_pieces<Left, WHOLE>([&](int line, int place) {
            Origin origin = table[line];
            bool valid = row < rows && source.has(origin, tap);
            const T* from = valid ? source.at(origin, tap) : source.values;
            copy_piece<WHOLE>(Left::in_line(left(slab), line, place), from, valid);
        });
    }

    template <bool WHOLE>
    __device__ __forceinline__ void copy_right(int slab) const {
        for_pieces<Right, WHOLE>([&](int line, int place) {
            int pixel = pixels.first + slab * DEPTH + line, column = first_column + place;
            bool valid = pixel < pixels.last && column < shape.to;
            const T* from = valid ? dy + static_cast<int64_t>(pixel) * shape.to + column : dy;
            copy_piece<WHOLE>(Right::in_line(right(slab), line, place), from, valid);
        });
    }

    __device__ __forceinline__ void multiply(int slab) {
        if (first_row == 0) add_biases(slab);
        if (first_row + Own::row() >= rows || first_column + Own::column() >= shape.to) return;
        sums.template multiply<Left, Right>(left(slab), Own::row(), right(slab), Own::column());
    }

    // A column's bias gradient is the sum of its dy; PARTS threads share a column.
    __device__ __forceinline__ void add_biases(int slab) {
        int column = thread_of_block() % COLUMNS;
#pragma unroll
        for (int line = thread_of_block() / COLUMNS; line < DEPTH; line += PARTS) {
            bias += to_float(*Right::at(right(slab), column, line));
        }
    }

    __device__ __forceinline__ void store_biases(float* dbias) const {
        float* shares = reinterpret_cast<float*>(shared_memory());
        // The last slab has been read.
        __syncthreads();
        shares[thread_of_block()] = bias;
        __syncthreads();
        int column = thread_of_block();
        if (column >= COLUMNS || first_column + column >= shape.to) return;
        float sum = shares[column];
        for (int part = 1; part < PARTS; ++part) sum += shares[part * COLUMNS + column];
        dbias[first_column + column] = sum;
    }

    __device__ __forceinline__ void store_weights(float* dweight) {
        constexpr int RUN = Own::OwnSums::RUN;
        sums.template for_runs<Left>([&](int row, int column, float(&values)[RUN]) {
            int own = first_row + Own::row() + row, first = first_column + Own::column() + column;
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (own < rows && first + i < shape.to) dweight[static_cast<int64_t>(first + i) * rows + own] = values[i];
            }
        });
    }
};

// dweight and dbias: those of the first group, the others' behind them.
template <class PRODUCT, int COLUMNS, class T>
__device__ void weight_gradient(float* dweight, float* dbias, const T* x, const T* dy, const ConvolutionShape& shape) {
    WeightProduct<PRODUCT, COLUMNS> product;
    product.place(x, dy, shape);
    stream(product, product.slabs());
    int64_t group = blockIdx.z;
    product.store_weights(dweight + group * shape.to * product.rows);
    if (product.first_row == 0) product.store_biases(dbias + group * shape.to);
}

// The sum of the groups' values, in an order of its own: PARTS threads a value, each a part of the groups.
__device__ __forceinline__ void reduce(float* dweight, float* dbias, const float* partial_weights,
                                       const float* partial_biases, const ConvolutionShape& shape) {
    constexpr int VALUES = CONVOLUTION_REDUCE_VALUES, PARTS = CONVOLUTION_REDUCE_PARTS;
    auto* shares = reinterpret_cast<double (*)[VALUES]>(shared_memory());
    int64_t weights = static_cast<int64_t>(shape.to) * shape.kernel * shape.kernel * shape.from;
    int own = thread_of_block() % VALUES, part = thread_of_block() / VALUES;
    int64_t index = static_cast<int64_t>(blockIdx.x) * VALUES + own;
    bool is_weight = index < weights, is_there = index < weights + shape.to;
    const float* partials = is_weight ? partial_weights + index : partial_biases + (index - weights);
    int64_t stride = is_weight ? weights : shape.to;
    Part groups = part_of(shape.groups, part, PARTS);
    double sum = 0.0;
    if (is_there) {
#pragma unroll 8
        for (int group = groups.first; group < groups.last; ++group) sum += partials[group * stride];
    }
    shares[part][own] = sum;
    __syncthreads();
    if (part > 0 || !is_there) return;
    for (int other = 1; other < PARTS; ++other) sum += shares[other][own];
    *(is_weight ? dweight + index : dbias + (index - weights)) = static_cast<float>(sum);
}

// --- entries ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_forward_naive_f32(float* y, const float* x, const float* weight, const float* bias,
                                     ConvolutionShape shape) {
    forward_naive(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_forward_naive_bf16(BF16* y, const BF16* x, const float* weight, const float* bias,
                                      ConvolutionShape shape) {
    forward_naive(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_input_gradient_naive_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient_naive(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_input_gradient_naive_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient_naive(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_weight_gradient_naive_f32(float* dweight, float* dbias, const float* x, const float* dy,
                                             ConvolutionShape shape) {
    weight_gradient_naive(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_weight_gradient_naive_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy,
                                              ConvolutionShape shape) {
    weight_gradient_naive(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile16_f32(float* y, const float* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Float32, 16>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile32_f32(float* y, const float* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Float32, 32>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile64_f32(float* y, const float* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Float32, 64>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile16_tf32(float* y, const float* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Tf32, 16>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile32_tf32(float* y, const float* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Tf32, 32>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile64_tf32(float* y, const float* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Tf32, 64>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile16_bf16(BF16* y, const BF16* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Bf16, 16>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile32_bf16(BF16* y, const BF16* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Bf16, 32>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_forward_tile64_bf16(BF16* y, const BF16* x, const float* weight, const float* bias, ConvolutionShape shape) {
    forward<Bf16, 64>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile16_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Float32, 16>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile32_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Float32, 32>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile64_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Float32, 64>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile16_tf32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Tf32, 16>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile32_tf32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Tf32, 32>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile64_tf32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Tf32, 64>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile16_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Bf16, 16>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile32_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Bf16, 32>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_input_gradient_tile64_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<Bf16, 64>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile16_f32(float* dweight, float* dbias, const float* x, const float* dy, ConvolutionShape shape) {
    weight_gradient<Float32, 16>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile32_f32(float* dweight, float* dbias, const float* x, const float* dy, ConvolutionShape shape) {
    weight_gradient<Float32, 32>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile64_f32(float* dweight, float* dbias, const float* x, const float* dy, ConvolutionShape shape) {
    weight_gradient<Float32, 64>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile16_tf32(float* dweight, float* dbias, const float* x, const float* dy, ConvolutionShape shape) {
    weight_gradient<Tf32, 16>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile32_tf32(float* dweight, float* dbias, const float* x, const float* dy, ConvolutionShape shape) {
    weight_gradient<Tf32, 32>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile64_tf32(float* dweight, float* dbias, const float* x, const float* dy, ConvolutionShape shape) {
    weight_gradient<Tf32, 64>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile16_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy, ConvolutionShape shape) {
    weight_gradient<Bf16, 16>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile32_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy, ConvolutionShape shape) {
    weight_gradient<Bf16, 32>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS)
    gs_convolution_weight_gradient_tile64_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy, ConvolutionShape shape) {
    weight_gradient<Bf16, 64>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_REDUCE_VALUES * CONVOLUTION_REDUCE_PARTS)
    gs_convolution_reduce(float* dweight, float* dbias, const float* partial_weights, const float* partial_biases, ConvolutionShape shape) {
    reduce(dweight, dbias, partial_weights, partial_biases, shape);
}
