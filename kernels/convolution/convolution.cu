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
// which truncates, always towards zero: each step of eight products (bf16) cuts up to 11 2^-24 of what the magnitudes of
// its terms add up to, each of four (tf32 on sm_80, sm_86 and sm_89; sm_90 takes eight) up to 7 2^-24. At 5,760 terms
// (720 and 1,440 steps) that is at most 4.7e-4 and 6.0e-4, and a quarter of it where all products are positive; rounding
// both factors to TF32 costs up to 9.8e-4, bfloat16's weights 3.9e-3. Sums of weight gradients are short (groups),
// groups are added in float64, biases' gradients in float32 from what is stored.
//
// Variants  naive    a thread a value: the reference on the device
//           tile16, tile32, tile64   128 rows by 16, 32 or 64 columns of a product of matrices that are never formed
//                    (implicit GEMM). Rows are pixels, columns outputs, k = (u, v, c); input gradient: pixels of x that
//                    the same taps reach (stride^2 phases), inputs, (u, v, o); weight gradient: (u, v, c), outputs,
//                    pixels of a group
//           patch16, patch32   256 by 16 or 128 by 32, for kernels of 3 x 3 with stride 1, padding 1, images up to 64 wide and
//                    summed channels in multiples of 16; forward and input gradient
//           f32      products on the ordinary units; tf32, bf16: on the tensor cores
//           reduce   partials to dw and db
//           bias_gradient   db alone, or its partials: for weight gradients that a library computes. A thread sums one channel of
//                    every so many pixels of its group, in float64
#include "common/part.cuh"
#include "convolution/patch_product.cuh"
#include "convolution/pixel_product.cuh"
#include "convolution/weight_product.cuh"

// --- naive -----------------------------------------------------------------------------------------------------------

// This thread's entry of an output with one thread an entry.
__device__ __forceinline__ int64_t own_entry() {
    return static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
}

template <class T>
__device__ void forward_naive(T* y, const T* x, const float* weight, const float* bias, const ConvolutionShape& shape) {
    int64_t index = own_entry(), pixels = static_cast<int64_t>(shape.images) * shape.out_height * shape.out_width;
    if (index >= pixels * shape.to) return;
    int o = static_cast<int>(index % shape.to);
    Pixel pixel = pixel_of(static_cast<int>(index / shape.to), shape.out_height, shape.out_width);
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
    Pixel pixel = pixel_of(static_cast<int>(index / shape.from), shape.height, shape.width);
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
    Pixel place = pixel_of(static_cast<int>(index / shape.from), shape.kernel, shape.kernel);
    int o = is_weight ? place.image : static_cast<int>(index - weights);
    int pixels = shape.images * shape.out_height * shape.out_width;
    double sum = 0.0;
    for (int i = 0; i < pixels; ++i) {
        double factor = 1.0;
        if (is_weight) {
            Pixel pixel = pixel_of(i, shape.out_height, shape.out_width);
            int row = pixel.row * shape.stride + place.row - shape.padding;
            int column = pixel.column * shape.stride + place.column - shape.padding;
            if (!is_inside(row, shape.height) || !is_inside(column, shape.width)) continue;
            factor = to_float(x[index_of(pixel.image, row, column, shape.height, shape.width) * shape.from + c]);
        }
        sum += to_float(dy[static_cast<int64_t>(i) * shape.to + o]) * factor;
    }
    *(is_weight ? dweight + index : dbias + o) = static_cast<float>(sum);
}

// --- products ---

template <class Product, class T>
__device__ void forward(T* y, const T* x, const float* weight, const float* bias, const ConvolutionShape& shape) {
    Product product;
    if (!product.place(x, weight, shape)) return;
    stream(product, product.slabs());
    constexpr int RUN = Product::Own::OwnSums::RUN;
    for_results(product, y, [&](float(&values)[RUN], int column, int64_t place, int count, bool whole) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            if (i < count) values[i] += bias[column + i];
        }
        store_run(y + place, values, count, whole);
    });
}

