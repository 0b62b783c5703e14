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
#include "common/cross_entropy.cuh"

struct LossShape {
    int32_t images;
    int32_t classes;
};

constexpr int LOSS_WARPS = LOSS_THREADS / WARP;

extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
    gs_loss_softmax_cross_entropy(float* dlogits, double* totals, const float* logits, const uint32_t* labels,
                                  LossShape shape) {
    auto* warps = reinterpret_cast<Totals*>(shared_memory());
    Totals own{0.0, 0.0};
    for (int image = warp_of_block(); image < shape.images; image += LOSS_WARPS) {
        int64_t start = static_cast<int64_t>(image) * shape.classes;
        Totals added = cross_entropy(dlogits + start, logits + start, labels[image], shape.classes, shape.images);
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
