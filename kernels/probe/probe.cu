// A step of a linear probe: softmax regression on the activations X [n, p] of a batch (Alain and Bengio 2016), by SGD with
// momentum in Keras's form.
//   Z = X W^T + b,  D = (softmax(Z) - onehot(labels)) / n,  V = momentum V - rate D^T X,  W = W + V;  b as a feature of 1s
// crates/gramscope-study/src/probe/linear_probe.rs is the model, which computes the last class from the others.
//
// A batch is three launches: products, outcome, update; an evaluation the first two.
//   products  X W^T, in float32 partial sums: one set a part of the features
//   outcome   adds them up; Z, D, the loss, how many examples are right; what the batch adds to the record
//   update    D^T X, momentum and the step, in one visit of W and V; one more block does b
//
// x                   [n, p]                   float32 or bfloat16, row-major
// weights, velocities [classes * p + classes]  float32: W [classes, p], row-major, and b behind it; V in the same way
// partials            [splits, n, classes]     float32
// logits              [n, classes]             float32
// dlogits             [n, row]                 float32: rows of `row`, classes padded with zeros to a multiple of
//                                              PROBE_CLASSES; null: an evaluation
// totals              [blocks]                 what each block of outcome found; arrivals: 0 before a launch and after it
// labels              [n]                      uint32
// record              [1]                      what all batches came to; zeros before the first
// x, weights and velocities are aligned to RUN_BYTES where p is a multiple of PROBE_FEATURES, dlogits always.
//
// A probe whose loss was not finite has diverged: its record has the number of that batch, counted from 1, and from then on
// every launch returns at once, beginning with that batch's update. So it keeps the weights that it had.
//
// Grid, block: plan::probe. Deterministic: yes, whatever the device: parts depend on the shape alone, and what they came to is
// added in order. Accumulates: a lane float32 over its features of a part (16 and more), lanes of a warp float32, parts
// and what is made of them float64; for gradients a warp float32 over every eighth example, warps float32.
//
// Variants  naive: float64, a thread a logit (one part) or a weight
#include "common/atomic.cuh"
#include "common/cross_entropy.cuh"
#include "common/lane_sums.cuh"
#include "common/reduce.cuh"
#include "common/run.cuh"

struct ProbeShape {
    int32_t examples;
    int32_t features;
    int32_t classes;
    int32_t splits;
    int32_t share;  // features of a part but the last
    int32_t row;    // of dlogits
    float rate;
    float momentum;
};

// What the batches so far came to.
struct ProbeRecord {
    double loss;  // sum of the batches' means
    int64_t correct;
    uint32_t batches;
    uint32_t diverged;  // the first batch whose loss was not finite, from 1; 0: none
};

__device__ __forceinline__ bool has_diverged(const ProbeRecord* record) { return record->diverged != 0; }

// v = momentum v - rate gradient, w = w + v.
__device__ __forceinline__ void step(float* weight, float* velocity, float gradient, const ProbeShape& shape) {
    *velocity = __fmul_rn(shape.momentum, *velocity) - __fmul_rn(shape.rate, gradient);
    *weight += *velocity;
}

// --- naive -----------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void naive_products(float* partials, const T* x, const float* weights,
                                               const ProbeRecord* record, const ProbeShape& shape) {
    int64_t index = thread_of_grid(), features = shape.features;
    if (has_diverged(record) || index >= static_cast<int64_t>(shape.examples) * shape.classes) return;
    const T* row = x + index / shape.classes * features;
    const float* of_class = weights + index % shape.classes * features;
    double sum = 0.0;
    for (int64_t feature = 0; feature < features; ++feature) {
        sum += static_cast<double>(to_float(row[feature])) * of_class[feature];
    }
    partials[index] = static_cast<float>(sum);
}

