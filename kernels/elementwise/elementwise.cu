// ReLU on its own, for a block of which only a projection is left; otherwise batch_norm.cu and mixing.cu have it. And copies
// in bfloat16, for libraries that take no other factors beside bfloat16 ones.
// crates/gramscope-nn/src/ops/elementwise.rs is the model.
//   relu    x_i = max(x_i, 0); NaN stays NaN
//   narrow  narrow_i = x_i, to nearest, ties to even
//
// In    narrow's x [length]  float32, any layout
// Both  relu's x [length]    float32 or bfloat16, any layout, in place
// Out   narrow [length]      bfloat16
// Grid, block: plan::runs, a thread RUN values: in one piece where the pointers are aligned to RUN_BYTES, else one by
// one, with the same result. Deterministic: yes. Accumulates: nothing.
//
// Variants  none: one simple loop a thread is its own naive twin
#include "common/run.cuh"

struct ElementwiseShape {
    int64_t length;
};

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

// A thread's run is one of x: half a run of narrow.
__device__ __forceinline__ void narrow(BF16* narrowed, const float* x, const ElementwiseShape& shape) {
    for_run_of_thread<float>(shape.length, holds_runs(narrowed) && holds_runs(x), [&](int64_t first, auto length) {
        constexpr int N = decltype(length)::value;
        Run<float, N> own = load_run<N>(x + first);
        Run<BF16, N> rounded;
#pragma unroll
        for (int n = 0; n < N; ++n) rounded.set(n, own.get(n));
        store_run(narrowed + first, rounded);
    });
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS) gs_elementwise_relu_f32(float* x, ElementwiseShape shape) {
    relu(x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS) gs_elementwise_relu_bf16(BF16* x, ElementwiseShape shape) {
    relu(x, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_elementwise_narrow(BF16* narrowed, const float* x, ElementwiseShape shape) {
    narrow(narrowed, x, shape);
}
