// Softmax cross-entropy, averaged over the images:
//   L = mean over n of log(sum over k of exp(z[n, k])) - z[n, label n],  dL/dz[n, k] = (softmax(z[n])[k] - [k = label n]) / N
// crates/gramscope-nn/src/ops/loss.rs is the model. The largest logit is subtracted first, so nothing overflows.
//
// In    logits [images, classes]   float32, row-major
//       labels [images]            uint32
// Out   dlogits [images, classes]  float32
// Both  totals [2]                 float64: the batch's mean loss is added to the first, to the second the number of
//                                  images whose largest logit (the first, of equals) is their label's
// A label that is not a class is never used as an index: the loss and that image's gradients become NaN.
// One block: plan::loss. Deterministic: yes; a warp adds its images in order, the first thread the warps. Accumulates:
// float64.
//
// Variants  none: a loop over images is its own naive twin
#include "common/numbers.cuh"
#include "common/warp.cuh"

struct LossShape {
    int32_t images;
    int32_t classes;
};

constexpr int LOSS_WARPS = LOSS_THREADS / WARP;

struct Largest {
    float value;
    int place;
};

// The first of the largest logits. As in the model nothing is larger than NaN, and NaN is larger than nothing.
__device__ __forceinline__ Largest largest_of(const float* logits, int classes) {
    Largest own{logits[0], 0};
    for (int place = lane_of_warp(); place < classes; place += WARP) {
        if (logits[place] > own.value) own = {logits[place], place};
    }
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        Largest other{from_lane_xor(own.value, mask), from_lane_xor(own.place, mask)};
        bool before = other.value == own.value && other.place < own.place;
        if (other.value > own.value || before) own = other;
    }
    return own;
}

struct Totals {
    double loss;
    double correct;
};

// What one image adds to the totals; its gradients.
__device__ __forceinline__ Totals image_loss(float* gradients, const float* logits, uint32_t label,
                                             const LossShape& shape) {
    Largest largest = largest_of(logits, shape.classes);
    double top = largest.value, sum = 0.0;
    for (int k = lane_of_warp(); k < shape.classes; k += WARP) sum += exp(logits[k] - top);
    sum = warp_sum(sum);
    bool is_class = label < static_cast<uint32_t>(shape.classes);
    // NaN where the label is not a class.
    double own = is_class ? logits[label] : __longlong_as_double(-1);
    double share = (is_class ? 1.0 : own) / shape.images, of_sum = 1.0 / sum;
    for (int k = lane_of_warp(); k < shape.classes; k += WARP) {
        double target = static_cast<uint32_t>(k) == label ? 1.0 : 0.0;
        gradients[k] = static_cast<float>((exp(logits[k] - top) * of_sum - target) * share);
    }
    return {top + log(sum) - own, static_cast<uint32_t>(largest.place) == label ? 1.0 : 0.0};
}

extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
    gs_loss_softmax_cross_entropy(float* dlogits, double* totals, const float* logits, const uint32_t* labels,
                                  LossShape shape) {
    auto* warps = reinterpret_cast<Totals*>(shared_memory());
    Totals own{0.0, 0.0};
    for (int image = warp_of_block(); image < shape.images; image += LOSS_WARPS) {
        int64_t start = static_cast<int64_t>(image) * shape.classes;
        Totals added = image_loss(dlogits + start, logits + start, labels[image], shape);
        own.loss += added.loss;
        own.correct += added.correct;
    }
    if (lane_of_warp() == 0) warps[warp_of_block()] = own;
    __syncthreads();
    if (thread_of_block() != 0) return;
    double loss = 0.0, correct = 0.0;
    for (int warp = 0; warp < LOSS_WARPS; ++warp) {
        loss += warps[warp].loss;
        correct += warps[warp].correct;
    }
    totals[0] += loss / shape.images;
    totals[1] += correct;
}
