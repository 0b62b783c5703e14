// Softmax cross-entropy of one image, by a warp: its loss, its gradient, and whether it is classified correctly.
#pragma once

#include "common/warp.cuh"

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

// Sums over images.
struct Totals {
    double loss;
    double correct;
};

// What one image adds to the totals, in all lanes; unless `gradients` is null, its part of the gradient of the mean over
// `images`. A label that is not a class is never used as an index: loss and gradients become NaN.
__device__ __forceinline__ Totals cross_entropy(float* gradients, const float* logits, uint32_t label, int classes,
                                                int images) {
    Largest largest = largest_of(logits, classes);
    double top = largest.value, sum = 0.0;
    for (int k = lane_of_warp(); k < classes; k += WARP) sum += exp(logits[k] - top);
    sum = warp_sum(sum);
    bool is_class = label < static_cast<uint32_t>(classes);
    // NaN where the label is not a class.
    double own = is_class ? logits[label] : __longlong_as_double(-1);
    if (gradients != nullptr) {
        double share = (is_class ? 1.0 : own) / images, of_sum = 1.0 / sum;
        for (int k = lane_of_warp(); k < classes; k += WARP) {
            double target = static_cast<uint32_t>(k) == label ? 1.0 : 0.0;
            gradients[k] = static_cast<float>((exp(logits[k] - top) * of_sum - target) * share);
        }
    }
    // Not top + log(sum): beside a huge logit nothing would be left of the logarithm.
    return {log(sum) - (own - top), static_cast<uint32_t>(largest.place) == label ? 1.0 : 0.0};
}
