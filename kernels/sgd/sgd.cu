// One step of stochastic gradient descent with momentum, in Keras's form, over all parameters at once:
//   v = momentum v - rate (g + 2 decay w), w = w + v, the decay for the first `decaying` values alone.
// crates/gramscope-nn/src/ops/sgd.rs is the model, to the last bit: each product is rounded, but that of the decay.
//
// Both  weights, velocities [length]  float32
// In    gradients [length]            float32
//       rate [1]                      float32, in device memory: a captured graph of the step stays the same
// Grid, block: plan::runs, a thread RUN values: in one piece where the pointers are aligned to RUN_BYTES, else one by
// one, with the same result. Deterministic: yes. Accumulates: float32.
//
// Variants  none: one simple loop a thread is its own naive twin
#include "common/run.cuh"

struct SgdShape {
    int64_t length;
    int64_t decaying;
    float momentum;
    float twice_decay;
};

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_sgd_step(float* weights, float* velocities, const float* gradients, const float* rate, SgdShape shape) {
    float learning_rate = *rate;
    bool whole_runs = holds_runs(weights) && holds_runs(velocities) && holds_runs(gradients);
    for_run_of_thread<float>(shape.length, whole_runs, [&](int64_t first, auto length) {
        constexpr int N = decltype(length)::value;
        Run<float, N> w = load_run<N>(weights + first), v = load_run<N>(velocities + first);
        Run<float, N> g = load_run<N>(gradients + first);
        for (int i = 0; i < N; ++i) {
            float decay = first + i < shape.decaying ? shape.twice_decay : 0.0f;
            float step = __fmul_rn(learning_rate, fmaf(decay, w.values[i], g.values[i]));
            v.values[i] = __fmul_rn(shape.momentum, v.values[i]) - step;
            w.values[i] += v.values[i];
        }
        store_run(weights + first, w);
        store_run(velocities + first, v);
    });
}