template <class Product, class T>
__device__ void input_gradient(T* dx, const T* dy, const float* weight, const ConvolutionShape& shape) {
    Product product;
    if (!product.place(dy, weight, shape)) return;
    stream(product, product.slabs());
    constexpr int RUN = Product::Own::OwnSums::RUN;
    for_results(product, dx, [&](float(&values)[RUN], int, int64_t place, int count, bool whole) {
        if (shape.adds) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (i < count) values[i] += to_float(dx[place + i]);
            }
        }
        store_run(dx + place, values, count, whole);
    });
}

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

// dbias, or that of each group: the threads of a block that share a channel are so many channels apart.
template <class T>
__device__ void bias_gradient(float* dbias, const T* dy, const ConvolutionShape& shape) {
    auto* sums = reinterpret_cast<double*>(shared_memory());
    int first_channel = static_cast<int>(blockIdx.x) * ENTRY_THREADS, group = static_cast<int>(blockIdx.z);
    int left = shape.to - first_channel, channels = left < ENTRY_THREADS ? left : ENTRY_THREADS;
    int rows = ENTRY_THREADS / channels, row = thread_of_block() / channels, channel = thread_of_block() % channels;
    Part pixels = part_of(static_cast<int64_t>(shape.images) * shape.out_height * shape.out_width, group, shape.groups);
    double sum = 0.0;
    if (row < rows) {
        const T* values = dy + first_channel + channel;
#pragma unroll 8
        for (int pixel = pixels.first + row; pixel < pixels.last; pixel += rows) {
            sum += to_float(values[static_cast<int64_t>(pixel) * shape.to]);
        }
    }
    sums[thread_of_block()] = sum;
    __syncthreads();
    if (row > 0) return;
    for (int other = 1; other < rows; ++other) sum += sums[other * channels + channel];
    dbias[static_cast<int64_t>(group) * shape.to + first_channel + channel] = static_cast<float>(sum);
}

// --- entries ---------------------------------------------------------------------------------------------------------

