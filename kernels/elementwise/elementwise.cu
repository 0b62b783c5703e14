// Addition and ReLU on their own, for when each intermediate result is wanted; otherwise batch_norm.cu has them.
// crates/gramscope-nn/src/ops/elementwise.rs is the model.
//   add   sum_i = sum_i + addend_i, in float32, rounded once to what is stored
//   relu  x_i = max(x_i, 0); NaN stays NaN
//
// In    addend [length]  float32 or bfloat16, any layout
// Both  sum, x [length]  the same, in place
// Grid, block: plan::runs, a thread RUN values: in one piece where the pointers are aligned to RUN_BYTES, else one by
// one, with the same result. Deterministic: yes. Accumulates: nothing.
//
// Variants  none: one simple loop a thread is its own naive twin
#include "common/run.cuh"

struct ElementwiseShape {
    int64_t length;
};

template <class T>
__device__ __forceinline__ void add(T* sum, const T* addend, const ElementwiseShape& shape) {
    for_run_of_thread<T>(shape.length, holds_runs(sum) && holds_runs(addend), [&](int64_t first, auto length) {
        constexpr int N = decltype(length)::value;
        Run<T, N> own = load_run<N>(sum + first), other = load_run<N>(addend + first);
#pragma unroll
        for (int n = 0; n < N; ++n) own.set(n, own.get(n) + other.get(n));
        store_run(sum + first, own);
    });
}

template <class T>
__device__ __forceinline__ void relu(T* x, const ElementwiseShape& shape) {
    for_run_of_thread<T>(shape.length, holds_runs(x), [&](int64_t first, auto length) {
        constexpr int N = decltype(length)::value;
        Run<T, N> own = load_run<N>(x + first);
#pragma unroll
        for (int n = 0; n < N; ++n) own.set(n, own.get(n) < 0.0f ? 0.0f : own.get(n));
        store_run(x + first, own);
    });
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_elementwise_add_f32(float* sum, const float* addend, ElementwiseShape shape) {
    add(sum, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_elementwise_add_bf16(BF16* sum, const BF16* addend, ElementwiseShape shape) {
    add(sum, addend, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS) gs_elementwise_relu_f32(float* x, ElementwiseShape shape) {
    relu(x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS) gs_elementwise_relu_bf16(BF16* x, ElementwiseShape shape) {
    relu(x, shape);
}