template <class T>
__device__ __forceinline__ void naive_update(float* weights, float* velocities, const T* x, const float* dlogits,
                                             const ProbeRecord* record, const ProbeShape& shape) {
    int64_t index = thread_of_grid(), features = shape.features, biases = features * shape.classes;
    if (has_diverged(record) || index >= biases + shape.classes) return;
    bool is_bias = index >= biases;
    int64_t feature = is_bias ? 0 : index % features, place = is_bias ? index - biases : index / features;
    double sum = 0.0;
    for (int64_t example = 0; example < shape.examples; ++example) {
        double value = is_bias ? 1.0 : to_float(x[example * features + feature]);
        sum += value * dlogits[example * shape.row + place];
    }
    step(weights + index, velocities + index, static_cast<float>(sum), shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_probe_naive_products_f32(float* partials, const float* x, const float* weights, const ProbeRecord* record,
                                ProbeShape shape) {
    naive_products(partials, x, weights, record, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_probe_naive_products_bf16(float* partials, const BF16* x, const float* weights, const ProbeRecord* record,
                                 ProbeShape shape) {
    naive_products(partials, x, weights, record, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_probe_naive_update_f32(float* weights, float* velocities, const float* x, const float* dlogits,
                              const ProbeRecord* record, ProbeShape shape) {
    naive_update(weights, velocities, x, dlogits, record, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_probe_naive_update_bf16(float* weights, float* velocities, const BF16* x, const float* dlogits,
                               const ProbeRecord* record, ProbeShape shape) {
    naive_update(weights, velocities, x, dlogits, record, shape);
}

// --- tiles of features -----------------------------------------------------------------------------------------------

constexpr int PROBE_TILE = WARP * PROBE_FEATURES;

// The features of a lane in a tile of a row.
struct Features {
    float values[PROBE_FEATURES];
};

// Where feature `index` of this lane stands in its tile: in runs of N, so that lanes next to each other load what is.
template <int N>
__device__ __forceinline__ int place_in_tile(int index) {
    return (index / N * WARP + lane_of_warp()) * N + index % N;
}

// Those of the tile that begins at `first`; 0 beyond the row. N divides the length of the row.
template <int N, class T>
__device__ __forceinline__ Features features_of_lane(const T* row, int first, int length) {
    Features own{};
    for (int start = 0; start < PROBE_FEATURES; start += N) {
        int place = first + place_in_tile<N>(start);
        if (place >= length) continue;
        Run<T, N> run = load_run<N>(row + place);
        for (int index = 0; index < N; ++index) own.values[start + index] = run.get(index);
    }
    return own;
}

// --- products --------------------------------------------------------------------------------------------------------

// Logits that a warp computes together.
constexpr int PROBE_LOGITS = PROBE_EXAMPLES * PROBE_CLASSES;

// What this block's part of the features adds to the logits of PROBE_EXAMPLES examples and PROBE_CLASSES classes.
template <int N, class T>
__device__ __forceinline__ void add_products(float (&sums)[PROBE_LOGITS], const T* x, const float* weights,
                                             int first_example, int first_class, const ProbeShape& shape) {
    int features = shape.features, start = static_cast<int>(blockIdx.y) * shape.share;
    // A part but the last is whole tiles.
    int end = features - start < shape.share ? features : start + shape.share;
    for (int first = start; first < end; first += PROBE_TILE) {
        Features rows[PROBE_EXAMPLES];
        for (int e = 0; e < PROBE_EXAMPLES; ++e) {
            // What there is not is computed for nothing.
            int64_t example = first_example + e < shape.examples ? first_example + e : shape.examples - 1;
            rows[e] = features_of_lane<N>(x + example * features, first, features);
        }
        for (int c = 0; c < PROBE_CLASSES; ++c) {
            int64_t of_class = first_class + c < shape.classes ? first_class + c : shape.classes - 1;
            Features own = features_of_lane<N>(weights + of_class * features, first, features);
            for (int e = 0; e < PROBE_EXAMPLES; ++e) {
                float& sum = sums[e * PROBE_CLASSES + c];
                for (int i = 0; i < PROBE_FEATURES; ++i) sum = fmaf(rows[e].values[i], own.values[i], sum);
            }
        }
    }
}

template <int N, class T>
__device__ __forceinline__ void products_in_runs(float* partials, const T* x, const float* weights,
                                                 const ProbeShape& shape) {
    int first_example = (blockIdx.x * ENTRY_WARPS + warp_of_block()) * PROBE_EXAMPLES;
    if (first_example >= shape.examples) return;
    partials += static_cast<int64_t>(blockIdx.y) * shape.examples * shape.classes;
    for (int first_class = 0; first_class < shape.classes; first_class += PROBE_CLASSES) {
        float sums[PROBE_LOGITS] = {};
        add_products<N>(sums, x, weights, first_example, first_class, shape);
        Part own = sum_over_lanes<PROBE_LOGITS>(sums);
        for (int index = 0; index < LANE_SUMS<PROBE_LOGITS>; ++index) {
            int place = own.first + index;
            int example = first_example + place / PROBE_CLASSES, of_class = first_class + place % PROBE_CLASSES;
            if (place < own.last && example < shape.examples && of_class < shape.classes) {
                partials[static_cast<int64_t>(example) * shape.classes + of_class] = sums[index];
            }
        }
    }
}

template <class T>
__device__ __forceinline__ void products(float* partials, const T* x, const float* weights, const ProbeRecord* record,
                                         const ProbeShape& shape) {
    if (has_diverged(record)) return;
    if (shape.features % PROBE_FEATURES == 0) {
        products_in_runs<PROBE_FEATURES>(partials, x, weights, shape);
    } else {
        products_in_runs<1>(partials, x, weights, shape);
    }
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_probe_products_f32(float* partials, const float* x, const float* weights, const ProbeRecord* record,
                          ProbeShape shape) {
    products(partials, x, weights, record, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_probe_products_bf16(float* partials, const BF16* x, const float* weights, const ProbeRecord* record,
                           ProbeShape shape) {
    products(partials, x, weights, record, shape);
}

// --- outcome ---------------------------------------------------------------------------------------------------------

// One example's logits and what it adds to the totals, by a warp.
__device__ __forceinline__ Totals outcome_of(int64_t example, float* dlogits, float* logits, const float* partials,
                                             const float* bias, uint32_t label, const ProbeShape& shape) {
    int64_t logit_count = static_cast<int64_t>(shape.examples) * shape.classes, start = example * shape.classes;
    for (int k = lane_of_warp(); k < shape.classes; k += WARP) {
        double sum = bias[k];
#pragma unroll 8
        for (int split = 0; split < shape.splits; ++split) sum += partials[split * logit_count + start + k];
        logits[start + k] = static_cast<float>(sum);
    }
    warp_barrier();
    float* gradients = nullptr;
    if (dlogits != nullptr) {
        gradients = dlogits + example * shape.row;
        for (int k = shape.classes + lane_of_warp(); k < shape.row; k += WARP) gradients[k] = 0.0f;
    }
    return cross_entropy(gradients, logits + start, label, shape.classes, shape.examples);
}

// What a batch adds to the record.
__device__ __forceinline__ void add_batch(ProbeRecord* record, double loss, double correct) {
    record->batches += 1;
    record->loss += loss;
    record->correct += static_cast<int64_t>(correct);
    // NaN and the infinities are not 0 times 0.
    if (loss * 0.0 != 0.0) record->diverged = record->batches;
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_probe_outcome(float* dlogits, float* logits, Totals* totals, unsigned* arrivals, ProbeRecord* record,
                     const float* partials, const float* weights, const uint32_t* labels, ProbeShape shape) {
    if (has_diverged(record)) return;
    Scratch scratch = scratch_at(shared_memory());
    int example = blockIdx.x * ENTRY_WARPS + warp_of_block();
    Totals own{0.0, 0.0};
    if (example < shape.examples) {
        const float* bias = weights + static_cast<int64_t>(shape.classes) * shape.features;
        own = outcome_of(example, dlogits, logits, partials, bias, labels[example], shape);
    }
    // All lanes have the same, and one counts.
    bool counts = lane_of_warp() == 0;
    double loss = block_sum(counts ? own.loss : 0.0, scratch);
    double correct = block_sum(counts ? own.correct : 0.0, scratch);
    if (thread_of_block() == 0) totals[blockIdx.x] = {loss, correct};
    if (!is_last_block(arrivals, gridDim.x, scratch.flag)) return;
    int blocks = static_cast<int>(gridDim.x);
    loss = block_sum_of(blocks, [&](int block) { return totals[block].loss; }, scratch);
    correct = block_sum_of(blocks, [&](int block) { return totals[block].correct; }, scratch);
    if (thread_of_block() == 0) add_batch(record, loss / shape.examples, correct);
}

// --- update ----------------------------------------------------------------------------------------------------------

// The biases, a warp a class.
__device__ __forceinline__ void update_biases(float* weights, float* velocities, const float* dlogits,
                                              const ProbeShape& shape) {
    int64_t first = static_cast<int64_t>(shape.classes) * shape.features;
    for (int k = warp_of_block(); k < shape.classes; k += ENTRY_WARPS) {
        double sum = 0.0;
        for (int64_t example = lane_of_warp(); example < shape.examples; example += WARP) {
            sum += dlogits[example * shape.row + k];
        }
        sum = warp_sum(sum);
        if (lane_of_warp() == 0) step(weights + first + k, velocities + first + k, static_cast<float>(sum), shape);
    }
}

// This warp's examples' part of the gradients of PROBE_CLASSES classes by a tile of features: [PROBE_CLASSES, PROBE_TILE].
template <int N, class T>
__device__ __forceinline__ void gradients_of_warp(float* gradients, const T* x, const float* dlogits, int first,
                                                  const ProbeShape& shape) {
    constexpr int D = RUN<float>;
    Features sums[PROBE_CLASSES] = {};
#pragma unroll 4
    for (int64_t example = warp_of_block(); example < shape.examples; example += ENTRY_WARPS) {
        Features own = features_of_lane<N>(x + example * shape.features, first, shape.features);
        for (int c = 0; c < PROBE_CLASSES; c += D) {
            Run<float, D> d = load_run<D>(dlogits + example * shape.row + c);
            for (int index = 0; index < D; ++index) {
                for (int i = 0; i < PROBE_FEATURES; ++i) {
                    float& sum = sums[c + index].values[i];
                    sum = fmaf(own.values[i], d.values[index], sum);
                }
            }
        }
    }
    for (int c = 0; c < PROBE_CLASSES; ++c) {
        for (int i = 0; i < PROBE_FEATURES; ++i) gradients[c * PROBE_TILE + place_in_tile<N>(i)] = sums[c].values[i];
    }
}

template <int N, class T>
__device__ __forceinline__ void update_in_runs(float* weights, float* velocities, const T* x, const float* dlogits,
                                               const ProbeShape& shape) {
    constexpr int GRADIENTS = PROBE_CLASSES * PROBE_TILE;
    auto* warps = reinterpret_cast<float*>(shared_memory());  // [ENTRY_WARPS, GRADIENTS]
    int first = blockIdx.x * PROBE_TILE;
    for (int first_class = 0; first_class < shape.classes; first_class += PROBE_CLASSES) {
        gradients_of_warp<N>(warps + warp_of_block() * GRADIENTS, x, dlogits + first_class, first, shape);
        __syncthreads();
        for (int place = thread_of_block(); place < GRADIENTS; place += ENTRY_THREADS) {
            int of_class = first_class + place / PROBE_TILE, feature = first + place % PROBE_TILE;
            if (of_class >= shape.classes || feature >= shape.features) continue;
            float sum = 0.0f;
            for (int warp = 0; warp < ENTRY_WARPS; ++warp) sum += warps[warp * GRADIENTS + place];
            int64_t index = static_cast<int64_t>(of_class) * shape.features + feature;
            step(weights + index, velocities + index, sum, shape);
        }
        __syncthreads();
    }
}

template <class T>
__device__ __forceinline__ void update(float* weights, float* velocities, const T* x, const float* dlogits,
                                       const ProbeRecord* record, const ProbeShape& shape) {
    if (has_diverged(record)) return;
    if (blockIdx.x == gridDim.x - 1) {
        update_biases(weights, velocities, dlogits, shape);
    } else if (shape.features % PROBE_FEATURES == 0) {
        update_in_runs<PROBE_FEATURES>(weights, velocities, x, dlogits, shape);
    } else {
        update_in_runs<1>(weights, velocities, x, dlogits, shape);
    }
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_probe_update_f32(float* weights, float* velocities, const float* x, const float* dlogits,
                        const ProbeRecord* record, ProbeShape shape) {
    update(weights, velocities, x, dlogits, record, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 2)
    gs_probe_update_bf16(float* weights, float* velocities, const BF16* x, const float* dlogits,
                         const ProbeRecord* record, ProbeShape shape) {
    update(weights, velocities, x, dlogits, record, shape);
}
