// Convolutions of images as neural networks have them (cross-correlations), and their gradients:
//   y[n, i, j, o] = b[o] + sum over u, v, c of x[n, i s + u - p, j s + v - p, c] w[o, u, v, c], x 0 outside the image,
//   dx[n, h, w, c] = sum over o, u, v with h + p - u = i s, w + p - v = j s of dy[n, i, j, o] w[o, u, v, c],
//   dw[o, u, v, c] = sum over n, i, j of dy[n, i, j, o] x[n, i s + u - p, j s + v - p, c], db[o] = sum of dy[n, i, j, o],
// stride s, padding p.
// Source: gramscope-reference's convolution is the definition, gramscope-nn's CPU operation the model.
#include "common/numbers.cuh"

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