// Blocks that a multiprocessor shall have registers for at once: of so many columns on the tensor cores, and of any in
// float32 (but forward with 64 columns, which would spill).
template <int COLUMNS>
constexpr int BLOCKS = COLUMNS == 16 ? 5 : COLUMNS == 32 ? 4 : 3;
constexpr int FLOAT32_BLOCKS = 3;

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

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_bias_gradient_f32(float* dbias, const float* dy, ConvolutionShape shape) {
    bias_gradient(dbias, dy, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_convolution_bias_gradient_bf16(float* dbias, const BF16* dy, ConvolutionShape shape) {
    bias_gradient(dbias, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_forward_tile16_f32(float* y, const float* x, const float* weight, const float* bias,
                                      ConvolutionShape shape) {
    forward<PixelProduct<Float32, 16, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_forward_tile32_f32(float* y, const float* x, const float* weight, const float* bias,
                                      ConvolutionShape shape) {
    forward<PixelProduct<Float32, 32, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, 2)
    gs_convolution_forward_tile64_f32(float* y, const float* x, const float* weight, const float* bias,
                                      ConvolutionShape shape) {
    forward<PixelProduct<Float32, 64, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_forward_patch16_f32(float* y, const float* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PatchProduct<Float32, 16, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_forward_patch32_f32(float* y, const float* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PatchProduct<Float32, 32, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_forward_tile16_tf32(float* y, const float* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PixelProduct<Tf32, 16, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_forward_tile32_tf32(float* y, const float* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PixelProduct<Tf32, 32, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<64>)
    gs_convolution_forward_tile64_tf32(float* y, const float* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PixelProduct<Tf32, 64, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_forward_patch16_tf32(float* y, const float* x, const float* weight, const float* bias,
                                        ConvolutionShape shape) {
    forward<PatchProduct<Tf32, 16, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_forward_patch32_tf32(float* y, const float* x, const float* weight, const float* bias,
                                        ConvolutionShape shape) {
    forward<PatchProduct<Tf32, 32, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_forward_tile16_bf16(BF16* y, const BF16* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PixelProduct<Bf16, 16, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_forward_tile32_bf16(BF16* y, const BF16* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PixelProduct<Bf16, 32, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<64>)
    gs_convolution_forward_tile64_bf16(BF16* y, const BF16* x, const float* weight, const float* bias,
                                       ConvolutionShape shape) {
    forward<PixelProduct<Bf16, 64, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_forward_patch16_bf16(BF16* y, const BF16* x, const float* weight, const float* bias,
                                        ConvolutionShape shape) {
    forward<PatchProduct<Bf16, 16, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_forward_patch32_bf16(BF16* y, const BF16* x, const float* weight, const float* bias,
                                        ConvolutionShape shape) {
    forward<PatchProduct<Bf16, 32, false>>(y, x, weight, bias, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_input_gradient_tile16_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Float32, 16, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_input_gradient_tile32_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Float32, 32, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_input_gradient_tile64_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Float32, 64, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_input_gradient_patch16_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PatchProduct<Float32, 16, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_input_gradient_patch32_f32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PatchProduct<Float32, 32, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_input_gradient_tile16_tf32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Tf32, 16, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_input_gradient_tile32_tf32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Tf32, 32, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<64>)
    gs_convolution_input_gradient_tile64_tf32(float* dx, const float* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Tf32, 64, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_input_gradient_patch16_tf32(float* dx, const float* dy, const float* weight,
                                               ConvolutionShape shape) {
    input_gradient<PatchProduct<Tf32, 16, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_input_gradient_patch32_tf32(float* dx, const float* dy, const float* weight,
                                               ConvolutionShape shape) {
    input_gradient<PatchProduct<Tf32, 32, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_input_gradient_tile16_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Bf16, 16, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_input_gradient_tile32_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Bf16, 32, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<64>)
    gs_convolution_input_gradient_tile64_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PixelProduct<Bf16, 64, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_input_gradient_patch16_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PatchProduct<Bf16, 16, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_input_gradient_patch32_bf16(BF16* dx, const BF16* dy, const float* weight, ConvolutionShape shape) {
    input_gradient<PatchProduct<Bf16, 32, true>>(dx, dy, weight, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_weight_gradient_tile16_f32(float* dweight, float* dbias, const float* x, const float* dy,
                                              ConvolutionShape shape) {
    weight_gradient<Float32, 16>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_weight_gradient_tile32_f32(float* dweight, float* dbias, const float* x, const float* dy,
                                              ConvolutionShape shape) {
    weight_gradient<Float32, 32>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, FLOAT32_BLOCKS)
    gs_convolution_weight_gradient_tile64_f32(float* dweight, float* dbias, const float* x, const float* dy,
                                              ConvolutionShape shape) {
    weight_gradient<Float32, 64>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_weight_gradient_tile16_tf32(float* dweight, float* dbias, const float* x, const float* dy,
                                               ConvolutionShape shape) {
    weight_gradient<Tf32, 16>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_weight_gradient_tile32_tf32(float* dweight, float* dbias, const float* x, const float* dy,
                                               ConvolutionShape shape) {
    weight_gradient<Tf32, 32>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<64>)
    gs_convolution_weight_gradient_tile64_tf32(float* dweight, float* dbias, const float* x, const float* dy,
                                               ConvolutionShape shape) {
    weight_gradient<Tf32, 64>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<16>)
    gs_convolution_weight_gradient_tile16_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy,
                                               ConvolutionShape shape) {
    weight_gradient<Bf16, 16>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<32>)
    gs_convolution_weight_gradient_tile32_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy,
                                               ConvolutionShape shape) {
    weight_gradient<Bf16, 32>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_THREADS, BLOCKS<64>)
    gs_convolution_weight_gradient_tile64_bf16(float* dweight, float* dbias, const BF16* x, const BF16* dy,
                                               ConvolutionShape shape) {
    weight_gradient<Bf16, 64>(dweight, dbias, x, dy, shape);
}

extern "C" __global__ void __launch_bounds__(CONVOLUTION_REDUCE_VALUES * CONVOLUTION_REDUCE_PARTS)
    gs_convolution_reduce(float* dweight, float* dbias, const float* partial_weights, const float* partial_biases,
                          ConvolutionShape shape) {
    reduce(dweight, dbias, partial_weights, partial_biases, shape);
}
